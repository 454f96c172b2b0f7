"""How far a run has come, read off what it has written."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_CHECKPOINTS = 10
MAX_LOSSES = 2000
"""Of each kind, that are kept of a job that has ended."""


@dataclass(frozen=True, slots=True)
class Progress:
    """`rows` are those of `metrics.jsonl`, without the events."""

    rows: Sequence[Mapping[str, Any]]

    @property
    def step(self) -> int:
        return max((int(row["step"]) for row in self.rows), default=0)

    @property
    def trained_tokens(self) -> int:
        return max((int(row["tokens"]) for row in self.rows), default=0)

    def losses(self, at_most: int | None = None) -> dict[str, list[tuple[int, float]]]:
        """(step, nats per token) pairs of `train` and `held_out`; `at_most` of each, evenly spaced, the last among
        them."""
        found: dict[str, list[tuple[int, float]]] = {"train": [], "held_out": []}
        for row in self.rows:
            if row.get("loss") is not None:
                found[row["kind"]].append((row["step"], row["loss"]))
        if at_most is None:
            return found
        return {kind: pairs[:: -max(1, -(-len(pairs) // at_most))][::-1] for kind, pairs in found.items()}

    def checkpoints(self, num_steps: int) -> list[dict[str, Any]]:
        """Losses at up to MAX_CHECKPOINTS steps and at the last one: where the samples that were held out were looked
        at, or else evenly spaced. Without the time, which the run does not tell."""
        held_out = {row["step"]: row for row in self.rows if row["kind"] == "held_out"}
        train = {row["step"]: row for row in self.rows if row["kind"] == "train"}
        every = max(1, -(-num_steps // MAX_CHECKPOINTS))
        steps = sorted(held_out) or [step for step in sorted(train) if step % every == 0 or step == num_steps]
        return [_checkpoint(step, train.get(step), held_out.get(step)) for step in steps]


def _checkpoint(step: int, train: Mapping[str, Any] | None, held_out: Mapping[str, Any] | None) -> dict[str, Any]:
    return {
        "step_number": step,
        "train_loss": None if train is None else train.get("loss"),
        "valid_loss": None if held_out is None else held_out.get("loss"),
        "valid_mean_token_accuracy": None if held_out is None else held_out.get("accuracy"),
    }


def read_progress(run: Path) -> Progress:
    """Of a run that may be writing just now, or has not begun."""
    rows = []
    try:
        text = (run / "metrics.jsonl").read_text("utf-8")
    except FileNotFoundError:
        return Progress(())
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except ValueError:  # the last line, half written
            continue
        if row.get("kind") in ("train", "held_out"):
            rows.append(row)
    return Progress(rows)


def newest_checkpoint(run: Path) -> tuple[int, Path] | None:
    """(step, folder) of the newest one that is whole."""
    found = [(int(path.name.removeprefix("step-")), path) for path in (run / "checkpoints").glob("step-*")]
    return max(found, default=None)
