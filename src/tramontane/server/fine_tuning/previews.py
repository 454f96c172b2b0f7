"""What a model answers while it is trained: a few of its samples' questions, asked again at every checkpoint."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tramontane.data.sample_files import MAX_LINE_BYTES
from tramontane.engine.sampling import SamplingParams
from tramontane.errors import TramontaneError
from tramontane.server.models import ServedModel

NUM_QUESTIONS = 2
MAX_TOKENS = 64
LOOKED_AT = 50
PRIORITY = 8
"""Of the engine: later than batches."""


def first_questions(samples: Path) -> list[list[Mapping[str, Any]]]:
    """The first conversations of a file, each without its last answer."""
    found: list[list[Mapping[str, Any]]] = []
    with samples.open("rb") as file:
        for line in itertools.islice(iter(lambda: file.readline(MAX_LINE_BYTES), b""), LOOKED_AT):
            try:
                messages = json.loads(line)["messages"]
                while messages[-1]["role"] == "assistant":
                    messages = messages[:-1]
                is_plain = messages and all(isinstance(message["content"], str) for message in messages)
            except (ValueError, RecursionError, LookupError, TypeError):  # no conversation; told of elsewhere
                continue
            if is_plain and messages not in found:
                found.append(messages)
            if len(found) == NUM_QUESTIONS:
                break
    return found


async def previews(
    base: ServedModel, checkpoint: Path | None, questions: Sequence[Sequence[Mapping[str, Any]]], *, salt: str
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
            completion = await llm.chat(messages, sampling, priority=PRIORITY, salt=salt, adapter=adapter)
            found.append({"prompt": str(messages[-1]["content"]), "answer": completion.choices[0].text})
    except (TramontaneError, OSError):
        pass
    finally:
        if adapter is not None:
            llm.unload_adapter(adapter)
    return found
