"""PackedAttention: documents laid end to end in one row, each seeing only itself. Nothing is cached."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tramontane.model.forward_input import ForwardInput

if TYPE_CHECKING:
    from tramontane.model.transformer import Transformer


class PackedAttention:
    """The AttentionContext of training and of one-off forward passes; differentiable."""

    def __init__(self, model: Transformer, document_lens: Sequence[int]) -> None:
        self.ops = model.ops
        self.sliding_windows = model.config.sliding_windows
        self.document_lens = tuple(document_lens)

    def attend(self, layer: int, q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor) -> Tensor:
        return self.ops.packed_attention(q_THK, k_TGK, v_TGK, self.document_lens, self.sliding_windows[layer])


def packed_input(model: Transformer, token_ids_T: Tensor, document_lens: Sequence[int]) -> ForwardInput:
    """ForwardInput of documents laid end to end; positions restart at 0 in each.

    Raises ValueError if the lengths do not add up to the number of tokens.
    """
    if sum(document_lens) != token_ids_T.numel() or any(n < 1 for n in document_lens):
        raise ValueError(f"document lengths {list(document_lens)} do not add up to {token_ids_T.numel()} tokens")
    positions_T = torch.cat([torch.arange(n, device=token_ids_T.device) for n in document_lens])
    return ForwardInput(token_ids_T, positions_T, PackedAttention(model, document_lens))
