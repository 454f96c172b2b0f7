"""Every input of the corpus, those that once found a fault among them, through its target."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.fuzz.__main__ import CORPUS, MAX_INPUT_S, main
from tests.fuzz.json_mutator import mutate_json
from tests.fuzz.targets import TARGETS, refusals
from tramontane.errors import DataError

INPUTS = sorted(CORPUS.glob("*/*"))
MAX_CORPUS_BYTES = 1 << 20


def test_every_target_has_a_corpus_and_every_corpus_a_target() -> None:
    assert {path.parent.name for path in INPUTS} == set(TARGETS)
    assert sum(path.stat().st_size for path in INPUTS) < MAX_CORPUS_BYTES


@pytest.mark.filterwarnings("ignore")  # of the libraries that read documents
@pytest.mark.parametrize("path", INPUTS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_the_corpus_is_read_or_refused(path: Path) -> None:
    started = time.process_time()
    TARGETS[path.parent.name](path.read_bytes())
    assert time.process_time() - started < MAX_INPUT_S


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TARGETS)
def test_nothing_at_all_is_read_or_refused(name: str) -> None:
    for data in (b"", b"\0", b"\n", b"{}", b"\xff" * 9):
        TARGETS[name](data)


def test_an_error_that_is_none_of_ours_ends_a_target() -> None:
    with pytest.raises(KeyError), refusals():
        raise KeyError("x")
    with pytest.raises(AssertionError), refusals():
        raise DataError("two\nlines")
    with refusals():
        raise DataError("one line")


def test_what_was_found_is_replayed_by_one_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "crash-1").write_bytes(b"no model")
    assert main(["gguf", str(tmp_path / "crash-1")]) == 0
    assert "crash-1: in order" in capsys.readouterr().out
    assert main(["nothing"]) == 2


def test_changed_json_is_json_and_the_same_again() -> None:
    seeds = [mutate_json(b'{"a": [1, {"b": "c"}], "d": null}', 1000, seed) for seed in range(200)]
    assert seeds == [mutate_json(b'{"a": [1, {"b": "c"}], "d": null}', 1000, seed) for seed in range(200)]
    assert len(set(seeds)) > 100
    assert mutate_json(b"{", 1000, 1) is None
