"""What a run gives away: a checkpoint that `transformers`, `mistral-inference` and our own loader read, or an adapter
in PEFT's format; the tokenizer beside it; a classifier's head as `classifier.safetensors` with its labels."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from tramontane.config import ModelConfig
from tramontane.errors import DataError
from tramontane.formats.write import SHARD_BYTES
from tramontane.loading import Checkpoint, save_checkpoint
from tramontane.loading.adapter_files import AdapterConfig, write_adapter
from tramontane.loading.checkpoint import ADVICE
from tramontane.loading.classifier_files import Classifier, write_classifier
from tramontane.tokenizer import TOKENIZER_FILES, Tokenizer, has_tokenizer, load_tokenizer
from tramontane.training.recipe import CheckpointRecipe

STORED = {"float32": "F32", "bfloat16": "BF16"}


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What stands beside the weights: `files` as they are, and what a layout wants besides is made of `tokenizer`."""

    tokenizer: Tokenizer | None
    files: Mapping[str, Path]
    stop_ids: Collection[int]


@dataclass(frozen=True, slots=True)
class Release:
    """How the weights of one run are written. `labels` are those of a classifier, by target; of the targets of
    `single` every text has one."""

    config: ModelConfig
    recipe: CheckpointRecipe
    vocabulary: Vocabulary
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
        max_shard_mib = self.recipe.max_shard_mib
        save_checkpoint(
            folder,
            self.config,
            weights.items(),
            layout=self.recipe.layout,
            stored=STORED[self.recipe.dtype],
            tokenizer=self.vocabulary.tokenizer,
            files=self.vocabulary.files,
            stop_ids=self.vocabulary.stop_ids,
            shard_bytes=SHARD_BYTES if max_shard_mib is None else int(max_shard_mib * 2**20),
        )


def find_vocabulary(place: Path | None, checkpoint: Checkpoint | None) -> Vocabulary:
    """The tokenizer at `place`, a file or a folder; None: that of `checkpoint`, whose stop ids and advice on sampling
    belong to the model in any case. Raises DataError if there is none at `place`."""
    files: dict[str, Path] = {}
    if checkpoint is not None:
        files = {path.name: path for path in checkpoint.path.glob(ADVICE)}
    stop_ids = () if checkpoint is None else checkpoint.stop_ids
    if place is None:
        if checkpoint is None or not has_tokenizer(checkpoint.path):
            return Vocabulary(None, files, stop_ids)
        place = checkpoint.path
    if place.is_file():
        files[place.name] = place
    else:
        found = {path.name: path for pattern in TOKENIZER_FILES for path in sorted(place.glob(pattern))}
        if not found:
            raise DataError(f"data.tokenizer={str(place)!r} is neither a tokenizer file nor a folder that holds one")
        files |= found
    try:
        tokenizer = load_tokenizer(place)
    except ModuleNotFoundError:  # a machine with nothing but torch: the files go along, no others are made of them
        tokenizer = None
    return Vocabulary(tokenizer, files, stop_ids)
