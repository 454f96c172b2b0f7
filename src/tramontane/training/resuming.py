"""Going on with a run: what of its recipe may be another by then, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tramontane.errors import ConfigError
from tramontane.training.checkpointer import Checkpointer
from tramontane.training.recipe import Recipe, read_recipe

FREE = ("run", "data.valid", "machine", "checkpoint", "metrics")
"""How a run is made, watched and kept, which may change while it lasts."""
PATHS = ("data.train", "data.tokenizer", "model.checkpoint", "model.adapter", "model.grown_from")
"""May be other ones where what was named before is there no more: it was moved."""


def require_same_recipe(recipe: Recipe) -> None:
    """Raises ConfigError that names each key of `recipe` that is not that of the run in its folder, with both values,
    unless it is FREE. The schedule may change where the updates made so far had the same rates by both.

    A run that has no checkpoint yet begins anew, as any recipe says.
    """
    folder = Path(recipe.run)
    steps = Checkpointer(folder, keep=1).steps()
    saved = folder / "recipe.toml"
    if not steps or not saved.is_file():
        return
    known = in_folder(read_recipe(saved), folder)
    same_rates = all(known.schedule.factor(step) == recipe.schedule.factor(step) for step in range(steps[-1]))
    before = dict(_leaves(asdict(known), ""))
    differing = [
        f"{key} is {_told(value)} here and {_told(before.get(key))} in the run"
        for key, value in _leaves(asdict(recipe), "")
        if value != before.get(key)
        and not any(key == free or key.startswith(f"{free}.") for free in FREE)
        and not (key.startswith("schedule.") and same_rates)
        and not (key in PATHS and _is_moved(before.get(key)))
    ]
    if differing:
        remedy = "" if same_rates else _longer(known, steps[-1])
        raise ConfigError(
            f"{folder} was begun by another recipe: {'; '.join(differing)}. Go on with its own, {saved}, or choose "
            f"another run folder{remedy}"
        )


def in_folder(recipe: Recipe, run: Path) -> Recipe:
    """The recipe of a run that lies in `run` by now, with the samples in it."""
    before = Path(recipe.run)

    def moved(folders: tuple[str, ...]) -> tuple[str, ...]:
        paths = [Path(folder) for folder in folders]
        return tuple(
            str(run / path.relative_to(before)) if path.is_relative_to(before) else str(path) for path in paths
        )

    data = replace(recipe.data, train=moved(recipe.data.train), valid=moved(recipe.data.valid))
    return replace(recipe, run=str(run), data=data)


def _leaves(table: dict[str, Any], name: str) -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        dotted = f"{name}.{key}" if name else key
        if isinstance(value, dict):
            yield from _leaves(value, dotted)
        else:
            yield dotted, value


def _is_moved(paths: Any) -> bool:
    named = (paths,) if isinstance(paths, str) else paths or ()
    return bool(named) and not any(Path(path).exists() for path in named)


def _longer(known: Recipe, step: int) -> str:
    if known.schedule.kind != "wsd" or step <= known.schedule.decay_start:
        return ""
    return (
        f"; a run of kind wsd is made longer from a checkpoint before its decay, which began after step "
        f"{known.schedule.decay_start}: put those after it aside"
    )


def _told(value: Any) -> str:
    return "left out" if value is None else repr(value)
