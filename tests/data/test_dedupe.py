from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from tramontane.data.decontaminate import EvaluationNgrams, read_evaluation_ngrams
from tramontane.data.dedupe import DuplicateIndex, Fingerprint, FingerprintLog, fingerprint, words_of
from tramontane.data.recipe import DecontaminateRecipe, DedupeRecipe

RECIPE = DedupeRecipe()


def text(seed: int, num_words: int = 200) -> list[str]:
    rng = random.Random(seed)
    return [f"w{rng.randrange(5000)}" for _ in range(num_words)]


def test_case_spacing_and_punctuation_do_not_hide_a_duplicate() -> None:
    index = DuplicateIndex()
    assert index.add(fingerprint(words_of("Hello, big world!"), RECIPE), 0) is None
    assert index.add(fingerprint(words_of("hello   BIG\nworld"), RECIPE), 1) == ("exact", 0)
    assert index.add(fingerprint(words_of("hello world big"), RECIPE), 1) is None


def test_near_duplicates_are_found_and_different_texts_are_not() -> None:
    index = DuplicateIndex()
    found = 0
    for seed in range(40):
        words = text(seed)
        assert index.add(fingerprint(words, RECIPE), 2 * seed) is None
        changed = list(words)
        changed[100] = "other"  # 5 of 196 shingles: Jaccard similarity 0.95
        outcome = index.add(fingerprint(changed, RECIPE), 2 * seed + 1)
        found += outcome == ("near", 2 * seed)
    assert found >= 39


def test_half_alike_texts_are_mostly_kept() -> None:
    index = DuplicateIndex()
    kept = 0
    for seed in range(40):
        index.add(fingerprint(text(seed), RECIPE), 0)
        half = text(seed)[:130] + text(seed + 1000)[130:]  # Jaccard similarity about 0.47
        kept += index.add(fingerprint(half, RECIPE), 1) is None
    assert kept >= 32


def test_near_duplicates_can_be_allowed() -> None:
    words = text(1)
    assert len(fingerprint(words, RECIPE, near=False).bands) == 0
    assert fingerprint(words, RECIPE, near=False).exact == fingerprint(words, RECIPE).exact
    assert len(fingerprint(words, DedupeRecipe(near=False)).bands) == 0


def test_a_log_brings_the_index_back_as_far_as_it_was_saved(tmp_path: Path) -> None:
    path = tmp_path / "log"
    prints = [fingerprint(text(seed), RECIPE) for seed in range(3)] + [Fingerprint(7, np.empty(0, np.uint64))]
    with FingerprintLog(path) as log:
        for number, each in enumerate(prints[:2]):
            log.append(number, each)
        size_bytes = log.flush()
        for number, each in enumerate(prints[2:], 2):
            log.append(number, each)
    whole, part = DuplicateIndex(), DuplicateIndex()
    FingerprintLog.replay(path, whole)
    FingerprintLog.replay(path, part, size_bytes)
    assert [whole.add(each, 99) for each in prints] == [("exact", number) for number in range(4)]
    assert [part.add(each, 99) for each in prints] == [("exact", 0), ("exact", 1), None, None]


def evaluation(tmp_path: Path, lines: list[str], **options: int) -> EvaluationNgrams:
    (tmp_path / "eval.jsonl").write_text("\n".join(lines))
    recipe = DecontaminateRecipe(paths=("eval.jsonl",), **options)
    return read_evaluation_ngrams(recipe, tmp_path)


def test_thirteen_words_in_a_row_give_an_item_away(tmp_path: Path) -> None:
    item = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    ngrams = evaluation(tmp_path, [f'{{"question": "{item}", "choices": [["short answer"], {{"label": "x"}}]}}'])
    assert len(ngrams) == 2
    copied = "He said: One, two, three four five six seven EIGHT nine ten eleven; twelve thirteen. The end"
    assert ngrams.first_match(words_of(copied)) == item.removesuffix(" fourteen")
    assert ngrams.first_match(words_of(copied.replace("seven", "7"))) is None
    assert ngrams.first_match(["short"]) is None


def test_fields_are_not_joined_into_ngrams(tmp_path: Path) -> None:
    ngrams = evaluation(
        tmp_path, ['{"a": "one two three four five six seven", "b": "eight nine ten eleven twelve x y"}']
    )
    assert len(ngrams) == 0
    assert ngrams.first_match(words_of("one two three four five six seven eight nine ten eleven twelve x y")) is None


def test_the_wording_of_a_task_is_no_contamination(tmp_path: Path) -> None:
    wording = "the following are multiple choice questions with answers please think step by step about"
    lines = [f'{{"q": "{wording} {subject}"}}' for subject in ("law", "art", "war")]
    assert evaluation(tmp_path, lines, max_items=3).first_match(words_of(wording)) is not None
    assert evaluation(tmp_path, lines, max_items=2).first_match(words_of(wording)) is None


FORMULA = "once upon a time there was a little girl named lucy she loved to play"
MARKED = [
    f"{FORMULA} with {toy}. The {toy} of story number {n} had a name that nobody in the whole wide town knew"
    for n, toy in enumerate(("balls", "dolls", "cars", "kites"))
]


@pytest.mark.parametrize("between", ["\n<|endoftext|>\n", "\n\n", "\n \n\n"])
def test_documents_and_paragraphs_of_a_text_are_items(between: str, tmp_path: Path) -> None:
    (tmp_path / "stories.txt").write_text(between.join(MARKED), "utf-8")

    def match(text: str, max_items: int) -> str | None:
        recipe = DecontaminateRecipe(paths=("stories.txt",), max_items=max_items)
        return read_evaluation_ngrams(recipe, tmp_path).first_match(words_of(text))

    assert match(FORMULA, 3) is None
    assert match(FORMULA, 4) is not None
    for story in MARKED:
        assert match(story, 3) is not None


def test_ngrams_go_on_from_paragraph_to_paragraph_but_not_from_document_to_document(tmp_path: Path) -> None:
    words = "one two three four five six seven\n\neight nine ten\n\neleven twelve thirteen fourteen"
    (tmp_path / "whole.txt").write_text(words, "utf-8")
    (tmp_path / "parts.txt").write_text(words.replace("seven", "seven <|endoftext|>"), "utf-8")
    for name, count in (("whole.txt", 2), ("parts.txt", 0)):
        assert len(read_evaluation_ngrams(DecontaminateRecipe(paths=(name,)), tmp_path)) == count


def test_ngrams_survive_saving(tmp_path: Path) -> None:
    ngrams = evaluation(tmp_path, ['{"q": "a b c d"}'], ngram_len=3)
    ngrams.save(tmp_path / "n.npy")
    assert EvaluationNgrams.load(tmp_path / "n.npy", 3).first_match(words_of("x b c d")) == "b c d"


def test_without_evaluation_files_nothing_matches(tmp_path: Path) -> None:
    assert read_evaluation_ngrams(DecontaminateRecipe(), tmp_path).first_match(text(1)) is None
