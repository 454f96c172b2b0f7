"""What a grammar costs per token: compiled, and then each step's mask made and applied, for vocabularies of all sizes.

python -m benchmarks.structured_cost
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import numpy as np
import torch
from tests.server.test_structured import SCHEMAS
from tests.tokenizer.vocabularies import ours

from benchmarks._results import record, spread
from tramontane.server.structured.compiler import GrammarCompiler
from tramontane.server.structured.schema_text import schema_text

VOCABULARIES = ("v7-small", "v3", "v3-tekken")
ANSWERS = 30
MAX_TOKENS = 200


def measure(vocabulary: str, name: str) -> dict[str, Any]:
    """Random answers within the grammar: every allowed token is as likely as any other."""
    tokenizer = ours(vocabulary)
    compiler = GrammarCompiler(tokenizer, tokenizer.vocab_size)
    asyncio.run(compiler.compile("start: /a/"))  # the vocabulary is read once
    grammar = f"%llguidance {{}}\nstart: %json {schema_text(SCHEMAS[name], strict=True, place='')}"
    started = time.perf_counter()
    prototype = asyncio.run(compiler.compile(grammar))
    compile_s = time.perf_counter() - started
    draw = np.random.default_rng(0)
    zeros = torch.zeros(tokenizer.vocab_size)
    first: list[float] = []
    later: list[float] = []
    for _ in range(ANSWERS):
        processor = prototype.clone()
        token_ids: list[int] = []
        while len(token_ids) < MAX_TOKENS and (not token_ids or token_ids[-1] not in tokenizer.stop_ids):
            scores = zeros.clone()
            started = time.perf_counter()
            processor(token_ids, scores)
            (later if token_ids else first).append((time.perf_counter() - started) * 1e6)
            token_ids.append(int(draw.choice(np.flatnonzero(scores.numpy() == 0))))
    return {
        "vocab_size": tokenizer.vocab_size,
        "schema": name,
        "compile_ms": compile_s * 1e3,
        "first_token_us": spread(first),
        "token_us": spread(later),
        "slowest_token_us": max(later),
    }


def main() -> None:
    record("structured_cost", [measure(vocabulary, name) for vocabulary in VOCABULARIES for name in SCHEMAS])


if __name__ == "__main__":
    main()
