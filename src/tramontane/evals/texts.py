"""Texts measured by how well they are predicted: bits per byte, perplexity per token and per word."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tramontane.errors import DataError
from tramontane.evals.item import Item, Scores, Task, Text, TextScore
from tramontane.evals.sources import Sources, file_name, read_rows

END_OF_TEXT = "<|endoftext|>"
SETTINGS = "every token scored once, in windows that overlap (see window and stride); bytes are UTF-8, words by spaces"


def text_scores(item: Item, score: TextScore) -> Scores:
    text = item.work.text if isinstance(item.work, Text) else ""
    return {
        "nats": -score.logprob,
        "bits": -score.logprob / 0.6931471805599453,
        "bytes": float(len(text.encode())),
        "tokens": float(score.num_tokens),
        "words": float(len(text.split())),
    }


def text_task(name: str, settings: str, load: Callable[[Sources], list[Item]]) -> Task:
    return Task(
        name=name,
        settings=f"{settings}; {SETTINGS}",
        load=load,
        score=text_scores,
        headline="bits_per_byte",
        kind="text",
        ratios={
            "bits_per_byte": ("bits", "bytes"),
            "token_perplexity": ("nats", "tokens"),
            "word_perplexity": ("nats", "words"),
        },
        exponential=("token_perplexity", "word_perplexity"),
    )


def text_items(stem: str, texts: list[str]) -> list[Item]:
    return [Item(id=f"{stem}/{number}", work=Text(text)) for number, text in enumerate(texts) if text.strip()]


def split_stories(text: str) -> list[str]:
    """Documents as TinyStories separates them, by its end-of-text mark; a file without it is one text."""
    return [story.strip() for story in text.split(END_OF_TEXT)]


def split_articles(text: str) -> list[str]:
    """Articles of WikiText in its token form, restored to ordinary text; `<unk>` stays, what stood there is lost."""
    from tramontane.data.render import restore_wikitext

    return [restore_wikitext(part) for part in re.split(r"(?m)^(?= = [^=\n]+ = ?$)", text) if part.strip()]


def load_wikitext(sources: Sources) -> list[Item]:
    return text_items("wikitext2", split_articles(sources.text("wikitext2/test.txt")))


def load_tinystories(sources: Sources) -> list[Item]:
    return text_items("tinystories", split_stories(sources.text("tinystories_sample/valid_head.txt")))


def file_task(path: Path) -> Task:
    """A task of the user's own text: JSON lines with `text` or `messages` (of which the assistant's are measured), or
    plain text, whose documents end at <|endoftext|>.

    Raises DataError where there is nothing to measure.
    """

    def load(_sources: Sources) -> list[Item]:
        if path.suffix in (".jsonl", ".parquet"):
            items = [_record_item(path, number, row) for number, row in enumerate(read_rows(path))]
        else:
            try:
                items = text_items(path.stem, split_stories(path.read_text(encoding="utf-8-sig")))
            except UnicodeDecodeError as error:
                raise DataError(f"{path}: not UTF-8 text (byte {error.start})") from None
        if not items:
            raise DataError(f"{path}: holds no text")
        return items

    if not path.is_file():
        raise DataError(f"{path}: no such file")
    return text_task(f"text:{path.stem}", file_name(path), load)


def _record_item(path: Path, number: int, row: dict[str, Any]) -> Item:
    messages = row.get("messages")
    if isinstance(messages, list) and all(isinstance(message, dict) for message in messages):
        said = [message.get("content") for message in messages if message.get("role") == "assistant"]
        text = "".join(content for content in said if isinstance(content, str))
        if text:
            return Item(id=f"{path.stem}/{number}", work=Text(text, tuple(messages)), group=str(row.get("source", "")))
    elif isinstance(row.get("text"), str) and row["text"].strip():
        return Item(id=f"{path.stem}/{number}", work=Text(row["text"]), group=str(row.get("source", "")))
    raise DataError(f"{path}: record {number} needs `text`, or `messages` with something said by the assistant")


TEXT_TASKS = (
    text_task(
        "wikitext2", "WikiText-2 test, articles restored from their token form (see restore_wikitext)", load_wikitext
    ),
    text_task("tinystories", "TinyStories validation, the head of the file", load_tinystories),
)
