"""Several files as one, and back from its lines to theirs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from tests.server.fine_tuning.making import conversation, upload
from tramontane.server.auth import OWNER
from tramontane.server.errors import ApiError
from tramontane.server.files.files import Files
from tramontane.server.fine_tuning.previews import first_questions
from tramontane.server.fine_tuning.samples import join_files, num_passes, place_of, repeats_path, times_of


@pytest.mark.parametrize(
    ("weights", "expected"),
    [([1.0], (1, [1])), ([1.0, 2.0], (1, [1, 2])), ([1.0, 0.5], (2, [2, 1])), ([1.0, 1.5, 0.25], (4, [4, 6, 1]))],
)
def test_times(weights: list[float], expected: tuple[int, list[int]]) -> None:
    assert times_of(weights) == expected


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=8))
def test_every_file_is_seen_about_as_often_as_its_weight(weights: list[float]) -> None:
    k, all_times = times_of(weights)
    for weight, times in zip(weights, all_times, strict=True):
        assert times >= 1
        assert abs(times - k * weight) <= max(0.5, 1 - k * weight) + 1e-9


def test_files_of_any_shape_and_array_are_taken_and_joined(app_client: TestClient, tmp_path: Path) -> None:
    files: Files = app_client.app.state.services.files  # type: ignore[attr-defined]
    rows: list[dict[str, Any]] = [
        {**conversation("a", "b"), "id": 1, "source": "x", "temperature": 0.5},
        {"prompt": "a", "completion": "b"},
        {"text": "a", "label": 1},
        {
            "input": {"messages": conversation("a", "b")["messages"][:1], "parallel_tool_calls": True},
            "preferred_output": conversation("a", "b")["messages"][1:],
            "non_preferred_output": conversation("a", "c")["messages"][1:],
        },
        {"text": "a text"},
    ]
    ids = [upload(app_client, [row]) for row in rows]
    kinds = [app_client.get(f"/v1/files/{file_id}").json()["sample_type"] for file_id in ids]
    assert kinds == ["instruct"] * 4 + ["pretrain"]
    array = upload(app_client, [json.dumps([conversation("a", "b"), conversation("c", "d")], indent=1)])
    target = tmp_path / "samples.jsonl"
    join_files(files, OWNER, {array: 1.0, ids[0]: 1.0}, target, "training_files")
    lines = target.read_text("utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [conversation("a", "b"), conversation("c", "d"), rows[0]]
    assert place_of(target, 2) == (array, 2)
    questions = first_questions(target)
    assert [question[-1]["content"] for question in questions] == ["a", "c"]


@pytest.mark.parametrize("row", [{"foo": 1}, {"messages": []}, {"prompt": "a", "chosen": "b"}])
def test_a_file_of_no_known_shape_is_refused(app_client: TestClient, row: dict[str, Any]) -> None:
    sent = {"file": ("samples.jsonl", json.dumps(row).encode())}
    answer = app_client.post("/v1/files", files=sent, data={"purpose": "fine-tune"})
    assert answer.status_code == 422
    assert "line 1: " in answer.text


def test_lines_keep_their_files(app_client: TestClient, tmp_path: Path) -> None:
    files: Files = app_client.app.state.services.files  # type: ignore[attr-defined]
    first = upload(app_client, [conversation("a", "b"), "not JSON", conversation("c", "d")])
    marked = "\ufeff" + json.dumps(conversation("e", "f"))
    second = upload(app_client, [marked])
    target = tmp_path / "samples.jsonl"
    join_files(files, OWNER, {first: 1.0, second: 0.5}, target, "training_files")
    lines = target.read_text("utf-8").splitlines()
    assert len(lines) == 4
    assert num_passes(target) == 2
    assert json.loads(repeats_path(target).read_text("utf-8")) == [[3, 2], [1, 1]]
    assert place_of(target, 2) == (first, 2)
    assert place_of(target, 4) == (second, 1)
    assert place_of(target, 5) == (None, 5)
    assert json.loads(lines[3]) == conversation("e", "f")
    with pytest.raises(ApiError, match="does not exist"):
        join_files(files, replace(OWNER, owner="somebody else"), {first: 1.0}, target, "training_files")
