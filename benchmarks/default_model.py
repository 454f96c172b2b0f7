"""The default model beside 5-grams and beside its own formats: bits per byte of held-out conversations, TinyStories
and WikiText-2, and BLiMP by phenomenon.

    python -m benchmarks.default_model MODEL --built BUILT --data DATA --out OUT [--formats f32,q8_0,q4_0] [--limit N]
        [--read RECIPE[@STEPS] ...]

BUILT is what recipes/default_data.toml was built into; the held-out conversations are its chat/valid/texts.jsonl. One
5-gram is trained on all of its training sets, each text once; a second on what the model read, if the recipes of its
runs are given in turn: the batches of those runs, drawn again. DATA holds the evaluation sets. Every column is an
evaluation of its own under OUT, resumed where it was cut short; OUT/table.md is the whole.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks._results import record
from tramontane.data.shards import ShardSet
from tramontane.evals.compare import compare
from tramontane.evals.item import Task
from tramontane.evals.ngram import KneserNey, NgramTarget
from tramontane.evals.report import write_report
from tramontane.evals.run_folder import RESULTS, read_json_file
from tramontane.evals.runner import RunOptions, evaluate
from tramontane.evals.sources import Sources
from tramontane.evals.target import EngineTarget, Target
from tramontane.evals.tasks import tasks_named
from tramontane.evals.texts import file_task
from tramontane.llm import LLM
from tramontane.training.recipe import read_recipe
from tramontane.training.token_stream import TokenStream

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ids = NDArray[Any]

ALL, READ = "5-gram-all", "5-gram-read"


def every_text(shards: ShardSet) -> list[Ids]:
    """Each text of the sets once, as token ids."""
    sources = shards.sources.values()
    return [source.read(number)[0] for source in sources for number in range(source.info.num_documents)]


def texts_read(shards: ShardSet, recipes: list[str]) -> list[Ids]:
    """What the runs of these recipes (FILE, or FILE@STEPS where it stopped earlier or later) read, in pieces as their
    batches held them."""
    texts: list[Ids] = []
    for name in recipes:
        path, _, steps = name.partition("@")
        recipe = read_recipe(Path(path), [f"schedule.num_steps={steps}"] if steps else [])
        stream = TokenStream(
            shards,
            batch_len=recipe.data.microbatch_len,
            policy=recipe.data.policy,
            num_token_ids=recipe.schedule.num_steps * recipe.data.batch_len,
            seed=recipe.seed,
            phases=recipe.data.phases,
        )
        for batch in stream:
            pieces = np.split(batch.token_ids.numpy(), np.cumsum(batch.document_lens)[:-1])
            texts += pieces[: len(batch.document_sources)]
    return texts


def train_ngram(texts: list[Ids], vocab_size: int) -> KneserNey:
    print(f"training a 5-gram on {sum(map(len, texts)):,} tokens of {len(texts):,} texts", file=sys.stderr)
    starts = np.cumsum([0, *map(len, texts)])[:-1]
    return KneserNey(np.concatenate(texts).astype(np.int64), starts, vocab_size)


def measure(target: Target, tasks: list[Task], arguments: argparse.Namespace, column: str) -> dict[str, Any]:
    out = arguments.out / column
    print(f"measuring {column}", file=sys.stderr)
    results = evaluate(target, tasks, Sources(arguments.data), out, RunOptions(limit=arguments.limit))
    write_report(out, results)
    return results


def table(columns: dict[str, dict[str, Any]]) -> str:
    """Tasks and phenomena as rows; behind every bits-per-byte how far below the first column's it is."""
    names = list(columns)
    first = columns[names[0]]["results"]
    lines = ["| | " + " | ".join(names) + " |", "|---" + "|--:" * len(names) + "|"]
    for task, summary in first.items():
        metric = summary["headline"]
        values = {name: columns[name]["results"][task]["metrics"][metric]["value"] for name in names}
        base = values[names[0]]
        cells = [
            f"{value:.4f}" + (f" ({1 - value / base:+.1%})" if metric == "bits_per_byte" else "")
            for value in values.values()
        ]
        lines.append(f"| {task} {metric} | " + " | ".join(cells) + " |")
        if task == "blimp":
            for group in summary.get("groups", {}):
                shares = [columns[n]["results"][task]["groups"][group][metric]["value"] for n in names]
                lines.append(f"| – {group} | " + " | ".join(f"{share:.4f}" for share in shares) + " |")
    return "\n".join(lines) + "\n"


def rows(model: str, column: str, results: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Each task's headline, and each phenomenon's."""
    for task, summary in results["results"].items():
        metric = summary["headline"]
        estimates = {task.removeprefix("text:"): summary["metrics"][metric]}
        if task == "blimp":
            estimates |= {f"{task}, {group}": found[metric] for group, found in summary.get("groups", {}).items()}
        for name, estimate in estimates.items():
            row = {"model": model, "column": column, "task": name, "metric": metric, "value": estimate["value"]}
            yield row | {"interval": [estimate["low"], estimate["high"]], "items": estimate["num_items"]}


def main() -> None:
    if len(sys.argv) == 1:  # as `make bench` calls it
        print(__doc__)
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--built", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--formats", default="f32,q8_0,q4_0")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--read", nargs="*", default=[], metavar="RECIPE[@STEPS]", help="of the model's runs, in turn")
    arguments = parser.parse_args()
    tasks = [
        file_task(arguments.built / "chat" / "valid" / "texts.jsonl"),
        *tasks_named(["tinystories", "wikitext2", "blimp"]),
    ]
    columns: dict[str, dict[str, Any]] = {}
    shards = ShardSet([arguments.built / name / "train" for name in ("pretrain", "chat")])
    baselines = {READ: partial(texts_read, shards, arguments.read)} if arguments.read else {}
    for column, texts in (baselines | {ALL: partial(every_text, shards)}).items():
        if (arguments.out / column / RESULTS).exists():  # they outlive the weights of the model
            columns[column] = read_json_file(arguments.out / column / RESULTS)
            continue
        llm = LLM(arguments.model)
        target = EngineTarget(llm, arguments.model)
        ngram = train_ngram(texts(), llm.tokenizer.vocab_size)
        judge = NgramTarget(ngram, llm.tokenizer, column, window=target.window, stride=target.stride)
        columns[column] = measure(judge, tasks, arguments, column)
        del ngram, judge
    formats = arguments.formats.split(",")
    for weight_format in formats:
        target = EngineTarget(LLM(arguments.model, weight_format=weight_format), arguments.model)
        columns[weight_format] = measure(target, tasks, arguments, weight_format)
    text = table(columns)
    for column in set(columns) - set(formats):
        for row in compare(arguments.out / column, arguments.out / formats[0]):
            text += f"\n{formats[0]} against {column}: {row.task} {row.metric} {row.difference.value:+.4f}, "
            text += f"p {row.difference.p_value:.2g} ({row.difference.test})\n"
    (arguments.out / "table.md").write_text(text, "utf-8")
    print(text)
    record("default_model", [row for name, results in columns.items() for row in rows(arguments.model, name, results)])


if __name__ == "__main__":
    main()
