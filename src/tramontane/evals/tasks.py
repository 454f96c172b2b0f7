"""The tasks by name, and the suites that stand for several."""

from __future__ import annotations

from collections.abc import Sequence

from tramontane.errors import DataError
from tramontane.evals.choices import CHOICE_TASKS
from tramontane.evals.instructions import IFEVAL
from tramontane.evals.item import Task
from tramontane.evals.questions import QUESTION_TASKS
from tramontane.evals.texts import TEXT_TASKS

TASKS: dict[str, Task] = {task.name: task for task in (*TEXT_TASKS, *CHOICE_TASKS, *QUESTION_TASKS, IFEVAL)}

SUITES: dict[str, tuple[str, ...]] = {
    "small": ("wikitext2", "tinystories", "blimp", "lambada", "hellaswag", "arc_easy", "piqa"),
    "commonsense": (
        *("hellaswag", "winogrande", "piqa", "siqa", "openbookqa", "arc_easy", "arc_challenge", "commonsense_qa"),
    ),
    "code": ("humaneval", "mbpp"),
    "safety": ("xstest", "simple_safety_tests"),
}


def tasks_named(names: Sequence[str]) -> list[Task]:
    """Tasks and suites by name, each task once, in the order named. Raises DataError for an unknown name."""
    found: dict[str, Task] = {}
    for name in names:
        members = SUITES.get(name, (name,) if name in TASKS else ())
        if not members:
            raise DataError(f"there is no task {name!r}; known are {', '.join((*SUITES, *TASKS))}")
        found.update((member, TASKS[member]) for member in members)
    return list(found.values())
