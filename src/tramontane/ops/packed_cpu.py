"""Attention inside packed documents on a CPU, forward and backward, in tiles of queries.

A tile of queries multiplies only the keys its oldest and newest rows can see, so a window costs what it covers and a
causal row half of it. Nothing is kept for the backward pass but the output and each row's log normaliser, as in flash
attention (arXiv:2205.14135); the weights are formed again from them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

# Queries in a tile: 128 keeps a tile's scores (heads x 128 x keys) in the second-level cache and wastes little of the
# causal triangle.
TILE_LEN = 128


def packed_attention_forward(
    q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor, document_lens: Sequence[int], window: int | None
) -> tuple[Tensor, Tensor]:
    """(T, H, K) in the dtype of q, and the log normaliser of each row, (H, T) float32."""
    num_tokens, num_heads, head_dim = q_THK.shape
    num_kv_heads = k_TGK.shape[1]
    heads_per_kv = num_heads // num_kv_heads
    out_THK = torch.empty_like(q_THK, memory_format=torch.contiguous_format)
    lse_HT = q_THK.new_empty((num_heads, num_tokens), dtype=torch.float32)
    for rows, keys, hidden in tiles(document_lens, window, q_THK.device):
        scores_GQS = torch.bmm(_by_kv_head(q_THK[rows], num_kv_heads), k_TGK[keys].permute(1, 2, 0)).float()
        scores_GQS.mul_(head_dim**-0.5)
        scores_GQS.view(-1, *hidden.shape).masked_fill_(hidden, float("-inf"))
        top = scores_GQS.amax(-1, keepdim=True)
        mass = scores_GQS.sub_(top).exp_().sum(-1, keepdim=True)
        weights_GQS = scores_GQS.div_(mass).to(v_TGK.dtype)
        out_THK[rows] = _by_token(torch.bmm(weights_GQS, v_TGK[keys].transpose(0, 1)), heads_per_kv)
        lse_HT[:, rows] = (mass.log_() + top).view(num_heads, -1)
    return out_THK, lse_HT


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
    """Gradients of q, k and v in their dtypes; those of k and v are summed in float32."""
    num_kv_heads, head_dim = k_TGK.shape[1], q_THK.shape[-1]
    heads_per_kv = q_THK.shape[1] // num_kv_heads
    grad_q_THK = torch.empty_like(q_THK, memory_format=torch.contiguous_format)
    grad_k_GTK = k_TGK.new_zeros((num_kv_heads, k_TGK.shape[0], head_dim), dtype=torch.float32)
    grad_v_GTK = torch.zeros_like(grad_k_GTK)
    # sum over keys of weight * d weight, which the softmax subtracts from each row
    shift_HT = torch.linalg.vecdot(grad_THK.float(), out_THK.float()).T
    for rows, keys, hidden in tiles(document_lens, window, q_THK.device):
        q_GQK = _by_kv_head(q_THK[rows], num_kv_heads)
        grad_GQK = _by_kv_head(grad_THK[rows], num_kv_heads)
        k_GSK, v_GSK = k_TGK[keys].transpose(0, 1), v_TGK[keys].transpose(0, 1)
        weights_GQS = torch.bmm(q_GQK, k_GSK.mT).float().mul_(head_dim**-0.5)
        weights_GQS.sub_(lse_HT[:, rows].reshape(num_kv_heads, -1, 1)).exp_()
        weights_GQS.view(-1, *hidden.shape).masked_fill_(hidden, 0.0)
        grad_v_GTK[:, keys] += torch.bmm(weights_GQS.to(grad_GQK.dtype).mT, grad_GQK)
        slope_GQS = torch.bmm(grad_GQK, v_GSK.mT).float()
        slope_GQS.sub_(shift_HT[:, rows].reshape(num_kv_heads, -1, 1)).mul_(weights_GQS).mul_(head_dim**-0.5)
        slope_GQS = slope_GQS.to(q_GQK.dtype)
        grad_q_THK[rows] = _by_token(torch.bmm(slope_GQS, k_GSK), heads_per_kv)
        grad_k_GTK[:, keys] += torch.bmm(slope_GQS.mT, q_GQK)
    grad_k_TGK = grad_k_GTK.to(k_TGK.dtype).transpose(0, 1).contiguous()
    return grad_q_THK, grad_k_TGK, grad_v_GTK.to(v_TGK.dtype).transpose(0, 1).contiguous()


def tiles(
    document_lens: Sequence[int], window: int | None, device: torch.device
) -> Iterator[tuple[slice, slice, Tensor]]:
    """(rows of the tile, rows of the keys any of them sees, which (query, key) pairs are hidden) for every tile."""
    masks: dict[tuple[int, int], Tensor] = {}
    start = 0
    for document_len in document_lens:
        for first in range(0, document_len, TILE_LEN):
            end = min(first + TILE_LEN, document_len)
            oldest = 0 if window is None else max(0, first - window + 1)
            shape = (end - first, end - oldest)
            if shape not in masks:
                distance = torch.arange(shape[0], device=device)[:, None] + (first - oldest)
                distance = distance - torch.arange(shape[1], device=device)
                masks[shape] = distance < 0 if window is None else (distance < 0) | (distance >= window)
            yield slice(start + first, start + end), slice(start + oldest, start + end), masks[shape]
        start += document_len


def _by_kv_head(x_THK: Tensor, num_kv_heads: int) -> Tensor:
    """(G, R * T, K): the R = H / G heads that share a kv head are R * T queries of it."""
    num_tokens, num_heads, head_dim = x_THK.shape
    grouped = x_THK.view(num_tokens, num_kv_heads, num_heads // num_kv_heads, head_dim)
    return grouped.permute(1, 2, 0, 3).reshape(num_kv_heads, -1, head_dim)


def _by_token(x_GQK: Tensor, heads_per_kv: int) -> Tensor:
    num_kv_heads, num_queries, head_dim = x_GQK.shape
    split = x_GQK.view(num_kv_heads, heads_per_kv, num_queries // heads_per_kv, head_dim)
    return split.permute(2, 0, 1, 3).flatten(1, 2)
