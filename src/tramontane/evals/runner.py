"""Runner: tasks over a target, batch by batch, resumable; results with their uncertainty."""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tramontane.errors import DataError
from tramontane.evals.item import Answer, Item, Pairs, Question, Scores, Task, Text, TextScore
from tramontane.evals.run_folder import RESULTS, ItemLog, open_run, write_json
from tramontane.evals.sources import Sources
from tramontane.evals.statistics import mean, ratio
from tramontane.evals.target import Target

Progress = Callable[[str, int, int], None]
"""Called with (task, items done, items in all)."""

BATCH = {"likelihood": 256, "generation": 64, "text": 16}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """`limit`: this many items per task, drawn with `seed`; None: all. `seed` is also that of sampled answers."""

    limit: int | None = None
    seed: int = 0


def evaluate(
    target: Target,
    tasks: Sequence[Task],
    sources: Sources,
    out: Path,
    options: RunOptions | None = None,
    *,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure, and return what is written to `out/results.json`.

    Items that `out` already has answers of are not asked again. Raises DataError for data that cannot be read, or
    an `out` that was measured with other settings; whatever the target raises otherwise. All that was answered until
    then is kept.
    """
    options = options or RunOptions()
    loaded = {task.name: chosen(task.load(sources), options) for task in tasks}
    for name, items in loaded.items():
        if not items:
            raise DataError(f"{name}: the data holds no items")
    settings = {
        "target": target.description,
        "limit": options.limit,
        "seed": options.seed,
        "tasks": {task.name: {"version": task.version, "settings": task.settings} for task in tasks},
    }
    open_run(out, settings)
    results: dict[str, Any] = {}
    for task in tasks:
        log = ItemLog(out / f"{task.name.replace(':', '-')}.jsonl")
        started = time.perf_counter()
        num_new = run_task(target, task, loaded[task.name], log, progress)
        entries = [log.entries[item.id] for item in loaded[task.name]]
        results[task.name] = {
            **summarise(task, entries),
            **({} if task.chance is None else {"chance": by_chance(task.chance, loaded[task.name])}),
            "settings": task.settings,
            "seconds": time.perf_counter() - started,
            "num_new": num_new,
        }
        write_json(out / RESULTS, {**settings, "results": results})
    return {**settings, "results": results}


def chosen(items: list[Item], options: RunOptions) -> list[Item]:
    """All items, or a sample of them in their order. Raises DataError for ids that are not unique."""
    ids = {item.id for item in items}
    if len(ids) != len(items):
        raise DataError(f"items share ids: {len(items)} items, {len(ids)} ids")
    if options.limit is None or options.limit >= len(items):
        return items
    kept = sorted(random.Random(options.seed).sample(range(len(items)), options.limit))
    return [items[index] for index in kept]


def run_task(target: Target, task: Task, items: Sequence[Item], log: ItemLog, progress: Progress | None = None) -> int:
    """Answer and score what `log` lacks; how many items that were. Text and prompts of like length go together, the
    longest first, so that a lack of memory shows at once."""
    waiting = [item for item in items if item.id not in log.entries]
    if task.kind == "text":
        waiting.sort(key=lambda item: -len(item.work.text) if isinstance(item.work, Text) else 0)
    done = len(items) - len(waiting)
    for start in range(0, len(waiting), BATCH[task.kind]):
        if progress is not None:
            progress(task.name, done + start, len(items))
        batch = waiting[start : start + BATCH[task.kind]]
        answers = ask(target, [item.work for item in batch])
        log.add([entry(task, item, answer) for item, answer in zip(batch, answers, strict=True)])
    if progress is not None:
        progress(task.name, len(items), len(items))
    return len(waiting)


def ask(target: Target, works: Sequence[Pairs | Question | Text]) -> list[Answer]:
    """Answers in the order of `works`, which are all of one kind."""
    if isinstance(works[0], Pairs):
        flat = iter(target.likelihoods([pair for work in works if isinstance(work, Pairs) for pair in work.pairs]))
        return [[next(flat) for _ in work.pairs] for work in works if isinstance(work, Pairs)]
    if isinstance(works[0], Text):
        return list(target.text_scores([work for work in works if isinstance(work, Text)]))
    return list(target.answers([work for work in works if isinstance(work, Question)]))


def entry(task: Task, item: Item, answer: Answer) -> dict[str, Any]:
    """The line of an item in its log."""
    logged: Any
    if isinstance(answer, TextScore):
        logged = dataclasses.asdict(answer)
    else:
        logged = [part if isinstance(part, str) else dataclasses.asdict(part) for part in answer]
    return {
        "id": item.id,
        "group": item.group,
        **asked(item.work),
        "scores": task.score(item, answer),
        "answer": logged,
        "reference": item.reference,
    }


def asked(work: Pairs | Question | Text) -> dict[str, Any]:
    """What the model was given, as it stands in the log: a prompt with its choices, or one choice of every prompt.
    Texts are not repeated."""
    if isinstance(work, Question):
        return {"prompt": work.prompt}
    if isinstance(work, Text):
        return {}
    contexts, choices = [pair.context for pair in work.pairs], [pair.continuation for pair in work.pairs]
    return {"prompt": contexts[0] if len(set(contexts)) == 1 else contexts, "choices": choices}


def by_chance(chance: Callable[[Item], Scores], items: Sequence[Item]) -> dict[str, float]:
    """Each metric's mean for one who guesses blindly."""
    scores = [chance(item) for item in items]
    return {name: mean([s[name] for s in scores if name in s]).value for name in _names(scores)}


def summarise(task: Task, entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Metrics over all items and over each group; `mean_of_groups` counts every group alike (macro average)."""
    groups: dict[str, list[Scores]] = {}
    for each in entries:
        groups.setdefault(each["group"], []).append(each["scores"])
    summary: dict[str, Any] = {
        "headline": task.headline,
        "num_items": len(entries),
        "metrics": metrics(task, [each["scores"] for each in entries]),
    }
    if len(groups) > 1:
        summary["groups"] = {name: metrics(task, scores) for name, scores in sorted(groups.items())}
        values = [group[task.headline]["value"] for group in summary["groups"].values() if task.headline in group]
        summary["mean_of_groups"] = sum(values) / len(values) if values else None
    return summary


def metrics(task: Task, scores: Sequence[Scores]) -> dict[str, dict[str, float]]:
    """Each metric's Estimate as a dict; a metric that only some items have is over those."""
    summed = {name for pair in task.ratios.values() for name in pair}
    found: dict[str, dict[str, float]] = {}
    for name in _names(scores):
        if name not in summed:
            found[name] = dataclasses.asdict(mean([s[name] for s in scores if name in s]))
    for name, (top, bottom) in task.ratios.items():
        is_exponential = name in task.exponential
        found[name] = dataclasses.asdict(
            ratio([s[top] for s in scores], [s[bottom] for s in scores], exponential=is_exponential)
        )
    return found


def _names(scores: Iterable[Scores]) -> list[str]:
    return list(dict.fromkeys(name for each in scores for name in each))
