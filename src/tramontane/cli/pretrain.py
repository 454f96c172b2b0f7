"""`tramontane pretrain`: train a model as a recipe says."""

from __future__ import annotations

import math
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tramontane.cli.options import Json
from tramontane.cli.terminal import print_json, printable

if TYPE_CHECKING:
    from tramontane.training.recipe import Recipe

STOPPED_EARLY = 75  # as sysexits.h: try again, with --resume

Resume = Annotated[bool, typer.Option("--resume", help="Go on from the run's newest checkpoint; without one, begin.")]
MaxSeconds = Annotated[float | None, typer.Option(help="Stop in time to have saved by then.")]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change the recipe, as optimizer.lr=0.001 (may be repeated)."),
]


def pretrain(
    recipe: Annotated[Path, typer.Argument(help="TOML file of the run; recipes/ holds some.")],
    *,
    resume: Resume = False,
    max_seconds: MaxSeconds = None,
    changes: Changes = None,
    as_json: Json = False,
) -> None:
    """Train a model as a recipe says.

    Ctrl-C saves and stops; --resume goes on bit for bit. The run folder holds metrics.jsonl, loss.svg, checkpoints/
    and at the end model/, which every verb reads. Exit code 75: stopped before the end. With --resume the recipe is
    the run's own: of other values those of [machine], [checkpoint], [metrics] and data.valid count from here on, a
    schedule may change what is still to come, and any other difference is refused by name.
    """
    from tramontane.training.recipe import read_recipe

    sets = [part for change in changes or () for part in ("--set", change)]
    again = shlex.join(["tramontane", "pretrain", str(recipe), *sets, "--resume"])
    read = read_recipe(recipe, changes or ())
    run_training(read, again, resume=resume, max_seconds=max_seconds, as_json=as_json)


def run_training(recipe: Recipe, again: str, *, resume: bool, max_seconds: float | None, as_json: bool) -> None:
    """Train and report; exits with STOPPED_EARLY if there is more to do, which the command line `again` does."""
    from tramontane.training.run import train

    sampler = None if recipe.lora is not None or recipe.task.kind == "classify" else sample
    result = train(recipe, resume=resume, max_seconds=max_seconds, sampler=sampler)
    out = result.run / "model"
    if as_json:
        print_json(
            {
                "run": str(result.run),
                "step": result.step,
                "loss": result.loss if math.isfinite(result.loss) else None,
                "stopped_by": result.stopped_by,
                "was_finished": result.was_finished,
                "model": str(out) if result.stopped_by is None else None,
            }
        )
    elif result.stopped_by is None:
        before = "already finished: " if result.was_finished else ""
        print(printable(f"{out}: {before}trained for {result.step} steps, loss {result.loss:.4f}"))
    if result.stopped_by is not None:
        print(
            printable(f"stopped by {result.stopped_by} after step {result.step}; go on with: {again}"), file=sys.stderr
        )
        raise typer.Exit(STOPPED_EARLY)


def sample(checkpoint: Path, prompts: tuple[str, ...]) -> list[str]:
    """Continuations of `prompts` by the model in a checkpoint folder, 64 tokens each."""
    from tramontane.engine.sampling import SamplingParams
    from tramontane.llm import LLM

    params = SamplingParams(max_tokens=64, temperature=0.7, seed=0)
    return [completion.choices[0].text for completion in LLM(str(checkpoint)).generate(list(prompts), params)]
