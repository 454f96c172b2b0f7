"""What a grammar leaves no choice about is computed together: fewer steps, the same answer."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from tramontane import LLM, SamplingParams
from tramontane.engine.speculation import StepCosts
from tramontane.server.structured.compiler import GrammarCompiler
from tramontane.server.structured.schema_text import schema_text

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "temperature_is_known": {"type": "boolean"},
        "direction_of_the_wind": {"enum": ["north", "south"]},
    },
    "required": ["temperature_is_known", "direction_of_the_wind"],
    "additionalProperties": False,
}


class FreeRows(StepCosts):
    def per_row(self, num_rows: int) -> float:
        return 0.0


def test_the_keys_of_an_object_are_not_drawn_one_by_one(checkpoints: dict[str, Path]) -> None:
    llm = LLM(str(checkpoints["chat"]), kv_cache_gib=0.01)
    compiler = GrammarCompiler(llm.tokenizer, llm.engine.model.config.vocab_size)
    grammar = f"start: content\ncontent: %json {schema_text(SCHEMA, strict=True, place='schema')}"
    lookup = llm.engine.lookup
    assert lookup is not None
    lookup.costs = FreeRows()
    answers: list[Any] = []
    num_steps = []
    for forced in (None, lookup.forced_token_ids):
        lookup.forced_token_ids = forced
        before = llm.engine.stats().num_steps
        processor = asyncio.run(compiler.compile(grammar))
        params = SamplingParams(max_tokens=100, temperature=1.0, seed=3, logits_processors=(processor,), n=2)
        answers.append([choice.token_ids for choice in llm.generate("Tell me", params)[0].choices])
        num_steps.append(llm.engine.stats().num_steps - before)
    assert answers[0] == answers[1]
    assert set(json.loads(llm.tokenizer.decode(answers[0][0]))) == set(SCHEMA["required"])
    assert num_steps[1] < num_steps[0] / 2
