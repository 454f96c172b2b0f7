"""CpuOps: the operations on the native CPU kernels (csrc/), in float32.

Every row of a result depends on its own input alone, bit for bit: not on the other rows of the batch, the chunk it is
computed in, or the number of threads. Other dtypes and differentiation go through TorchOps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tramontane.errors import ConfigError
from tramontane.ops import _cpu, packed_weight
from tramontane.ops.low_rank import LowRank
from tramontane.ops.packed_weight import PackedWeight
from tramontane.ops.page_types import Q8_0, page_head_dim
from tramontane.ops.paged import PagedBatch
from tramontane.ops.torch_ops import TorchOps

_PAGE_TYPES = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16", Q8_0: "q8_0"}


class CpuOps:
    name = "cpu"

    def __init__(self, threads: int | None = None) -> None:
        """`threads`: None takes torch's number. Raises ConfigError if `TRAMONTANE_CPU` names what is unavailable."""
        self.instruction_set()
        try:
            _cpu.set_num_threads(torch.get_num_threads() if threads is None else threads)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        self._torch = TorchOps()

    @staticmethod
    def instruction_set() -> str:
        """The set in use. Raises ConfigError if `TRAMONTANE_CPU` names what is unavailable."""
        try:
            return _cpu.instruction_set()
        except ValueError as error:
            raise ConfigError(str(error)) from None

    def linear(self, x_TI: Tensor, weight_OI: Tensor | PackedWeight) -> Tensor:
        if isinstance(weight_OI, PackedWeight):
            return packed_weight.linear(x_TI, weight_OI)
        return self._torch.linear(x_TI, weight_OI)

    def packed_linear(self, x_TI: Tensor, weight: PackedWeight) -> Tensor:
        return packed_weight.linear(x_TI, weight)

    def linears(self, x_TI: Tensor, weights: Sequence[PackedWeight]) -> list[Tensor]:
        """`linear` of several packed weights that share x: its preparation is done once."""
        return packed_weight.linears(x_TI, weights)

    def add_low_rank(self, y_TO: Tensor, x_TI: Tensor, low_ranks: Sequence[LowRank | None], index_T: Tensor) -> Tensor:
        if not (_is_native(y_TO) and _is_native(x_TI)):
            return self._torch.add_low_rank(y_TO, x_TI, low_ranks, index_T)
        in_features, out_features = x_TI.shape[1], y_TO.shape[1]
        x_TI, index_T = x_TI.contiguous(), index_T.to(torch.int32).contiguous()
        out_TO = y_TO.clone(memory_format=torch.contiguous_format)
        if index_T.shape != x_TI.shape[:1] or y_TO.shape[0] != x_TI.shape[0]:
            raise ValueError(f"{index_T.numel()} indices for rows {tuple(x_TI.shape)} and {tuple(y_TO.shape)}")
        parts = [native_low_rank(low_rank) for low_rank in low_ranks]
        _cpu.add_low_rank(
            x_TI.data_ptr(), in_features, len(x_TI), out_TO.data_ptr(), out_features, parts, index_T.data_ptr()
        )
        return out_TO

    def rms_norm(self, x_TD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
        if not (_is_native(x_TD) and _is_native(weight_D)):
            return self._torch.rms_norm(x_TD, weight_D, eps)
        x_TD, weight_D = x_TD.contiguous(), weight_D.contiguous()
        out_TD = torch.empty_like(x_TD)
        dim = x_TD.shape[-1]
        if weight_D.shape != (dim,):
            raise ValueError(f"a norm of {tuple(weight_D.shape)} weights cannot scale {tuple(x_TD.shape)}")
        _cpu.rms_norm(x_TD.data_ptr(), weight_D.data_ptr(), eps, x_TD.numel() // dim, dim, out_TD.data_ptr())
        return out_TD

    def rotate(self, x_THK: Tensor, cos_TC: Tensor, sin_TC: Tensor) -> Tensor:
        num_rows, num_heads, head_dim = x_THK.shape
        tensors = (x_THK, cos_TC, sin_TC)
        if not all(map(_is_native, tensors)) or head_dim > _cpu.max_head_dim:
            return self._torch.rotate(x_THK, cos_TC, sin_TC)
        if cos_TC.shape != (num_rows, head_dim // 2) or sin_TC.shape != cos_TC.shape:
            raise ValueError(f"angles of {tuple(cos_TC.shape)} cannot rotate {tuple(x_THK.shape)}")
        x_THK, cos_TC, sin_TC = (tensor.contiguous() for tensor in tensors)
        out_THK = torch.empty_like(x_THK)
        _cpu.rotate(
            x_THK.data_ptr(), cos_TC.data_ptr(), sin_TC.data_ptr(), num_rows, num_heads, head_dim, out_THK.data_ptr()
        )
        return out_THK

    def swiglu(self, gate_TF: Tensor, up_TF: Tensor) -> Tensor:
        if not (_is_native(gate_TF) and _is_native(up_TF)):
            return self._torch.swiglu(gate_TF, up_TF)
        if gate_TF.shape != up_TF.shape:
            raise ValueError(f"gate {tuple(gate_TF.shape)} and up {tuple(up_TF.shape)} differ")
        gate_TF, up_TF = gate_TF.contiguous(), up_TF.contiguous()
        out_TF = torch.empty_like(gate_TF)
        width = gate_TF.shape[-1]
        _cpu.swiglu(gate_TF.data_ptr(), up_TF.data_ptr(), gate_TF.numel() // width, width, out_TF.data_ptr())
        return out_TF

    def route(self, router_logits_TE: Tensor, num_active: int) -> tuple[Tensor, Tensor]:
        if not _is_native(router_logits_TE):
            return self._torch.route(router_logits_TE, num_active)
        logits_TE = router_logits_TE.contiguous()
        num_rows, num_experts = logits_TE.shape
        weights_TA = torch.empty(num_rows, num_active)
        experts_TA = torch.empty(num_rows, num_active, dtype=torch.int64)
        _cpu.route(
            logits_TE.data_ptr(), num_rows, num_experts, num_active, weights_TA.data_ptr(), experts_TA.data_ptr()
        )
        return weights_TA, experts_TA

    def store_kv(
        self, k_TGK: Tensor, v_TGK: Tensor, k_pages_PSGK: Tensor, v_pages_PSGK: Tensor, slots_T: Tensor
    ) -> None:
        page_heads = (k_pages_PSGK.shape[2], page_head_dim(k_pages_PSGK))
        if k_TGK.shape != v_TGK.shape or k_TGK.shape[1:] != page_heads or slots_T.shape != k_TGK.shape[:1]:
            raise ValueError(
                f"keys {tuple(k_TGK.shape)} for {slots_T.numel()} slots do not fit pages {tuple(k_pages_PSGK.shape)}"
            )
        k_TGK, v_TGK = k_TGK.to(torch.float32).contiguous(), v_TGK.to(torch.float32).contiguous()
        slots_T = slots_T.to(torch.int64).contiguous()
        pages = native_pages(k_pages_PSGK, v_pages_PSGK)
        _cpu.store_kv(k_TGK.data_ptr(), v_TGK.data_ptr(), k_TGK.shape[0], slots_T.data_ptr(), pages)

    def paged_attention(
        self, q_THK: Tensor, k_pages_PSGK: Tensor, v_pages_PSGK: Tensor, batch: PagedBatch, window: int | None
    ) -> Tensor:
        """Raises IndexError if the batch names rows, positions or pages that do not exist."""
        num_rows, num_heads, head_dim = q_THK.shape
        num_kv_heads = k_pages_PSGK.shape[2]
        if head_dim > _cpu.max_head_dim or num_heads > num_kv_heads * _cpu.max_heads_per_kv:
            return self._torch.paged_attention(q_THK, k_pages_PSGK, v_pages_PSGK, batch, window)
        if (
            num_heads % num_kv_heads
            or head_dim != page_head_dim(k_pages_PSGK)
            or batch.page_size != k_pages_PSGK.shape[1]
        ):
            raise ValueError(f"queries {tuple(q_THK.shape)} do not fit pages {tuple(k_pages_PSGK.shape)}")
        q32_THK = q_THK.detach().to(torch.float32).contiguous()
        out_THK = torch.empty_like(q32_THK)
        pages = native_pages(k_pages_PSGK, v_pages_PSGK)
        _cpu.paged_attention(
            q32_THK.data_ptr(), num_rows, num_heads, pages, native_sequences(batch), window or 0, out_THK.data_ptr()
        )
        return out_THK.to(q_THK.dtype)

    def packed_attention(
        self, q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor, document_lens: Sequence[int], window: int | None
    ) -> Tensor:
        return self._torch.packed_attention(q_THK, k_TGK, v_TGK, document_lens, window)


def _is_native(tensor: Tensor) -> bool:
    is_differentiated = tensor.requires_grad and torch.is_grad_enabled()
    return tensor.dtype == torch.float32 and tensor.device.type == "cpu" and not is_differentiated


def native_low_rank(low_rank: LowRank | None) -> _cpu.LowRank:
    """Raises ValueError for weights of another dtype or device than the kernels read."""
    if low_rank is None:
        return 0, 0, False, 0.0, 0, 0, 0
    a_RI, b_PRN = low_rank.a_RI, low_rank.b_PRN
    is_half = a_RI.dtype == torch.float16
    if a_RI.dtype not in (torch.float16, torch.float32) or b_PRN.dtype != a_RI.dtype or not a_RI.is_cpu:
        raise ValueError(f"adapters of {a_RI.dtype} on {a_RI.device} cannot be used by the CPU kernels")
    features = low_rank.in_features, low_rank.out_features
    return a_RI.data_ptr(), b_PRN.data_ptr(), is_half, low_rank.scale, *features, low_rank.rank


def native_pages(k_pages_PSGK: Tensor, v_pages_PSGK: Tensor) -> _cpu.Pages:
    """Both pools as the kernels take them. Raises ValueError if they are not alike and on the CPU, rows of K without
    gaps."""
    is_alike = k_pages_PSGK.shape == v_pages_PSGK.shape and k_pages_PSGK.dtype == v_pages_PSGK.dtype
    strides = k_pages_PSGK.stride()
    is_plain = strides == v_pages_PSGK.stride() and strides[-1] == 1 and k_pages_PSGK.device.type == "cpu"
    page_type = _PAGE_TYPES.get(k_pages_PSGK.dtype)
    if not is_alike or not is_plain or page_type is None or k_pages_PSGK.dim() != 4:
        raise ValueError(f"pages of {k_pages_PSGK.dtype} {tuple(k_pages_PSGK.shape)} cannot be used by the CPU kernels")
    num_pages, page_size, num_kv_heads, _ = k_pages_PSGK.shape
    page_stride, slot_stride, head_stride = (stride * k_pages_PSGK.element_size() for stride in strides[:3])
    return (
        k_pages_PSGK.data_ptr(),
        v_pages_PSGK.data_ptr(),
        page_type,
        num_pages,
        page_size,
        num_kv_heads,
        page_head_dim(k_pages_PSGK),
        page_stride,
        slot_stride,
        head_stride,
    )


def native_sequences(batch: PagedBatch) -> _cpu.Sequences:
    """Raises ValueError if a tensor of the batch is not what PagedBatch promises."""
    num_sequences = batch.first_positions.shape[0]
    tensors = (batch.query_starts, batch.first_positions, batch.page_table, batch.page_offsets)
    is_plain = all(t.dtype == torch.int32 and t.is_contiguous() and t.is_cpu for t in tensors)
    shapes = [tuple(tensor.shape) for tensor in tensors]
    table_width = batch.page_table.shape[1]
    if not is_plain or shapes != [
        (num_sequences + 1,),
        (num_sequences,),
        (num_sequences, table_width),
        (num_sequences,),
    ]:
        raise ValueError(f"a batch of {num_sequences} sequences with shapes {shapes}; they must be int32 on the CPU")
    starts, firsts, table, offsets = (tensor.data_ptr() for tensor in tensors)
    return num_sequences, starts, firsts, table, table_width, offsets
