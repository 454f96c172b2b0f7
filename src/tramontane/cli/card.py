"""`tramontane card`: the model card of a training run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tramontane import durable
from tramontane.cli.options import Json
from tramontane.cli.terminal import print_json, printable


def card(
    run: Annotated[Path, typer.Argument(help="Folder of a pretraining or fine-tuning run.")],
    *,
    out: Annotated[Path | None, typer.Option(help="File to write (default: RUN/model/README.md).")] = None,
    results: Annotated[
        list[Path] | None, typer.Option(help="results.json of `tramontane eval` (may be repeated).")
    ] = None,
    watts: Annotated[float | None, typer.Option(help="What the machine drew, for the energy of the run.")] = None,
    price_per_hour: Annotated[float | None, typer.Option(help="What an hour of the machine cost.")] = None,
    as_json: Json = False,
) -> None:
    """Write a run's model card: data and licences, cost, results, limits, seed.

    Everything comes from the run's own recipe.toml, metrics.jsonl and the manifests of its data; what was not recorded
    is said to be so.
    """
    from tramontane.training.card import card as written
    from tramontane.training.card import card_facts
    from tramontane.training.plan import require_positive

    require_positive(watts=watts, price_per_hour=price_per_hour)
    facts = card_facts(run, results=results or (), watts=watts, price_per_hour=price_per_hour)
    if as_json:
        print_json(facts)
        return
    path = out or run / "model" / "README.md"
    durable.make_folder(path.parent)
    durable.write(path, written(facts))
    print(printable(f"{path}: {len(facts['data'])} sources, {facts['training']['hours']:.2f} hours"))
