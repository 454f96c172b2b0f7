"""What a run gives away: a checkpoint that `transformers`, `mistral-inference` and our own loader read, or an adapter
in PEFT's format; the tokenizer beside it; a classifier's head as `classifier.safetensors` with its labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tramontane.config import ModelConfig, to_hf_config, to_params_json
from tramontane.errors import DataError
from tramontane.formats.write import SHARD_BYTES, write_consolidated, write_hf
from tramontane.loading.adapter_files import AdapterConfig, write_adapter
from tramontane.loading.classifier_files import Classifier, write_classifier
from tramontane.training.recipe import CheckpointRecipe

TOKENIZER_FILES = ("tekken.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


@dataclass(frozen=True, slots=True)
class Release:
    """How the weights of one run are written. `labels` are those of a classifier, by target; of the targets of
    `single` every text has one."""

    config: ModelConfig
    recipe: CheckpointRecipe
    tokenizer_files: Mapping[str, Path]
    adapter: AdapterConfig | None = None
    labels: Mapping[str, tuple[str, ...]] | None = None
    single: frozenset[str] = frozenset()

    def write(self, folder: Path, weights: Mapping[str, Tensor]) -> None:
        """`weights` by name, as `TrainingModule.named_weights` gives them, into an empty folder."""
        model = {name: w for name, w in weights.items() if ".lora." not in name and not name.startswith("head.")}
        if self.adapter is None:
            self._write_model(folder, model)
        else:
            adapters = {name: w for name, w in weights.items() if ".lora." in name}
            write_adapter(folder, self.config, self.adapter, adapters)
        if self.labels is not None:
            weight, bias = weights["head.weight"], weights["head.bias"]
            write_classifier(folder, Classifier(self.labels, self.single, weight, bias))

    def _write_model(self, folder: Path, weights: Mapping[str, Tensor]) -> None:
        dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[self.recipe.dtype]
        files = dict(self.tokenizer_files)
        if self.recipe.layout == "consolidated":
            params_json = to_params_json(self.config)
            write_consolidated(folder, self.config, weights.items(), params_json=params_json, dtype=dtype, files=files)
            return
        max_shard_mib = self.recipe.max_shard_mib
        write_hf(
            folder,
            self.config,
            weights.items(),
            config_json=to_hf_config(self.config, self.recipe.dtype),
            dtype=dtype,
            files=files,
            shard_bytes=SHARD_BYTES if max_shard_mib is None else int(max_shard_mib * 2**20),
        )


def find_tokenizer_files(path: str | None) -> dict[str, Path]:
    """The files of the tokenizer at `path`: one file, or a folder's. Raises DataError if there is none."""
    if path is None:
        return {}
    place = Path(path)
    if place.is_file():
        return {place.name: place}
    found = {file.name: file for name in (*TOKENIZER_FILES, "tokenizer.model*") for file in sorted(place.glob(name))}
    if not found:
        raise DataError(f"data.tokenizer={path!r} is neither a tokenizer file nor a folder that holds one")
    return found
