"""The one transformer: Mistral, Mixtral and Llama 2 are configurations of it.

Parameter names are those of the consolidated checkpoints.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tramontane.model.attention import Attention
from tramontane.model.feed_forward import FeedForward
from tramontane.model.linear import Linear
from tramontane.model.moe import MoeFeedForward
from tramontane.model.norm import RmsNorm
from tramontane.model.rope import RotaryEmbedding

if TYPE_CHECKING:
    from tramontane.config import ModelConfig
    from tramontane.model.adapter import RowAdapters
    from tramontane.model.forward_input import AttentionContext, ForwardInput
    from tramontane.ops.decoder import Decoder
    from tramontane.ops.interface import Ops
    from tramontane.ops.packed_weight import PackedWeight


_lora_of = attrgetter("lora")


class Layer(nn.Module):
    def __init__(self, layer: int, config: ModelConfig, ops: Ops) -> None:
        super().__init__()
        self.attention = Attention(layer, config, ops)
        self.attention_norm = RmsNorm(config.dim, config.norm_eps, ops)
        self.feed_forward: FeedForward | MoeFeedForward
        if config.moe is None:
            self.feed_forward = FeedForward(config.dim, config.hidden_dim, ops)
        else:
            self.feed_forward = MoeFeedForward(config.dim, config.hidden_dim, config.moe, ops)
        self.ffn_norm = RmsNorm(config.dim, config.norm_eps, ops)

    def forward(
        self,
        x_TD: Tensor,
        cos_TC: Tensor,
        sin_TC: Tensor,
        context: AttentionContext,
        adapters: RowAdapters | None = None,
    ) -> Tensor:
        x_TD = x_TD + self.attention(self.attention_norm(x_TD), cos_TC, sin_TC, context, adapters)
        out_TD: Tensor = x_TD + self.feed_forward(self.ffn_norm(x_TD), adapters)
        return out_TD


class TokenEmbeddings(nn.Module):
    weight: nn.Parameter  # absent where `packed` is set
    packed: PackedWeight | None

    def __init__(self, vocab_size: int, dim: int) -> None:
        super().__init__()
        self.shape = (vocab_size, dim)
        self.weight = nn.Parameter(torch.empty(vocab_size, dim))
        self.packed = None

    def forward(self, token_ids_T: Tensor) -> Tensor:
        return F.embedding(token_ids_T, self.weight) if self.packed is None else self.packed.rows(token_ids_T)


class Transformer(nn.Module):
    """`model(forward_input)` -> hidden states after the final norm; `model.logits(hidden)` -> scores.

    Built with uninitialised weights: `loading.load_model` fills them from a checkpoint, `init.initialise` at random.
    """

    def __init__(self, config: ModelConfig, ops: Ops) -> None:
        super().__init__()
        self.config = config
        self.ops = ops
        self.rope = RotaryEmbedding(config)
        self.tok_embeddings = TokenEmbeddings(config.vocab_size, config.dim)
        self.layers = nn.ModuleList(Layer(layer, config, ops) for layer in range(config.n_layers))
        self.norm = RmsNorm(config.dim, config.norm_eps, ops)
        self.output = None if config.tied_embeddings else Linear(config.dim, config.vocab_size, ops)
        self.decoder: Decoder | None = None  # computes whole steps where every weight is packed (model/packed.py)
        self._linears = [module for module in self.modules() if isinstance(module, Linear)]

    @property
    def dtype(self) -> torch.dtype:
        """Compute dtype: that of the activations."""
        return self.norm.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.norm.weight.device

    @property
    def is_batch_invariant(self) -> bool:
        """Whether the scores of a sequence have the same bits whatever is computed with it."""
        return self.decoder is not None and not self._is_adapted()

    @property
    def weights_bytes(self) -> int:
        """Memory of all weights, packed or not."""
        holders: list[Linear | TokenEmbeddings] = [self.tok_embeddings, *self._linears]
        packed_bytes = sum(module.packed.storage.nbytes for module in holders if module.packed is not None)
        return packed_bytes + sum(parameter.nbytes for parameter in self.parameters())

    def forward(self, forward_input: ForwardInput) -> Tensor:
        """Hidden states (T, D) after the final norm, one row per token of the batch."""
        paged, adapters = forward_input.paged, forward_input.adapters
        if self.decoder is not None and paged is not None and not self._is_adapted():
            angles = self.rope.cached_cos_sin(forward_input.positions, paged.end_position)
            natives, index_T = ([], None) if adapters is None else (adapters.natives, adapters.index_T)
            return self.decoder.forward(forward_input.token_ids, *angles, paged, natives, index_T)
        cos_TC, sin_TC = self.rope.cos_sin(forward_input.positions)
        x_TD = self.tok_embeddings(forward_input.token_ids)
        for layer in self.layers:
            x_TD = layer(x_TD, cos_TC, sin_TC, forward_input.attention, adapters)
        hidden_TD: Tensor = self.norm(x_TD)
        return hidden_TD

    def logits(self, hidden_TD: Tensor) -> Tensor:
        """Scores of every vocabulary entry, (T, V) float32."""
        packed = self.tok_embeddings.packed
        if self.output is not None:
            scores_TV: Tensor = self.output(hidden_TD)
        elif packed is None:
            scores_TV = self.ops.linear(hidden_TD, self.tok_embeddings.weight)
        else:
            scores_TV = packed.multiply(hidden_TD)
        return scores_TV.float()

    def _is_adapted(self) -> bool:
        return any(map(_lora_of, self._linears))
