"""What a token costs far into a text: bits of the same tokens at their place, up to 32,000, and near a beginning.

A text is read once as a whole, and again in parts of PART_LEN tokens, each with the CONTEXT_LEN tokens before it and
anew from position 0, which is within the length the default model was trained on. Its windows see about as far in
practice, so both times a token is told by the same words, and only its position differs. A model whose positions do not
reach as far as its configuration says gives more bits at the place than alone.

    python -m benchmarks.long_positions MODEL TEXT
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks._results import record
from tramontane import LLM

PART_LEN = 1000
CONTEXT_LEN = 1000
BANDS = (1000, 4000, 8000, 13000, 20000, 32000)


def bits(scores: Sequence[float | None]) -> list[float]:
    """Of all tokens but the first, which nothing tells."""
    return [-score / math.log(2) for score in scores if score is not None]


def measure(model: str, path: Path) -> list[dict[str, Any]]:
    llm = LLM(model)
    end = min(llm.max_seq_len, BANDS[-1]) // PART_LEN * PART_LEN
    token_ids = llm.tokenizer.encode(path.read_text("utf-8"), bos=True)[:end]
    at_place = bits(llm.score(token_ids))
    rows: list[dict[str, Any]] = []
    for low, high in itertools.pairwise(BANDS):
        starts = range(low, min(high, len(token_ids) - PART_LEN + 1), PART_LEN)
        if not starts:
            break
        here = [value for start in starts for value in at_place[start - 1 : start - 1 + PART_LEN]]
        there = [
            value
            for start in starts
            for value in bits(llm.score(token_ids[start - CONTEXT_LEN : start + PART_LEN]))[-PART_LEN:]
        ]
        row: dict[str, Any] = {
            "model": model,
            "text": path.name,
            "positions": f"{low} to {starts[-1] + PART_LEN}",
            "tokens": len(here),
        }
        row |= {"bits_at_place": sum(here) / len(here), "bits_alone": sum(there) / len(there)}
        rows.append(row | {"difference": row["bits_at_place"] / row["bits_alone"] - 1})
    return rows


def main() -> None:
    if len(sys.argv) == 1:  # as `make bench` calls it
        print(__doc__)
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("text", type=Path)
    options = parser.parse_args()
    record("long_positions", measure(options.model, options.text))


if __name__ == "__main__":
    main()
