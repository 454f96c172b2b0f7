"""What each operation means, in plain torch. Every fast backend is tested against this file.

Shapes: T tokens, S keys, D dim, H heads, G kv heads, K head_dim, F hidden_dim, E experts, A active experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from tramontane.ops.low_rank import LowRank


def linear(x_TI: Tensor, weight_OI: Tensor) -> Tensor:
    return x_TI @ weight_OI.T


def add_low_rank(y_TO: Tensor, x_TI: Tensor, low_ranks: Sequence[LowRank | None], index_T: Tensor) -> Tensor:
    """y plus, for each row t with index_T[t] >= 0, what the adapter of that index adds: B (A x) (arXiv:2106.09685).

    None: the adapter leaves this product alone.
    """
    out_TO = y_TO.clone()
    for t, index in enumerate(index_T.tolist()):
        low_rank = low_ranks[index] if index >= 0 else None
        if low_rank is not None:
            b_OR = low_rank.b_PRN.mT.flatten(0, 1)[: low_rank.out_features].to(x_TI.dtype)
            out_TO[t] += b_OR @ (low_rank.scale * (low_rank.a_RI.to(x_TI.dtype) @ x_TI[t]))
    return out_TO


def rms_norm(x_TD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """Root mean square norm (arXiv:1910.07467), computed in float32, scaled in the input's dtype."""
    x32_TD = x_TD.float()
    return (x32_TD * torch.rsqrt(x32_TD.square().mean(-1, keepdim=True) + eps)).to(x_TD.dtype) * weight_D


def rotate(x_THK: Tensor, cos_TC: Tensor, sin_TC: Tensor) -> Tensor:
    """Rotary embedding (arXiv:2104.09864) on interleaved pairs (0,1), (2,3), …; C = K / 2 angles per token, float32."""
    even_THC, odd_THC = x_THK.float().view(*x_THK.shape[:-1], -1, 2).unbind(-1)
    cos_T1C, sin_T1C = cos_TC[:, None], sin_TC[:, None]
    rotated = torch.stack((even_THC * cos_T1C - odd_THC * sin_T1C, even_THC * sin_T1C + odd_THC * cos_T1C), dim=-1)
    return rotated.flatten(-2).to(x_THK.dtype)


def swiglu(gate_TF: Tensor, up_TF: Tensor) -> Tensor:
    """silu(gate) * up (arXiv:2002.05202)."""
    return torch.nn.functional.silu(gate_TF) * up_TF


def route(router_logits_TE: Tensor, num_active: int) -> tuple[Tensor, Tensor]:
    """The A experts of each token and their weights: softmax over the chosen logits (arXiv:2401.04088, 2.1).

    Returns (weights_TA float32, experts_TA int64), the heaviest first.
    """
    chosen_TA, experts_TA = router_logits_TE.float().topk(num_active, dim=-1)
    return chosen_TA.softmax(-1), experts_TA


def attention(q_THK: Tensor, k_SGK: Tensor, v_SGK: Tensor, window: int | None) -> Tensor:
    """Grouped-query attention of one sequence whose T queries are the last of its S positions.

    A query at position p sees keys p - window + 1 … p (all up to p when window is None). Head h reads kv head
    h // (H / G). Returns (T, H, K) in the dtype of q.
    """
    num_queries, num_heads, head_dim = q_THK.shape
    num_keys, num_kv_heads, _ = k_SGK.shape
    k_SHK = k_SGK.repeat_interleave(num_heads // num_kv_heads, dim=1)
    v_SHK = v_SGK.repeat_interleave(num_heads // num_kv_heads, dim=1)
    scores_HTS = torch.einsum("thk,shk->hts", q_THK.float(), k_SHK.float()) * head_dim**-0.5
    q_position_T1 = torch.arange(num_keys - num_queries, num_keys, device=q_THK.device)[:, None]
    k_position_S = torch.arange(num_keys, device=q_THK.device)
    visible_TS = k_position_S <= q_position_T1
    if window is not None:
        visible_TS &= q_position_T1 - k_position_S < window
    weights_HTS = scores_HTS.masked_fill(~visible_TS, float("-inf")).softmax(-1)
    return torch.einsum("hts,shk->thk", weights_HTS, v_SHK.float()).to(q_THK.dtype)
