"""Write checkpoint folders: Hugging Face's layout and the consolidated one, tensor by tensor, all or nothing."""

from __future__ import annotations

import json
import re
import shutil
from contextlib import ExitStack
from math import prod
from typing import TYPE_CHECKING

import torch

from tramontane.errors import CheckpointError
from tramontane.formats.destination import new_file, new_folder
from tramontane.formats.names import canonical_shapes, file_names, rotary_heads, shown
from tramontane.formats.open_tensors import HF_INDEX, shard_name
from tramontane.formats.planned_file import Place, PlannedFile, cast, every_tensor_once, require_room
from tramontane.formats.rotary_layout import interleaved_to_half
from tramontane.formats.safetensors_file import DTYPES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from torch import Tensor

    from tramontane.config.model_config import ModelConfig

SHARD_BYTES = 5_000_000_000
_STORED = {dtype: stored for stored, dtype in DTYPES.items()}
_DATA_ALIGNMENT = 64  # of the first tensor in the file: a cache line
_METADATA = {"format": "pt"}  # transformers refuses files without it

Spec = tuple[torch.dtype, tuple[int, ...]]


def write_safetensors(
    path: Path,
    specs: Mapping[str, Spec],
    tensors: Iterable[tuple[str, Tensor]],
    *,
    metadata: Mapping[str, str] = _METADATA,
    overwrite: bool = False,
) -> None:
    """One .safetensors file of the tensors in `specs` (dtype and shape by name), which may arrive in any order.

    Raises CheckpointError if `tensors` are not exactly those, or the file exists and may not be overwritten.
    """
    require_room(path.parent, _total_bytes(specs))
    with new_file(path, overwrite=overwrite) as part, _planned(part, specs, metadata) as file:
        for name, tensor in every_tensor_once(tensors, {name: shape for name, (_, shape) in specs.items()}):
            file.put(name, cast(name, tensor, specs[name][0]))


def write_hf(
    out: Path,
    config: ModelConfig,
    tensors: Iterable[tuple[str, Tensor]],
    *,
    config_json: Mapping[str, object],
    dtype: torch.dtype,
    files: Mapping[str, Path | bytes] | None = None,
    shard_bytes: int = SHARD_BYTES,
    overwrite: bool = False,
) -> None:
    """A folder that transformers reads: model*.safetensors, its index if there are several, config.json and `files`.

    `tensors` are canonical (name, tensor) pairs in any order; every one is stored as `dtype`. Raises CheckpointError
    if they are not exactly the model's, or `out` holds something already; then `out` is as it was.
    """
    stored_names = file_names("hf", config)
    shapes = canonical_shapes(config)
    total_bytes = _total_bytes({name: (dtype, shape) for name, shape in shapes.items()})
    require_room(out.parent, total_bytes)
    shards = _plan_shards(shapes, dtype, shard_bytes)
    paths = ["model.safetensors"]
    if len(shards) > 1:
        paths = [shard_name("model", number, len(shards)) for number in range(1, len(shards) + 1)]
    weight_map = {stored_names[name]: path for path, shard in zip(paths, shards, strict=True) for name in shard}
    index = {"metadata": {"total_size": total_bytes}, "weight_map": weight_map}
    with new_folder(out, overwrite=overwrite) as folder, ExitStack() as opened:
        file_of: dict[str, PlannedFile] = {}
        for path, shard in zip(paths, shards, strict=True):
            specs = {stored_names[name]: (dtype, shapes[name]) for name in shard}
            file_of |= dict.fromkeys(shard, opened.enter_context(_planned(folder / path, specs, _METADATA)))
        _write_files(folder, {"config.json": _json(config_json)})
        if len(shards) > 1:
            _write_files(folder, {HF_INDEX: _json(index)})
        _write_files(folder, files or {})
        for name, tensor in every_tensor_once(tensors, shapes):
            heads = rotary_heads(name, config)
            rows = tensor if heads is None else interleaved_to_half(tensor, heads)
            file_of[name].put(stored_names[name], cast(name, rows, dtype))
        opened.close()  # the files are whole before the folder gets its name


def write_consolidated(
    out: Path,
    config: ModelConfig,
    tensors: Iterable[tuple[str, Tensor]],
    *,
    params_json: Mapping[str, object],
    dtype: torch.dtype,
    files: Mapping[str, Path | bytes] | None = None,
    overwrite: bool = False,
) -> None:
    """A folder that mistral-inference reads: consolidated.safetensors, params.json and `files`. Else as `write_hf`."""
    shapes = canonical_shapes(config)
    specs = {name: (dtype, shape) for name, shape in shapes.items()}
    require_room(out.parent, _total_bytes(specs))
    with (
        new_folder(out, overwrite=overwrite) as folder,
        _planned(folder / "consolidated.safetensors", specs, _METADATA) as file,
    ):
        _write_files(folder, {"params.json": _json(params_json)})
        _write_files(folder, files or {})
        for name, tensor in every_tensor_once(tensors, shapes):
            file.put(name, cast(name, tensor, dtype))


def _planned(path: Path, specs: Mapping[str, Spec], metadata: Mapping[str, str]) -> PlannedFile:
    """A safetensors file with its header written. Widest elements come first, so that all are aligned."""
    entries: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    sizes = {name: prod(shape) * dtype.itemsize for name, (dtype, shape) in specs.items()}
    offset = 0
    offsets = {}
    for name in sorted(specs, key=lambda name: -specs[name][0].itemsize):
        dtype, shape = specs[name]
        offsets[name] = offset
        entries[name] = {
            "dtype": _STORED[dtype],
            "shape": list(shape),
            "data_offsets": [offset, offset + sizes[name]],
        }
        offset += sizes[name]
    header = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-(8 + len(header)) % _DATA_ALIGNMENT)
    start = 8 + len(header)
    places = {name: Place(start + offsets[name], sizes[name]) for name in specs}
    return PlannedFile(path, len(header).to_bytes(8, "little") + header, places, start + offset)


def _total_bytes(specs: Mapping[str, Spec]) -> int:
    return sum(prod(shape) * dtype.itemsize for dtype, shape in specs.values())


def _plan_shards(shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype, shard_bytes: int) -> list[list[str]]:
    """Names file by file, in order; a file passes `shard_bytes` only when a single tensor does."""
    shards: list[list[str]] = [[]]
    filled_bytes = 0
    for name, shape in shapes.items():
        size_bytes = prod(shape) * dtype.itemsize
        if shards[-1] and filled_bytes + size_bytes > shard_bytes:
            shards.append([])
            filled_bytes = 0
        shards[-1].append(name)
        filled_bytes += size_bytes
    return shards


def _json(fields: Mapping[str, object]) -> bytes:
    return (json.dumps(fields, indent=2, ensure_ascii=False) + "\n").encode()


def _write_files(folder: Path, files: Mapping[str, Path | bytes]) -> None:
    for name, content in files.items():
        target = folder / name
        if not re.fullmatch(r"\w[\w.\-]*", name) or target.exists():
            raise CheckpointError(f"{shown([name])} cannot be the name of a file in a checkpoint folder")
        if isinstance(content, bytes):
            target.write_bytes(content)
        else:
            shutil.copyfile(content, target)
