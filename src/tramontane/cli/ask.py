"""`tramontane ask`: a question answered from a document, with the passages the answer rests on."""

from __future__ import annotations

from typing import Annotated

import typer

from tramontane.cli.options import Json, ModelOptions
from tramontane.cli.summarize import AllowPrivate, Source, read_source
from tramontane.cli.terminal import print_json, write_answer
from tramontane.documents.answer import answer_question


def ask(
    source: Source,
    question: Annotated[str, typer.Argument(help="What to look for in the document.")],
    *,
    passages: Annotated[int, typer.Option(help="Passages shown to the model.")] = 4,
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer in tokens (default: 256).")] = None,
    allow_private: AllowPrivate = False,
    model: ModelOptions,
    as_json: Json = False,
) -> None:
    """Answer a question from a document.

    The passages of the document that share most with the question are shown to the model and printed below its
    answer, so that it can be checked.
    """
    document = read_source(source, allow_private=allow_private)
    answer = answer_question(model.load(), document.text, question, num_passages=passages, max_tokens=max_tokens)
    if as_json:
        print_json(
            {
                "source": document.name,
                "question": question,
                "answer": answer.text,
                "cited": answer.cited,
                "passages": [{"start": p.start, "score": p.score, "text": p.text} for p in answer.passages],
            }
        )
        return
    write_answer(f"{answer.text}\n\nPassages of {document.name}:\n")
    for number, passage in enumerate(answer.passages, 1):
        mark = "*" if number in answer.cited else " "
        write_answer(f"{mark}[{number}] {' '.join(passage.text.split())}\n")
