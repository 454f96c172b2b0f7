"""The weights of a run in release form: what `transformers`, `mistral-inference` and our own loader read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from tramontane.config import ModelConfig, to_hf_config, to_params_json
from tramontane.errors import DataError
from tramontane.formats.write import SHARD_BYTES, write_consolidated, write_hf
from tramontane.training.recipe import CheckpointRecipe


def write_weights(
    folder: Path,
    config: ModelConfig,
    weights: Mapping[str, Tensor],
    recipe: CheckpointRecipe,
    *,
    tokenizer_files: Mapping[str, Path],
) -> None:
    """Canonical `weights` as a checkpoint folder (empty or new) with the tokenizer's files beside them."""
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[recipe.dtype]
    if recipe.layout == "consolidated":
        write_consolidated(
            folder,
            config,
            weights.items(),
            params_json=to_params_json(config),
            dtype=dtype,
            files=dict(tokenizer_files),
        )
        return
    shard_bytes = SHARD_BYTES if recipe.max_shard_mib is None else int(recipe.max_shard_mib * 2**20)
    write_hf(
        folder,
        config,
        weights.items(),
        config_json=to_hf_config(config, recipe.dtype),
        dtype=dtype,
        files=dict(tokenizer_files),
        shard_bytes=shard_bytes,
    )


def find_tokenizer_files(path: str | None) -> dict[str, Path]:
    """The files of the tokenizer named by the recipe: one file, or a folder's. Raises DataError if there is none."""
    if path is None:
        return {}
    place = Path(path)
    if place.is_file():
        return {place.name: place}
    names = ("tekken.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model*")
    found = {file.name: file for name in names for file in sorted(place.glob(name))}
    if not found:
        raise DataError(f"data.tokenizer={path!r} is neither a tokenizer file nor a folder that holds one")
    return found
