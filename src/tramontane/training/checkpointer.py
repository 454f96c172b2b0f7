"""Checkpoints of a run, written durably: a folder that exists is whole, whenever we die.

run/checkpoints/step-00000500/   weights in release form, config, tokenizer: any of our tools loads it
                      trainer/   state.safetensors, state.json: what resuming needs besides; no pickle
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from tramontane import durable
from tramontane.errors import CheckpointError
from tramontane.formats.open_tensors import open_tensors
from tramontane.formats.write import write_safetensors

STATE_FORMAT = 1


@dataclass(frozen=True, slots=True)
class TrainerState:
    """Everything but the recipe that the next update depends on. `values` are plain JSON types."""

    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]


class Checkpointer:
    """Saves, rotates and finds the checkpoints of one run folder."""

    def __init__(self, run: Path, *, keep: int, keep_every_steps: int | None = None) -> None:
        self.folder = run / "checkpoints"
        self.keep = keep
        self.keep_every_steps = keep_every_steps

    def save(self, step: int, state: TrainerState, write_release: Callable[[Path], None]) -> Path:
        """Write the checkpoint of `step` (weights by `write_release(folder)`), then let old ones go."""
        target = self.folder / f"step-{step:08d}"
        durable.make_folder(self.folder)
        with durable.folder(target) as partial:
            write_release(partial)
            write_state(partial / "trainer", state)
        self.rotate()
        return target

    def steps(self) -> list[int]:
        """Steps of the finished checkpoints, ascending."""
        names = (path.name.partition("step-") for path in self.folder.glob("step-*"))
        return sorted(int(step) for before, _, step in names if not before and step.isdigit())

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def newest(self) -> Path | None:
        steps = self.steps()
        return self.path(steps[-1]) if steps else None

    def rotate(self) -> None:
        """Remove all but the newest `keep` and the milestones, and what interrupted runs left half-written."""
        steps = self.steps()
        for step in steps[: -self.keep]:
            if self.keep_every_steps is None or step % self.keep_every_steps:
                durable.remove_folder(self.path(step))
        for leftover in self.folder.glob(".*"):  # of those that died: one process alone writes to a run
            shutil.rmtree(leftover)


def write_state(folder: Path, state: TrainerState) -> None:
    """`state.safetensors` and `state.json` in a new folder."""
    durable.make_folder(folder)
    specs = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in state.tensors.items()}
    write_safetensors(folder / "state.safetensors", specs, state.tensors.items())
    document = {"format": STATE_FORMAT, **state.values}
    durable.write(folder / "state.json", json.dumps(document, indent=1))


def read_state(checkpoint: Path) -> TrainerState:
    """The trainer's state of a checkpoint folder, tensors on the CPU. Raises CheckpointError if it has none."""
    folder = checkpoint / "trainer"
    try:
        values = json.loads((folder / "state.json").read_text("utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{checkpoint}: holds no trainer state, so a run cannot resume from it") from None
    except ValueError as error:
        raise CheckpointError(f"{folder}: damaged trainer state ({error}); resume from an older checkpoint") from None
    if not isinstance(values, dict) or values.pop("format", None) != STATE_FORMAT:
        raise CheckpointError(f"{folder}: trainer state of another version; resume with the version that wrote it")
    with open_tensors(folder / "state.safetensors") as source:
        return TrainerState({name: source.read(name) for name in source.names()}, values)
