"""Learning-rate schedules: a factor of the peak rate, a pure function of the step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from tramontane.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """`cosine`: warm up, then half a cosine down to `final`. `wsd`: warm up, stay at 1, then decay over the last
    `decay_fraction` of the run (arXiv:2404.06395); `linear` or `1-sqrt` (arXiv:2405.18392). `constant`: warm up, stay.

    A wsd run is extended by raising `num_steps` and resuming from a checkpoint taken before its decay began: up to
    there the factor does not depend on `num_steps`.
    """

    num_steps: int
    kind: Literal["cosine", "wsd", "constant"] = "wsd"
    warmup_steps: int = 100
    decay_fraction: float = 0.2
    decay: Literal["linear", "1-sqrt"] = "1-sqrt"
    final: float = 0.0

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise ConfigError(f"num_steps={self.num_steps} must be at least 1")
        if not 0 <= self.warmup_steps <= self.num_steps:
            raise ConfigError(f"warmup_steps={self.warmup_steps} must lie between 0 and num_steps={self.num_steps}")
        if not 0 <= self.decay_fraction <= 1:
            raise ConfigError(f"decay_fraction={self.decay_fraction} must lie between 0 and 1")
        if not 0 <= self.final <= 1:
            raise ConfigError(f"final={self.final} must lie between 0 and 1")

    @property
    def decay_start(self) -> int:
        """The first step below the peak rate; `num_steps` if there is none."""
        if self.kind == "cosine":
            return self.warmup_steps
        if self.kind == "constant":
            return self.num_steps
        return max(self.warmup_steps, self.num_steps - round(self.decay_fraction * self.num_steps))

    def factor(self, step: int) -> float:
        """Share of the peak learning rate used by the update number `step` (0 is the first)."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if step < self.decay_start:
            return 1.0
        # the last update still moves: the decay would reach its end one step after it
        progress = min(1.0, (step - self.decay_start + 1) / (self.num_steps - self.decay_start + 1))
        if self.kind == "cosine":
            shape = (1 + math.cos(math.pi * progress)) / 2
        else:
            shape = 1 - math.sqrt(progress) if self.decay == "1-sqrt" else 1 - progress
        return self.final + (1 - self.final) * shape
