"""What the tests of pulling share: the repository's files, and pulls that are quick to try again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.hub.conftest import TOKEN
from tests.hub.fake_hub import REPOSITORY
from tramontane.errors import CheckpointError, TramontaneError
from tramontane.hub import pull

SHARD = "model-00001-of-00002.safetensors"
EXPECTED = {
    "README.md",
    "config.json",
    "generation_config.json",
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "model.safetensors.index.json",
    "params.json",
    "tokenizer.json",
    "tokenizer.model.v3",
}


def fetch(name: str = REPOSITORY, **options: Any) -> Path:
    return pull(name, retry_delay_s=0.001, **options)


def visible(home: Path) -> list[str]:
    """Everything inside repository folders that a name could lead to."""
    folders = [path for path in home.glob("models/*/*/*") if not path.name.startswith(".")]
    return sorted(str(path) for path in folders)


def fails(match: str, name: str = REPOSITORY, kind: type[TramontaneError] = CheckpointError) -> str:
    with pytest.raises(kind, match=match) as caught:
        fetch(name)
    message = str(caught.value)
    assert "\n" not in message
    assert TOKEN not in message
    return message
