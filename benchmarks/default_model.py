"""The default model beside a 5-gram and beside its own formats: bits per byte of held-out conversations, TinyStories
and WikiText-2, and BLiMP by phenomenon.

    python -m benchmarks.default_model MODEL --built BUILT --data DATA --out OUT [--formats f32,q8_0,q4_0] [--limit N]

BUILT is what recipes/default_data.toml was built into; the 5-gram is trained on its training sets, each text once, and
the held-out conversations are its chat/valid/texts.jsonl. DATA holds the evaluation sets. Every column is an evaluation
of its own under OUT, resumed where it was cut short; OUT/table.md is the whole.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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

BASELINE = "5-gram"


def train_ngram(folders: list[Path], vocab_size: int) -> KneserNey:
    shards = ShardSet(folders)
    texts = [
        source.read(number)[0] for source in shards.sources.values() for number in range(source.info.num_documents)
    ]
    print(f"training the {BASELINE} on {sum(map(len, texts)):,} tokens of {len(texts):,} texts", file=sys.stderr)
    starts = np.cumsum([0, *map(len, texts)])[:-1]
    return KneserNey(np.concatenate(texts).astype(np.int64), starts, vocab_size)


def measure(target: Target, tasks: list[Task], arguments: argparse.Namespace, column: str) -> dict[str, Any]:
    out = arguments.out / column
    print(f"measuring {column}", file=sys.stderr)
    results = evaluate(target, tasks, Sources(arguments.data), out, RunOptions(limit=arguments.limit))
    write_report(out, results)
    return results


def table(columns: dict[str, dict[str, Any]]) -> str:
    """Tasks and phenomena as rows; behind every bits-per-byte how far below the baseline's it is."""
    names = list(columns)
    first = columns[names[0]]["results"]
    lines = ["| | " + " | ".join(names) + " |", "|---" + "|--:" * len(names) + "|"]
    for task, summary in first.items():
        metric = summary["headline"]
        values = {name: columns[name]["results"][task]["metrics"][metric]["value"] for name in names}
        base = values.get(BASELINE)
        cells = [
            f"{value:.4f}" + (f" ({1 - value / base:+.1%})" if base and metric == "bits_per_byte" else "")
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
    parser.add_argument("--sets", default="pretrain,chat", help="sets of BUILT that the model was trained on")
    arguments = parser.parse_args()
    tasks = [
        file_task(arguments.built / "chat" / "valid" / "texts.jsonl"),
        *tasks_named(["tinystories", "wikitext2", "blimp"]),
    ]
    if (arguments.out / BASELINE / RESULTS).exists():  # it outlives the weights of the model
        baseline = read_json_file(arguments.out / BASELINE / RESULTS)
    else:
        llm = LLM(arguments.model)
        target = EngineTarget(llm, arguments.model)
        folders = [arguments.built / name / "train" for name in arguments.sets.split(",")]
        ngram = train_ngram(folders, llm.tokenizer.vocab_size)
        judge = NgramTarget(ngram, llm.tokenizer, BASELINE, window=target.window, stride=target.stride)
        baseline = measure(judge, tasks, arguments, BASELINE)
        del ngram, judge
    columns = {BASELINE: baseline}
    for weight_format in arguments.formats.split(","):
        target = EngineTarget(LLM(arguments.model, weight_format=weight_format), arguments.model)
        columns[weight_format] = measure(target, tasks, arguments, weight_format)
    text = table(columns)
    first = arguments.formats.split(",")[0]
    for row in compare(arguments.out / BASELINE, arguments.out / first):
        text += f"\n{first} against the {BASELINE}, {row.task} {row.metric}: {row.difference.value:+.4f}, "
        text += f"p {row.difference.p_value:.2g} ({row.difference.test})\n"
    (arguments.out / "table.md").write_text(text, "utf-8")
    print(text)
    record("default_model", [row for name, results in columns.items() for row in rows(arguments.model, name, results)])


if __name__ == "__main__":
    main()
