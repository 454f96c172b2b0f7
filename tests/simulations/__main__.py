"""Run simulations over many seeds, on all cores; each failure with the command that shows it again.

python -m tests.simulations [NAME]... [--seeds COUNT] [--first 0]
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time

from tests.simulations.trial import NUM_SEEDS, SIMULATIONS, failure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*SIMULATIONS, []], metavar="NAME", help=", ".join(SIMULATIONS))
    parser.add_argument(
        "--seeds", type=int, help="default: " + ", ".join(f"{n} of {name}" for name, n in NUM_SEEDS.items())
    )
    parser.add_argument("--first", type=int, default=0)
    wanted = parser.parse_args()
    num_failed = 0
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        for name in wanted.names or SIMULATIONS:
            began = time.monotonic()
            seeds = range(wanted.first, wanted.first + (wanted.seeds or NUM_SEEDS[name]))
            failures = [each for each in pool.starmap(failure, [(name, seed) for seed in seeds], 50) if each]
            for each in failures[:3]:
                print(each)
            print(f"{name}: {len(seeds)} seeds in {time.monotonic() - began:.0f} s, {len(failures)} failed", flush=True)
            num_failed += len(failures)
    raise SystemExit(min(num_failed, 1))


if __name__ == "__main__":
    main()
