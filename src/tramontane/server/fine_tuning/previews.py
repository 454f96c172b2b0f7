"""What a model answers while it is trained: a few of its samples' questions, asked again at every checkpoint."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tramontane.data.chat_samples import ChatSample
from tramontane.data.sample_files import each_row
from tramontane.data.sample_notes import SampleNotes
from tramontane.data.sample_shapes import parse_row
from tramontane.engine.sampling import SamplingParams
from tramontane.errors import DataError, TramontaneError
from tramontane.server.models import ServedModel
from tramontane.tokenizer.messages import Message

NUM_QUESTIONS = 2
MAX_TOKENS = 64
LOOKED_AT = 50
PRIORITY = 8
"""Of the engine: later than batches."""


def first_questions(samples: Path) -> list[list[Mapping[str, Any]]]:
    """The first conversations of a file that are text alone, each without its last answer."""
    found: list[list[Mapping[str, Any]]] = []
    for _, row in itertools.islice(each_row(samples), LOOKED_AT):
        with suppress(DataError):  # no conversation; told of elsewhere
            sample = None if isinstance(row, DataError) else parse_row(row, "chat", SampleNotes())
            messages = _plain(sample.messages) if isinstance(sample, ChatSample) else []
            if messages and messages not in found:
                found.append(messages)
        if len(found) == NUM_QUESTIONS:
            break
    return found


def _plain(messages: Sequence[Message]) -> list[Mapping[str, Any]]:
    """Messages up to the last question; none where one is more than text."""
    last = max((place for place, message in enumerate(messages) if message.role == "user"), default=-1)
    plain: list[Mapping[str, Any]] = []
    for message in messages[: last + 1]:
        texts = [chunk for chunk in message.chunks if isinstance(chunk, str)]
        if message.tool_calls or message.role == "tool" or len(texts) < len(message.chunks):
            return []
        plain.append({"role": message.role, "content": "\n\n".join(texts)})
    return plain


async def previews(
    base: ServedModel,
    checkpoint: Path | None,
    questions: Sequence[Sequence[Mapping[str, Any]]],
    *,
    owner: str,
    salt: str,
) -> list[dict[str, str]]:
    """`prompt` and `answer` for each question, by the adapter in `checkpoint`, or by the bare base. Nothing for a
    question that cannot be answered, and where the checkpoint has been let go meanwhile."""
    llm, adapter = base.llm, None
    sampling = SamplingParams(max_tokens=MAX_TOKENS, temperature=0.0)
    found = []
    try:
        if checkpoint is not None:
            adapter = await llm.load_adapter(checkpoint, f"{salt}@{checkpoint.name}")
        for messages in questions:
            completion = await llm.chat(messages, sampling, priority=PRIORITY, owner=owner, salt=salt, adapter=adapter)
            found.append({"prompt": str(messages[-1]["content"]), "answer": completion.choices[0].text})
    except (TramontaneError, OSError):
        pass
    finally:
        if adapter is not None:
            llm.unload_adapter(adapter)
    return found
