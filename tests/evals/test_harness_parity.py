"""Our runner and lm-evaluation-harness with transformers: the same model, the same items, the same scores."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.evals import sample_data
from tramontane.evals.runner import evaluate
from tramontane.evals.sources import Sources
from tramontane.evals.target import EngineTarget
from tramontane.evals.tasks import tasks_named

DOCUMENTS: dict[str, Sequence[dict[str, Any]]] = {
    "hellaswag": sample_data.HELLASWAG,
    "arc_easy": sample_data.ARC_EASY,
    "piqa": sample_data.PIQA,
    "lambada": sample_data.LAMBADA,
}
BOUND = 1e-5  # relative, of sums of log-probabilities in float32


@pytest.fixture(scope="module")
def judged(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the harness finds with its own HFLM, one request at a time."""
    from lm_eval.models.huggingface import HFLM

    from tests.evals.judge import harness_tasks, judge

    theirs = HFLM(pretrained=str(checkpoint), dtype="float32", batch_size=1, device="cpu")
    return judge(theirs, harness_tasks(DOCUMENTS, tmp_path_factory.mktemp("judge")))


@pytest.mark.parametrize("task", DOCUMENTS)
def test_scores_equal_those_of_the_harness(
    judged: Any, task: str, data: Path, target: EngineTarget, tmp_path: Path
) -> None:
    ours = evaluate(target, tasks_named([task]), Sources(data), tmp_path)["results"][task]["metrics"]
    theirs = judged["results"][task]
    for metric in ("acc", "acc_norm"):
        if metric in ours:
            assert ours[metric]["value"] == theirs[f"{metric},none"]
    if task == "lambada":
        assert math.log(ours["perplexity"]["value"]) == pytest.approx(math.log(theirs["perplexity,none"]), rel=BOUND)
    logged = [json.loads(line) for line in (tmp_path / f"{task}.jsonl").read_text().splitlines()]
    assert len(logged) == len(DOCUMENTS[task])
    for entry, sample in zip(logged, judged["samples"][task], strict=True):
        for found, (logprob, is_greedy) in zip(entry["answer"], sample["filtered_resps"], strict=True):
            assert found["logprob"] == pytest.approx(logprob, rel=BOUND)
            assert found["is_greedy"] == is_greedy


def test_the_harness_on_our_engine_finds_the_same(judged: Any, checkpoint: Path, tmp_path: Path) -> None:
    from tests.evals.judge import harness_tasks, judge
    from tramontane.evals.harness import register

    found = judge(register()(str(checkpoint), kv_cache_gib=0.05), harness_tasks(DOCUMENTS, tmp_path))
    for task in DOCUMENTS:
        for ours, theirs in zip(found["samples"][task], judged["samples"][task], strict=True):
            assert [r[0] for r in ours["filtered_resps"]] == pytest.approx(
                [r[0] for r in theirs["filtered_resps"]], rel=BOUND
            )


def test_rolling_windows_and_generation_equal_those_of_the_harness(checkpoint: Path) -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from tramontane.evals.harness import register

    class OnePrefix(HFLM):  # type: ignore[misc]  # the harness has no types
        """Left to itself the harness puts its prefix before the one that the tokenizer writes, and scores the second as
        if it were text."""

        def tok_encode(self, string: str, **options: Any) -> list[int]:
            return list(self.tokenizer.encode(string, add_special_tokens=False))

    text = "The wind came down from the hills, and it was cold. " * 3
    options = {"pretrained": str(checkpoint), "dtype": "float32", "batch_size": 1, "device": "cpu", "max_length": 48}
    theirs = HFLM(**options)
    ours = register()(str(checkpoint), max_seq_len=48, kv_cache_gib=0.05)
    rolling = [Instance("loglikelihood_rolling", {}, (text,), 0)]
    once = OnePrefix(**options)
    assert ours.loglikelihood_rolling(rolling) == pytest.approx(once.loglikelihood_rolling(rolling), rel=BOUND)
    settings = {"until": ["\n"], "max_gen_toks": 8, "do_sample": False}
    asked = [Instance("generate_until", {}, (prompt, settings), 0) for prompt in ("The wind", "One two three")]
    assert ours.generate_until(asked) == theirs.generate_until(asked)
