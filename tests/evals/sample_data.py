"""Tiny data sets of our own in the shape of the published ones, as a folder of evaluation data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HELLASWAG = [
    {"ctx": "Baking bread: A woman puts flour into a bowl. she", "label": 1,
     "endings": ["flies over the bowl.", "adds water and stirs.", "paints the flour [substeps] blue.", "sings."]},
    {"ctx": "Rowing: Two men sit in a boat [title] they", "label": 0,
     "endings": ["pull the oars together.", "eat the boat.", "read the water a book about stones.", "vanish."]},
    {"ctx": "Gardening: A boy digs a hole. the boy", "label": 3,
     "endings": ["becomes a tree.", "wears the hole as a hat.", "calls the hole.", "puts a seed into the hole."]},
    {"ctx": "Painting a wall: A man opens a can. he", "label": 2,
     "endings": ["drinks the wall.", "closes his eyes for years.", "dips a brush into the paint.", "buys the sea."]},
]  # fmt: skip
ARC_EASY = [
    {"query": "Question: Which of these gives light?", "choices": ["the Sun", "the Moon", "a stone"], "gold": 0},
    {"query": "Question: What do plants need to grow?", "choices": ["plastic", "water and light", "music"], "gold": 1},
    {"query": "Question: What is ice made of?", "choices": ["frozen water", "salt", "sand", "glass"], "gold": 0},
]  # fmt: skip
PIQA = [
    {"query": "Question: How do I dry a wet shirt?\n", "gold": 0,
     "choices": ["Hang it on a line in the sun.", "Put it into a bucket of water."]},
    {"query": "Question: To cut paper\n", "gold": 1, "choices": ["use a spoon", "use a pair of scissors"]},
]  # fmt: skip
LAMBADA = [
    {"context": "The cat looked at the dog. The dog looked back at the", "continuation": "cat"},
    {"context": "\"Is it raining?\" asked Ann. \"Yes,\" said Tom, \"I can hear the", "continuation": "rain"},
]  # fmt: skip
BLIMP = {
    "anaphor_agreement": [
        ("Anna saw herself.", "Anna saw himself."), ("The boys helped themselves.", "The boys helped himself."),
    ],
    "quantifiers": [("There was a dog barking.", "There was each dog barking.")],
}  # fmt: skip
GSM8K = [
    {
        "question": f"Tom has {n} apples and gets {n} more. How many has he?",
        "answer": f"{n}+{n}=<<{n}+{n}={2 * n}>>{2 * n}\n#### {2 * n}",
    }
    for n in range(1, 11)
]
TRIVIAQA = [
    {
        "context": f"Question: What is the {word} letter of our alphabet?\nAnswer:",
        "answer": letter,
        "aliases": [letter, f"letter {letter}"],
    }
    for word, letter in zip(("first", "second", "third", "fourth", "fifth", "sixth", "seventh"), "ABCDEFG", strict=True)
]


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def write_sample_data(folder: Path) -> Path:
    """Everything above at its place below `folder`, which is returned."""
    gauntlet = folder / "llm_foundry_gauntlet"
    write_rows(folder / "hellaswag" / "hellaswag_val.jsonl", HELLASWAG)
    write_rows(gauntlet / "world_knowledge" / "arc_easy.jsonl", ARC_EASY)
    write_rows(gauntlet / "commonsense_reasoning" / "piqa.jsonl", PIQA)
    write_rows(gauntlet / "language_understanding" / "lambada_openai.jsonl", LAMBADA)
    for phenomenon, pairs in BLIMP.items():
        rows = [{"sentence_good": good, "sentence_bad": bad, "UID": phenomenon} for good, bad in pairs]
        write_rows(folder / "blimp_filtered" / f"{phenomenon}.json", rows)
    write_rows(folder / "gsm8k" / "train.jsonl", GSM8K[:8])
    write_rows(folder / "gsm8k" / "test.jsonl", GSM8K[8:])
    write_rows(gauntlet / "world_knowledge" / "triviaqa_sm_sub.jsonl", TRIVIAQA)
    return folder
