"""Write GGUF (version 3) as llama.cpp reads it, tensor by tensor, all or nothing."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING

from tramontane.errors import CheckpointError
from tramontane.formats.destination import new_file
from tramontane.formats.gguf_file import ALIGNMENT, ARRAY, BOOL, MAGIC, SCALARS, STRING, TENSOR_TYPES
from tramontane.formats.names import EMBEDDINGS, OUTPUT, canonical_shapes, shown, written
from tramontane.formats.planned_file import Place, PlannedFile, cast, every_tensor_once, require_room
from tramontane.formats.quant_blocks import BLOCK_TYPES, quantise
from tramontane.formats.tensor_source import FLOAT_DTYPES

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from torch import Tensor

    from tramontane.config.model_config import ModelConfig
    from tramontane.formats.names import TensorRead

# `general.file_type` (llama.cpp's llama_ftype) of each type most weights can be written as
FILE_TYPES = {"F32": 0, "F16": 1, "BF16": 32, "Q8_0": 7, "Q5_1": 9, "Q5_0": 8, "Q4_1": 3, "Q4_0": 2}
K_FILE_TYPES = {"Q2_K": 10, "Q3_K": 12, "Q4_K": 15, "Q5_K": 17, "Q6_K": 18}  # no quantiser here writes them
_QUANTISATION_VERSION = 2
_TYPE_NUMBERS = {stored: number for number, stored in TENSOR_TYPES.items()}
_SCALAR_NUMBERS = {code: number for number, code in SCALARS.items()}
_OWN_KEYS = {"general.file_type", "general.quantization_version", "general.alignment"}


def write_gguf(
    path: Path,
    config: ModelConfig,
    tensors: Iterable[tuple[str, Tensor]],
    *,
    metadata: Mapping[str, object],
    stored: str,
    packed: bool = False,
    overwrite: bool = False,
) -> None:
    """One .gguf file. `tensors` are canonical (name, tensor) pairs in any order; with `packed`, those of a quantised
    type come as their blocks, uint8 (rows, bytes per row), and are written untouched.

    `metadata` describes configuration and tokenizer; its whole numbers become uint32 (int32 in lists), or wider where
    they must. Most weights are stored as `stored`; `stored_types` names the exceptions. Raises CheckpointError if the
    tensors are not exactly the model's, a value cannot be stored, or the file exists and may not be overwritten; then
    nothing is left behind.
    """
    types = stored_types(config, stored, packed=packed)
    reads = written("gguf", config)
    fields = {key: value for key, value in metadata.items() if key not in _OWN_KEYS and not key.startswith("split.")}
    if not isinstance(fields.get("general.architecture"), str):
        raise CheckpointError("GGUF metadata must name general.architecture")
    fields["general.file_type"] = (FILE_TYPES | K_FILE_TYPES)[stored]
    if stored in BLOCK_TYPES:
        fields["general.quantization_version"] = _QUANTISATION_VERSION
    header = MAGIC + struct.pack("<IQQ", 3, len(reads), len(fields))
    header += b"".join(_string(key) + _typed(key, value) for key, value in fields.items())
    shapes = canonical_shapes(config)
    if packed:
        shapes = {name: _packed_shape(shape, types[name]) for name, shape in shapes.items()}
    places: dict[str, Place] = {}
    offset = 0
    for read in reads:
        tensor_type = types[read.parts[0].name]
        header += _record(read, tensor_type, offset)
        for part in read.parts:
            size_bytes = _size_bytes(part.shape, tensor_type)
            places[part.name] = Place(offset, size_bytes)
            offset += size_bytes
        offset += -offset % ALIGNMENT
    header += bytes(-len(header) % ALIGNMENT)
    places = {name: Place(len(header) + place.offset, place.size_bytes) for name, place in places.items()}
    require_room(path.parent, len(header) + offset)
    with (
        new_file(path, overwrite=overwrite) as unfinished,
        PlannedFile(unfinished, header, places, len(header) + offset) as file,
    ):
        for name, tensor in every_tensor_once(tensors, shapes):
            file.put(name, tensor if packed and types[name] in BLOCK_TYPES else _packed(name, tensor, types[name]))


def stored_types(config: ModelConfig, stored: str, *, packed: bool = False) -> dict[str, str]:
    """Canonical name -> type it is written as. Raises CheckpointError for a type that cannot be written: those
    without a quantiser are written only from blocks that come `packed`.

    Norms and routers stay F32, as llama.cpp wants them. Rows that are not whole blocks are written as F16. Formats
    under 8 bits keep the output matrix (the embeddings, if tied) in Q8_0: its errors go straight into the logits.
    """
    if stored not in FILE_TYPES and not (packed and stored in K_FILE_TYPES):
        raise CheckpointError(f"cannot write GGUF as {shown([stored])}; use one of {', '.join(FILE_TYPES)}")
    output = EMBEDDINGS if config.tied_embeddings else OUTPUT
    types = {}
    for name, shape in canonical_shapes(config).items():
        types[name] = stored
        if len(shape) == 1 or name.endswith("feed_forward.gate.weight"):
            types[name] = "F32"
        elif stored in BLOCK_TYPES:
            if name == output:
                types[name] = "Q8_0"
            if shape[-1] % BLOCK_TYPES[types[name]].block_size:
                types[name] = "F16"
    return types


def _packed(name: str, tensor: Tensor, stored: str) -> Tensor:
    if stored in FLOAT_DTYPES:
        return cast(name, tensor, FLOAT_DTYPES[stored])
    try:
        return quantise(tensor, stored)
    except CheckpointError as error:
        raise CheckpointError(f"tensor {shown([name])}: {error}") from None


def _packed_shape(shape: tuple[int, ...], stored: str) -> tuple[int, ...]:
    return shape if stored in FLOAT_DTYPES else (prod(shape[:-1]), BLOCK_TYPES[stored].row_bytes(shape[-1]))


def _size_bytes(shape: tuple[int, ...], stored: str) -> int:
    if stored in FLOAT_DTYPES:
        return prod(shape) * FLOAT_DTYPES[stored].itemsize
    return prod(shape[:-1]) * BLOCK_TYPES[stored].row_bytes(shape[-1])


def _record(read: TensorRead, stored: str, offset: int) -> bytes:
    dimensions = read.shape[::-1]
    return (
        _string(read.file_name)
        + struct.pack(f"<I{len(dimensions)}Q", len(dimensions), *dimensions)
        + struct.pack("<IQ", _TYPE_NUMBERS[stored], offset)
    )


def _string(text: str) -> bytes:
    raw = text.encode("utf-8")
    return struct.pack("<Q", len(raw)) + raw


def _typed(key: str, value: object) -> bytes:
    """A metadata value behind the number of its type."""
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        kind, items = _encoded(key, value, "iIqQ")
        return struct.pack("<IIQ", ARRAY, kind, len(value)) + items
    kind, items = _encoded(key, [value], "IiQq")
    return struct.pack("<I", kind) + items


def _encoded(key: str, items: Sequence[object], whole_codes: str) -> tuple[int, bytes]:
    """Type number of `items` and their bytes; whole numbers take the first of `whole_codes` that holds them all."""
    if all(isinstance(item, str) for item in items):  # an empty list too
        return STRING, b"".join(_string(str(item)) for item in items)
    if all(isinstance(item, bool) for item in items):
        return BOOL, bytes(bool(item) for item in items)
    codes = "f" if any(isinstance(item, float) for item in items) else whole_codes
    if all(isinstance(item, int | float) and not isinstance(item, bool) for item in items):
        for code in codes:
            try:
                return _SCALAR_NUMBERS[code], struct.pack(f"<{len(items)}{code}", *items)
            except (struct.error, OverflowError):
                continue
    raise CheckpointError(f"metadata {shown([key])} has no GGUF type: {str(items)[:80]}")
