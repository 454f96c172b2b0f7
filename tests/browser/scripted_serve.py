"""Run as a program: `tramontane serve` over models whose answers can be told what to say.

Everything is real down to the engine; a logits processor leaves it no choice of token where the prompt asks for a
given text. `say: TEXT` is answered with TEXT, `count` with numbers, slowly; anything else as the weights have it.
"""

from __future__ import annotations

import dataclasses
import re
import sys
import time
from collections.abc import Sequence

import torch

from tramontane.cli import main as command
from tramontane.engine.request import Meter
from tramontane.engine.sampling import SamplingParams
from tramontane.llm import AsyncLLM
from tramontane.llm.async_llm import Stream
from tramontane.llm.prompt import Prompt
from tramontane.server import load

COUNT_PAUSE_S = 0.02  # per token: time enough for a test to press stop


class Dictated:
    """A logits processor that leaves one token at each place: those of `token_ids`, then the end."""

    def __init__(self, token_ids: Sequence[int], end_id: int, pause_s: float) -> None:
        self.token_ids = [*token_ids, end_id]
        self.pause_s = pause_s

    def __call__(self, generated: Sequence[int], logits: torch.Tensor) -> torch.Tensor:
        time.sleep(self.pause_s)
        only = torch.full_like(logits, float("-inf"))
        only[self.token_ids[min(len(generated), len(self.token_ids) - 1)]] = 0.0
        return only


class ScriptedLLM(AsyncLLM):
    async def start(
        self,
        prompt: Prompt,
        sampling: SamplingParams,
        *,
        priority: int = 0,
        owner: str = "",
        salt: str | None = None,
        adapter: str | None = None,
        meter: Meter | None = None,
    ) -> Stream:
        whole = self.tokenizer.decode(prompt.token_ids, keep_control=True)
        asked, _, begun = (part.strip() for part in whole.rpartition("[INST]")[2].partition("[/INST]"))
        said = re.search(r"say: (.*)", asked, re.S)
        if prompt.is_chat and (said or asked.endswith("count")):
            text = said[1] if said else " ".join(str(i) for i in range(300))
            token_ids = self.tokenizer.encode(text.removeprefix(begun))
            dictated = Dictated(token_ids, self.tokenizer.eos_id, 0.0 if said else COUNT_PAUSE_S)
            sampling = dataclasses.replace(sampling, logits_processors=(dictated,))
        return await super().start(
            prompt, sampling, priority=priority, owner=owner, salt=salt, adapter=adapter, meter=meter
        )


if __name__ == "__main__":
    setattr(load, "AsyncLLM", ScriptedLLM)  # noqa: B010 - an assignment would be typed against the class
    sys.exit(command.run(sys.argv[1:]))
