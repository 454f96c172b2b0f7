"""Questions answered from a document: its passages are ranked, the best are shown to the model and to the reader."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from tramontane.documents.instruct import follow, room
from tramontane.documents.ranking import Passage, score, words
from tramontane.documents.split import Piece, split_in_turns
from tramontane.documents.steps import PAUSE, Answerer, Reader, Steps, run_steps
from tramontane.errors import RequestError

PASSAGE_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Answer:
    """`passages` are those the model was shown, in the order of the document; `[1]` in `text` is the first of them.
    `cited` lists the numbers that the text names."""

    text: str
    passages: tuple[Passage, ...]
    cited: tuple[int, ...]


def answer_question(
    llm: Answerer, text: str, question: str, *, num_passages: int = 4, max_tokens: int | None = None
) -> Answer:
    """Answer from the `num_passages` passages of `text` that share most with the question.

    Raises RequestError for an empty question, an impossible number, or a context too short for one passage.
    """
    return run_steps(llm, answer_steps(llm, text, question, num_passages=num_passages, max_tokens=max_tokens))


def answer_steps(
    llm: Reader, text: str, question: str, *, num_passages: int = 4, max_tokens: int | None = None
) -> Steps[Answer]:
    """As `answer_question`, for whoever asks the model."""
    if not question.strip():
        raise RequestError("the question is empty")
    if not 1 <= num_passages <= 100:
        raise RequestError(f"passages={num_passages} must lie between 1 and 100")
    answer_tokens = min(256, llm.reach // 4) if max_tokens is None else max_tokens
    left = room(llm, instruction(question, []), answer_tokens)
    pieces: list[Piece] = []
    counts: list[Counter[str]] = []
    for some in split_in_turns(text, llm.tokenizer, min(PASSAGE_TOKENS, left - 16)):
        pieces += some
        counts += [Counter(words(piece.text)) for piece in some]
        yield PAUSE
    scores = score(counts, question)
    best = sorted(range(len(pieces)), key=lambda i: (-scores[i], i))[:num_passages]
    chosen: list[int] = []
    for i in best:
        left -= pieces[i].num_tokens + 16  # 16: its number and the line breaks around it
        if left >= 0:
            chosen.append(i)
    passages = tuple(Passage(pieces[i].start, pieces[i].text.strip(), scores[i]) for i in sorted(chosen))
    [reply] = yield from follow(
        llm, [question], lambda asked: instruction(asked, [p.text for p in passages]), answer_tokens
    )
    numbers = {int(number) for number in re.findall(r"\[(\d{1,3})\]", reply)}
    return Answer(reply, passages, tuple(sorted(n for n in numbers if 1 <= n <= len(passages))))


def instruction(question: str, texts: list[str]) -> str:
    numbered = "\n\n".join(f"[{number}] {text}" for number, text in enumerate(texts, 1))
    return (
        "Answer the question from the numbered passages only, naming the passages used, like [1]. "
        f"If they do not hold the answer, say so.\n\n{numbered}\n\nQuestion: {question.strip()}"
    )
