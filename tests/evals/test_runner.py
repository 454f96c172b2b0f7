"""Evaluations on a tiny model: what is written, resumed, refused; likelihoods against scores of whole prompts."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.evals.sample_data import BLIMP, write_rows
from tramontane.engine.sampling import SamplingParams
from tramontane.errors import DataError, RequestError
from tramontane.evals.item import Likelihood, Pair, Pairs, Question, Text, TextScore
from tramontane.evals.likelihood import TokenPair, text_windows, token_likelihoods
from tramontane.evals.report import write_report
from tramontane.evals.runner import RunOptions, asked, evaluate
from tramontane.evals.sources import Sources
from tramontane.evals.target import EngineTarget, encode_pair
from tramontane.evals.tasks import tasks_named
from tramontane.evals.texts import file_task
from tramontane.llm import LLM


class Counting:
    """A target that counts what it is asked, and fails after `most` pairs."""

    def __init__(self, target: EngineTarget, most: int | None = None) -> None:
        self.target = target
        self.most = most
        self.num_pairs = 0
        self.description = target.description

    def likelihoods(self, pairs: Sequence[Pair]) -> list[Likelihood]:
        self.num_pairs += len(pairs)
        if self.most is not None and self.num_pairs > self.most:
            raise KeyboardInterrupt
        return self.target.likelihoods(pairs)

    def text_scores(self, texts: Sequence[Text]) -> list[TextScore]:
        return self.target.text_scores(texts)

    def answers(self, questions: Sequence[Question]) -> list[list[str]]:
        return self.target.answers(questions)

    def close(self) -> None: ...


def test_likelihoods_are_those_of_whole_prompts(llm: LLM) -> None:
    """Shared beginnings, endings that differ in their last token alone, and repeats, all in one call."""
    contexts = ["Once upon a time there was a wind that blew", "Once upon a time there was a", "x"]
    pairs = [Pair(c, e) for c in contexts for e in (" A", " B", " cold and dark", "", " A") if e]
    token_pairs = [encode_pair(llm.tokenizer, pair) for pair in pairs]
    for pair, found in zip(token_pairs, token_likelihoods(llm.engine, token_pairs), strict=True):
        scores = llm.score(pair.context + pair.continuation)[len(pair.context) :]
        assert found.logprob == pytest.approx(math.fsum(s for s in scores if s is not None), rel=1e-5)
        logits_TV = llm.logits(pair.context + pair.continuation)[len(pair.context) - 1 : -1]
        assert found.is_greedy == (logits_TV.argmax(-1).tolist() == list(pair.continuation))
        assert found.num_tokens == len(pair.continuation)
    llm.engine.check_integrity()


def test_greedy_text_is_found_greedy(llm: LLM) -> None:
    prompt = llm.tokenizer.encode("The wind", bos=True)
    [completion] = llm.generate([prompt], SamplingParams(max_tokens=5, ignore_eos=True))
    [found] = token_likelihoods(llm.engine, [TokenPair(tuple(prompt), completion.token_ids)])
    assert found.is_greedy


def test_a_context_too_long_loses_its_beginning() -> None:
    pair = TokenPair(tuple(range(10)), (10, 11))
    assert pair.fitted(8) == TokenPair((3, 4, 5, 6, 7, 8, 9), (10, 11))
    with pytest.raises(RequestError, match="max_seq_len=4"):
        TokenPair((0,), tuple(range(6))).fitted(4)


@pytest.mark.parametrize(("window", "stride"), [(8, 8), (8, 4), (8, 1), (100, 50), (1, 1)])
def test_windows_score_every_token_once(window: int, stride: int) -> None:
    ids = list(range(1, 31))
    pairs = text_windows(ids, (0,), window, stride)
    assert [t for pair in pairs for t in pair.continuation] == ids
    for pair in pairs:
        assert len(pair.context) + len(pair.continuation) - 1 <= window
        joined = (*pair.context, *pair.continuation)
        assert joined == tuple(range(joined[0], joined[0] + len(joined)))
    assert all(len(pair.context) >= window - stride for pair in pairs[1:])


def test_bits_per_byte_of_a_text(target: EngineTarget, tmp_path: Path) -> None:
    """Within one window they are the scores of the whole text; over several, each token has at least half of one."""
    text = "Die Böe kam, und es war kalt."
    write_rows(tmp_path / "own.jsonl", [{"text": text}])
    found = evaluate(target, [file_task(tmp_path / "own.jsonl")], Sources(), tmp_path / "out")
    scores = target.llm.score(target.llm.tokenizer.encode(text, bos=True))
    bits = -math.fsum(s for s in scores if s is not None) / math.log(2)
    metrics = found["results"]["text:own"]["metrics"]
    assert metrics["bits_per_byte"]["value"] == pytest.approx(bits / len(text.encode()), rel=1e-5)
    assert math.log(metrics["token_perplexity"]["value"]) == pytest.approx(bits * math.log(2) / (len(scores) - 1))


def test_an_interrupted_evaluation_goes_on(
    data: Path, target: EngineTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = tasks_named(["blimp", "hellaswag"])
    whole = evaluate(target, tasks, Sources(data), tmp_path / "whole")
    monkeypatch.setattr("tramontane.evals.runner.BATCH", {"likelihood": 2})
    with pytest.raises(KeyboardInterrupt):
        evaluate(Counting(target, most=7), tasks, Sources(data), tmp_path / "cut")
    log = tmp_path / "cut" / "blimp.jsonl"
    with log.open("ab") as file:
        file.write(b'{"id": "torn')  # what a power cut leaves
    rest = Counting(target)
    again = evaluate(rest, tasks, Sources(data), tmp_path / "cut")
    assert rest.num_pairs == 16
    for name, summary in whole["results"].items():
        assert again["results"][name]["metrics"] == summary["metrics"]
        assert again["results"][name].get("groups") == summary.get("groups")
    assert evaluate(rest, tasks, Sources(data), tmp_path / "cut")["results"]["blimp"]["num_new"] == 0


def test_the_log_says_what_was_asked(data: Path, target: EngineTarget, tmp_path: Path) -> None:
    evaluate(target, tasks_named(["piqa", "gsm8k"]), Sources(data), tmp_path)
    logs = {
        name: [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        for name in ("piqa", "gsm8k")
    }
    assert logs["piqa"][0]["prompt"] == "Question: How do I dry a wet shirt?\nAnswer:"
    assert logs["piqa"][0]["choices"] == [" Hang it on a line in the sun.", " Put it into a bucket of water."]
    assert logs["gsm8k"][0]["prompt"].endswith("How many has he?\nAnswer:")
    assert asked(Pairs((Pair("The sea", " is wet."), Pair("The sun", " is wet.")))) == {
        "prompt": ["The sea", "The sun"],
        "choices": [" is wet.", " is wet."],
    }


def test_reports_show_what_guessing_would_reach(data: Path, target: EngineTarget, tmp_path: Path) -> None:
    results = evaluate(target, tasks_named(["arc_easy", "blimp", "lambada"]), Sources(data), tmp_path)
    share = (1 / 3 + 1 / 3 + 1 / 4) / 3
    assert results["results"]["arc_easy"]["chance"] == pytest.approx({"acc": share, "acc_norm": share})
    assert results["results"]["blimp"]["chance"] == {"acc": 0.5}
    assert "chance" not in results["results"]["lambada"]
    write_report(tmp_path, results)
    assert "by chance 0.500" in (tmp_path / "report.html").read_text()
    [row] = [line for line in (tmp_path / "report.md").read_text().splitlines() if line.startswith("| blimp | acc")]
    assert row.endswith("| 0.5000 |")


def test_a_single_text_has_no_interval(target: EngineTarget, tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("One text alone.")
    results = evaluate(target, [file_task(tmp_path / "own.txt")], Sources(), tmp_path / "out")
    write_report(tmp_path, results)
    assert "none of one item" in (tmp_path / "report.md").read_text()


def test_a_changed_file_is_measured_anew(target: EngineTarget, tmp_path: Path) -> None:
    path = tmp_path / "own.txt"
    path.write_text("One text alone.")
    evaluate(target, [file_task(path)], Sources(), tmp_path / "out")
    path.write_text("Another text.")
    with pytest.raises(DataError, match="text:own was measured with other settings"):
        evaluate(target, [file_task(path)], Sources(), tmp_path / "out")


def test_results_are_reported_by_group(data: Path, target: EngineTarget, tmp_path: Path) -> None:
    results = evaluate(target, tasks_named(["blimp"]), Sources(data), tmp_path)
    write_report(tmp_path, results)
    blimp = results["results"]["blimp"]
    assert blimp["groups"].keys() == BLIMP.keys()
    assert blimp["num_items"] == 3
    markdown, page = (tmp_path / "report.md").read_text(), (tmp_path / "report.html").read_text()
    for phenomenon in BLIMP:
        assert phenomenon in markdown
        assert phenomenon in page
    assert "<script" not in page
    assert json.loads((tmp_path / "results.json").read_text()) == json.loads(json.dumps(results))


def test_a_folder_of_other_settings_is_refused(data: Path, target: EngineTarget, tmp_path: Path) -> None:
    tasks = tasks_named(["piqa"])
    evaluate(target, tasks, Sources(data), tmp_path)
    with pytest.raises(DataError, match="limit=None, not 1; choose another --out"):
        evaluate(target, tasks, Sources(data), tmp_path, RunOptions(limit=1))


def test_a_limit_draws_the_same_items_for_the_same_seed(data: Path, target: EngineTarget, tmp_path: Path) -> None:
    def ids(seed: int, out: str) -> list[Any]:
        evaluate(target, tasks_named(["hellaswag"]), Sources(data), tmp_path / out, RunOptions(limit=2, seed=seed))
        return [json.loads(line)["id"] for line in (tmp_path / out / "hellaswag.jsonl").read_text().splitlines()]

    assert ids(1, "a") == ids(1, "b")
    assert {tuple(ids(seed, f"c{seed}")) for seed in range(6)} != {tuple(ids(1, "a"))}


def test_what_is_missing_is_said(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no task 'helaswag'; known are"):
        tasks_named(["helaswag"])
    with pytest.raises(DataError, match="holds no mmlu"):
        tasks_named(["mmlu"])[0].load(Sources(data))
    write_rows(tmp_path / "hellaswag" / "x.jsonl", [{"ctx": "a", "label": 0}])
    with pytest.raises(DataError, match=r"record 0 of x lacks what the task needs \(KeyError\('endings'\)\)"):
        tasks_named(["hellaswag"])[0].load(Sources(tmp_path))
    (tmp_path / "hellaswag" / "x.jsonl").write_text("\n{]\n")
    with pytest.raises(DataError, match=r"x\.jsonl:2: not a JSON object"):
        tasks_named(["hellaswag"])[0].load(Sources(tmp_path))
