"""A whole run: build everything the recipe names, resume, train, report, save; stop early and lose nothing."""

from __future__ import annotations

import dataclasses
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from tramontane import durable
from tramontane.errors import ConfigError
from tramontane.runtime import keep_freed_memory, resolve_device, set_threads
from tramontane.training.assembly import assemble, choose_machine
from tramontane.training.checkpointer import Checkpointer, read_state
from tramontane.training.distributed import World, join_world, leave_world
from tramontane.training.flops import measure_matmul_rate
from tramontane.training.metrics import Metrics, read_rows
from tramontane.training.muon import full_tensor
from tramontane.training.recipe import Recipe, write_recipe
from tramontane.training.resuming import require_same_recipe
from tramontane.training.stopping import Deadline, StopRequest
from tramontane.training.trainer import Update

Sampler = Callable[[Path, tuple[str, ...]], list[str]]
"""Continues each prompt with the model in a checkpoint folder; injected, because training knows no engine."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended. `stopped_by` is None when all steps are done, else a signal's name or "time"."""

    run: Path
    step: int
    loss: float
    stopped_by: str | None
    was_finished: bool = False  # before this call, which then did nothing


def train(
    recipe: Recipe, *, resume: bool = False, max_seconds: float | None = None, sampler: Sampler | None = None
) -> RunResult:
    """Train as the recipe says, to its end, `max_seconds`, or a signal; the run folder then holds a checkpoint to
    resume from, `metrics.jsonl` and `loss.svg`, and at the end `model/`.

    Raises ConfigError, DataError or CheckpointError before anything is written.
    """
    if resume:
        require_same_recipe(recipe)
    finished = _finished(recipe) if resume else None
    if finished is not None:
        return finished
    deadline = Deadline(max_seconds)
    threads = set_threads(recipe.machine.threads)
    keep_freed_memory()
    world = join_world(resolve_device(recipe.machine.device))
    try:
        with Run(recipe, world=world, resume=resume, sampler=sampler) as run:
            run.event(f"{run.describe()}, {threads} CPU threads")
            return run.train(deadline)
    finally:
        leave_world(world)


def _finished(recipe: Recipe) -> RunResult | None:
    """The result of a run that has made all its updates and its model."""
    folder = Path(recipe.run)
    steps = Checkpointer(folder, keep=1).steps()
    if not steps or steps[-1] < recipe.schedule.num_steps or not (folder / "model").is_dir():
        return None
    return RunResult(folder, steps[-1], _last_loss(folder), None, was_finished=True)


def _last_loss(folder: Path) -> float:
    losses = [row["loss"] for row in read_rows(folder / "metrics.jsonl") if row["kind"] == "train"]
    return math.nan if not losses or losses[-1] is None else float(losses[-1])


class Run:
    """The parts of one run, assembled from its recipe."""

    def __init__(self, recipe: Recipe, *, world: World, resume: bool, sampler: Sampler | None) -> None:
        self.recipe = recipe
        self.world = world
        self.sampler = sampler
        self.folder = Path(recipe.run)
        self.checkpointer = Checkpointer(
            self.folder, keep=recipe.checkpoint.keep, keep_every_steps=recipe.checkpoint.keep_every_steps
        )
        newest = self.checkpointer.newest()
        if newest is not None and not resume:
            raise ConfigError(f"{self.folder} already holds {newest.name}; resume it, or choose another run folder")
        self.machine = choose_machine(recipe, world)
        self.parts = assemble(recipe, self.machine)
        self.trainer = self.parts.trainer
        if newest is not None:
            self.trainer.load_state(read_state(newest))
        self.metrics: Metrics | None = None
        if world.is_first:
            self.metrics = Metrics(
                self.folder,
                recipe.metrics,
                dataclasses.asdict(recipe),
                num_steps=recipe.schedule.num_steps,
                first_step=self.trainer.step,
            )
            durable.write(self.folder / "recipe.toml", write_recipe(recipe))
            self.checkpointer.rotate()
        self.matmul_rate = measure_matmul_rate(world.device, self.machine.dtype)

    def train(self, deadline: Deadline) -> RunResult:
        """Update until the last step or a reason to stop, with everything that is due in between."""
        recipe = self.recipe
        loss = _last_loss(self.folder)
        saved_at, saved_step = time.monotonic(), self.trainer.step
        stopped_by: str | None = None
        with StopRequest() as stop:
            meter = Meter(self.trainer.num_token_ids)
            while self.trainer.step < recipe.schedule.num_steps:
                start = time.perf_counter()
                update = self.trainer.update()
                deadline.saw("update", time.perf_counter() - start)
                loss = update.means["loss"]
                meter.add(update)
                step, is_last = self.trainer.step, self.trainer.step == recipe.schedule.num_steps
                if step % recipe.metrics.every_steps == 0 or is_last:
                    self._write(self._row(meter))
                    meter = Meter(self.trainer.num_token_ids)
                if self.parts.evaluator is not None and (step % recipe.metrics.valid_every_steps == 0 or is_last):
                    start = time.perf_counter()
                    self.evaluate()
                    deadline.saw("evaluation", time.perf_counter() - start)
                    meter = Meter(self.trainer.num_token_ids)
                stopped_by = stop.reason or ("time" if deadline.is_near else None)
                if self.world.any(stopped_by is not None):
                    stopped_by = stopped_by or "another process"
                    break
                if self._is_due(step, saved_at) and not is_last:
                    start = time.perf_counter()
                    self.save()
                    deadline.saw("save", time.perf_counter() - start)
                    saved_at, saved_step = time.monotonic(), step
                    meter = Meter(self.trainer.num_token_ids)
            if self.trainer.step > saved_step:
                self.save()
            if self.trainer.step >= recipe.schedule.num_steps:
                stopped_by = None
                self.release()
        self._write(
            {"kind": "end", **self._place(), "text": "done" if stopped_by is None else f"stopped by {stopped_by}"}
        )
        if self.metrics is not None:
            self.metrics.plot()
        return RunResult(self.folder, self.trainer.step, loss, stopped_by)

    def _is_due(self, step: int, saved_at: float) -> bool:
        every_steps, every_seconds = self.recipe.checkpoint.every_steps, self.recipe.checkpoint.every_seconds
        is_due = every_steps is not None and step % every_steps == 0
        if every_seconds is not None:
            is_due = is_due or self.world.any(time.monotonic() - saved_at >= every_seconds)
        return is_due

    def evaluate(self) -> None:
        """Held-out loss of every source, with the averaged weights where the run keeps them."""
        if self.parts.evaluator is None:
            return
        with self._released_weights():
            self.trainer.module.eval()
            results = self.parts.evaluator.evaluate(
                lambda batch: self.trainer.module(self.trainer.placement.place(batch))
            )
            self.trainer.module.train()
        for result in results:
            self._write({"kind": "held_out", **self._place(), **dataclasses.asdict(result)})

    @contextmanager
    def _released_weights(self) -> Iterator[None]:
        ema = self.trainer.ema
        if ema is not None:
            ema.swap()
        try:
            yield
        finally:
            if ema is not None:
                ema.swap()

    def weights(self) -> dict[str, Tensor]:
        """The whole weights that are released, by name; collective when there are several processes."""
        weights = {name: full_tensor(weight) for name, weight in self.trainer.module.named_weights().items()}
        if self.trainer.ema is not None:
            weights |= {name: full_tensor(average) for name, average in self.trainer.ema.averages.items()}
        return weights

    def save(self) -> None:
        """A checkpoint of this moment; then plot and samples."""
        state, weights = self.trainer.state(), self.weights()
        if self.metrics is not None:
            release = self.parts.release
            path = self.checkpointer.save(self.trainer.step, state, lambda folder: release.write(folder, weights))
            self.metrics.plot()
            if self.sampler is not None and self.recipe.metrics.sample_prompts:
                prompts = self.recipe.metrics.sample_prompts
                for prompt, answer in zip(prompts, self.sampler(path, prompts), strict=True):
                    self._write({"kind": "sample", **self._place(), "text": f"{prompt!r} -> {answer!r}"})
        self.world.barrier()

    def release(self) -> None:
        """`model/` in the run folder: the final weights, without what only resuming needs."""
        weights = self.weights()
        if self.world.is_first:
            with durable.folder(self.folder / "model") as folder:
                self.parts.release.write(folder, weights)

    def _place(self) -> dict[str, int]:
        return {"step": self.trainer.step, "tokens": self.trainer.num_token_ids}

    def _row(self, meter: Meter) -> dict[str, Any]:
        steps_left = self.recipe.schedule.num_steps - self.trainer.step
        means = meter.means()
        factor, optimizer = means.pop("lr_factor"), self.recipe.optimizer
        rates = {"lr": factor * optimizer.lr}
        if optimizer.kind == "muon":
            rates["muon_lr"] = factor * optimizer.muon_lr
        rate = meter.flops / meter.seconds
        self.matmul_rate = max(self.matmul_rate, rate)  # it was measured while something else ran
        return {
            "kind": "train",
            **self._place(),
            **means,
            **rates,
            "num_skipped": self.trainer.guard.num_skipped,
            "tokens_per_second": (self.trainer.num_token_ids - meter.first_token) / meter.seconds,
            "share_of_peak": rate / self.matmul_rate,
            "eta_seconds": steps_left * meter.seconds / meter.num_updates,
        }

    def _write(self, row: dict[str, Any]) -> None:
        if self.metrics is not None:
            self.metrics.write(row)

    def event(self, text: str) -> None:
        self._write({"kind": "event", **self._place(), "text": text})

    def describe(self) -> str:
        config = self.trainer.config
        return (
            f"{config.num_parameters() / 1e6:.1f} M weights ({config.n_layers} layers, dim {config.dim}, vocabulary "
            f"{config.vocab_size}), {str(self.machine.dtype).removeprefix('torch.')} on {self.machine.device}"
            f"{', compiled' if self.machine.is_compiled else ''}, {self.world.size} process(es), matrix products at "
            f"{self.matmul_rate / 1e9:,.0f} GFLOP/s"
        )

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.trainer.close()
        if self.metrics is not None:
            self.metrics.close()


class Meter:
    """Sums over the updates since the last report, before which `first_token` tokens were trained on."""

    def __init__(self, first_token: int) -> None:
        self.first_token = first_token
        self._start = time.perf_counter()
        self._sums: defaultdict[str, float] = defaultdict(float)
        self.num_updates = 0
        self.flops = 0.0

    def add(self, update: Update) -> None:
        self.num_updates += 1
        self.flops += update.flops
        for name, value in {**update.means, "grad_norm": update.grad_norm, "lr_factor": update.lr_factor}.items():
            self._sums[name] += value

    def means(self) -> dict[str, float]:
        return {name: value / self.num_updates for name, value in self._sums.items()}

    @property
    def seconds(self) -> float:
        return max(1e-9, time.perf_counter() - self._start)
