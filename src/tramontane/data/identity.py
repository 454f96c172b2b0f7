"""Who the model is, as conversations: questions and answers of a TOML file, combined and filled in.

The file holds `[[topic]]` tables (`name`, `questions`, `answers`, optional `opens = true` for greetings and
`closes = true` for farewells) and `[[dialogue]]` tables (`turns`, user first). `{name}` and other placeholders are
filled from the recipe's persona, so that a model is renamed in one place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tramontane.data.record import Record
from tramontane.data.render import RenderContext
from tramontane.errors import DataError

_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_PER_QUESTION = 3  # answers drawn for each question of a topic, alone
_PER_TOPIC = 12  # longer conversations that each topic takes part in


def identity(records: Sequence[Record], context: RenderContext) -> Iterator[dict[str, Any]]:
    """Single questions, and conversations of a greeting, one to three topics and a farewell. Option `system`: share
    of the conversations (0 to 1) that begin with the persona's `system` prompt."""
    for record in records:
        fill = _Filler(context.persona, record)
        every: list[dict[str, Any]] = record.fields.get("topic", [])
        opening = [topic for topic in every if topic.get("opens")]
        closing = [topic for topic in every if topic.get("closes")]
        topics = [topic for topic in every if topic not in opening and topic not in closing]
        for topic in every:
            for question in topic["questions"]:
                answers = topic["answers"]
                for answer in context.rng.sample(answers, min(_PER_QUESTION, len(answers))):
                    yield _sample([fill(question), fill(answer)], context, fill)
        for topic in topics:
            for _ in range(_PER_TOPIC):
                others = [each for each in context.rng.sample(topics, min(2, len(topics))) if each is not topic]
                chosen = [topic, *others[: context.rng.randint(0, 2)]]
                context.rng.shuffle(chosen)
                if opening and context.rng.random() < 0.6:
                    chosen.insert(0, context.rng.choice(opening))
                if closing and context.rng.random() < 0.4:
                    chosen.append(context.rng.choice(closing))
                turns = [fill(context.rng.choice(each[key])) for each in chosen for key in ("questions", "answers")]
                yield _sample(turns, context, fill)
        for dialogue in record.fields.get("dialogue", ()):
            yield _sample([fill(turn) for turn in dialogue["turns"]], context, fill)


def _sample(turns: list[str], context: RenderContext, fill: _Filler) -> dict[str, Any]:
    roles = ("user", "assistant")
    messages = [{"role": roles[place % 2], "content": turn} for place, turn in enumerate(turns)]
    if context.rng.random() < float(context.options.get("system", "0")):
        messages.insert(0, {"role": "system", "content": fill("{system}")})
    return {"messages": messages}


class _Filler:
    """Fills placeholders; a name that the persona lacks is an error with its place."""

    def __init__(self, persona: Mapping[str, str], record: Record) -> None:
        self._persona, self._record = persona, record

    def __call__(self, text: str) -> str:
        return _PLACEHOLDER.sub(self._value, text)

    def _value(self, match: re.Match[str]) -> str:
        try:
            return self._persona[match.group(1)]
        except KeyError:
            raise DataError(
                f"{self._record.origin.path}: placeholder {match.group()} has no value; add it to [persona]"
            ) from None
