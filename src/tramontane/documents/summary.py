"""Summaries of texts of any length: parts are summarised, their summaries joined and summarised again, up to one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from tramontane.documents.instruct import follow, room
from tramontane.documents.split import split_by_tokens, split_in_turns
from tramontane.documents.steps import PAUSE, Answerer, Reader, Steps, run_steps
from tramontane.errors import RequestError

PART_TOKENS = 4096  # of text per instruction: attention to detail falls with length, in large models too
REGROUP_TOGETHER = 64  # summaries measured in one step
TOKENS_PER_WORD = 2  # generous for English, about right for languages a vocabulary knows less well

Progress = Callable[[int, int, int], None]
"""Called with (pass, parts done, parts of this pass); passes count from 1."""


@dataclass(frozen=True, slots=True)
class Summary:
    """`num_parts` pieces of the text were read, in `num_passes` rounds."""

    text: str
    num_parts: int
    num_passes: int


def summarize(llm: Answerer, text: str, *, num_words: int = 150, progress: Progress | None = None) -> Summary:
    """A summary of about `num_words` words. Raises RequestError for an impossible length or too short a context."""
    return run_steps(llm, summary_steps(llm, text, num_words=num_words, progress=progress))


def summary_steps(llm: Reader, text: str, *, num_words: int = 150, progress: Progress | None = None) -> Steps[Summary]:
    """As `summarize`, for whoever asks the model."""
    if not 10 <= num_words <= 10_000:
        raise RequestError(f"words={num_words} must lie between 10 and 10000")
    max_tokens = TOKENS_PER_WORD * num_words + 32
    part_tokens = min(room(llm, instruction("", num_words), max_tokens), max(PART_TOKENS, 4 * max_tokens))
    part_words = max(10, min(num_words, (part_tokens // 4 - 32) // TOKENS_PER_WORD))
    parts: list[str] = []
    for pieces in split_in_turns(text, llm.tokenizer, part_tokens):
        parts += [piece.text for piece in pieces]
        yield PAUSE
    num_parts, num_passes = len(parts), 0
    while True:
        num_passes += 1
        last = len(parts) == 1
        length = num_words if last else part_words
        limit = max_tokens if last else TOKENS_PER_WORD * part_words + 32

        def report(done: int, total: int, number: int = num_passes) -> None:
            if progress is not None:
                progress(number, done, total)

        summaries = yield from follow(llm, parts, partial(instruction, num_words=length), limit, report)
        if last:
            return Summary(summaries[0], num_parts, num_passes)
        parts = yield from regroup(llm, summaries, part_tokens)


def instruction(text: str, num_words: int) -> str:
    return f"Summarize the text below in at most {num_words} words, saying only what it says.\n\nText:\n{text.strip()}"


def regroup(llm: Reader, summaries: list[str], part_tokens: int) -> Steps[list[str]]:
    """Neighbouring summaries joined while they fit. None counts more than half a part, so that there are always fewer
    than before and summarising ends."""
    groups: list[str] = []
    free = 0
    for number, summary in enumerate(summaries):
        if number % REGROUP_TOGETHER == 0:
            yield PAUSE
        # a model that rambles in rare characters can re-encode to more tokens than it was allowed to write
        piece = split_by_tokens(summary, llm.tokenizer, part_tokens // 2 - 4)[0]
        if groups and piece.num_tokens + 4 <= free:
            groups[-1] += f"\n\n{piece.text}"
        else:
            groups.append(piece.text)
            free = part_tokens
        free -= piece.num_tokens + 4
    return groups
