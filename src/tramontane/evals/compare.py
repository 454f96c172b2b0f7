"""Two evaluations of the same items side by side, with the significance of every difference."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tramontane.errors import DataError
from tramontane.evals.run_folder import RESULTS, ItemLog, read_json_file
from tramontane.evals.statistics import MIN_PAIRS, Difference, paired_difference, paired_ratio_difference


@dataclass(frozen=True, slots=True)
class Row:
    task: str
    metric: str
    a: float
    b: float
    difference: Difference


def compare(a: Path, b: Path) -> list[Row]:
    """One row per task and metric that both folders have, over the items they share.

    Raises DataError where they share none, or a task was asked with different settings.
    """
    runs = {folder: read_json_file(folder / RESULTS) for folder in (a, b)}
    rows: list[Row] = []
    for task, summary in runs[a]["results"].items():
        other = runs[b]["results"].get(task)
        if other is None:
            continue
        if summary["settings"] != other["settings"]:
            raise DataError(f"{task}: {a} and {b} were measured with different settings; measure one of them again")
        logs = [ItemLog(folder / f"{task.replace(':', '-')}.jsonl").entries for folder in (a, b)]
        shared = [id for id in logs[0] if id in logs[1]]
        if shared:
            rows += _rows(task, [[log[id]["scores"] for id in shared] for log in logs])
    if not rows:
        raise DataError(f"{a} and {b} share no items; measure the same tasks with the same --limit and --seed")
    return rows


def _rows(task: str, scores: list[list[dict[str, float]]]) -> list[Row]:
    """Texts by their quotients, everything else by its means."""
    first, second = scores
    if "bits" in first[0]:
        quotients = [([s["bits"] for s in side], [s["bytes"] for s in side]) for side in scores]
        a, b = (sum(top) / sum(bottom) for top, bottom in quotients)
        return [Row(task, "bits_per_byte", a, b, paired_ratio_difference(quotients[0], quotients[1]))]
    rows = []
    for metric in first[0]:
        if metric in ("nats", "words"):
            continue
        values = [(x[metric], y[metric]) for x, y in zip(first, second, strict=True) if metric in x and metric in y]
        left, right = [x for x, _ in values], [y for _, y in values]
        rows.append(Row(task, metric, _mean(left), _mean(right), paired_difference(left, right)))
    return rows


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def comparison_markdown(a: Path, b: Path, rows: list[Row]) -> str:
    """A table; differences beyond chance (p < 0.05) are marked with an asterisk."""
    lines = [
        f"A: {a}  ",
        f"B: {b}",
        "",
        "| task | metric | A | B | B - A | 95 % interval | p | test | items | B better / worse |",
        "|---|---|--:|--:|--:|--:|--:|---|--:|--:|",
    ]
    for row in rows:
        d = row.difference
        mark = "*" if d.p_value is not None and d.p_value < 0.05 else ""
        interval = "n/a" if d.low is None else f"{d.low:+.4f} to {d.high:+.4f}"
        p_value = "n/a" if d.p_value is None else f"{d.p_value:.3g}"
        lines.append(
            f"| {row.task} | {row.metric} | {row.a:.4f} | {row.b:.4f} | {d.value:+.4f}{mark} | {interval} | {p_value} "
            f"| {d.test or 'n/a'} | {d.num_items} | {d.num_better} / {d.num_worse} |"
        )
    lines += ["", "`*` p < 0.05, for one comparison; with many rows some are expected by chance alone."]
    if any(row.difference.p_value is None for row in rows):
        lines.append(f"n/a: fewer than {MIN_PAIRS} independent items, from which nothing follows about others.")
    return "\n".join(lines) + "\n"


def comparison_json(rows: list[Row]) -> list[dict[str, Any]]:
    import dataclasses

    return [dataclasses.asdict(row) for row in rows]
