"""What a run reports: a line on the terminal, JSON lines in the run folder, optionally TensorBoard and wandb."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, TextIO

from tramontane import durable
from tramontane.errors import ConfigError
from tramontane.extras import install_hint
from tramontane.training.loss_plot import loss_plot
from tramontane.training.recipe import MetricsRecipe

Row = Mapping[str, Any]


class Sink(Protocol):
    """Takes every row: its `kind` (train, held_out, sample, event, end), `step`, `tokens` and values by name."""

    def write(self, row: Row) -> None: ...

    def close(self) -> None: ...


class JsonLines:
    """`metrics.jsonl` in the run folder: one row per line, flushed at once, so that a crash loses none."""

    def __init__(self, path: Path, *, resume_step: int) -> None:
        """Rows of steps after `resume_step` belong to a stretch that is run again: they are dropped."""
        kept = [row for row in read_rows(path) if row["step"] <= resume_step] if resume_step else []
        durable.write(path, "".join(_line(row) for row in kept))
        self._file = path.open("a", encoding="utf-8")

    def write(self, row: Row) -> None:
        self._file.write(_line(row))
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class TensorBoard:
    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ConfigError("metrics.tensorboard needs the package tensorboard; install it or leave it out") from None
        self._writer: Any = SummaryWriter(str(folder))

    def write(self, row: Row) -> None:
        for name, value in row.items():
            if isinstance(value, float):
                self._writer.add_scalar(f"{row['kind']}/{name}", value, row["step"])

    def close(self) -> None:
        self._writer.close()


class Wandb:
    def __init__(self, project: str, folder: Path, recipe: Mapping[str, Any]) -> None:
        try:
            import wandb  # type: ignore[import-not-found]
        except ImportError:
            raise ConfigError(
                f"metrics.wandb_project needs the package wandb; leave it out, or {install_hint('wandb')}"
            ) from None
        self._run = wandb.init(project=project, dir=str(folder), name=folder.name, config=dict(recipe), resume="allow")

    def write(self, row: Row) -> None:
        values = {f"{row['kind']}/{name}": value for name, value in row.items() if isinstance(value, (int, float))}
        self._run.log(values, step=row["step"])

    def close(self) -> None:
        self._run.finish()


class Terminal:
    """A line per row, and between them a progress bar where `rich` is installed and the output is a terminal."""

    def __init__(self, num_steps: int, first_step: int, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._bar: Any = None
        if self._stream.isatty():
            try:
                from rich.console import Console
                from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
            except ImportError:
                return
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=Console(file=self._stream))
            self._task = self._bar.add_task("training", total=num_steps, completed=first_step)
            self._bar.start()

    def write(self, row: Row) -> None:
        if row["kind"] == "end":  # whoever began the run says how it ended, below the last line
            return
        line = describe(row)
        if self._bar is None:
            print(line, file=self._stream, flush=True)
            return
        if row["kind"] == "train":
            self._bar.update(self._task, completed=row["step"], description=line)
        else:
            self._bar.console.print(line, markup=False, highlight=False)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


def describe(row: Row) -> str:
    """One row as one line for people."""
    step = f"step {row['step']}"
    if row["kind"] == "train":
        rates = "  ".join(f"{name} {row[name]:.3g}" for name in ("lr", "muon_lr") if name in row)
        line = (
            f"{step}  loss {row['loss']:.4f}  accuracy {row['accuracy']:.3f}  {rates}  "
            f"norm {row['grad_norm']:.2f}  {row['tokens_per_second']:,.0f} tokens/s  "
            f"{row['share_of_peak']:.1%} of peak"
        )
        return f"{line}  {_duration(row['eta_seconds'])} left" if row["eta_seconds"] else line
    if row["kind"] == "held_out":
        line = f"{step}  held-out {row['source']}: loss {row['loss']:.4f}, accuracy {row['accuracy']:.3f}"
        bits = row["bits_per_byte"]
        return line if bits is None else f"{line}, {bits:.4f} bits per byte"
    return f"{step}  {row['text']}"


def loss_unit(task: Mapping[str, Any]) -> str:
    """Of what a run of this task (the recipe's) reports as its loss."""
    units = {"text": "in nats per token", "classify": "in nats per sample", "preference": f"{task['loss']} per pair"}
    return units[task["kind"]]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Metrics:
    """All the sinks of one run, and its plot."""

    def __init__(self, run: Path, recipe: MetricsRecipe, settings: Row, *, num_steps: int, first_step: int) -> None:
        self._run = run
        self._unit = loss_unit(settings["task"])
        durable.make_folder(run)
        self._sinks: list[Sink] = []
        if recipe.tensorboard:
            self._sinks.append(TensorBoard(run / "tensorboard"))
        if recipe.wandb_project is not None:
            self._sinks.append(Wandb(recipe.wandb_project, run, settings))
        self._sinks.append(JsonLines(run / "metrics.jsonl", resume_step=first_step))
        self._sinks.append(Terminal(num_steps, first_step))

    def write(self, row: Row) -> None:
        for sink in self._sinks:
            sink.write(row)

    def plot(self) -> None:
        """Draw `loss.svg` from all rows so far."""
        curves: dict[str, list[tuple[float, float]]] = {}
        for row in read_rows(self._run / "metrics.jsonl"):
            if row["kind"] == "train":
                curves.setdefault("training", []).append((row["tokens"], row["loss"] or math.nan))
            elif row["kind"] == "held_out":
                curves.setdefault(row["source"], []).append((row["tokens"], row["loss"] or math.nan))
        durable.write(self._run / "loss.svg", loss_plot(f"{self._run.name}: loss {self._unit}", curves))

    def close(self) -> None:
        for sink in self._sinks:
            sink.close()


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics file; a last line cut off by a crash is left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text("utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def _line(row: Row) -> str:
    finite = {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in row.items()}
    return json.dumps(finite) + "\n"
