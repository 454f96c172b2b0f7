"""Conversations: what is said, saved and loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tramontane.cli.conversation import Conversation
from tramontane.errors import DataError


def talk() -> Conversation:
    conversation = Conversation("Be brief.")
    conversation.ask("Hello 🙂")
    conversation.reply("Hi.")
    return conversation


def test_system_prompt_comes_first_and_survives_a_fresh_start() -> None:
    conversation = talk()
    assert [m["role"] for m in conversation.messages] == ["system", "user", "assistant"]
    assert conversation.system == "Be brief."
    conversation.start(conversation.system)
    assert conversation.messages == [{"role": "system", "content": "Be brief."}]
    conversation.start(None)
    assert conversation.messages == []
    assert conversation.system is None


def test_only_an_answer_can_be_taken_back() -> None:
    conversation = talk()
    assert conversation.take_back()
    assert conversation.messages[-1]["role"] == "user"
    assert not conversation.take_back()
    assert not Conversation().take_back()


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    path.write_text("old")
    talk().save(path)
    assert json.loads(path.read_text(encoding="utf-8")) == {"messages": talk().messages}
    other = Conversation("Other.")
    other.load(path)
    assert other.messages == talk().messages
    assert [p.name for p in tmp_path.iterdir()] == ["talk.json"]


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "talk.json"
    path.write_text("old")
    conversation = talk()
    conversation.ask("\ud800")  # cannot be written as UTF-8
    with pytest.raises(UnicodeEncodeError):
        conversation.save(path)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["talk.json"]


@pytest.mark.parametrize(
    "text",
    [
        "", "no json", "[]", "{}", '{"messages": 1}', '{"messages": [1]}', '{"messages": [{"role": "user"}]}',
        '{"messages": [{"role": "root", "content": "x"}]}', '{"messages": [{"role": "user", "content": 1}]}',
        "[" * 100_000,
    ],
)  # fmt: skip
def test_a_file_that_holds_no_conversation_changes_nothing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    conversation = talk()
    with pytest.raises(DataError, match=r"other.json: not a saved conversation"):
        conversation.load(path)
    assert conversation.messages == talk().messages
