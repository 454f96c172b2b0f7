"""The shapes that published data sets have: each says the same as a sample in the form of the chat API."""

from __future__ import annotations

import csv
import gzip
import json
import random
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from tramontane.data.chat_samples import (
    ChatSample,
    ClassifierSample,
    PreferencePair,
    parse_chat,
    parse_classifier,
    parse_preference,
)
from tramontane.data.sample_files import SampleFile, each_row, sample_files
from tramontane.data.sample_notes import SampleNotes
from tramontane.data.sample_shapes import parse_row, shape_of
from tramontane.errors import DataError


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def says(text: str | None, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


SYSTEM = {"role": "system", "content": "Be brief."}
ASKED = [user("Wind?"), says("12.")]
TOOLS = [{"type": "function", "function": {"name": "wind", "parameters": {"type": "object"}}}]
CALL = says(None, tool_calls=[{"function": {"name": "wind", "arguments": {"town": "Nice"}}}])
CALLED = [user("Wind?"), CALL, {"role": "tool", "content": '{"knots": 12}'}, says("12.")]
TREE = {
    "title": "Wind",
    "current_node": "d",
    "mapping": {
        "a": {"id": "a", "message": None, "parent": None, "children": ["b"]},
        "b": {"message": {"author": {"role": "user"}, "content": {"content_type": "text", "parts": ["Wind?"]}},
              "parent": "a", "children": ["c", "d"]},
        "c": {"message": {"author": {"role": "assistant"}, "content": {"content_type": "text", "parts": ["Calm."]}},
              "parent": "b", "children": []},
        "d": {"message": {"author": {"role": "assistant"}, "content": {"content_type": "text", "parts": ["12."]}},
              "parent": "b", "children": []},
    },
}  # fmt: skip

CHATS: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "ultrachat": ({"prompt": "Wind?", "prompt_id": "7", "messages": ASKED}, ASKED),
    "tulu-3": ({"id": "a_1", "messages": ASKED, "source": "ai2"}, ASKED),
    "messages as text of JSON": ({"messages": json.dumps(ASKED)}, ASKED),
    "system prompt in a column": ({"system": "Be brief.", "messages": ASKED}, [SYSTEM, *ASKED]),
    "ShareGPT": (
        {"conversations": [{"from": "system", "value": "Be brief."}, {"from": "human", "value": "Wind?"},
                           {"from": "gpt", "value": "12.", "weight": None}], "source": "x"},
        [SYSTEM, *ASKED],
    ),
    "ShareGPT, one name for all": ({"conversation": json.dumps(ASKED)}, ASKED),
    "Alpaca": ({"instruction": "Wind?", "input": "", "output": "12.", "text": "Below is …"}, ASKED),
    "Alpaca with input": (
        {"instruction": "Add.", "input": "1 2", "output": "3"}, [user("Add.\n\n1 2"), says("3")],
    ),
    "Alpaca with history": (
        {"instruction": "And now?", "input": "", "output": "13.", "system": "Be brief.", "history": [["Wind?", "12."]]},
        [SYSTEM, *ASKED, user("And now?"), says("13.")],
    ),
    "Dolly": ({"instruction": "Wind?", "context": "", "response": "12.", "category": "qa"}, ASKED),
    "prompt and completion": ({"prompt": "Wind?", "completion": "12."}, ASKED),
    "prompt and completion of messages": (
        {"prompt": [SYSTEM, *ASKED, user("Now?")], "completion": [says("13.")]},
        [SYSTEM, ASKED[0], says("12.", weight=0), user("Now?"), says("13.")],
    ),
    "a completion that looks like JSON": (
        {"prompt": "A list?", "completion": '[{"a": 1}]'}, [user("A list?"), says('[{"a": 1}]')],
    ),
    "prompt and response": ({"prompt": "Wind?", "response": "12."}, ASKED),
    "OpenOrca": ({"id": "x", "system_prompt": "Be brief.", "question": "Wind?", "response": "12."}, [SYSTEM, *ASKED]),
    "GSM8K": ({"question": "Wind?", "answer": "12."}, ASKED),
    "KTO, labelled true": ({"prompt": "Wind?", "completion": "12.", "label": True}, ASKED),
    "ChatGPT's export": (TREE, ASKED),
}  # fmt: skip


@pytest.mark.parametrize("name", CHATS)
def test_conversations(name: str) -> None:
    row, messages = CHATS[name]
    assert parse_row(row, "chat", SampleNotes()) == parse_chat({"messages": messages})
    assert parse_row(row, None, SampleNotes()) == parse_chat({"messages": messages})


SHAREGPT_CALLS: dict[str, dict[str, Any]] = {
    "function_call and observation": {
        "conversations": [
            {"from": "human", "value": "Wind?"},
            {"from": "function_call", "value": '{"name": "wind", "arguments": {"town": "Nice"}}'},
            {"from": "observation", "value": '{"knots": 12}'},
            {"from": "gpt", "value": "12."},
        ],
        "tools": json.dumps([TOOLS[0]["function"]]),
    },
    "Hermes": {
        "conversations": [
            {"from": "human", "value": "Wind?"},
            {"from": "gpt", "value": '<tool_call>\n{"name": "wind", "arguments": {"town": "Nice"}}\n</tool_call>'},
            {"from": "tool", "value": '<tool_response>\n{"knots": 12}\n</tool_response>'},
            {"from": "gpt", "value": "12."},
        ],
        "tools": json.dumps(TOOLS),
        "category": "x",
    },
}


@pytest.mark.parametrize("name", SHAREGPT_CALLS)
def test_calls_in_sharegpt(name: str) -> None:
    assert parse_row(SHAREGPT_CALLS[name], "chat", SampleNotes()) == parse_chat({"messages": CALLED, "tools": TOOLS})


def test_text_is_learned_whole() -> None:
    notes = SampleNotes()
    assert (
        parse_row({"text": "  def f():\n\n\n    pass", "meta": {"a": 1}}, "chat", notes) == "  def f():\n\n\n    pass"
    )
    assert notes.lines() == (
        "read as texts to learn whole (text): 1",
        "keys without a meaning for training, passed over: meta (1)",
    )


PAIR = {"messages": [user("Wind?")], "chosen": "12.", "rejected": "No."}
WHOLE = {"chosen": [*ASKED[:1], says("12.")], "rejected": [*ASKED[:1], says("No.")]}
PAIRS: dict[str, dict[str, Any]] = {
    "own": PAIR,
    "TRL, text": {"prompt": "Wind?", "chosen": "12.", "rejected": "No."},
    "TRL, messages": {"prompt": [user("Wind?")], "chosen": [says("12.")], "rejected": [says("No.")]},
    "TRL, the prompt implied": WHOLE,
    "UltraFeedback, binarised": {**WHOLE, "prompt": "Wind?", "messages": WHOLE["chosen"], "score_chosen": 8.0},
    "Orca": {"system": "", "question": "Wind?", "chosen": "12.", "rejected": "No."},
    "HH": {
        "chosen": "\n\nHuman: Wind?\n\nAssistant: 12.",
        "rejected": "\n\nHuman: Wind?\n\nAssistant: No.",
    },
    "OpenAI": {
        "input": {"messages": [user("Wind?")], "tools": [], "parallel_tool_calls": True},
        "preferred_output": [says("12.")],
        "non_preferred_output": [says("No.")],
    },
    "ShareGPT": {
        "conversations": [{"from": "human", "value": "Wind?"}],
        "chosen": {"from": "gpt", "value": "12."},
        "rejected": {"from": "gpt", "value": "No."},
    },
    "UltraFeedback": {
        "instruction": "Wind?",
        "completions": [
            {"response": "So so.", "overall_score": 5.0},
            {"response": "12.", "overall_score": 9.0},
            {"response": "No.", "overall_score": 1.5},
        ],
    },
}


@pytest.mark.parametrize("name", PAIRS)
def test_preferences(name: str) -> None:
    notes = SampleNotes()
    assert parse_row(PAIRS[name], "preference", notes) == parse_preference(PAIR)
    assert name == "own" or notes.lines()[0].startswith("read as ")
    assert parse_row(PAIRS[name], None, SampleNotes()) == parse_preference(PAIR)


def test_preferences_with_tools_and_over_several_turns() -> None:
    openai = {
        "input": {"messages": [user("Wind?")], "tools": TOOLS, "parallel_tool_calls": False},
        "preferred_output": [CALL],
        "non_preferred_output": [says("No.")],
    }
    pair = parse_row(openai, "preference", SampleNotes())
    assert isinstance(pair, PreferencePair)
    assert pair.chosen.messages[-1].tool_calls[0].name == "wind"
    assert pair.chosen.tools
    talk = "\n\nHuman: Wind?\n\nAssistant: 12.\n\nHuman: Now?\n\nAssistant: {}\n\nHuman: Thanks\n\nAssistant: Bye."
    pair = parse_row({"chosen": talk.format("13."), "rejected": talk.format("Why?")}, "preference", SampleNotes())
    assert isinstance(pair, PreferencePair)
    assert pair.chosen.is_learned == pair.rejected.is_learned == (False, True, True)
    assert pair.rejected.messages[3].chunks == ("Why?",)


LABELLED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "number": ({"text": "x", "label": 3}, {"label": "3"}),
    "text": ({"text": "x", "label": "joy", "idx": 7}, {"label": "joy"}),
    "truth": ({"sentence": "x", "label": True}, {"label": "true"}),
    "named": ({"text": "x", "label": 3, "label_text": "joy"}, {"label": "joy"}),
    "several": ({"text": "x", "labels": ["a", "b"]}, {"labels": ["a", "b"]}),
}


@pytest.mark.parametrize("name", LABELLED)
def test_labels(name: str) -> None:
    row, labels = LABELLED[name]
    expected = parse_classifier({"text": "x", "labels": labels})
    assert parse_row(row, "classifier", SampleNotes()) == expected
    assert parse_row(row, None, SampleNotes()) == expected


def test_a_last_question_without_an_answer_is_left_out_and_told() -> None:
    notes = SampleNotes()
    turns = [("human", "Wind?"), ("gpt", "12."), ("human", "And"), ("human", "now?")]
    row = {"conversations": [{"from": speaker, "value": text} for speaker, text in turns]}
    assert parse_row(row, "chat", notes) == parse_chat({"messages": ASKED})
    assert "questions at the end without an answer, left out: 1" in notes.lines()


def test_completions_labelled_false_are_left_out_and_told() -> None:
    notes = SampleNotes()
    for label in (False, "False", 0):
        assert parse_row({"prompt": "Wind?", "completion": "12.", "label": label}, "chat", notes) is None
    assert notes.lines() == ("completions labelled false, left out: 3",)


@pytest.mark.parametrize(
    ("row", "kind", "expected"),
    [
        ({"foo": 1, "bar": 2}, "chat", "keys 'foo', 'bar' are of no shape that is known; known are messages; conv"),
        ({}, "chat", "keys none are of no shape"),
        (
            {"prompt": "x", "completion": "y", "label": True},
            "preference",
            "unpaired preferences, which no loss here takes",
        ),
        ({"prompt": "x", "chosen": "y", "rejected": "z"}, "chat", "holds preferences; use --task preference"),
        ({"text": "x", "label": 1}, "chat", "holds labels; use --task classify"),
        ({"messages": ASKED}, "preference", "holds conversations or texts; use --task chat"),
        ({"chosen": "y", "rejected": "z"}, "preference", "need a prompt, or must be whole conversations"),
        (
            {"chosen": [user("a"), says("b")], "rejected": [user("c"), says("b")]},
            "preference",
            "must share their beginn",
        ),
        ({"conversations": [{"from": "alien", "value": "x"}]}, "chat", "conversations[0]: from='alien' is not known"),
        ({"conversations": ["x"]}, "chat", "conversations[0] must be an object with from and value"),
        ({"conversations": []}, "chat", "conversations is empty"),
        ({"prompt": "x", "completion": 7}, "chat", "must be text or a list of chunks"),
        ({"messages": ASKED, "tools": "x"}, "chat", "tools must be a list"),
        ({"instruction": "x", "completions": [{"response": "a", "overall_score": 1}] * 2}, "preference", "same score"),
    ],
)
def test_what_cannot_be_read_is_told(row: dict[str, Any], kind: Any, expected: str) -> None:
    with pytest.raises(DataError) as caught:
        parse_row(row, kind, SampleNotes())
    assert expected in str(caught.value)


def test_a_chatgpt_conversation_with_pictures_is_refused() -> None:
    tree = json.loads(json.dumps(TREE))
    tree["mapping"]["b"]["message"]["content"] = {"content_type": "multimodal_text", "parts": [{"asset_pointer": "x"}]}
    with pytest.raises(DataError, match="used pictures or tools of ChatGPT"):
        parse_row(tree, "chat", SampleNotes())


ROWS = [{"question": f"Wind {n}?", "answer": f"{n}, or\n\tmore"} for n in range(3)]


def write(path: Path) -> None:
    """`ROWS` in the container that the name says."""
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    match path.name.partition(".")[2]:
        case "jsonl":
            path.write_text("\n" + lines)
        case "json":
            path.write_text(json.dumps(ROWS, indent=1))
        case "array.jsonl":
            path.write_text("\ufeff" + json.dumps(ROWS))
        case "csv" | "tsv":
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, ["question", "answer"], delimiter="," if path.suffix == ".csv" else "\t")
                writer.writeheader()
                writer.writerows(ROWS)
        case "parquet":
            pq.write_table(pa.Table.from_pylist(ROWS), path)
        case "jsonl.gz" | "gz.jsonl":
            path.write_bytes(gzip.compress(lines.encode()))
        case "json.gz":
            path.write_bytes(gzip.compress(json.dumps(ROWS).encode()))
        case "jsonl.zst":
            path.write_bytes(zstandard.compress(lines.encode()))
        case _:
            raise AssertionError(path)


CONTAINERS = ("jsonl", "json", "array.jsonl", "csv", "tsv", "parquet", "jsonl.gz", "gz.jsonl", "json.gz", "jsonl.zst")


@pytest.mark.parametrize("container", CONTAINERS)
def test_containers(container: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows.{container}"
    write(path)
    rows = [row for _, row in each_row(path)]
    assert rows == ROWS
    assert {shape_of(row).kind for row in rows if not isinstance(row, DataError)} == {"chat"}


@pytest.mark.parametrize("container", ["parquet", "jsonl.gz", "jsonl.zst"])
def test_a_damaged_container_is_told(container: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows.{container}"
    write(path)
    path.write_bytes(path.read_bytes()[:-12])
    assert any(isinstance(row, DataError) and "is it damaged" in str(row) for _, row in each_row(path))


def test_labels_of_parquet_files_have_their_names(tmp_path: Path) -> None:
    features = {"label": {"names": ["sad", "glad"], "_type": "ClassLabel"}, "text": {"dtype": "string"}}
    table = pa.table({"text": ["x", "y"], "label": [1, 0]})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, tmp_path / "rows.parquet")
    found = [
        parse_row(row, "classifier", SampleNotes())
        for _, row in each_row(tmp_path / "rows.parquet")
        if not isinstance(row, DataError)
    ]
    assert [each.labels["label"] for each in found if isinstance(each, ClassifierSample)] == [("glad",), ("sad",)]


def test_parquet_conversations_with_columns_that_most_messages_lack(tmp_path: Path) -> None:
    rows = [{"messages": CALLED, "tools": TOOLS}, {"messages": ASKED, "tools": None}]
    rows = json.loads(json.dumps(rows))
    rows[0]["messages"][1]["tool_calls"][0]["function"]["arguments"] = '{"town": "Nice"}'
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    notes = SampleNotes()
    found = [parse_row(row, "chat", notes) for _, row in each_row(tmp_path / "rows.parquet")]  # type: ignore[arg-type]
    assert isinstance(found[0], ChatSample)
    assert found == [parse_chat({"messages": CALLED, "tools": TOOLS}), parse_chat({"messages": ASKED})]
    assert notes.lines() == ()


def test_a_missing_extra_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pyarrow", "pyarrow.parquet", "zstandard"):
        monkeypatch.setitem(sys.modules, name, None)
    for container in ("parquet", "jsonl.zst"):
        path = tmp_path / f"rows.{container}"
        path.write_bytes(b"x")
        ((_, error),) = each_row(path)
        assert isinstance(error, DataError)
        assert "needs the package" in str(error)


def test_files_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.jsonl"
    write(path)
    monkeypatch.setattr("tramontane.data.sample_files.fetch_hub_files", lambda address: {address: path})
    assert sample_files("hf://datasets/a/b/*.jsonl") == [SampleFile(path)]
    assert sample_files("hf://datasets/a/b@main/*.jsonl:0.5") == [SampleFile(path, 0.5)]


def damaged(value: Any, rng: random.Random) -> Any:
    """`value` with something in it of another type, or gone."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        key = rng.choice(list(value))
        if rng.random() < 0.2:
            return {name: item for name, item in value.items() if name != key}
        return value | {key: damaged(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        place = rng.randrange(len(value))
        return [*value[:place], damaged(value[place], rng), *value[place + 1 :]]
    return rng.choice([None, 7, 1.5, True, "", "x", "[1]", '{"a": 1}', [], {}, [None], ["x"], [[]], {"role": 3}, [{}]])


ALL_ROWS = [
    *(row for row, _ in CHATS.values()),
    *SHAREGPT_CALLS.values(),
    *PAIRS.values(),
    *(row for row, _ in LABELLED.values()),
    {"messages": CALLED, "tools": TOOLS},
]


def test_no_damage_to_a_row_ends_in_anything_but_words() -> None:
    rng = random.Random(4)
    num_refused = 0
    for _ in range(20_000):
        row = rng.choice(ALL_ROWS)
        for _ in range(rng.choice((1, 1, 2, 3))):
            row = damaged(row, rng)
        if not isinstance(row, dict):
            continue
        try:
            parse_row(row, rng.choice((None, "chat", "preference", "classifier")), SampleNotes())
        except DataError as error:
            assert "\n" not in str(error)  # noqa: PT017
            num_refused += 1
    assert num_refused > 5_000
