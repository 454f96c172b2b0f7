"""A file with every kind of mistake in it: each line is told with its number and remedy, whoever asks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.data.tokenizers import tokenizer_folder
from tramontane.data.chat_tokens import SampleEncoder
from tramontane.data.sample_files import UnsoundFileError, check_file
from tramontane.data.sample_lines import line_parser
from tramontane.data.sample_notes import SampleNotes
from tramontane.data.sample_shards import write_sample_shards
from tramontane.tokenizer import load_tokenizer

MAX_LEN = 512
TOOLS = [{"type": "function", "function": {"name": "wind", "parameters": {}}}]
USER, ANSWER = {"role": "user", "content": "Is it windy?"}, {"role": "assistant", "content": "Yes."}
CALL = {"role": "assistant", "tool_calls": [{"id": "abcdefghi", "function": {"name": "wind", "arguments": "{}"}}]}
RESULT = {"role": "tool", "tool_call_id": "abcdefghi", "content": "40 knots"}
GOOD: dict[str, Any] = {"messages": [USER, CALL, RESULT, ANSWER], "tools": TOOLS}


def with_messages(*messages: dict[str, Any]) -> bytes:
    return json.dumps({"messages": messages, "tools": TOOLS}).encode()


MISTAKES: dict[str, tuple[bytes, str]] = {
    "no object": (b"[]", "each line must be an object"),
    "cut off": (b'{"messages": [{"role": "us', "not valid JSON"),
    "binary": (b"\x89PNG\r\x1a\x00\xff\xfe", "is not UTF-8; save the file as UTF-8"),
    "empty conversation": (b'{"messages": []}', "at least one message"),
    "empty answer": (with_messages(USER, {"role": "assistant", "content": ""}), "is empty; write an answer or remove"),
    "wrong role": (with_messages({"role": "bot", "content": "x"}, ANSWER), "use one of system, user, assistant, tool"),
    "no answer": (with_messages(USER), "must end with a whole message of the assistant"),
    "call without a result": (with_messages(USER, CALL, ANSWER), "the calls before it have too few results"),
    "result without a call": (with_messages(USER, RESULT, ANSWER), "role tool cannot follow role user"),
    "result twice": (with_messages(USER, CALL, RESULT, RESULT, ANSWER), "have too many results"),
    "over-long": (
        with_messages({"role": "user", "content": "wind " * 1000}, ANSWER),
        f"more than {MAX_LEN}; raise --max-len",
    ),
}


def write_file(tmp_path: Path) -> Path:
    """The mistakes, one a line, after one good line and before another."""
    path = tmp_path / "chat.jsonl"
    good = json.dumps(GOOD).encode()
    path.write_bytes(b"\n".join([good, *(line for line, _ in MISTAKES.values()), good]) + b"\n")
    return path


def test_each_mistake_is_told_with_its_line_and_remedy(tmp_path: Path) -> None:
    parse = line_parser("chat", SampleEncoder(load_tokenizer(tokenizer_folder())), SampleNotes(), max_len=MAX_LEN)
    check = check_file(write_file(tmp_path), parse)
    assert (check.num_valid, check.num_invalid) == (2, len(MISTAKES))
    for place, (problem, (name, (_, expected))) in enumerate(zip(check.problems, MISTAKES.items(), strict=True)):
        assert problem.line == place + 2, name
        assert expected in problem.message, name


def test_a_file_beyond_the_share_is_refused_with_all_its_problems_at_hand(tmp_path: Path) -> None:
    path = write_file(tmp_path)
    out = tmp_path / "out"
    with pytest.raises(UnsoundFileError) as caught:
        write_sample_shards(path, "chat", tokenizer_folder(), out, max_len=MAX_LEN, max_invalid_share=0.5)
    assert not out.exists()
    assert caught.value.path == path
    assert len(caught.value.check.problems) == len(MISTAKES)
    message = str(caught.value)
    assert message.startswith(f"chat.jsonl: {len(MISTAKES)} of {len(MISTAKES) + 2} lines are no samples: line 2: ")
    assert message.endswith(f"; and {len(MISTAKES) - 5} more")


@pytest.mark.parametrize(("share", "is_refused"), [(0.0, True), (0.24, True), (0.25, False), (0.5, False)])
def test_the_share_that_may_be_skipped_counts_lines_and_includes_its_bound(
    share: float, is_refused: bool, tmp_path: Path
) -> None:
    path = tmp_path / "chat.jsonl"
    good = json.dumps(GOOD)
    path.write_text(f'{good}\n\n{{"messages": []}}\n{good}\n{good}\n', "utf-8")  # an empty line counts for nothing
    options: dict[str, Any] = {"max_len": MAX_LEN, "max_invalid_share": share}
    if is_refused:
        with pytest.raises(UnsoundFileError, match="1 of 4 lines is no sample: line 3: messages must be a list"):
            write_sample_shards(path, "chat", tokenizer_folder(), tmp_path / "out", **options)
    else:
        manifest = write_sample_shards(path, "chat", tokenizer_folder(), tmp_path / "out", **options)
        assert manifest.sources[0].num_documents == 3
