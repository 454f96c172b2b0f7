"""Checkpoint: what a folder or file of weights holds, proved from its headers before any weight is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tramontane.config import (
    Fields,
    ModelConfig,
    read_generation_config,
    read_gguf_config,
    read_hf_config,
    read_json,
    read_params_json,
    read_stop_ids,
)
from tramontane.config import refuse_code as refuse_code_in
from tramontane.errors import ConfigError
from tramontane.formats.gguf_file import GgufSource
from tramontane.formats.names import EMBEDDINGS, Layout, detect_layout, stores_output
from tramontane.formats.open_tensors import open_tensors
from tramontane.formats.quant_blocks import BLOCK_TYPES
from tramontane.formats.read import plan_reads
from tramontane.formats.tensor_source import FLOAT_DTYPES

if TYPE_CHECKING:
    from tramontane.formats.tensor_source import TensorInfo, TensorSource

ADVICE = "generation_config.json"  # how the makers of a model advise drawing its tokens

# files beside the weights that other programs take `auto_map` from
_SIDE_CONFIGS = ("generation_config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A readable checkpoint: every tensor the configuration calls for is there, in the right shape, and no other.

    `path` is the folder that holds configuration and tokenizer, or the .gguf file, which holds both. `weights` is
    what `open_tensors` opens, `stored` the type most weights are stored in ("BF16", "Q4_K", ...), `size_bytes` the
    size of all tensors in the files, `sampling` what its makers advise, as fields of SamplingParams, `stop_ids` the
    tokens that end an answer by its configuration files (a tokenizer may name others). `tokenizer_path` is the folder
    of the tokenizer where that is not `path`: an adapter's.
    """

    path: Path
    weights: Path
    layout: Layout
    config: ModelConfig
    stored: str
    size_bytes: int
    gguf_metadata: Mapping[str, Any] | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    stop_ids: tuple[int, ...] = ()
    tokenizer_path: Path | None = None

    @property
    def num_parameters(self) -> int:
        return self.config.num_parameters()

    @property
    def dtype(self) -> torch.dtype:
        """The compute dtype that loses nothing worth keeping: as stored; bfloat16 for quantised weights."""
        return FLOAT_DTYPES.get(self.stored, torch.bfloat16)

    def memory_bytes(self, dtype: torch.dtype) -> int:
        """Memory of all weights held as `dtype`."""
        return self.num_parameters * dtype.itemsize


def open_checkpoint(path: Path | str) -> Checkpoint:
    """Read configuration and headers of a checkpoint folder, or of a .gguf, .safetensors, .pth or .pt file.

    Raises CheckpointError for weights that are damaged or do not fit the configuration, ConfigError for a
    configuration that is missing, cannot be honoured, or asks for code of its own to be run.
    """
    path = Path(path)
    with open_tensors(path) as source:
        if isinstance(source, GgufSource):
            with _named(source.path):
                config = _read_gguf_config(source)
            return _describe(source.path, path, "gguf", config, source, source.metadata)
        folder = path if path.is_dir() else path.parent
        layout = detect_layout(source.names())
        with _named(folder):
            refuse_code(folder)
            config = (
                read_hf_config(read_json(folder / "config.json"), stores_output=stores_output(source.names()))
                if layout == "hf"
                else _read_params(folder, source)
            )
        return _describe(folder, path, layout, config, source, None)


def refuse_code(folder: Path) -> None:
    """Raise ConfigError if any configuration in `folder` asks for Python code of its own (`auto_map`)."""
    for name in ("config.json", *_SIDE_CONFIGS):
        if (folder / name).exists():
            refuse_code_in(Fields(read_json(folder / name), name))


def stored_bytes(info: TensorInfo) -> int:
    """Size of one tensor in its file. Raises KeyError for a type that is not read."""
    if info.is_quantised:
        return prod(info.shape[:-1]) * BLOCK_TYPES[info.stored].row_bytes(info.shape[-1])
    return prod(info.shape) * FLOAT_DTYPES[info.stored].itemsize


def _describe(
    path: Path,
    weights: Path,
    layout: Layout,
    config: ModelConfig,
    source: TensorSource,
    gguf_metadata: Mapping[str, Any] | None,
) -> Checkpoint:
    num_weights: Counter[str] = Counter()
    size_bytes = 0
    for read in plan_reads(source, config):
        info = source.info(read.file_name)
        num_weights[info.stored] += prod(info.shape)
        size_bytes += stored_bytes(info)
    stored = num_weights.most_common(1)[0][0]
    sampling: Mapping[str, Any] = {}
    stop_ids: set[int] = set()
    for file in (path / "config.json", path / ADVICE):
        if gguf_metadata is None and file.exists():
            data = read_json(file)
            stop_ids.update(read_stop_ids(data, str(file), config.vocab_size))
            if file.name == ADVICE:
                sampling = read_generation_config(data, str(file))
    return Checkpoint(
        path, weights, layout, config, stored, size_bytes, gguf_metadata, sampling, tuple(sorted(stop_ids))
    )


def _read_gguf_config(source: GgufSource) -> ModelConfig:
    names = source.names()
    vocab_size = source.info("token_embd.weight").shape[0] if "token_embd.weight" in names else None
    return read_gguf_config(source.metadata, vocab_size=vocab_size, tied_embeddings=not stores_output(names))


def _read_params(folder: Path, source: TensorSource) -> ModelConfig:
    """params.json, and from config.json beside it the context length that older ones do not state."""
    length = None
    if (folder / "config.json").exists():
        hf_config = read_json(folder / "config.json")
        text_config = hf_config.get("text_config")
        fields = Fields(text_config if isinstance(text_config, dict) else hf_config, "config.json")
        length = fields.optional_integer("max_position_embeddings")
    rows = source.info(EMBEDDINGS).shape[0]
    return read_params_json(read_json(folder / "params.json"), vocab_size=rows, max_seq_len=length)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Put the checkpoint's path before a ConfigError that does not name it."""
    try:
        yield
    except ConfigError as error:
        if str(path) in str(error):
            raise
        raise ConfigError(f"{path}: {error}") from None
