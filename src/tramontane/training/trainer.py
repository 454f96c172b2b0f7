"""The trainer: one update is gather gradients, average and clip, guard, step. All kinds of training share it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tramontane.errors import CheckpointError, ConfigError
from tramontane.training.checkpointer import TrainerState
from tramontane.training.distributed import World
from tramontane.training.flops import training_flops
from tramontane.training.gradients import Ema, StepGuard, average_and_clip
from tramontane.training.microbatch import Drawn, Microbatch, Placement, Prefetcher, Stream
from tramontane.training.muon import full_tensor, like
from tramontane.training.optim import OptimizerSet
from tramontane.training.schedule import Schedule
from tramontane.training.tasks import TrainingModule

if TYPE_CHECKING:
    from tramontane.config import ModelConfig


@dataclass(frozen=True, slots=True)
class Update:
    """What one optimiser step did. `means` are per token (pair, sample) of the whole update, all processes together."""

    means: Mapping[str, float]
    grad_norm: float
    lr_factor: float
    was_applied: bool
    flops: float  # of this process


class Trainer:
    """Model, optimiser, schedule and data of a run; `step` counts the updates done.

    `state` and `load_state` hold everything the next update depends on: a run that is interrupted and resumed makes
    bit for bit the updates of one that is not.
    """

    def __init__(
        self,
        module: TrainingModule,
        optimizers: OptimizerSet,
        schedule: Schedule,
        stream: Stream,
        *,
        placement: Placement,
        num_microbatches: int,
        max_grad_norm: float | None = None,
        ema: Ema | None = None,
        world: World | None = None,
    ) -> None:
        """`num_microbatches` is that of this process per update."""
        self.module = module
        self.optimizers = optimizers
        self.schedule = schedule
        self.stream = stream
        self.placement = placement
        self.device = placement.device
        self.num_microbatches = num_microbatches
        self.max_grad_norm = max_grad_norm
        self.ema = ema
        self.world = world or World()
        self.guard = StepGuard()
        self.step = 0
        self._stream_state: dict[str, Any] = stream.state_dict()
        self._prefetcher: Prefetcher | None = None
        self._batches: Iterator[Drawn] = iter(())
        self._trains_weights = any(not name.rpartition(".lora")[1] for name in optimizers.params)

    @property
    def config(self) -> ModelConfig:
        return self.module.model.config

    @property
    def num_token_ids(self) -> int:
        """Tokens trained on so far, by all processes together; padding is not among them."""
        return int(self._stream_state["num_token_ids"])

    def update(self) -> Update:
        """One optimiser step; the last may have fewer microbatches than the others, where the samples end.

        Raises ConfigError when the loss has not been finite for many steps in a row.
        """
        sums, weight, flops = self._gather_gradients()
        norm = average_and_clip(self.optimizers.gradients(), weight / self.world.size, self.max_grad_norm)
        means = {name: float(value) / float(weight) for name, value in sums.items()}
        factor = self.schedule.factor(self.step)
        was_applied = self.guard.accepts(means["loss"], float(norm))
        if was_applied:
            self.optimizers.step(factor)
            if self.ema is not None:
                self.ema.update(self.step)
        self.optimizers.zero_grad()
        self.step += 1
        if self.guard.is_lost:
            raise ConfigError(
                f"the loss was not finite for {self.guard.num_in_a_row} updates running, up to step {self.step}; "
                "lower the learning rate or lengthen the warm-up, and resume"
            )
        return Update(means, float(norm), factor, was_applied, flops)

    def _gather_gradients(self) -> tuple[dict[str, Tensor], Tensor, float]:
        """Backward passes of one update; sums and their weight over all processes, and this one's arithmetic."""
        sums: dict[str, Tensor] = {}
        weight = torch.zeros((), device=self.device)
        flops = 0.0
        microbatches = iter(self._next, None)
        for microbatch in islice(microbatches, self.num_microbatches):
            objective = self.module(microbatch)
            objective.total.backward()
            weight += objective.weight
            for name, value in objective.sums.items():
                sums[name] = sums[name] + value.detach() if name in sums else value.detach()
            document_lens = microbatch.document_lens[: microbatch.num_documents]
            flops += training_flops(self.config, document_lens, trains_weights=self._trains_weights)
        names = sorted(sums)
        totals = self.world.sum(torch.stack([weight, *(sums[name].float() for name in names)])).unbind()
        return dict(zip(names, totals[1:], strict=True)), totals[0].clamp_min(1e-20), flops

    def _next(self) -> Microbatch | None:
        """None where the stream has ended: on every process at once."""
        if self._prefetcher is None:
            self._prefetcher = Prefetcher(self.stream)
            self._batches = iter(self._prefetcher)
        drawn = next(self._batches, None)
        if drawn is None:
            return None
        batch, self._stream_state = drawn
        return self.placement.place(batch)

    def state(self) -> TrainerState:
        """Whole tensors on the CPU; collective when there are several processes."""
        tensors: dict[str, Tensor] = {f"weights/{name}": param for name, param in self.optimizers.params.items()}
        tensors |= {f"optimizer/{name}": value for name, value in self.optimizers.state_tensors()}
        if self.ema is not None:
            tensors |= {f"ema/{name}": average for name, average in self.ema.averages.items()}
        tensors["rng/cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["rng/cuda"] = torch.cuda.get_rng_state(self.device)
        values = {
            "step": self.step,
            "num_skipped": self.guard.num_skipped,
            "num_in_a_row": self.guard.num_in_a_row,
            "stream": self._stream_state,
        }
        return TrainerState({name: full_tensor(tensor.detach()).cpu() for name, tensor in tensors.items()}, values)

    @torch.no_grad()
    def load_state(self, state: TrainerState) -> None:
        """Continue from `state`. Raises CheckpointError if it belongs to another model or way of training."""
        if self._prefetcher is not None:
            raise RuntimeError("a trainer that has begun cannot load a state; make a new one")
        parts: dict[str, dict[str, Tensor]] = {"weights": {}, "optimizer": {}, "ema": {}, "rng": {}}
        for name, tensor in state.tensors.items():
            part, _, rest = name.partition("/")
            parts[part][rest] = tensor
        params = self.optimizers.params
        if set(parts["weights"]) != set(params):
            differing = sorted(set(parts["weights"]) ^ set(params))
            raise CheckpointError(f"the saved run trains other weights than this one ({differing[0]!r} the first)")
        for name, tensor in parts["weights"].items():
            if tensor.shape != params[name].shape:
                raise CheckpointError(
                    f"the saved {name!r} has shape {tuple(tensor.shape)}, this model's has {tuple(params[name].shape)}"
                )
            params[name].copy_(like(tensor.to(self.device), params[name]))
        self.optimizers.load_state_tensors(parts["optimizer"])
        if self.ema is not None:
            if set(parts["ema"]) != set(params):
                raise CheckpointError("the saved run kept no moving average; resume it without optimizer.ema_decay")
            for name, tensor in parts["ema"].items():
                self.ema.averages[name].copy_(like(tensor.to(self.device), self.ema.averages[name]))
        torch.set_rng_state(parts["rng"]["cpu"])
        if "cuda" in parts["rng"] and self.device.type == "cuda":
            torch.cuda.set_rng_state(parts["rng"]["cuda"], self.device)
        self.step = int(state.values["step"])
        self.guard.num_skipped = int(state.values["num_skipped"])
        self.guard.num_in_a_row = int(state.values["num_in_a_row"])
        self._stream_state = dict(state.values["stream"])
        self.stream.load_state_dict(self._stream_state)

    def close(self) -> None:
        """End the thread that reads ahead."""
        if self._prefetcher is not None:
            self._prefetcher.close()
