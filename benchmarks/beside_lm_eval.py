"""Our evaluation beside lm-evaluation-harness with transformers: the same float32 weights and items, taking turns.

Both sides hold the loaded model and are timed from items to scores, tokenization included; reading the items and
writing the log are in our time and not in the harness's, which makes no intervals. transformers runs with each batch
size given, and the fastest counts. The rows say how far metrics and log-probabilities lie apart.

    python -m benchmarks.beside_lm_eval --data DATA [--model default] [--items 200] [--rounds 3] [--batch-sizes 16,64]
                                        [--tasks hellaswag,arc_easy,piqa,lambada]

DATA holds the evaluation sets; the items of each task are drawn from it by a seed.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from lm_eval.models.huggingface import HFLM
from tests.evals.judge import CONFIGS, harness_tasks, judge
from tests.evals.sample_data import write_rows

from benchmarks._results import record, spread
from tramontane import LLM
from tramontane.evals.runner import evaluate
from tramontane.evals.sources import Sources
from tramontane.evals.target import EngineTarget
from tramontane.evals.tasks import tasks_named
from tramontane.loading.save import convert

FILES = {
    "hellaswag": "hellaswag/hellaswag_val.jsonl",
    "arc_easy": "llm_foundry_gauntlet/world_knowledge/arc_easy.jsonl",
    "piqa": "llm_foundry_gauntlet/commonsense_reasoning/piqa.jsonl",
    "lambada": "llm_foundry_gauntlet/language_understanding/lambada_openai.jsonl",
}
OURS = "tramontane"

Documents = dict[str, list[dict[str, Any]]]


def draw(data: Path, num_items: int, folder: Path) -> Documents:
    """Some documents of every task, which `folder` then holds where our tasks look for them. A document that is there
    twice is taken once: the harness would look up the second answer."""
    documents: Documents = {}
    for task, name in FILES.items():
        [path] = Sources(data).files(name, None).values()
        lines = sorted(set(path.read_text("utf-8").splitlines()))
        rows = [json.loads(line) for line in random.Random(0).sample(lines, min(num_items, len(lines)))]
        if task == "piqa":  # one line break before the answer's cue, as our reader of the hub's form has it
            rows = [row | {"query": row["query"].rstrip() + "\n"} for row in rows]
        documents[task] = rows
        write_rows(folder / name, rows)
    return documents


class Ours:
    def __init__(self, model: Path) -> None:
        self.target = EngineTarget(LLM(str(model), weight_format="f32"), OURS)

    def measure(self, task: str, _documents: Documents, data: Path) -> tuple[float, Any]:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "out"
            started = time.perf_counter()
            results = evaluate(self.target, tasks_named([task]), Sources(data), out)
            seconds = time.perf_counter() - started
            log = [json.loads(line) for line in (out / f"{task}.jsonl").read_text("utf-8").splitlines()]
        metrics = {name: estimate["value"] for name, estimate in results["results"][task]["metrics"].items()}
        return seconds, (metrics, [[(a["logprob"], a["is_greedy"]) for a in entry["answer"]] for entry in log])


class Harness:
    def __init__(self, model: Path, batch_size: int) -> None:
        self.model = HFLM(pretrained=str(model), dtype="float32", batch_size=batch_size, device="cpu")

    def measure(self, task: str, documents: Documents, _data: Path) -> tuple[float, Any]:
        with tempfile.TemporaryDirectory() as folder:
            tasks = harness_tasks({task: documents[task]}, Path(folder))
            started = time.perf_counter()
            found = judge(self.model, tasks)
            seconds = time.perf_counter() - started
        metrics = {name.removesuffix(",none"): value for name, value in found["results"][task].items()}
        samples = sorted(found["samples"][task], key=lambda sample: sample["doc_id"])
        return seconds, (metrics, [sample["filtered_resps"] for sample in samples])


def differences(ours: Any, theirs: Any) -> dict[str, Any]:
    """The metrics as [ours, theirs], and how far the answers behind them lie apart."""
    pairs = [pair for a, b in zip(ours[1], theirs[1], strict=True) for pair in zip(a, b, strict=True)]
    names = [name for name in ("acc", "acc_norm", "perplexity") if name in ours[0]]
    return {name: [ours[0][name], theirs[0][name]] for name in names} | {
        "max_relative_difference": max(abs(a[0] - b[0]) / abs(b[0]) for a, b in pairs),
        "greedy_differs": sum(a[1] != b[1] for a, b in pairs),
    }


def main() -> None:
    if len(sys.argv) == 1:  # as `make bench` calls it
        print(__doc__)
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="default")
    parser.add_argument("--items", type=int, default=200, help="of each task")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-sizes", default="16,64", help="of the harness")
    parser.add_argument("--tasks", default=",".join(CONFIGS))
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ |= {"TRAMONTANE_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1"}
        documents = draw(options.data, options.items, folder / "data")
        model = folder / "model"
        convert(LLM(options.model).checkpoint, model, layout="hf", stored="F32")
        sides: dict[str, Ours | Harness] = {OURS: Ours(model)}
        sides |= {f"batches of {size}": Harness(model, int(size)) for size in options.batch_sizes.split(",")}
        for task in options.tasks.split(","):
            seconds: dict[str, list[float]] = {name: [] for name in sides}
            for turn in range(options.rounds + 1):
                found = {}
                for side_name, side in sides.items():
                    took, found[side_name] = side.measure(task, documents, folder / "data")
                    if turn:  # the first round warms all
                        seconds[side_name].append(took)
            times = {side_name: spread(values) for side_name, values in seconds.items()}
            best = min((side_name for side_name in sides if side_name != OURS), key=lambda n: times[n]["p50"])
            for side_name in sides:
                row: dict[str, Any] = {"model": options.model, "task": task, "items": len(documents[task])}
                row |= {"side": side_name, "seconds": times[side_name]}
                if side_name == OURS:
                    row["times_as_fast_as_best"] = times[best]["p50"] / times[OURS]["p50"]
                else:
                    row |= differences(found[OURS], found[side_name])
                rows.append(row)
    medians = {side: sum(row["seconds"]["p50"] for row in rows if row["side"] == side) for side in sides}
    fastest = min(seconds for side, seconds in medians.items() if side != OURS)
    row = {"model": options.model, "task": "together", "side": OURS, "seconds": medians[OURS]}
    record("beside_lm_eval", [*rows, row | {"times_as_fast_as_best": fastest / medians[OURS]}])


if __name__ == "__main__":
    main()
