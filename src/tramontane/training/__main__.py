"""`python -m tramontane.training RECIPE.toml`: a run with nothing installed but torch and numpy."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tramontane.errors import TramontaneError


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 2 the user's mistake (one line on stderr), 75 stopped early and can be resumed."""
    parser = argparse.ArgumentParser(prog="python -m tramontane.training", description=__doc__)
    parser.add_argument("recipe", type=Path, help="TOML file of the run")
    parser.add_argument("--resume", action="store_true", help="go on from the run's newest checkpoint, if it has one")
    parser.add_argument("--max-seconds", type=float, help="stop in time to have saved by then")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="changes", help="such as optimizer.lr=0.001"
    )
    options = parser.parse_args(arguments)
    try:
        from tramontane.training.recipe import read_recipe
        from tramontane.training.run import train

        recipe = read_recipe(options.recipe, options.changes)
        result = train(recipe, resume=options.resume, max_seconds=options.max_seconds)
    except TramontaneError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if result.stopped_by is not None:
        print(f"stopped by {result.stopped_by} after step {result.step}; --resume goes on", file=sys.stderr)
        return 75
    if result.was_finished:
        print(f"{result.run}: already finished, after step {result.step}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
