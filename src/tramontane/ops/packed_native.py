"""Attention inside packed documents on the native CPU kernels: bfloat16 is multiplied as such where the processor has
instructions for it (csrc/document_attention_bf16.h), all else is computed in float32 (csrc/document_attention.h).

The same sums as `packed_cpu`, without its scores ever leaving the cache. Neither the number of threads nor the other
documents of a row change a bit of the result.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# The trainer runs from a checkout without compiled kernels too, as on a machine rented for its GPU.
try:
    from tramontane.ops import _cpu
except ImportError:
    _cpu = None  # type: ignore[assignment]


def is_native(q_THK: Tensor) -> bool:
    """Whether the kernels are there and compute heads like these."""
    if _cpu is None or q_THK.device.type != "cpu" or q_THK.dtype not in (torch.float32, torch.bfloat16):
        return False
    head_dim = q_THK.shape[-1]
    return head_dim % _cpu.document_lanes == 0 and head_dim <= _cpu.max_head_dim


def packed_attention_forward(
    q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor, document_lens: Sequence[int], window: int | None
) -> tuple[Tensor, Tensor]:
    """(T, H, K) in the dtype of q, and the log normaliser of each row, (H, T) float32."""
    dtype = q_THK.dtype
    q_THK, k_TGK, v_TGK = _as_computed(q_THK, k_TGK, v_TGK)
    out_THK = torch.empty_like(q_THK)
    lse_HT = q_THK.new_empty((q_THK.shape[1], q_THK.shape[0]), dtype=torch.float32)
    _match_threads()
    is_bf16 = q_THK.dtype == torch.bfloat16
    forward = _cpu.packed_attention_forward_bf16 if is_bf16 else _cpu.packed_attention_forward
    forward(*_arguments(q_THK, k_TGK, v_TGK, out_THK, lse_HT, document_lens, window))
    return out_THK.to(dtype), lse_HT


def packed_attention_backward(
    grad_THK: Tensor,
    q_THK: Tensor,
    k_TGK: Tensor,
    v_TGK: Tensor,
    out_THK: Tensor,
    lse_HT: Tensor,
    document_lens: Sequence[int],
    window: int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v in their dtype; those of k and v are summed over heads in float32."""
    dtype = q_THK.dtype
    num_tokens, num_heads, head_dim = q_THK.shape
    num_kv_heads = k_TGK.shape[1]
    q_THK, k_TGK, v_TGK, grad_THK, out_THK = _as_computed(q_THK, k_TGK, v_TGK, grad_THK, out_THK)
    lse_HT = lse_HT.contiguous()
    if not (grad_THK.shape == out_THK.shape == q_THK.shape and lse_HT.shape == (num_heads, num_tokens)):
        raise ValueError(f"gradient {tuple(grad_THK.shape)} and output {tuple(out_THK.shape)} differ")
    grad_q_THK = torch.empty_like(q_THK)
    shape = (num_heads, num_tokens, head_dim)
    by_head_HTK = [q_THK.new_zeros(shape, dtype=torch.float32) for _ in range(2)]
    _match_threads()
    is_bf16 = q_THK.dtype == torch.bfloat16
    backward = _cpu.packed_attention_backward_bf16 if is_bf16 else _cpu.packed_attention_backward
    backward(
        *_arguments(q_THK, k_TGK, v_TGK, out_THK, lse_HT, document_lens, window),
        grad_THK.data_ptr(),
        grad_q_THK.data_ptr(),
        by_head_HTK[0].data_ptr(),
        by_head_HTK[1].data_ptr(),
    )
    grad_k_TGK, grad_v_TGK = (
        x.view(num_kv_heads, -1, num_tokens, head_dim).sum(1).transpose(0, 1).to(dtype).contiguous()
        for x in by_head_HTK
    )
    return grad_q_THK.to(dtype), grad_k_TGK, grad_v_TGK


def _as_computed(*tensors: Tensor) -> list[Tensor]:
    """In bfloat16 if they are and it is multiplied as such, else in float32. Raises ValueError if they are not all of
    one dtype."""
    dtypes = {tensor.dtype for tensor in tensors}
    if len(dtypes) > 1:
        raise ValueError(f"one dtype is wanted for all of attention, not {', '.join(sorted(map(str, dtypes)))}")
    is_bf16 = dtypes == {torch.bfloat16} and tensors[0].shape[-1] % _cpu.document_lanes_bf16 == 0
    dtype = torch.bfloat16 if is_bf16 and _cpu.computes_bf16_documents() else torch.float32
    return [tensor.to(dtype).contiguous() for tensor in tensors]


def _match_threads() -> None:
    """As many threads as torch has now: a run sets those, and asking is cheaper than entering a region."""
    if _cpu.num_threads() != torch.get_num_threads():
        _cpu.set_num_threads(torch.get_num_threads())


def _arguments(
    q_THK: Tensor,
    k_TGK: Tensor,
    v_TGK: Tensor,
    out_THK: Tensor,
    lse_HT: Tensor,
    document_lens: Sequence[int],
    window: int | None,
) -> tuple[list[int], tuple[int, int, int, int], int, int, int, int, int]:
    num_tokens, num_heads, head_dim = q_THK.shape
    num_kv_heads = k_TGK.shape[1]
    if k_TGK.shape != (num_tokens, num_kv_heads, head_dim) or v_TGK.shape != k_TGK.shape or num_heads % num_kv_heads:
        shapes = ", ".join(str(tuple(x.shape)) for x in (q_THK, k_TGK, v_TGK))
        raise ValueError(f"queries, keys and values of {shapes} do not fit together")
    if sum(document_lens) != num_tokens:
        raise ValueError(f"documents of {sum(document_lens)} tokens in {num_tokens} rows")
    return (
        list(document_lens),
        (num_heads, num_kv_heads, head_dim, window or 0),
        q_THK.data_ptr(),
        k_TGK.data_ptr(),
        v_TGK.data_ptr(),
        out_THK.data_ptr(),
        lse_HT.data_ptr(),
    )
