"""IFEval: instructions that a program can check (Zhou et al. 2023, arXiv:2311.07911). The checks are our own.

Each takes the answer and the instruction's arguments. `strict` judges the answer as it is; `loose` also without its
first line, its last line, both, and without asterisks, and is content if any of these passes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tramontane.errors import DataError
from tramontane.evals.item import Item, Question, Scores, Task
from tramontane.evals.sources import Sources

Check = Callable[..., bool]
WORD = re.compile(r"\w+(?:['’]\w+)*")
SENTENCE_END = re.compile(r"[.!?]+[\"')\]]*(?=\s|$)")
ABBREVIATION = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|Prof|St|vs|etc|e\.g|i\.e|[A-Z])\.$")


def compares(count: int, relation: str, wanted: int) -> bool:
    """The two relations of the data set."""
    return count < wanted if relation == "less than" else count >= wanted


def count_words(text: str) -> int:
    return len(WORD.findall(text))


def count_sentences(text: str) -> int:
    """Ends of sentences, and the rest behind the last one; a full stop of an abbreviation ends none."""
    count, begin = 0, 0
    for match in SENTENCE_END.finditer(text):
        if not ABBREVIATION.search(text[begin : match.end()]):
            count, begin = count + 1, match.end()
    return count + bool(WORD.search(text[begin:]))


def keywords_present(text: str, *, keywords: list[str]) -> bool:
    return all(re.search(re.escape(word), text, re.IGNORECASE) for word in keywords)


def keyword_frequency(text: str, *, keyword: str, frequency: int, relation: str) -> bool:
    return compares(len(re.findall(re.escape(keyword), text, re.IGNORECASE)), relation, frequency)


def words_forbidden(text: str, *, forbidden_words: list[str]) -> bool:
    return not any(re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) for word in forbidden_words)


def letter_frequency(text: str, *, letter: str, let_frequency: int, let_relation: str) -> bool:
    return compares(text.lower().count(letter.lower()), let_relation, let_frequency)


def in_language(text: str, *, language: str) -> bool:
    from tramontane.data.language import language_of

    return language_of(text) == language


def number_of_sentences(text: str, *, num_sentences: int, relation: str) -> bool:
    return compares(count_sentences(text), relation, num_sentences)


def number_of_words(text: str, *, num_words: int, relation: str) -> bool:
    return compares(count_words(text), relation, num_words)


def number_of_paragraphs(text: str, *, num_paragraphs: int) -> bool:
    """Separated by ***; an empty one may only stand at either end."""
    parts = re.split(r"\s?\*\*\*\s?", text)
    inner = [part for i, part in enumerate(parts) if part.strip() or 0 < i < len(parts) - 1]
    return len(inner) == num_paragraphs and all(part.strip() for part in inner)


def nth_paragraph_first_word(text: str, *, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """Separated by empty lines."""
    paragraphs = [part.strip() for part in re.split(r"\n\n", text) if part.strip()]
    if len(paragraphs) != num_paragraphs or nth_paragraph > len(paragraphs):
        return False
    words = WORD.findall(paragraphs[nth_paragraph - 1].split()[0])
    return bool(words) and words[0].lower() == first_word.lower()


def placeholders(text: str, *, num_placeholders: int) -> bool:
    return len(re.findall(r"\[.*?\]", text)) >= num_placeholders


def postscript(text: str, *, postscript_marker: str) -> bool:
    marker = postscript_marker.strip()
    pattern = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}.get(marker, re.escape(marker.lower()))
    return re.search(rf"^\s*{pattern}.*$", text.lower(), re.MULTILINE) is not None


def bullet_lists(text: str, *, num_bullets: int) -> bool:
    return len(re.findall(r"(?m)^\s*(?:\*(?!\*)|-).+$", text)) == num_bullets


def constrained_response(text: str) -> bool:
    return any(f"My answer is {word}." in text for word in ("yes", "no", "maybe"))


def highlighted_sections(text: str, *, num_highlights: int) -> bool:
    """*Between asterisks* or **between two of them**."""
    double = re.findall(r"\*\*([^\n*]+)\*\*", text)
    single = re.findall(r"\*([^\n*]+)\*", re.sub(r"\*\*[^\n*]+\*\*", "", text))
    return sum(1 for part in (*double, *single) if part.strip()) >= num_highlights


def multiple_sections(text: str, *, section_spliter: str, num_sections: int) -> bool:
    return len(re.findall(rf"\s?{re.escape(section_spliter.strip())}\s?\d+\s?", text)) >= num_sections


def json_format(text: str) -> bool:
    text = re.sub(r"\A\s*```(?:json|JSON|Json)?|```\s*\Z", "", text.strip()).strip()
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def title(text: str) -> bool:
    return any(found.strip("<> ") for found in re.findall(r"<<[^\n]+>>", text))


def two_responses(text: str) -> bool:
    """Separated by six asterisks, and not the same."""
    parts = text.split("******")
    inner = [part.strip() for i, part in enumerate(parts) if part.strip() or 0 < i < len(parts) - 1]
    return len(inner) == 2 and all(inner) and inner[0] != inner[1]


def repeat_prompt(text: str, *, prompt_to_repeat: str) -> bool:
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


def end_checker(text: str, *, end_phrase: str) -> bool:
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def quotation(text: str) -> bool:
    text = text.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


def capital_word_frequency(text: str, *, capital_frequency: int, capital_relation: str) -> bool:
    return compares(sum(word.isupper() for word in WORD.findall(text)), capital_relation, capital_frequency)


def english_capital(text: str) -> bool:
    return text.isupper() and in_language(text.lower(), language="en")


def english_lowercase(text: str) -> bool:
    return text.islower() and in_language(text, language="en")


def no_comma(text: str) -> bool:
    return "," not in text


CHECKS: dict[str, Check] = {
    "keywords:existence": keywords_present,
    "keywords:frequency": keyword_frequency,
    "keywords:forbidden_words": words_forbidden,
    "keywords:letter_frequency": letter_frequency,
    "language:response_language": in_language,
    "length_constraints:number_sentences": number_of_sentences,
    "length_constraints:number_paragraphs": number_of_paragraphs,
    "length_constraints:number_words": number_of_words,
    "length_constraints:nth_paragraph_first_word": nth_paragraph_first_word,
    "detectable_content:number_placeholders": placeholders,
    "detectable_content:postscript": postscript,
    "detectable_format:number_bullet_lists": bullet_lists,
    "detectable_format:constrained_response": constrained_response,
    "detectable_format:number_highlighted_sections": highlighted_sections,
    "detectable_format:multiple_sections": multiple_sections,
    "detectable_format:json_format": json_format,
    "detectable_format:title": title,
    "combination:two_responses": two_responses,
    "combination:repeat_prompt": repeat_prompt,
    "startend:end_checker": end_checker,
    "startend:quotation": quotation,
    "change_case:capital_word_frequency": capital_word_frequency,
    "change_case:english_capital": english_capital,
    "change_case:english_lowercase": english_lowercase,
    "punctuation:no_comma": no_comma,
}


def follows(text: str, instruction: str, arguments: dict[str, Any]) -> bool:
    """An empty answer follows nothing."""
    return bool(text.strip()) and CHECKS[instruction](text, **arguments)


def loosened(text: str) -> Iterator[str]:
    lines = text.split("\n")
    for kept in (lines, lines[1:], lines[:-1], lines[1:-1]):
        yield "\n".join(kept).strip()
        yield "\n".join(kept).replace("*", "").strip()


def instruction_scores(item: Item, answers: Sequence[str]) -> Scores:
    """Of the instructions of a prompt: whether all are followed, and what share."""
    wanted = item.reference["instructions"]
    strict = [follows(answers[0], name, arguments) for name, arguments in wanted]
    loose = [any(follows(t, name, arguments) for t in loosened(answers[0])) for name, arguments in wanted]
    return {
        "prompt_strict": float(all(strict)),
        "prompt_loose": float(all(loose)),
        "followed_strict": float(sum(strict)),
        "followed_loose": float(sum(loose)),
        "instructions": float(len(wanted)),
    }


def load_ifeval(sources: Sources) -> list[Item]:
    """Arguments that are None are those of other instructions."""
    hub = "hf://datasets/google/IFEval@refs/convert/parquet/default/train/*.parquet"
    items = []
    for _, row in sources.rows("ifeval/ifeval_input_data.jsonl", hub):
        wanted = []
        for name, given in zip(row["instruction_id_list"], row["kwargs"], strict=True):
            if name not in CHECKS:
                raise DataError(f"ifeval: prompt {row['key']} has the instruction {name!r}, which is not known")
            wanted.append((name, {key: _whole(value) for key, value in given.items() if value is not None}))
        work = Question(prompt=row["prompt"], max_tokens=1024, is_chat=True)
        items.append(Item(id=str(row["key"]), work=work, reference={"instructions": wanted}))
    return items


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


IFEVAL = Task(
    name="ifeval",
    settings="as a user's message; greedy, up to 1024 tokens; strict and loose, by prompt and by instruction",
    load=load_ifeval,
    score=instruction_scores,
    headline="prompt_strict",
    kind="generation",
    ratios={
        "instruction_strict": ("followed_strict", "instructions"),
        "instruction_loose": ("followed_loose", "instructions"),
    },
)
