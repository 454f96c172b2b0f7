"""What of a conversation is read once not all of it fits."""

from __future__ import annotations

from typing import Any

import pytest

from tramontane.cli.context_window import ContextWindow
from tramontane.errors import RequestError

SYSTEM = {"role": "system", "content": "s" * 10}


def talk(num_turns: int, chars: int = 50) -> list[dict[str, Any]]:
    """A question more than answers."""
    messages = [{"role": role, "content": role[0] * chars} for _ in range(num_turns) for role in ("user", "assistant")]
    return [SYSTEM, *messages, {"role": "user", "content": "q" * chars}]


def count(messages: Any) -> int:
    return sum(len(message["content"]) for message in messages)


def test_what_fits_is_read_whole() -> None:
    window = ContextWindow(1000, count)
    assert window.fit(talk(6)) == (talk(6), 660)
    assert window.num_left_out == 0


def test_the_oldest_turns_go_and_the_system_prompt_and_the_question_stay() -> None:
    window = ContextWindow(1000, count)
    kept, num_tokens = window.fit(talk(20))
    assert kept[0] == SYSTEM
    assert kept[1]["role"] == "user"
    assert kept[1:] == talk(20)[1 + window.num_left_out :]
    assert 450 < num_tokens <= 0.75 * 750  # all that fits into what may stay
    assert num_tokens + 100 > 0.75 * 750


def test_where_reading_begins_stays_for_some_turns() -> None:
    window = ContextWindow(1000, count)
    left_out = []
    for num_turns in range(20):
        window.fit(talk(num_turns))
        left_out.append(window.num_left_out)
    assert left_out == sorted(left_out)
    assert len(set(left_out)) < 9
    window.fit(talk(0))  # another conversation
    assert window.num_left_out == 0


@pytest.mark.parametrize(("max_tokens", "remedy"), [(None, "shorten it, or"), (300, "lower --max-tokens")])
def test_a_question_too_long_by_itself_is_refused(max_tokens: int | None, remedy: str) -> None:
    window = ContextWindow(1000, count, max_tokens)
    fitting = 1000 - (max_tokens or 1) - 10
    kept, _ = window.fit([*talk(5)[:-1], {"role": "user", "content": "q" * fitting}])
    assert len(kept) == 2
    with pytest.raises(RequestError, match=remedy):
        window.fit([*talk(5)[:-1], {"role": "user", "content": "q" * (fitting + 1)}])
