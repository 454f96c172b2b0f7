"""Two evaluations side by side: what differs beyond chance, and when nothing can be said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tramontane.evals.compare import compare, comparison_json, comparison_markdown
from tramontane.evals.statistics import MIN_PAIRS, paired_difference, paired_ratio_difference


def measured(folder: Path, scores: list[dict[str, float]], **summary: Any) -> Path:
    folder.mkdir()
    task = {"settings": "as ever", "metrics": {}, **summary}
    (folder / "results.json").write_text(json.dumps({"results": {"own": task}}))
    lines = [json.dumps({"id": f"{n}", "group": "", "scores": s}) for n, s in enumerate(scores)]
    (folder / "own.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize("num_items", [1, MIN_PAIRS - 1])
def test_a_few_items_have_neither_interval_nor_p_value(tmp_path: Path, num_items: int) -> None:
    a = measured(tmp_path / "a", [{"bits": 10.0, "bytes": 8.0}] * num_items)
    b = measured(tmp_path / "b", [{"bits": 8.0, "bytes": 8.0}] * num_items)
    [row] = compare(a, b)
    assert row.difference.value == -0.25
    assert row.difference.p_value is None
    assert row.difference.low is None
    text = comparison_markdown(a, b, [row])
    assert "*" not in text.split("\n")[5]
    assert f"fewer than {MIN_PAIRS} independent items" in text
    assert json.loads(json.dumps(comparison_json([row])))[0]["difference"]["p_value"] is None


def test_enough_items_have_both(tmp_path: Path) -> None:
    a = measured(tmp_path / "a", [{"bits": 10.0 + n % 3, "bytes": 8.0} for n in range(MIN_PAIRS)])
    b = measured(tmp_path / "b", [{"bits": 8.0 + n % 2, "bytes": 8.0} for n in range(MIN_PAIRS)])
    [row] = compare(a, b)
    assert row.difference.p_value is not None
    assert row.difference.p_value < 0.05
    assert "*" in comparison_markdown(a, b, [row]).split("\n")[5]


def test_right_and_wrong_are_judged_exactly() -> None:
    few, many = [0.0] * (MIN_PAIRS - 1), [0.0] * 12
    assert paired_difference(few, [1.0] * len(few)).test is None
    found = paired_difference(many, [1.0] * 12)
    assert found.test == "McNemar, exact"
    assert found.p_value == pytest.approx(2 * 0.5**12)
    assert paired_ratio_difference((many, [1.0] * 12), (many, [1.0] * 12)).p_value == 1.0
