from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers import MistralConfig

from tests.config.released import RELEASED
from tests.hub.fake_hub import FakeHub, serve

TOKEN = "hf_canaryTokenThatMustStayAtHome"


def config_json(num_layers: int = 32) -> bytes:
    """Of a model that is supported."""
    return json.dumps(MistralConfig(num_hidden_layers=num_layers).to_dict()).encode()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty TRAMONTANE_HOME; no token, no login."""
    monkeypatch.setenv("TRAMONTANE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    return tmp_path / "home"


@pytest.fixture
def files() -> dict[str, bytes]:
    """A repository in both layouts, with pickles and pictures beside them."""
    noise = random.Random(0)
    return {
        "config.json": config_json(),
        "params.json": json.dumps(RELEASED["mixtral-8x7b-v0.1 consolidated"].data).encode(),
        "tokenizer.json": noise.randbytes(5000),
        "tokenizer.model.v3": noise.randbytes(300),
        "generation_config.json": b"{}",
        "README.md": b"# Tiny",
        "model.safetensors.index.json": b'{"weight_map": {}}',
        "model-00001-of-00002.safetensors": noise.randbytes(70_000),
        "model-00002-of-00002.safetensors": noise.randbytes(50_000),
        "consolidated.safetensors": noise.randbytes(120_000),
        "pytorch_model.bin": noise.randbytes(9000),
        "training_args.bin": noise.randbytes(90),
        "images/architecture.png": b"png",
        ".gitattributes": b"*.safetensors filter=lfs",
        "empty.txt": b"",
    }


@pytest.fixture
def hub(home: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with serve(FakeHub(files)) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.address)
        yield running


@pytest.fixture
def elsewhere() -> Iterator[FakeHub]:
    """Another host, which must never see the token."""
    with serve(FakeHub({}, repository="x/x")) as running:
        yield running
