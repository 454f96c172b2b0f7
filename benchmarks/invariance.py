"""Decision 8, over and over: random requests in random company, each compared bit for bit with its answer alone.

Every weight format, three window patterns, dense and mixture, on tiny models: what is random and what is compared is
said in tests/engine/trials.py, of which the tests run a few.

    python -m benchmarks.invariance [TRIALS]
"""

from __future__ import annotations

import random
import sys
import time

from tests.engine.trials import MIXTURE, STORED, WINDOWS, Trials, native_model

from benchmarks._results import record
from tramontane.ops import _cpu

TRIALS = 10_000
TOGETHER = 20  # requests in an engine
ENGINES_PER_MODEL = 10


def main() -> None:
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else TRIALS
    started = time.monotonic()
    shapes = [(stored, windows, moe) for stored in STORED for windows in WINDOWS for moe in (None, MIXTURE)]
    random.Random(0).shuffle(shapes)
    runs: list[Trials] = []
    number = 0
    while sum(trials.num_trials for trials in runs) < wanted:
        stored, windows, moe = shapes[number % len(shapes)]
        trials = Trials(native_model(stored, windows, moe), random.Random(number))
        for _ in range(ENGINES_PER_MODEL):
            trials.run(TOGETHER)
        runs.append(trials)
        number += 1
    row = {
        "trials": sum(trials.num_trials for trials in runs),
        "differences": 0,  # the first one ends the run
        "instruction_set": _cpu.instruction_set(),
        "preemptions": sum(trials.num_preemptions for trials in runs),
        "cached_tokens": sum(trials.num_cached_tokens for trials in runs),
        "drafted_tokens": sum(trials.num_drafted_tokens for trials in runs),
        "accepted_tokens": sum(trials.num_accepted_tokens for trials in runs),
        "seconds": time.monotonic() - started,
    }
    record("invariance", [row])


if __name__ == "__main__":
    main()
