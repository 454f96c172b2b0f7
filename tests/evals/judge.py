"""lm-evaluation-harness as the judge: its own tasks over local documents, run by its own code on any model class."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm_eval.api.model import LM
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate

from tests.evals.sample_data import write_rows


def without_marks(text: str) -> str:
    return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ")


HELLASWAG = {
    "output_type": "multiple_choice",
    "doc_to_text": lambda doc: without_marks(doc["ctx"]),
    "doc_to_choice": lambda doc: [without_marks(ending) for ending in doc["endings"]],
    "doc_to_target": "label",
    "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
}
ARC_EASY = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{query}}\nAnswer:",
    "doc_to_choice": "choices",
    "doc_to_target": "gold",
    "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
}
PIQA = ARC_EASY | {"doc_to_text": "{{query}}Answer:"}
LAMBADA = {
    "output_type": "loglikelihood",
    "doc_to_text": "{{context}}",
    "doc_to_target": "{{' ' + continuation}}",
    "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}],
}
CONFIGS: dict[str, dict[str, Any]] = {"hellaswag": HELLASWAG, "arc_easy": ARC_EASY, "piqa": PIQA, "lambada": LAMBADA}


def harness_tasks(documents: dict[str, Sequence[dict[str, Any]]], folder: Path) -> dict[str, ConfigurableTask]:
    """Tasks in CONFIGS over these documents; `folder` is for the harness's files."""
    tasks = {}
    for name, rows in documents.items():
        write_rows(folder / f"{name}.jsonl", rows)
        tasks[name] = ConfigurableTask(
            config={
                "task": name,
                "dataset_path": "json",
                "dataset_kwargs": {
                    "data_files": {"test": str(folder / f"{name}.jsonl")},
                    "cache_dir": str(folder / "cache"),
                },
                "test_split": "test",
                "num_fewshot": 0,
                **CONFIGS[name],
            }
        )
    return tasks


def judge(model: LM, tasks: dict[str, ConfigurableTask]) -> dict[str, Any]:
    """What the harness reports of `model`, with its samples."""
    found: dict[str, Any] = evaluate(model, tasks, log_samples=True, bootstrap_iters=0)
    return found
