"""safetensors files: a header parser that trusts nothing, and reading through a memory map.

Format (github.com/huggingface/safetensors): 8 bytes of little-endian header length, a JSON object
{name: {"dtype", "shape", "data_offsets": [start, stop]}, "__metadata__": {str: str}}, then the data, which the
tensors must cover without gap or overlap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from tramontane.bounded_json import TENSOR_HEADER, collector_paused
from tramontane.errors import CheckpointError
from tramontane.formats.header_json import read_json_object
from tramontane.formats.mapped_file import MappedFile
from tramontane.formats.names import shown
from tramontane.formats.tensor_source import MappedSource, MappedTensor, TensorInfo

if TYPE_CHECKING:
    from pathlib import Path

_MAX_DIMENSIONS = 8
_MAX_LENGTH = 2**48

DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "U16": torch.uint16,
    "I16": torch.int16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}


class Header(NamedTuple):
    """`tensors` in the order of their data, offsets counted from the start of the file."""

    tensors: dict[str, MappedTensor]
    metadata: dict[str, str]


class SafetensorsSource(MappedSource):
    """One .safetensors file. Raises CheckpointError, naming the fault, if its header is not exactly right."""

    def __init__(self, path: Path) -> None:
        file = MappedFile(path)
        try:
            header = read_header(file.view(), file.size_bytes)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from None
        self.metadata = header.metadata
        super().__init__(file, header.tensors)


def read_header(start: bytes | memoryview, file_bytes: int) -> Header:
    """Parse and prove the header at the `start` of a file of `file_bytes`.

    Raises CheckpointError for anything but a header whose tensors tile the data exactly.
    """
    if file_bytes < 8 or len(start) < 8:
        raise CheckpointError(f"is only {file_bytes} bytes long; download it again")
    header_bytes = int.from_bytes(start[:8], "little")
    data_start = 8 + header_bytes
    if header_bytes > TENSOR_HEADER.num_bytes:
        raise CheckpointError(f"claims a header of {header_bytes} bytes; {TENSOR_HEADER.num_bytes} at most are read")
    if data_start > min(file_bytes, len(start)):
        raise CheckpointError(f"claims a header of {header_bytes} bytes in a file of {file_bytes}; download it again")
    with collector_paused():
        fields = read_json_object(bytes(start[8:data_start]))
        metadata = _read_metadata(fields.pop("__metadata__", {}))
        tensors = [_read_tensor(name, entry, data_start) for name, entry in fields.items()]
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.size_bytes))  # empty tensors before those they share it with
    _require_tiling(tensors, data_start, file_bytes)
    return Header({tensor.info.name: tensor for tensor in tensors}, metadata)


def _read_metadata(metadata: object) -> dict[str, str]:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError("__metadata__ must map strings to strings")
    return metadata


def _read_tensor(name: str, entry: object, data_start: int) -> MappedTensor:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"tensor {shown([name])} must have exactly dtype, shape and data_offsets")
    stored = entry["dtype"]
    if not isinstance(stored, str) or stored not in DTYPES:
        raise CheckpointError(f"tensor {shown([name])} has the unknown dtype {shown([str(stored)])}")
    shape = _whole_numbers(entry["shape"])
    offsets = _whole_numbers(entry["data_offsets"])
    if shape is None or len(shape) > _MAX_DIMENSIONS:
        raise CheckpointError(f"tensor {shown([name])} has an impossible shape")
    if offsets is None or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise CheckpointError(f"tensor {shown([name])} has impossible data_offsets")
    size_bytes, capacity = DTYPES[stored].itemsize, 1
    for length in shape:
        size_bytes *= length
        capacity *= length or 1  # torch computes strides also where a length of 0 makes the tensor empty
    if capacity > _MAX_LENGTH or size_bytes != offsets[1] - offsets[0]:
        raise CheckpointError(
            f"tensor {shown([name])} of shape {_cut(shape)} takes {_cut(size_bytes)} bytes as {stored}, "
            f"but is given {_cut(offsets[1] - offsets[0])}"
        )
    return MappedTensor(TensorInfo(name, shape, stored), data_start + offsets[0], size_bytes, DTYPES[stored])


def _whole_numbers(value: object) -> tuple[int, ...] | None:
    if not isinstance(value, list):
        return None
    for item in value:
        if type(item) is not int or item < 0:
            return None
    return tuple(value)


def _require_tiling(tensors: list[MappedTensor], data_start: int, file_bytes: int) -> None:
    """`tensors`, sorted by offset, must cover the file from `data_start` to its end exactly once."""
    stop = data_start
    for tensor in tensors:
        if tensor.offset != stop:
            fault = "overlaps the tensor before it" if tensor.offset < stop else "leaves a gap before it"
            raise CheckpointError(f"data of tensor {shown([tensor.info.name])} {fault}")
        stop = tensor.offset + tensor.size_bytes
    if stop != file_bytes:
        fault = "download it again" if stop > file_bytes else "the rest belongs to no tensor"
        raise CheckpointError(f"tensors end at byte {_cut(stop)}, the file at {file_bytes}; {fault}")


def _cut(value: object) -> str:
    text = str(value) if not isinstance(value, int) or value < 2**256 else "more than 2^256"
    return text[:100]
