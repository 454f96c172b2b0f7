"""What a run learns, as a loss on microbatches. Every task shares the trainer, the model and the checkpoints.

A task gives sums and their weight; the trainer divides by the weight of the whole update, so that any split of a batch
into microbatches and processes gives the same gradient.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from tramontane.model.moe import MoeFeedForward
from tramontane.model.transformer import Transformer
from tramontane.training.loss import cross_entropy, load_balancing_loss, router_z_loss, token_logprobs
from tramontane.training.microbatch import Microbatch
from tramontane.training.recipe import LossRecipe


@dataclass(frozen=True, slots=True)
class Objective:
    """`total` is summed over `weight` tokens (or pairs, or samples) and carries the gradient; `sums` are reported,
    each divided by the weight."""

    total: Tensor
    weight: Tensor
    sums: Mapping[str, Tensor] = field(default_factory=dict)


class Task(Protocol):
    def objective(self, model: Transformer, microbatch: Microbatch) -> Objective: ...


class TrainingModule(nn.Module):
    """Model and task as one module whose forward pass is the loss: what is compiled, sharded and called."""

    def __init__(self, model: Transformer, task: Task) -> None:
        super().__init__()
        self.model = model
        self.task = task

    def trainable(self) -> dict[str, nn.Parameter]:
        """Parameters that are learned: the model's by canonical name, a head's as `head.…`."""
        return {name: parameter for name, parameter in self._named() if parameter.requires_grad}

    def named_weights(self) -> dict[str, Tensor]:
        """Every weight by the same names, learned or not."""
        return {name: parameter.detach() for name, parameter in self._named()}

    def _named(self) -> Iterator[tuple[str, nn.Parameter]]:
        for name, parameter in self.named_parameters():
            yield name.removeprefix("model.").removeprefix("task."), parameter

    def forward(self, microbatch: Microbatch) -> Objective:
        return self.task.objective(self.model, microbatch)


class TextTask:
    """Predict the next token where the microbatch's weights say so: pretraining and supervised fine-tuning."""

    def __init__(self, loss: LossRecipe, *, compiled: bool = False) -> None:
        self.loss = loss
        self.compiled = compiled

    def objective(self, model: Transformer, microbatch: Microbatch) -> Objective:
        hidden_LD = learned(model(microbatch.forward_input), microbatch)
        entropy = cross_entropy(
            hidden_LD,
            output_weight(model),
            microbatch.targets,
            microbatch.weights,
            z_loss=self.loss.z_loss,
            compiled=self.compiled,
        )
        total = entropy.objective
        sums = {"loss": entropy.nll, "accuracy": entropy.correct}
        if model.training and model.config.moe is not None:
            router = router_logits(model)
            balance = load_balancing_loss(router, model.config.moe.num_experts_per_tok)
            router_z = router_z_loss(router)
            added = self.loss.load_balancing * balance + self.loss.router_z_loss * router_z
            total = total + added * entropy.weight
            sums |= {
                "load_balancing": balance.detach() * entropy.weight,
                "router_z": router_z.detach() * entropy.weight,
            }
        return Objective(total, entropy.weight, sums)


def learned(hidden_TD: Tensor, microbatch: Microbatch) -> Tensor:
    """(L, D): the hidden states of the rows that are scored."""
    rows = microbatch.learned_rows
    return hidden_TD if rows is None else hidden_TD.index_select(0, rows)


def output_weight(model: Transformer) -> Tensor:
    """The (V, D) matrix that scores the vocabulary; unpacked where it is packed, and then frozen."""
    holder = model.tok_embeddings if model.output is None else model.output
    return holder.weight if holder.packed is None else holder.packed.dequantise()


def router_logits(model: Transformer) -> list[Tensor]:
    """(T, E) of each layer, of the last forward pass; needs `keep_router_logits(model)` before it."""
    kept = [m.router_logits_TE for m in model.modules() if isinstance(m, MoeFeedForward)]
    return [logits for logits in kept if logits is not None]


def keep_router_logits(model: Transformer) -> None:
    """Have every router keep its scores of the last forward pass."""
    for module in model.modules():
        if isinstance(module, MoeFeedForward):
            module.keep_router_logits = True


def sequence_logprobs(model: Transformer, microbatch: Microbatch) -> tuple[Tensor, Tensor]:
    """Sum of the learned tokens' log-probabilities of each document, and how many they are; both (N,) float32."""
    hidden_LD = learned(model(microbatch.forward_input), microbatch)
    logprobs_L = token_logprobs(hidden_LD, output_weight(model), microbatch.targets)
    lens = torch.tensor(microbatch.document_lens, device=logprobs_L.device)
    owner_L = torch.repeat_interleave(torch.arange(len(lens), device=lens.device), lens)
    if microbatch.learned_rows is not None:
        owner_L = owner_L[microbatch.learned_rows]
    zeros = logprobs_L.new_zeros(len(lens))
    sums_N = zeros.index_add(0, owner_L, logprobs_L * microbatch.weights)
    counts_N = zeros.index_add(0, owner_L, microbatch.weights)
    return sums_N[: microbatch.num_documents], counts_N[: microbatch.num_documents]
