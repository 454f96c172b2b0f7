"""`tramontane plan`: which model to train on a budget or a data set, and what it costs, before anything is paid."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tramontane.cli.options import Json, given_options, refuse_options
from tramontane.cli.terminal import amount, print_json, printable
from tramontane.errors import ConfigError

if TYPE_CHECKING:
    from tramontane.training.plan import Machine, Run

MEASURED_PARAMETERS = 20e6  # a larger model is taken to reach the same share of the machine's peak


def plan(
    context: typer.Context,
    *,
    hours: Annotated[float | None, typer.Option(help="Budget in hours of the machine.")] = None,
    budget: Annotated[float | None, typer.Option(help="Budget in money; needs --price-per-hour.")] = None,
    tokens: Annotated[float | None, typer.Option(help="Instead: a data set of this many tokens.")] = None,
    data: Annotated[
        list[Path] | None, typer.Option(help="Instead: the train/ folder of a built set (may be repeated).")
    ] = None,
    epochs: Annotated[float, typer.Option(help="How often --tokens or --data are seen.")] = 1.0,
    vocab_size: Annotated[int, typer.Option(help="Tokens of the vocabulary, where --data does not say.")] = 8192,
    document_len: Annotated[int, typer.Option(help="Length of documents in tokens.")] = 2048,
    microbatch_len: Annotated[int, typer.Option(help="Tokens that run through the model at once.")] = 8192,
    device: Annotated[str, typer.Option(help="Measure auto, cpu, cuda or cuda:N.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads (default: TRAMONTANE_THREADS, else all).")] = None,
    tflops: Annotated[
        float | None,
        typer.Option(help="Plan for another machine, which reaches this in training."),
    ] = None,
    watts: Annotated[float | None, typer.Option(help="What the machine draws while it trains.")] = None,
    price_per_hour: Annotated[float | None, typer.Option(help="What an hour of the machine costs.")] = None,
    as_json: Json = False,
) -> None:
    """Plan a pretraining run.

    From a budget or a data set: the model that sees about 20 tokens for each of its weights (the rule of Chinchilla,
    which spends a budget best), beside smaller ones, which see more and are cheaper to use. A rule of thumb: no loss is
    predicted. The machine's speed is measured with a few updates of a small model.
    """
    from tramontane.training import plan as planning

    wanted = {"--hours": hours, "--budget": budget, "--tokens": tokens, "--data": data or None}
    given = [name for name, value in wanted.items() if value is not None]
    if len(given) != 1:
        raise ConfigError(f"give one of {', '.join(wanted)}" + (f", not {' and '.join(given)}" if given else ""))
    flags = given_options(context)
    if hours is not None or budget is not None:
        refuse_options(flags, {"--epochs"}, "on a budget of time or money; name the data")
    if data:
        refuse_options(flags, {"--vocab-size"}, "beside --data, which says it")
    if tflops is not None:
        refuse_options(flags, {"--device", "--threads"}, "beside --tflops, where nothing is measured")
    if budget is not None and price_per_hour is None:
        raise ConfigError("--budget needs --price-per-hour, what an hour of the machine costs")
    planning.require_positive(
        hours=hours,
        budget=budget,
        tokens=tokens,
        epochs=epochs,
        tflops=tflops,
        watts=watts,
        price_per_hour=price_per_hour,
        document_len=document_len,
        microbatch_len=microbatch_len,
    )
    if data:
        from tramontane.data.shards import ShardSet

        shards = ShardSet(data)
        vocab_size, tokens = shards.vocab_size, sum(each.info.num_token_ids for each in shards.sources.values())
    facts, flops_per_s = (
        ({"flops_per_s": tflops * 1e12}, tflops * 1e12) if tflops is not None else measured(device, threads, vocab_size)
    )
    machine = planning.Machine(flops_per_s, watts, price_per_hour)
    lens = {"document_len": document_len, "microbatch_len": microbatch_len}
    if tokens is not None:
        runs = planning.plan_tokens(tokens * epochs, machine, vocab_size=vocab_size, **lens)
    else:
        seconds = 3600 * (hours if hours is not None else (budget or 0) / (price_per_hour or 1))
        runs = planning.plan_budget(seconds * flops_per_s, machine, vocab_size=vocab_size, **lens)
    notes = epoch_notes(epochs)
    if as_json:
        print_json(
            {
                "machine": facts,
                "runs": [run_facts(run) for run in runs],
                "notes": notes,
            }
        )
    else:
        print(printable("\n".join(page(facts, machine, runs, notes))))


def measured(device: str, threads: int | None, vocab_size: int) -> tuple[dict[str, float], float]:
    """What this machine reaches, as facts to show and as FLOP/s."""
    from tramontane.runtime import resolve_device, set_threads
    from tramontane.training.plan import shape_of_size
    from tramontane.training.throughput import measure_throughput

    set_threads(threads)
    config = shape_of_size(MEASURED_PARAMETERS, vocab_size).config(vocab_size)
    found = measure_throughput(config, resolve_device(device))
    facts = {
        "measured_parameters": config.num_parameters(),
        "measured_tokens_per_s": found.tokens_per_s,
        "flops_per_s": found.flops_per_s,
        "matmul_flops_per_s": found.matmul_flops_per_s,
        "share_of_peak": found.share_of_peak,
    }
    return facts, found.flops_per_s


def epoch_notes(epochs: float) -> list[str]:
    from tramontane.training.plan import USEFUL_EPOCHS

    if epochs <= USEFUL_EPOCHS:
        return []
    return [f"{epochs:g} epochs: beyond {USEFUL_EPOCHS}, text seen again is worth less than new text"]


def run_facts(run: Run) -> dict[str, Any]:
    shape = ("dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "hidden_dim")
    return {
        "model": {name: getattr(run.model, name) for name in shape},
        "num_parameters": run.num_parameters,
        "num_tokens": run.num_tokens,
        "tokens_per_parameter": run.tokens_per_weight,
        "seconds": run.seconds,
        "memory_bytes": run.memory_bytes,
        "inference_flops_per_token": run.inference_flops,
        "energy_kwh": run.energy_kwh,
        "price": run.price,
    }


def page(facts: dict[str, float], machine: Machine, runs: list[Run], notes: list[str]) -> list[str]:
    """The plan for people."""
    from tramontane.training.plan import TOKENS_PER_WEIGHT

    reached = f"{amount(facts['flops_per_s'], 'FLOP')}/s in training"
    if "share_of_peak" in facts:
        reached += f", {facts['share_of_peak']:.0%} of its matrix products "
        reached += (
            f"({facts['measured_tokens_per_s']:,.0f} tokens/s with {amount(facts['measured_parameters'])} weights)"
        )
    first = runs[0]
    shape = (
        f"dim = {first.model.dim}, n_layers = {first.model.n_layers}, n_heads = {first.model.n_heads}, "
        f"n_kv_heads = {first.model.n_kv_heads}, hidden_dim = {first.model.hidden_dim}"
    )
    lines = [
        f"machine: {reached}",
        "",
        f"The first comes nearest to {TOKENS_PER_WEIGHT} tokens a weight; the others are smaller, for the same tokens "
        "or time. A rule of thumb: what they reach depends on the text.",
    ]
    lines += table(runs, machine)
    lines += ["", f"Shape of the first, for a recipe's [model]: {shape}"]
    return [*lines, *(f"note: {note}" for note in notes)]


def table(runs: list[Run], machine: Machine) -> list[str]:
    head = f"{'weights':>10}{'tokens':>10}{'per weight':>12}{'hours':>14}{'memory':>11}"
    head += f"{'kWh':>10}" if machine.watts is not None else ""
    head += f"{'price':>10}" if machine.price_per_hour is not None else ""
    lines = [head]
    for run in runs:
        line = (
            f"{amount(run.num_parameters):>10}{amount(run.num_tokens):>10}{run.tokens_per_weight:>12,.0f}"
            f"{run.seconds / 3600:>14,.2f}{amount(run.memory_bytes, 'B'):>11}"
        )
        line += f"{run.energy_kwh:>10,.2f}" if run.energy_kwh is not None else ""
        line += f"{run.price:>10,.2f}" if run.price is not None else ""
        lines.append(line)
    return lines
