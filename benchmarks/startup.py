"""Time until the command line answers: `import tramontane`, `tramontane --help` and the help of every verb.

python -m benchmarks.startup
"""

from __future__ import annotations

import subprocess
import sys
import time

from benchmarks._results import record, spread
from tramontane.cli.main import VERBS

REPEATS = 9
CASES = {
    "python": ["-c", "pass"],  # the interpreter alone, for comparison
    "import": ["-c", "import tramontane"],
    "help": ["-m", "tramontane.cli", "--help"],
    **{f"{verb} --help": ["-m", "tramontane.cli", verb, "--help"] for verb in VERBS},
}


def seconds(arguments: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    times: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(REPEATS):  # in turns, so that a shared machine's drift meets all of them
        for name, arguments in CASES.items():
            times[name].append(seconds(arguments))
    record("startup", [{"case": name, "seconds": spread(values)} for name, values in times.items()])


if __name__ == "__main__":
    main()
