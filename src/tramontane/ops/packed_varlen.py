"""Attention over packed documents as one operation that compilers do not look into.

Boundaries come as a tensor, so that a compiled layer serves every packing. On CUDA it is torch's variable-length
flash attention (block-diagonal, causal, windowed, grouped heads); elsewhere the same sums are formed document by
document. Defined by `reference.attention` applied to each document.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tramontane.ops import packed_cpu, packed_native


def packed_varlen(
    q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor, starts: Tensor, max_len: int, window: int | None
) -> Tensor:
    """(T, H, K). `starts` (N + 1,) int32: document n owns rows starts[n] … starts[n + 1] - 1, the last entry is T;
    empty documents are allowed, so that N can be padded to a fixed size. No document is longer than `max_len`.

    Differentiable. On CUDA q, k and v must be float16 or bfloat16.
    """
    out_THK: Tensor = torch.ops.tramontane.packed_attention(q_THK, k_TGK, v_TGK, starts, max_len, window)[0]
    return out_THK


@torch.library.custom_op(
    "tramontane::packed_attention",
    mutates_args=(),
    schema="(Tensor q, Tensor k, Tensor v, Tensor starts, SymInt max_len, SymInt? window) -> (Tensor, Tensor)",
)
def _forward(
    q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor, starts: Tensor, max_len: int, window: int | None
) -> tuple[Tensor, Tensor]:
    """Output and the log of each row's normaliser, (H, T) float32."""
    if not q_THK.is_cuda:
        forward = (packed_native if packed_native.is_native(q_THK) else packed_cpu).packed_attention_forward
        result: tuple[Tensor, Tensor] = forward(q_THK, k_TGK, v_TGK, starts.diff().tolist(), window)
        return result
    left = None if window is None else window - 1  # keys before the query's own
    out_THK, lse_HT, *_ = torch.ops.aten._flash_attention_forward(
        q_THK.contiguous(),
        k_TGK.contiguous(),
        v_TGK.contiguous(),
        starts,
        starts,
        max_len,
        max_len,
        0.0,
        True,
        False,
        scale=q_THK.shape[-1] ** -0.5,
        window_size_left=left,
        window_size_right=0,
    )
    return out_THK.contiguous(), lse_HT


@_forward.register_fake
def _(
    q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor, starts: Tensor, max_len: int, window: int | None
) -> tuple[Tensor, Tensor]:
    num_tokens, num_heads, _ = q_THK.shape
    return (
        torch.empty_like(q_THK, memory_format=torch.contiguous_format),
        q_THK.new_empty((num_heads, num_tokens), dtype=torch.float32),
    )


@torch.library.custom_op(
    "tramontane::packed_attention_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, Tensor starts, SymInt max_len, "
    "SymInt? window) -> (Tensor, Tensor, Tensor)",
)
def _backward(
    grad_THK: Tensor,
    q_THK: Tensor,
    k_TGK: Tensor,
    v_TGK: Tensor,
    out_THK: Tensor,
    lse_HT: Tensor,
    starts: Tensor,
    max_len: int,
    window: int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    if not q_THK.is_cuda:
        backward = (packed_native if packed_native.is_native(q_THK) else packed_cpu).packed_attention_backward
        result: tuple[Tensor, Tensor, Tensor] = backward(
            grad_THK, q_THK, k_TGK, v_TGK, out_THK, lse_HT, starts.diff().tolist(), window
        )
        return result
    left = None if window is None else window - 1
    no_dropout = torch.zeros(2, dtype=torch.uint64, device=q_THK.device)
    grads = torch.ops.aten._flash_attention_backward(
        grad_THK.contiguous(),
        q_THK.contiguous(),
        k_TGK.contiguous(),
        v_TGK.contiguous(),
        out_THK,
        lse_HT,
        starts,
        starts,
        max_len,
        max_len,
        0.0,
        True,
        no_dropout,
        no_dropout,
        scale=q_THK.shape[-1] ** -0.5,
        window_size_left=left,
        window_size_right=0,
    )
    grad_q, grad_k, grad_v = grads
    return grad_q.contiguous(), grad_k.contiguous(), grad_v.contiguous()


@_backward.register_fake
def _(
    grad_THK: Tensor,
    q_THK: Tensor,
    k_TGK: Tensor,
    v_TGK: Tensor,
    out_THK: Tensor,
    lse_HT: Tensor,
    starts: Tensor,
    max_len: int,
    window: int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q_THK, k_TGK, v_TGK))  # type: ignore[return-value]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, starts, ctx.max_len, ctx.window = inputs
    ctx.save_for_backward(*tensors, *output, starts)
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, grad_THK: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    q_THK, k_TGK, v_TGK, out_THK, lse_HT, starts = ctx.saved_tensors
    grads = torch.ops.tramontane.packed_attention_backward(
        grad_THK, q_THK, k_TGK, v_TGK, out_THK, lse_HT, starts, ctx.max_len, ctx.window
    )
    return *grads, None, None, None


_forward.register_autograd(_gradients, setup_context=_setup_context)
