"""What is measured of an adapter is the adapter: by the runner, the harness and a server, as of the merged model."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.evals import sample_data
from tests.llm.test_adapters import make_adapter
from tests.server.live import start_server
from tramontane.evals.item import Pair, Question
from tramontane.evals.runner import evaluate
from tramontane.evals.server_target import ServerTarget
from tramontane.evals.sources import Sources
from tramontane.evals.target import EngineTarget
from tramontane.evals.tasks import tasks_named
from tramontane.evals.texts import file_task
from tramontane.llm import LLM
from tramontane.loading import open_checkpoint
from tramontane.loading.merge import merge

BOUND = 1e-4  # relative, of sums of log-probabilities: W + BA against W beside BA, in float32
TASKS = ("hellaswag", "lambada", "gsm8k")  # likelihoods of endings, of a last word, and generated answers


@pytest.fixture(scope="module")
def adapter(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(tmp_path_factory.mktemp("adapted") / "adapter", checkpoint, 1)


@pytest.fixture(scope="module")
def merged(checkpoint: Path, adapter: Path) -> Path:
    merge(open_checkpoint(checkpoint), adapter, adapter.parent / "merged", layout="hf")
    return adapter.parent / "merged"


def opened(model: Path) -> LLM:
    # plain float32: float16 beside packed weights is for speed, and no part of what is compared
    return LLM(str(model), weight_format="torch", dtype="float32", kv_cache_gib=0.05)


def test_an_evaluation_of_an_adapter_is_that_of_the_merged_model(
    checkpoint: Path, adapter: Path, merged: Path, data: Path, tmp_path: Path
) -> None:
    text = tmp_path / "held_out.txt"
    text.write_text("The wind came down from the hills, and it was cold.\n" * 6, "utf-8")
    tasks = [*tasks_named(list(TASKS)), file_task(text)]
    found: dict[str, dict[str, Any]] = {}
    for name, model in {"base": checkpoint, "adapter": adapter, "merged": merged}.items():
        target = EngineTarget(opened(model), "same", window=64, stride=32)
        results = evaluate(target, tasks, Sources(data), tmp_path / name)["results"]
        found[name] = {task: dict(summary["metrics"]) for task, summary in results.items()}
        found[name]["logs"] = {task.name: logged(tmp_path / name, task.name) for task in tasks}
        assert ("adapter" in target.description) == (name == "adapter")
    for task in (*TASKS, tasks[-1].name):
        assert close(found["adapter"][task], found["merged"][task]), task
        assert close(found["adapter"]["logs"][task], found["merged"]["logs"][task]), task
        assert not close(found["adapter"]["logs"][task], found["base"]["logs"][task]), task


def test_the_harness_measures_the_adapter(adapter: Path, merged: Path, checkpoint: Path, tmp_path: Path) -> None:
    from lm_eval.api.instance import Instance

    from tramontane.evals.harness import register

    options = {"weight_format": "torch", "dtype": "float32", "kv_cache_gib": 0.05}
    of_adapter, of_merged, of_base = (register()(str(each), **options) for each in (adapter, merged, checkpoint))
    contexts = [row["context"] for row in sample_data.LAMBADA]
    scored = [Instance("loglikelihood", {}, (text, " " + "cat"), 0) for text in contexts]
    rolling = [Instance("loglikelihood_rolling", {}, (text,), 0) for text in contexts]
    asked = [Instance("generate_until", {}, (text, {"until": [], "max_gen_toks": 8}), 0) for text in contexts]
    ours, theirs, bare = (
        [model.loglikelihood(scored), model.loglikelihood_rolling(rolling), model.generate_until(asked)]
        for model in (of_adapter, of_merged, of_base)
    )
    for kind in range(3):
        assert close(ours[kind], theirs[kind])
        assert not close(ours[kind], bare[kind])


def test_a_server_is_measured_with_the_adapter_it_serves(
    adapter: Path, merged: Path, checkpoint: Path, tmp_path: Path
) -> None:
    pairs = [Pair("The wind", " blows"), Pair("The wind", " is cold today")]
    questions = [Question(prompt="The wind", max_tokens=6)]
    expected = EngineTarget(opened(merged), "merged")
    plain = ["--weight-format", "torch", "--dtype", "float32"]
    server = start_server(tmp_path, [f"own={adapter}", f"base={checkpoint}", *plain, "--kv-cache-gib", "0.05"])
    try:
        with closing(ServerTarget(server.url, "own")) as own, closing(ServerTarget(server.url, "base")) as base:
            likelihoods = [each.logprob for each in own.likelihoods(pairs)]
            assert close(likelihoods, [each.logprob for each in expected.likelihoods(pairs)])
            assert not close(likelihoods, [each.logprob for each in base.likelihoods(pairs)])
            assert own.answers(questions) == expected.answers(questions) != base.answers(questions)
    finally:
        assert server.stop() == 0, server.log.read_text(encoding="utf-8")


def logged(folder: Path, task: str) -> list[str]:
    [log] = folder.glob(f"{task.replace(':', '-')}.jsonl")
    return log.read_text("utf-8").splitlines()


def close(ours: Any, theirs: Any) -> bool:
    """Equal but for the float noise of numbers, in whatever holds them."""
    if isinstance(ours, str) and ours.startswith("{"):
        return close(json.loads(ours), json.loads(theirs))
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(close(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, list | tuple):
        return len(ours) == len(theirs) and all(map(close, ours, theirs))
    if isinstance(ours, float):
        return bool(ours == pytest.approx(theirs, rel=BOUND, abs=1e-6))
    return bool(ours == theirs)
