"""The check of a GPU, rehearsed on the CPU, so that it runs when there is one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from benchmarks import _gpu_parity, gpu_check
from tramontane.ops.torch_ops import TorchOps

Row = dict[str, Any]


def test_the_rehearsal_passes(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check, "marked_tests", lambda: iter(()))  # which this run has among its own
    assert gpu_check.main(["--device", "cpu"]) == 0
    words = capsys.readouterr().out
    assert "FAILED" not in words
    for part, num_rows in (
        ("ceilings", 2),
        ("inference beside the CPU", 32),
        ("gradients beside the CPU", 4),
        ("speed of inference", 4),
        ("speed of training", 1),
    ):
        assert f"{part}: {num_rows} rows, 0 failures" in words


def test_without_a_gpu_it_says_so_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_check.main([]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_wrong_operation_is_seen_in_every_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operation that is wrong on the device alone: here, on models that were copied there."""
    original = TorchOps.rms_norm

    def wrong(self: TorchOps, x_TD: torch.Tensor, weight_D: torch.Tensor, eps: float) -> torch.Tensor:
        return original(self, x_TD, weight_D, eps) * (1.01 if getattr(self, "is_tried", False) else 1.0)

    monkeypatch.setattr(TorchOps, "rms_norm", wrong)
    config = _gpu_parity.configs()["windows in turns"]
    judge, tried = _gpu_parity.random_model(config), _gpu_parity.random_model(config)
    for module in tried.modules():
        if isinstance(getattr(module, "ops", None), TorchOps):
            vars(module.ops)["is_tried"] = True
    rows = {what: (error, allowed) for what, error, allowed in _gpu_parity.differences(judge, tried, judge)}
    assert all(error > allowed for what, (error, allowed) in rows.items() if what.startswith("prefill"))


def test_a_part_that_fails_or_takes_too_long_keeps_what_it_found() -> None:
    def fails() -> Iterator[Row]:
        yield {"what": "first"}
        raise ValueError("out of luck")

    def dawdles() -> Iterator[Row]:
        yield {"what": "first"}
        time.sleep(30)
        yield {"what": "second"}

    assert gpu_check.within(5, fails) == ([{"what": "first"}], ["ValueError: out of luck"])
    assert gpu_check.within(0.05, dawdles) == ([{"what": "first"}], ["not done in its 0.05 s"])


def test_failures_are_named_at_the_end(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("inference", "gradients"):
        monkeypatch.setattr(_gpu_parity, name, lambda device, classes: iter([_gpu_parity.row("bits", 2.0, 1.0)]))
    monkeypatch.setattr("benchmarks._gpu_speed.inference", lambda ceilings, shape: iter(()))
    monkeypatch.setattr(gpu_check, "marked_tests", lambda: iter(()))
    assert gpu_check.main(["--device", "cpu"]) == 1
    *_, first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("FAILED inference beside the CPU: bits: error 2, allowed 1")
    assert second.startswith("FAILED gradients beside the CPU: bits")


def test_only_files_with_marked_tests_are_run(monkeypatch: pytest.MonkeyPatch) -> None:
    (row,) = gpu_check.marked_tests()
    assert "test_packed_varlen.py" in str(row) or "skipped" in row["note"] or "passed" in row["note"]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (row,) = gpu_check.marked_tests()
    assert "test_packed_varlen.py" in row["note"]
