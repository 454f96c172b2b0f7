"""ForwardInput: everything one forward pass is given, passed explicitly.

Shape legend of the whole project: T tokens, D dim, H heads, G kv heads, K head_dim, F hidden_dim, E experts,
A active experts, V vocab, P pages, S page_size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from tramontane.model.adapter import RowAdapters
    from tramontane.ops.paged import PagedStep


class AttentionContext(Protocol):
    """Where keys and values live and which of them each token sees.

    The engine's implementation appends to the paged KV cache and attends over pages; the trainer's attends inside
    packed documents and keeps nothing. The model knows neither.
    """

    def attend(self, layer: int, q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor) -> Tensor:
        """Attention output (T, H, K) of `layer`; q and k are already rotated. May store k and v."""
        ...


@dataclass(frozen=True, slots=True)
class ForwardInput:
    """The flattened tokens of all sequences of one step.

    Example: a 5-token prompt beside one decoding sequence that already holds 7 tokens:
    token_ids = [p0 p1 p2 p3 p4 d7], positions = [0 1 2 3 4 7].
    """

    token_ids: Tensor  # (T,) int64
    positions: Tensor  # (T,) int64, place of each token in its own sequence
    attention: AttentionContext
    adapters: RowAdapters | None = None  # what some rows carry; None: all are of the bare model
    paged: PagedStep | None = None  # what `attention` does, as data, for a forward pass in one native call
