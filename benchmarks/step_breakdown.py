"""Where the time of one decoded token goes in a small model: scheduling, arithmetic, drawing, bookkeeping.

python -m benchmarks.step_breakdown [--shape mini-16m] [--format q8_0] [--streams 1] [--tokens 400]
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks._engine import SHORT, EngineSide
from benchmarks._results import record
from tramontane.loading import named_shape, synthesise


class Stopwatch:
    """Adds up the time of calls, those inside one another counted once, for the inner one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._inner: list[float] = []

    def watch(self, owner: Any, method: str, name: str) -> None:
        call = getattr(owner, method)

        def timed(*arguments: Any, **options: Any) -> Any:
            self._inner.append(0.0)
            started = time.perf_counter()
            try:
                return call(*arguments, **options)
            finally:
                passed = time.perf_counter() - started
                self.seconds[name] = self.seconds.get(name, 0.0) + passed - self._inner.pop()
                if self._inner:
                    self._inner[-1] += passed

        replaced: Callable[..., Any] = timed
        setattr(owner, method, replaced)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="mini-16m")
    parser.add_argument("--format", default="q8_0")
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=400)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TRAMONTANE_HOME"] = str(Path(folder) / "home")
        path = Path(folder) / "model"
        config = named_shape(options.shape)
        synthesise(path, config, layout="hf", stored="BF16")
        side = EngineSide(path, options.format)
        rng = random.Random(0)
        prompts = [[rng.randrange(10, config.vocab_size) for _ in range(SHORT)] for _ in range(options.streams)]
        side.decode(prompts, 20)  # warms
        bare_s = side.decode(prompts, options.tokens)
        engine, clock = side.engine, Stopwatch()
        clock.watch(engine, "step", "rest of the step")
        clock.watch(engine.scheduler, "plan", "scheduler")
        clock.watch(engine.runner, "run", "inputs")
        clock.watch(engine.model, "forward", "layers")
        clock.watch(engine.sampler, "sample", "drawing, output projection included")
        clock.watch(engine, "_commit", "bookkeeping")
        watched_s = side.decode(prompts, options.tokens)
    rows = [
        {
            "model": options.shape,
            "format": options.format,
            "streams": options.streams,
            "part": name,
            "microseconds_a_step": 1e6 * seconds / options.tokens,
            "share": seconds / sum(clock.seconds.values()),
        }
        for name, seconds in clock.seconds.items()
    ]
    rows.append(
        {
            "model": options.shape,
            "format": options.format,
            "streams": options.streams,
            "part": "whole, unwatched",
            "microseconds_a_step": 1e6 * bare_s / options.tokens,
            "share": bare_s / watched_s,
        }
    )
    record("step_breakdown", rows)


if __name__ == "__main__":
    main()
