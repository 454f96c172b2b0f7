"""BLiMP in full, every minimal pair of every phenomenon, for a model and its formats.

    python -m benchmarks.blimp MODEL --data DATA --out OUT [--formats f32,q8_0]

DATA holds the evaluation sets. Every format is an evaluation of its own under OUT, resumed where it was cut short.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from benchmarks._results import record
from benchmarks.default_model import measure, rows
from tramontane.evals.target import EngineTarget
from tramontane.evals.tasks import tasks_named
from tramontane.llm import LLM


def main() -> None:
    if len(sys.argv) == 1:  # as `make bench` calls it
        print(__doc__)
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--formats", default="f32,q8_0")
    parser.set_defaults(limit=None)
    arguments = parser.parse_args()
    measured: list[dict[str, Any]] = []
    for weight_format in arguments.formats.split(","):
        target = EngineTarget(LLM(arguments.model, weight_format=weight_format), arguments.model)
        results = measure(target, tasks_named(["blimp"]), arguments, weight_format)
        measured += rows(arguments.model, weight_format, results)
    record("blimp", measured)


if __name__ == "__main__":
    main()
