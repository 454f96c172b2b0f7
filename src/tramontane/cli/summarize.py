"""`tramontane summarize`: a document of any length in a few words."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from tramontane.cli.options import Json, ModelOptions
from tramontane.cli.terminal import passes_bar, print_json, write_answer
from tramontane.documents.document import Document, parse_document, read_document
from tramontane.documents.summary import summarize as summarize_text

Source = Annotated[str, typer.Argument(help="A txt, md, html, pdf or docx file, an http(s) address, or - for stdin.")]
AllowPrivate = Annotated[
    bool, typer.Option("--allow-private", help="Let an address lead to this machine or its local network.")
]


def summarize(
    source: Source,
    *,
    words: Annotated[int, typer.Option(help="Length of the summary.")] = 150,
    allow_private: AllowPrivate = False,
    model: ModelOptions,
    as_json: Json = False,
) -> None:
    """Summarize a document of any length.

    Long documents are read in parts; the summaries of the parts are summarized in turn, with progress on stderr.
    """
    document = read_source(source, allow_private=allow_private)
    llm = model.load()
    with passes_bar() as progress:
        summary = summarize_text(llm, document.text, num_words=words, progress=progress)
    if as_json:
        print_json(
            {
                "source": document.name,
                "summary": summary.text,
                "num_parts": summary.num_parts,
                "num_passes": summary.num_passes,
            }
        )
    else:
        write_answer(f"{summary.text}\n")


def read_source(source: str, *, allow_private: bool) -> Document:
    """The document behind the argument of `summarize` and `ask`."""
    if source == "-":
        return parse_document(sys.stdin.buffer.read(), "stdin")
    return read_document(source, allow_private=allow_private)
