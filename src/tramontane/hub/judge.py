"""Whether a model could be used once it is here, by its configuration alone."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from tramontane.config import read_hf_config, read_json, read_params_json
from tramontane.errors import CheckpointError, ConfigError

CONFIGURATIONS = ("config.json", "params.json")


def require_readable(folder: Path, files: Collection[str]) -> None:
    """Raise CheckpointError unless the configuration in `folder`, which goes with the weights among `files`, describes
    a model that is supported. A .gguf file holds its own, which is read with it."""
    if any(name.startswith("model") and name.endswith(".safetensors") for name in files):
        name = "config.json"
    elif any(name.startswith("consolidated") for name in files):
        name = "params.json"
    else:
        return
    if name not in files:
        raise CheckpointError(f"the repository has weights but no {name}, which they need; use another repository")
    try:
        data = read_json(folder / name)
        if name == "config.json":
            read_hf_config(data)
        else:  # Meta's files leave the size of the vocabulary to the weights
            read_params_json(data, vocab_size=1 if data.get("vocab_size") in (None, -1) else None)
    except ConfigError as error:
        raise CheckpointError(f"{error}; its weights were not fetched") from None
