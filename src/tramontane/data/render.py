"""Records of the raw sets as plain text for pretraining. A recipe names these functions in `render`.

A renderer takes one record (with `group_by`, several) and yields the documents to be made of it, none to leave it
out. Wording is varied by `context.rng`, which depends on seed and origin only.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tramontane.data.record import Record
from tramontane.data.sample_notes import SampleNotes
from tramontane.errors import DataError


@dataclass(frozen=True, slots=True)
class RenderContext:
    """What a renderer may use besides its records."""

    rng: random.Random
    options: Mapping[str, str]
    persona: Mapping[str, str]
    notes: SampleNotes = field(default_factory=SampleNotes)
    """Where a renderer tells what it leaves out of a record."""


TextRenderer = Callable[[Sequence[Record], RenderContext], Iterator[str]]


def text_field(record: Record, key: str) -> str:
    """Field `key` as text. Raises DataError naming the row when it is missing or no text."""
    value = record.fields.get(key)
    if not isinstance(value, str):
        raise DataError(f"{record.origin}: field {key!r} is missing or no text; check `render` and its options")
    return value


def plain_text(records: Sequence[Record], context: RenderContext) -> Iterator[str]:
    """The field `text`, or the one that the option `field` names."""
    for record in records:
        yield text_field(record, context.options.get("field", "text"))


def prompt_response(records: Sequence[Record], context: RenderContext) -> Iterator[str]:
    """Pairs of `prompt` and `response`. Option `style`: `both` (default) or `response` alone."""
    for record in records:
        prompt, response = plain_question(text_field(record, "prompt")), plain_answer(text_field(record, "response"))
        yield response if context.options.get("style") == "response" else f"{prompt}\n\n{response}"


def question_answer(records: Sequence[Record], context: RenderContext) -> Iterator[str]:
    """Pairs of `question` and `answer`."""
    for record in records:
        yield f"{text_field(record, 'question').strip()}\n\n{text_field(record, 'answer').strip()}"


def trivia(records: Sequence[Record], context: RenderContext) -> Iterator[str]:
    """`question`, `answer` and `choices`, with the choices shown half of the time."""
    for record in records:
        question, answer = text_field(record, "question").strip(), text_field(record, "answer").strip()
        choices = [str(choice) for choice in record.fields.get("choices") or ()]
        shown = f" {either(choices)}" if len(choices) > 1 and context.rng.random() < 0.5 else ""
        label = context.rng.choice([("Question: ", "Answer: "), ("Q: ", "A: "), ("", "")])
        yield f"{label[0]}{question}{shown}\n{label[1]}{answer}"


def either(choices: Sequence[str]) -> str:
    """`Is it a, b or c?`"""
    return f"Is it {', '.join(choices[:-1])} or {choices[-1]}?"


def definition(records: Sequence[Record], context: RenderContext) -> Iterator[str]:
    """All meanings of one dictionary word (`word`, `speech_part`, `definition`, `example`, `synonyms`) as prose."""
    meanings = [record.fields for record in records if isinstance(record.fields.get("definition"), str)]
    if meanings:
        yield define(meanings, context.rng)


def define(meanings: Sequence[Mapping[str, Any]], rng: random.Random, most: int = 5) -> str:
    """A few sentences that explain a word."""
    word = str(meanings[0].get("word", "")).strip()
    if len(meanings) == 1:
        return _meaning(f'"{word}"', meanings[0], rng)
    opening = rng.choice([f'"{word}" has several meanings.', f'The word "{word}" can mean different things.'])
    lines = [f"{place}. {_meaning('', each, rng)}" for place, each in enumerate(meanings[:most], 1)]
    return "\n".join([opening, *lines])


def _meaning(subject: str, meaning: Mapping[str, Any], rng: random.Random) -> str:
    part = str(meaning.get("speech_part") or "").strip()
    text = str(meaning["definition"]).strip().rstrip(".;")
    article = "an" if part[:1] in "aeiou" else "a"
    if subject and part:
        said = rng.choice(
            [f"{subject} is {article} {part} that means: {text}.", f"As {article} {part}, {subject} means {text}."]
        )
    elif subject:
        said = f"{subject} means {text}."
    else:
        said = f"As {article} {part}, it means {text}." if part else f"It means {text}."
    example = str(meaning.get("example") or "").strip().rstrip(".")
    if example:
        said += rng.choice([f" For example: {sentence(example)}", f" You could say: {sentence(example)}"])
    synonyms = [str(each) for each in meaning.get("synonyms") or ()][:4]
    if synonyms:
        said += rng.choice([" Similar words are ", " Other words for it: ", " It is close in meaning to "])
        said += _listed(synonyms) + "."
    return said


def sentence(text: str) -> str:
    """`text` with a capital at the start and a mark at the end."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?", '"')) else ".")


def _listed(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def dialogue(records: Sequence[Record], context: RenderContext) -> Iterator[str]:
    """`messages` as the lines of two speakers."""
    for record in records:
        first, second = context.rng.choice([("User", "Assistant"), ("A", "B"), ("Anna", "Ben"), ("Tom", "Mia")])
        lines = [
            f"{first if message['role'] == 'user' else second}: {str(message['content']).strip()}"
            for message in record.fields.get("messages") or ()
        ]
        if lines:
            yield "\n".join(lines)


_BOOK_HEADER = re.compile(r"#+ *(?:Title|Author|Year|Translator)\b|-{3,}\s*$")
_CHAPTER = re.compile(r"(?:[IVXLC]+|\d+|CHAPTER|Chapter|PART|BOOK)\b.{0,60}$")


def book(records: Sequence[Record], context: RenderContext) -> Iterator[str]:
    """A book without its header, list of chapters and Markdown marks; lines that were wrapped by hand are joined."""
    for record in records:
        lines = text_field(record, "text").lstrip("\ufeff").split("\n")
        text = "\n".join(_without_contents(_without_header(lines)))
        text = re.sub(r"(?m)^#+ *", "", text)
        text = re.sub(r"(?m)^(?:[-*_] ?){3,}$", "", text)
        text = re.sub(r"(?<!\w)[_*]{1,3}(\S(?:[^_*\n]{0,200}?\S)?)[_*]{1,3}(?!\w)", r"\1", text)
        yield unwrap(text)


def _without_header(lines: list[str]) -> list[str]:
    start = next((n for n, line in enumerate(lines) if line.strip() and not _BOOK_HEADER.match(line)), len(lines))
    return lines[start:]


def _without_contents(lines: list[str]) -> list[str]:
    """`lines` without the word CONTENTS and the chapters listed after it."""
    start = next((n for n, line in enumerate(lines) if line.strip().upper() == "CONTENTS"), None)
    if start is None:
        return lines
    end = start + 1
    while end < len(lines) and (not lines[end].strip() or _CHAPTER.match(lines[end].strip())):
        end += 1
    return [*lines[:start], *lines[end:]]


def unwrap(text: str) -> str:
    """Join the lines of paragraphs wrapped by hand: where most lines are 50 to 80 characters long."""
    lines = text.split("\n")
    filled = [line for line in lines if line.strip()]
    if sum(50 <= len(line) <= 80 for line in filled) < 0.5 * len(filled):
        return text
    paragraphs = re.split(r"\n\s*\n", text)
    return "\n\n".join(" ".join(part.split()) for part in paragraphs if part.strip())


_ATTRIBUTION = re.compile(r"\* (?:License|Text|Illustration|Translation|Language):")


def storybook(records: Sequence[Record], context: RenderContext) -> Iterator[str]:
    """A picture book: title and pages, without page marks and attribution."""
    for record in records:
        title, pages = storybook_parts(text_field(record, "text"))
        yield "\n\n".join([title, *pages] if title else pages)


def storybook_parts(text: str) -> tuple[str, list[str]]:
    """(title, pages) of a picture book in the form of the African Storybook and Pratham files."""
    title = ""
    if match := re.match(r"\s*# *(.+)\n", text):
        title, text = match.group(1).strip(), text[match.end() :]
    pages = []
    for page in re.split(r"(?m)^##\s*$", text):
        lines = [" ".join(line.split()) for line in page.split("\n") if line.strip()]
        lines = [line for line in lines if not _ATTRIBUTION.match(line)]
        if lines:
            pages.append(" ".join(lines))
    return title, pages


def wikitext(records: Sequence[Record], context: RenderContext) -> Iterator[str]:
    """WikiText in its token form, restored to ordinary text."""
    for record in records:
        yield restore_wikitext(text_field(record, "text"))


def restore_wikitext(text: str) -> str:
    """Undo WikiText's tokenisation: ` @-@ ` and its kin, spaces before marks and inside brackets and quotes,
    `= Title =` lines as plain titles. `<unk>` stays: what stood there is lost."""
    text = re.sub(r" @([-,.])@ ", r"\1", text)
    text = re.sub(r'(?m)(?:^|(?<=[\s(]))" ([^"\n]*?) "', r'"\1"', text)
    text = re.sub(r"(?m)^ *(?:= )+(.*?)(?: =)+ *$", r"\1", text)
    text = re.sub(r" ([.,;:!?%)\]}])", r"\1", text)
    text = re.sub(r"([(\[{$£€#]) ", r"\1", text)
    text = re.sub(r" (n't|'(?:s|re|ve|ll|d|m)|')(?=[\s.,;:!?)]|$)", r"\1", text)
    text = re.sub(r"(\w) / (\w)", r"\1/\2", text)
    text = re.sub(r"(\d) – (\d)", r"\1–\2", text)
    return re.sub(r"(?m)^ +| +$", "", text).strip("\n")


def article(records: Sequence[Record], context: RenderContext) -> Iterator[str]:
    """`title` and `text`, one paragraph per line."""
    for record in records:
        paragraphs = [" ".join(line.split()) for line in text_field(record, "text").split("\n") if line.strip()]
        title = str(record.fields.get("title") or "").strip().removeprefix("WNL ")  # a mark of the newsletter
        yield "\n\n".join([title, *paragraphs]).strip()


_QUESTION_LABEL = re.compile(r"\A\s*(?:Q|Question)\s*:\s*", re.I)
_ANSWER_LABEL = re.compile(r"\A\s*(?:A|Answer)\s*:\s*", re.I)


def plain_question(prompt: str) -> str:
    """A prompt without the label `Q:` or `Question:`."""
    return _QUESTION_LABEL.sub("", prompt).strip()


def plain_answer(response: str) -> str:
    """A response without the label `A:` or `Answer:`."""
    return _ANSWER_LABEL.sub("", response).strip()


TEXT_RENDERERS: Mapping[str, TextRenderer] = {
    "text": plain_text,
    "prompt_response": prompt_response,
    "question_answer": question_answer,
    "trivia": trivia,
    "definition": definition,
    "dialogue": dialogue,
    "book": book,
    "storybook": storybook,
    "wikitext": wikitext,
    "article": article,
}
