"""The model card of a run: what it learned from, what it cost, how well it does and where it will fail, gathered from
the run's own files and written as Markdown with the front matter that model hubs read."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tramontane
from tramontane.config import ModelConfig
from tramontane.data.loader import scale_phases
from tramontane.data.shards import Manifest, ShardSet
from tramontane.errors import DataError
from tramontane.loading import open_checkpoint
from tramontane.training.metrics import loss_unit, read_rows
from tramontane.training.plan import TOKENS_PER_WEIGHT, USEFUL_EPOCHS
from tramontane.training.recipe import Recipe, read_recipe
from tramontane.training.streams import plan_stream, takes_samples

UNKNOWN = "not recorded"


def card_facts(
    run: Path, *, results: Sequence[Path] = (), watts: float | None = None, price_per_hour: float | None = None
) -> dict[str, Any]:
    """Everything the card says, as JSON. `results` are files of `tramontane eval`.

    Raises DataError for a folder that is no run, data that is gone, or a file that holds no results.
    """
    recipe = read_recipe(run / "recipe.toml")
    rows = read_rows(run / "metrics.jsonl")
    updates = [row for row in rows if row["kind"] == "train"]
    if not updates:
        raise DataError(f"{run / 'metrics.jsonl'} holds no training yet; a card describes a run that has begun")
    shards = ShardSet([Path(folder) for folder in recipe.data.train])
    manifests = shards.manifests
    config = _config(recipe, manifests)
    hours = _hours(updates)
    num_tokens = int(updates[-1]["tokens"])
    sources = _sources(shards, _epochs(recipe, shards, num_tokens))
    return {
        "name": run.resolve().name,
        "version": tramontane.__version__,
        "base": recipe.model.checkpoint or recipe.model.grown_from,
        "adapter": recipe.model.adapter,
        "method": "LoRA adapter" if recipe.lora is not None else "all weights",
        "task": recipe.task.kind if recipe.task.kind != "preference" else recipe.task.loss,
        "model": _model_facts(config),
        "data": sources,
        "training": {
            "steps": int(updates[-1]["step"]),
            "num_steps": recipe.schedule.num_steps,
            "tokens": num_tokens,
            "final_loss": updates[-1]["loss"],
            "loss_unit": loss_unit(dataclasses.asdict(recipe.task)),
            "skipped_updates": int(updates[-1].get("num_skipped", 0)),
            "hours": hours,
            "share_of_peak": _share_of_peak(updates),
            "machine": next((str(row["text"]) for row in rows if row["kind"] == "event"), UNKNOWN),
            "kwh": None if watts is None else watts * hours / 1000,
            "price": None if price_per_hour is None else price_per_hour * hours,
        },
        "held_out": _held_out(rows),
        "evaluations": [entry for path in results for entry in _evaluation(path)],
        "seed": recipe.seed,
        "tokenizer_sha256": manifests[0].tokenizer_sha256,
        "limits": _limits(recipe, config, manifests, sources, num_tokens, has_results=bool(results)),
        "recipe": (run / "recipe.toml").read_text("utf-8"),
    }


def card(facts: Mapping[str, Any]) -> str:
    """The card as Markdown."""
    model, training = facts["model"], facts["training"]
    licences = sorted({each["licence"] for each in facts["data"] if each["licence"]})
    lines = ["---", "library_name: tramontane", "pipeline_tag: text-generation"]
    lines += [f"base_model: {json.dumps(facts['base'])}"] if facts["base"] else []
    lines += ["---", "", f"# {facts['name']}", ""]
    lines += [
        f"A language model of {model['num_parameters']:,} weights ({model['n_layers']} layers, dimension "
        f"{model['dim']}, vocabulary {model['vocab_size']:,}) for up to {model['max_seq_len']:,} tokens, made with "
        f"Tramontane {facts['version']}.",
        "",
    ]
    if facts["base"]:
        with_adapter = f" with the adapter `{facts['adapter']}`" if facts["adapter"] else ""
        lines += [
            f"It starts from `{facts['base']}`{with_adapter}; trained were: {facts['method']}, on the task "
            f"{facts['task']}.",
            "",
        ]
    lines += ["## Data", "", "| source | tokens | epochs | where it is from | licence |", "|---|--:|--:|---|---|"]
    lines += [
        f"| {_cell(each['name'])} | {each['num_tokens']:,} | {each['epochs']:.2g} | "
        f"{_cell(each['provenance'] or UNKNOWN)} | {_cell(each['licence'] or UNKNOWN)} |"
        for each in facts["data"]
    ]
    share = training["share_of_peak"]
    at_share = "" if share is None else f", at {share:.0%} of the machine's matrix products"
    lines += ["", f"Licences of the data: {'; '.join(licences) or UNKNOWN}.", "", "## Training", ""]
    lines += [
        f"- {training['steps']:,} of {training['num_steps']:,} updates, {training['tokens']:,} tokens",
        f"- {training['hours']:.2f} hours of updates (evaluation and saving not counted){at_share}",
        f"- machine: {training['machine']}",
        f"- energy: {UNKNOWN if training['kwh'] is None else format(training['kwh'], '.3f') + ' kWh'}",
        *([] if training["price"] is None else [f"- price: {training['price']:.2f}"]),
        f"- loss at the end: {training['final_loss']:.4f} {training['loss_unit']}",
        *([f"- {training['skipped_updates']} updates were skipped"] if training["skipped_updates"] else []),
        "",
        "## Results",
        "",
    ]
    if facts["held_out"]:
        lines += ["Held-out text of the data:", "", "| source | loss | accuracy | bits per byte |", "|---|--:|--:|--:|"]
        lines += [
            f"| {_cell(each['source'])} | {each['loss']:.4f} | {each['accuracy']:.3f} | "
            f"{'' if each['bits_per_byte'] is None else format(each['bits_per_byte'], '.4f')} |"
            for each in facts["held_out"]
        ]
        lines.append("")
    if facts["evaluations"]:
        lines += ["| task | metric | value | 95 % interval | items |", "|---|---|--:|---|--:|"]
        lines += [
            f"| {_cell(each['task'])} | {_cell(each['metric'])} | {each['value']:.4f} | {each['low']:.4f} to "
            f"{each['high']:.4f} | {each['num_items']:,} |"
            for each in facts["evaluations"]
        ]
        lines.append("")
    lines += ["## Limits", "", *(f"- {each}" for each in facts["limits"]), "", "## Made again", ""]
    lines += [
        f"Seed {facts['seed']}; tokenizer sha256 `{facts['tokenizer_sha256']}`. The whole recipe:",
        "",
        "```toml",
        facts["recipe"].rstrip(),
        "```",
        "",
    ]
    return "\n".join(lines)


def _config(recipe: Recipe, manifests: Sequence[Manifest]) -> ModelConfig:
    if recipe.model.checkpoint is None:
        return recipe.model.config(manifests[0].vocab_size)
    return open_checkpoint(Path(recipe.model.checkpoint)).config


def _model_facts(config: ModelConfig) -> dict[str, Any]:
    return {
        "num_parameters": config.num_parameters(),
        "n_layers": config.n_layers,
        "dim": config.dim,
        "vocab_size": config.vocab_size,
        "max_seq_len": config.max_seq_len,
    }


def _epochs(recipe: Recipe, shards: ShardSet, num_tokens: int) -> dict[str, float]:
    """How often each source was read by the time that `num_tokens` had gone by, phase after phase."""
    if takes_samples(recipe, shards):
        data_len = sum(source.epoch_len for source in shards.sources.values())
        return dict.fromkeys(shards.sources, num_tokens / data_len)
    planned = plan_stream(recipe, shards).num_token_ids
    epochs = dict.fromkeys(shards.sources, 0.0)
    left = float(num_tokens)
    for phase in scale_phases(recipe.data.phases or shards.phases, shards, max(planned, num_tokens)):
        length = sum(each * shards.sources[name].info.num_token_ids for name, each in phase.epochs.items())
        share = min(1.0, left / length) if length else 0.0
        left -= share * length
        for name, each in phase.epochs.items():
            epochs[name] += each * share
    return epochs


def _sources(shards: ShardSet, epochs: Mapping[str, float]) -> list[dict[str, Any]]:
    """Those that were read."""
    return [
        {
            "name": name,
            "num_tokens": source.info.num_token_ids,
            "epochs": epochs[name],
            "provenance": source.info.provenance,
            "licence": source.info.licence,
        }
        for name, source in shards.sources.items()
        if epochs[name]
    ]


def _hours(updates: Sequence[Mapping[str, Any]]) -> float:
    """Time of the updates: each row says how many tokens a second went by since the one before."""
    seconds, before = 0.0, 0
    for row in updates:
        seconds += (row["tokens"] - before) / row["tokens_per_second"]
        before = row["tokens"]
    return seconds / 3600


def _held_out(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The last measurement of each source."""
    newest = {row["source"]: row for row in rows if row["kind"] == "held_out" and row["loss"] is not None}
    keys = ("source", "loss", "accuracy", "bits_per_byte")
    return [{key: row[key] for key in keys} for row in newest.values()]


def _evaluation(path: Path) -> list[dict[str, Any]]:
    try:
        document = json.loads(path.read_text("utf-8"))
        return [
            {"task": task, "metric": metric, **{key: each[key] for key in ("value", "low", "high", "num_items")}}
            for task, summary in document["results"].items()
            for metric, each in summary["metrics"].items()
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: holds no results of tramontane eval ({type(error).__name__}: {error})") from None


def _limits(
    recipe: Recipe,
    config: ModelConfig,
    manifests: Sequence[Manifest],
    sources: Sequence[Mapping[str, Any]],
    num_tokens: int,
    *,
    has_results: bool,
) -> list[str]:
    """What follows from how it was made; nothing is claimed that was not measured."""
    limits = ["What it says is likely, not checked: names, numbers and facts may be made up."]
    is_chat = any(manifest.kind == "chat" for manifest in manifests)
    if recipe.model.checkpoint is None:
        limits.append("It knows only the sources above, and languages other than theirs hardly at all.")
        if not is_chat:
            limits.append("It continues text; it was not taught to answer or to follow instructions.")
        each = num_tokens / config.num_parameters()
        if each < TOKENS_PER_WEIGHT / 2:
            limits.append(f"It is large for its {num_tokens:,} tokens: it read {each:.2g} for each weight.")
    elif recipe.task.kind == "text" and num_tokens < config.num_parameters():
        few = f"It was fine-tuned on {num_tokens:,} tokens, fewer than it has weights"
        limits.append(f"{few}: outside their kind it behaves as its base, or worse.")
    if repeated := [each["name"] for each in sources if each["epochs"] > USEFUL_EPOCHS]:
        limits.append(f"Seen more than {USEFUL_EPOCHS} times, and perhaps learned by heart: {', '.join(repeated)}.")
    if unknown := [each["name"] for each in sources if not each["licence"]]:
        limits.append(f"The licence of some data was not recorded: {', '.join(unknown)}.")
    if not has_results:
        limits.append("It has not been evaluated beyond the held-out text above.")
    limits.append("Nothing was done to keep it from harmful or biased answers beyond the choice of the data.")
    return limits


def _share_of_peak(updates: Sequence[Mapping[str, Any]]) -> float | None:
    """None where the peak was measured too low, as runs of version 0.1.0 did beside other programs."""
    shares = [float(row["share_of_peak"]) for row in updates]
    return None if max(shares) > 1 else _mean(shares)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
