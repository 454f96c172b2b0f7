"""A live server as the target gives what the model gives in this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.server.live import LiveServer, start_server
from tramontane.errors import ConfigError, RequestError
from tramontane.evals.item import Pair, Question, Text
from tramontane.evals.server_target import ServerTarget
from tramontane.evals.target import EngineTarget


@pytest.fixture(scope="module")
def server(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    live = start_server(tmp_path_factory.mktemp("home"), [checkpoint])
    yield live
    assert live.stop() == 0, live.log.read_text(encoding="utf-8")


def test_a_server_scores_and_answers_as_the_model_does(server: LiveServer, target: EngineTarget) -> None:
    with closing(ServerTarget(f"{server.url}/v1/")) as served:
        require_equal(served, target)


def require_equal(served: ServerTarget, target: EngineTarget) -> None:
    assert served.description["model"] == "tiny"
    pairs = [Pair("The wind", " blows"), Pair("The wind", " is cold today"), Pair("", "Whole text."), Pair("a ", "b")]
    for ours, theirs in zip(target.likelihoods(pairs), served.likelihoods(pairs), strict=True):
        assert theirs.logprob == pytest.approx(ours.logprob, rel=1e-5)
        assert (theirs.is_greedy, theirs.num_tokens) == (ours.is_greedy, ours.num_tokens)
    questions = [
        Question(prompt="The wind", max_tokens=6),
        Question(prompt="Who are you?", max_tokens=5, is_chat=True),
        Question(prompt="One", max_tokens=4, num_answers=3, temperature=1.0),
    ]
    assert served.answers(questions) == target.answers(questions)


def test_what_a_server_cannot_do_is_said(server: LiveServer) -> None:
    with closing(ServerTarget(server.url, "absent")) as served:
        with pytest.raises(RequestError, match="windows of tokens"):
            served.text_scores([Text("text")])
        with pytest.raises(RequestError, match=r"/v1/completions: 400"):
            served.answers([Question(prompt="x", max_tokens=1)])
    with pytest.raises(ConfigError, match="no answer"):
        ServerTarget("http://127.0.0.1:9")
