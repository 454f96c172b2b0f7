"""Decoder: a whole forward pass over packed weights in one native call.

It computes what the model computes operation by operation on CpuOps, with the same kernels in the same order, hence the
same bits; what it saves is the Python between the operations, most of the time of a small model's step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tramontane.ops import _cpu
from tramontane.ops.cpu import native_low_rank, native_pages, native_sequences
from tramontane.ops.low_rank import AdaptedLayer
from tramontane.ops.packed_weight import PackedWeight
from tramontane.ops.paged import PagedStep


@dataclass(frozen=True, slots=True)
class DecoderShape:
    dim: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    norm_eps: float


@dataclass(frozen=True, slots=True)
class PackedFeedForward:
    w1: PackedWeight  # gate
    w2: PackedWeight  # down
    w3: PackedWeight  # up


@dataclass(frozen=True, slots=True)
class PackedLayer:
    attention_norm_D: Tensor
    ffn_norm_D: Tensor
    wq: PackedWeight
    wk: PackedWeight
    wv: PackedWeight
    wo: PackedWeight
    experts: Sequence[PackedFeedForward]  # one: a plain feed-forward network
    router: PackedWeight | None = None  # (experts, dim) where there are several
    num_active: int = 1


class Decoder:
    def __init__(
        self, shape: DecoderShape, embeddings: PackedWeight, layers: Sequence[PackedLayer], norm_D: Tensor
    ) -> None:
        """Norms are float32 of `shape.dim`. Raises ValueError if the weights do not fit together, or the heads are of a
        shape the kernels do not cover."""
        for norm in (norm_D, *(n for layer in layers for n in (layer.attention_norm_D, layer.ffn_norm_D))):
            if norm.dtype != torch.float32 or norm.shape != (shape.dim,) or not norm.is_contiguous():
                raise ValueError(
                    f"a norm of {shape.dim} float32 weights is needed, not {norm.dtype} {tuple(norm.shape)}"
                )
        self.shape = shape
        self._layers = tuple(layers)
        self._pool: tuple[PagedStep, _cpu.PagePool] | None = None
        config = (shape.dim, shape.num_heads, shape.num_kv_heads, shape.head_dim, shape.norm_eps)
        native_layers = [_native_layer(layer) for layer in layers]
        owner = (embeddings, self._layers, norm_D)
        self._native = _cpu.Decoder(config, embeddings.native, native_layers, norm_D.data_ptr(), owner)

    def adapter(self, layers: Sequence[AdaptedLayer]) -> _cpu.Adapter:
        """An adapter as `forward` takes it. Raises ValueError if it does not fit the weights, or its rank is too
        large for the kernels."""
        weights = [low_rank for layer in layers for low_rank in layer.low_ranks if low_rank is not None]
        return self._native.adapter([_native_adapter(layer) for layer in layers], tuple(weights))

    def forward(
        self,
        token_ids_T: Tensor,
        cos_TC: Tensor,
        sin_TC: Tensor,
        step: PagedStep,
        adapters: Sequence[_cpu.Adapter] = (),
        index_T: Tensor | None = None,
    ) -> Tensor:
        """Hidden states (T, D) float32 after the final norm; the rows' keys and values are stored. Where there are
        adapters, `index_T` names that of each row (int32, negative: none).

        Raises IndexError for token ids, slots, pages or adapters that do not exist.
        """
        num_rows = token_ids_T.shape[0]
        token_ids_T = _plain(token_ids_T, torch.int64)
        angles = (num_rows, self.shape.head_dim // 2)
        if cos_TC.shape != angles or sin_TC.shape != angles:
            raise ValueError(f"{num_rows} rows need angles of {angles}, not {tuple(cos_TC.shape)}")
        cos_TC, sin_TC = _plain(cos_TC, torch.float32), _plain(sin_TC, torch.float32)
        if index_T is not None:
            index_T = _plain(index_T, torch.int32)
        if adapters and (index_T is None or index_T.shape != (num_rows,)):
            raise ValueError(f"{num_rows} rows need as many adapter indices")
        slots = [_plain(slots_T, torch.int64) for slots_T in step.slots]
        if any(slots_T.shape != (num_rows,) for slots_T in slots):
            raise ValueError(f"{num_rows} rows need as many slots in every window group")
        groups = [
            (slots_T.data_ptr(), native_sequences(batch), window or 0)
            for slots_T, batch, window in zip(slots, step.batches, step.windows, strict=True)
        ]
        hidden_TD = torch.empty(num_rows, self.shape.dim)
        self._native.forward(
            num_rows,
            token_ids_T.data_ptr(),
            cos_TC.data_ptr(),
            sin_TC.data_ptr(),
            self._pages(step),
            groups,
            list(adapters),
            0 if index_T is None else index_T.data_ptr(),
            hidden_TD.data_ptr(),
        )
        return hidden_TD

    def _pages(self, step: PagedStep) -> _cpu.PagePool:
        """The step's pages as the kernels take them, made once for every cache."""
        if self._pool is None or self._pool[0].k_pages is not step.k_pages or self._pool[0].v_pages is not step.v_pages:
            layers = [native_pages(k, v) for k, v in zip(step.k_pages, step.v_pages, strict=True)]
            owner = (step.k_pages, step.v_pages)
            self._pool = (step, _cpu.PagePool(layers, list(step.group_of_layer), owner))
        return self._pool[1]


def _plain(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor if tensor.dtype == dtype and tensor.is_contiguous() else tensor.to(dtype).contiguous()


def _native_layer(layer: PackedLayer) -> _cpu.Layer:
    return (
        layer.attention_norm_D.data_ptr(),
        layer.ffn_norm_D.data_ptr(),
        layer.wq.native,
        layer.wk.native,
        layer.wv.native,
        layer.wo.native,
        [(expert.w1.native, expert.w2.native, expert.w3.native) for expert in layer.experts],
        None if layer.router is None else layer.router.native,
        layer.num_active,
    )


def _native_adapter(layer: AdaptedLayer) -> _cpu.LayerAdapter:
    wq, wk, wv, wo = map(native_low_rank, layer.attention)
    experts = []
    for expert in layer.experts:
        w1, w2, w3 = map(native_low_rank, expert)
        experts.append((w1, w2, w3))
    return wq, wk, wv, wo, experts
