"""A tiny random checkpoint and tiny data sets, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.evals.sample_data import write_sample_data
from tests.tiny_checkpoint import write_tiny_checkpoint
from tramontane.evals.target import EngineTarget
from tramontane.llm import LLM


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny", max_seq_len=1024)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sample_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def llm(checkpoint: Path) -> LLM:
    return LLM(str(checkpoint), kv_cache_gib=0.05)


@pytest.fixture
def target(llm: LLM) -> EngineTarget:
    return EngineTarget(llm, "tiny", window=64, stride=32)
