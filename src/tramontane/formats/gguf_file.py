"""GGUF files (version 2 and 3): a parser that trusts no number in the header, and reading through a memory map.

Format (ggml-org/ggml docs/gguf.md): magic, version, number of tensors, number of metadata keys, the typed metadata,
one record per tensor (name, dimensions fastest first, type, offset), padding to `general.alignment`, the data.
Counts and lengths are checked against the bytes that are left before anything is allocated for them.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

import torch

from tramontane.errors import CheckpointError
from tramontane.formats.mapped_file import MappedFile
from tramontane.formats.names import shown
from tramontane.formats.quant_blocks import BLOCK_TYPES, BlockType
from tramontane.formats.tensor_source import FLOAT_DTYPES, MappedSource, MappedTensor, TensorInfo

if TYPE_CHECKING:
    from pathlib import Path

MetadataValue = bool | int | float | str | list[bool] | list[int] | list[float] | list[str]

MAGIC = b"GGUF"
ALIGNMENT = 32  # bytes, where the metadata does not say otherwise
_HEADER_LIMIT_BYTES = 64 << 20  # the largest vocabularies take 20 MB, with a tokenizer.json for a string 50
_STRING_LIMIT_BYTES = 40 << 20
_ITEM_LIMIT = 1 << 21  # items of all arrays together: the largest vocabulary has 1.3 million
_KEY_LIMIT = 1 << 14
_TENSOR_LIMIT = 1 << 16  # the largest mixtures have some 50,000
_ALIGNMENT_LIMIT = 1 << 16
_NAME_LIMIT_BYTES = 64  # GGML_MAX_NAME
_MAX_DIMENSIONS = 4
_MAX_LENGTH = 2**31
_MIN_KEY_BYTES = 8 + 4 + 1  # an empty key with a one-byte value
_MIN_TENSOR_BYTES = 8 + 4 + 8 + 4 + 8  # an empty name with one dimension

# the value types of metadata, by number
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 10: "Q", 11: "q", 12: "d"}
BOOL, STRING, ARRAY = 7, 8, 9

# ggml_type by number; those without a name here are refused with their number
TENSOR_TYPES = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    6: "Q5_0",
    7: "Q5_1",
    8: "Q8_0",
    9: "Q8_1",
    10: "Q2_K",
    11: "Q3_K",
    12: "Q4_K",
    13: "Q5_K",
    14: "Q6_K",
    15: "Q8_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    20: "IQ4_NL",
    21: "IQ3_S",
    22: "IQ2_S",
    23: "IQ4_XS",
    24: "I8",
    25: "I16",
    26: "I32",
    27: "I64",
    28: "F64",
    29: "IQ1_M",
    30: "BF16",
    34: "TQ1_0",
    35: "TQ2_0",
    39: "MXFP4",
    40: "NVFP4",
}
READABLE_TYPES = (*FLOAT_DTYPES, *BLOCK_TYPES)


class Header(NamedTuple):
    """`tensors` in the order of their data, offsets counted from the start of the file."""

    tensors: dict[str, MappedTensor]
    metadata: dict[str, MetadataValue]


class GgufSource(MappedSource):
    """One .gguf file; `metadata` holds its typed values. Raises CheckpointError, naming the fault, on a bad header."""

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

    Raises CheckpointError for anything but a header whose tensors follow each other, aligned, up to the file's end.
    """
    cursor = _Cursor(memoryview(start)[:_HEADER_LIMIT_BYTES])
    if cursor.take(4) != MAGIC:
        raise CheckpointError("does not begin with GGUF; it is not a GGUF file")
    version = cursor.u32()
    if version in (2 << 24, 3 << 24):
        raise CheckpointError("is a big-endian GGUF file; convert it to little-endian with gguf-convert-endian")
    if version not in (2, 3):
        raise CheckpointError(f"is GGUF version {version}; versions 2 and 3 are read, convert the model again")
    num_tensors, num_keys = cursor.u64(), cursor.u64()
    if num_keys > min(cursor.left // _MIN_KEY_BYTES, _KEY_LIMIT):
        raise CheckpointError(f"claims {num_keys} metadata keys, more than can be in it; download it again")
    if num_tensors > min(cursor.left // _MIN_TENSOR_BYTES, _TENSOR_LIMIT):
        raise CheckpointError(f"claims {num_tensors} tensors, more than can be in it; download it again")
    metadata = _read_metadata(cursor, num_keys)
    alignment = _read_alignment(metadata)
    if metadata.get("split.count", 1) not in (0, 1):
        raise CheckpointError("is one part of a split model; join the parts with llama-gguf-split --merge")
    by_name: dict[str, MappedTensor] = {}  # offsets counted from the data's start
    offsets: dict[int, str] = {}
    for _ in range(num_tensors):
        tensor = _read_record(cursor)
        name, stop = tensor.info.name, cursor.position + tensor.offset + tensor.size_bytes
        if stop > file_bytes:
            raise CheckpointError(f"tensors end at byte {stop} or later, the file at {file_bytes}; download it again")
        if name in by_name:
            raise CheckpointError(f"names tensor {shown([name])} twice")
        if tensor.offset in offsets:
            raise CheckpointError(f"gives tensors {shown([offsets[tensor.offset], name])} the same data")
        by_name[name], offsets[tensor.offset] = tensor, name
    data_start = _aligned(cursor.position, alignment)
    tensors = [by_name[offsets[offset]] for offset in sorted(offsets)]
    tensors = [tensor._replace(offset=data_start + tensor.offset) for tensor in tensors]
    _require_sequence(tensors, data_start, alignment, file_bytes)
    return Header({tensor.info.name: tensor for tensor in tensors}, metadata)


class _Cursor:
    """Reads little-endian values one after the other and never past the end."""

    def __init__(self, start: memoryview) -> None:
        self._bytes = start
        self.position = 0
        self.left = len(start)
        self._num_items = 0

    def take(self, num_bytes: int) -> bytes:
        if num_bytes > self.left:
            raise CheckpointError(f"ends within its header at byte {self.position}; download it again")
        taken = self._bytes[self.position : self.position + num_bytes]
        self.position += num_bytes
        self.left -= num_bytes
        return bytes(taken)

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def u64(self) -> int:
        return int.from_bytes(self.take(8), "little")

    def string(self) -> str:
        num_bytes = self.u64()
        if num_bytes > min(self.left, _STRING_LIMIT_BYTES):
            raise CheckpointError(f"claims a string of {num_bytes} bytes at byte {self.position}; download it again")
        try:
            return self.take(num_bytes).decode("utf-8")
        except UnicodeDecodeError:
            raise CheckpointError(f"holds a string that is not UTF-8 before byte {self.position}") from None

    def strings(self, count: int) -> list[str]:
        """As so many calls of `string`, in a third of their time."""
        data, position, stop = self._bytes, self.position, self.position + self.left
        found = []
        for _ in range(count):
            following = position + 8 + int.from_bytes(data[position : position + 8], "little")
            if following > stop:
                raise CheckpointError(f"claims a string beyond its header at byte {position}; download it again")
            try:
                found.append(str(data[position + 8 : following], "utf-8"))
            except UnicodeDecodeError:
                raise CheckpointError(f"holds a string that is not UTF-8 before byte {following}") from None
            position = following
        self.position, self.left = position, stop - position
        return found

    def scalars(self, code: str, count: int) -> list[int] | list[float]:
        return list(struct.unpack(f"<{count}{code}", self.take(count * struct.calcsize("<" + code))))

    def booleans(self, count: int) -> list[bool]:
        raw = self.take(count)
        if any(byte > 1 for byte in raw):
            raise CheckpointError(f"holds a truth value other than 0 and 1 before byte {self.position}")
        return [byte == 1 for byte in raw]

    def count_items(self, count: int, item_bytes: int) -> None:
        """Refuse an array of `count` items of at least `item_bytes` that cannot be in the file, or is absurd."""
        self._num_items += count
        if count > self.left // item_bytes:
            raise CheckpointError(f"claims an array of {count} items at byte {self.position}; download it again")
        if self._num_items > _ITEM_LIMIT:
            raise CheckpointError(f"holds arrays of more than {_ITEM_LIMIT} items; no model needs them")


def _read_metadata(cursor: _Cursor, num_keys: int) -> dict[str, MetadataValue]:
    metadata: dict[str, MetadataValue] = {}
    for _ in range(num_keys):
        key = cursor.string()
        if not key or key in metadata:
            raise CheckpointError(f"holds the metadata key {shown([key])} twice" if key else "has a key without name")
        metadata[key] = _read_value(cursor, key)
    return metadata


def _read_value(cursor: _Cursor, key: str) -> MetadataValue:
    kind = cursor.u32()
    if kind in SCALARS:
        return cursor.scalars(SCALARS[kind], 1)[0]
    if kind == BOOL:
        return cursor.booleans(1)[0]
    if kind == STRING:
        return cursor.string()
    if kind != ARRAY:
        raise CheckpointError(f"metadata key {shown([key])} has the unknown type {kind}")
    kind, count = cursor.u32(), cursor.u64()
    if kind in SCALARS:
        cursor.count_items(count, struct.calcsize("<" + SCALARS[kind]))
        return cursor.scalars(SCALARS[kind], count)
    if kind == BOOL:
        cursor.count_items(count, 1)
        return cursor.booleans(count)
    if kind == STRING:
        cursor.count_items(count, 8)
        return cursor.strings(count)
    raise CheckpointError(f"metadata key {shown([key])} is an array of the unknown type {kind}")


def _read_alignment(metadata: dict[str, MetadataValue]) -> int:
    alignment = metadata.get("general.alignment", ALIGNMENT)
    is_power_of_two = type(alignment) is int and alignment > 0 and alignment & (alignment - 1) == 0
    if not isinstance(alignment, int) or not is_power_of_two or not 8 <= alignment <= _ALIGNMENT_LIMIT:
        raise CheckpointError(
            f"general.alignment={str(alignment)[:50]} must be a power of two from 8 to {_ALIGNMENT_LIMIT}"
        )
    return alignment


def _read_record(cursor: _Cursor) -> MappedTensor:
    """One tensor, its offset counted from the start of the data."""
    name = cursor.string()
    if not 1 <= len(name.encode()) <= _NAME_LIMIT_BYTES:
        raise CheckpointError(f"tensor name {shown([name])} must have 1 to {_NAME_LIMIT_BYTES} bytes")
    num_dimensions = cursor.u32()
    if not 1 <= num_dimensions <= _MAX_DIMENSIONS:
        raise CheckpointError(f"tensor {shown([name])} has {num_dimensions} dimensions; 1 to 4 are possible")
    shape = struct.unpack(f"<{num_dimensions}Q", cursor.take(8 * num_dimensions))[::-1]
    if not all(1 <= length < _MAX_LENGTH for length in shape):
        raise CheckpointError(f"tensor {shown([name])} has the impossible shape {shape}")
    kind = cursor.u32()
    stored = TENSOR_TYPES.get(kind, f"type {kind}")
    if stored not in READABLE_TYPES:
        raise CheckpointError(f"tensor {shown([name])} is stored as {stored}; readable are {', '.join(READABLE_TYPES)}")
    return _place(name, shape, stored, cursor.u64())


def _place(name: str, shape: tuple[int, ...], stored: str, offset: int) -> MappedTensor:
    if stored in FLOAT_DTYPES:
        dtype = FLOAT_DTYPES[stored]
        block_type = BlockType(1, dtype.itemsize)
    else:
        dtype, block_type = torch.uint8, BLOCK_TYPES[stored]
    if shape[-1] % block_type.block_size:
        raise CheckpointError(
            f"tensor {shown([name])} has rows of {shape[-1]}, not whole {stored} blocks of {block_type.block_size}"
        )
    size_bytes = block_type.row_bytes(shape[-1])
    for length in shape[:-1]:
        size_bytes *= length
    return MappedTensor(TensorInfo(name, shape, stored), offset, size_bytes, dtype)


def _require_sequence(tensors: list[MappedTensor], data_start: int, alignment: int, file_bytes: int) -> None:
    """`tensors`, sorted by offset, must follow each other with nothing but alignment padding between them."""
    stop = data_start
    for tensor in tensors:
        if tensor.offset != _aligned(stop, alignment):
            raise CheckpointError(
                f"data of tensor {shown([tensor.info.name])} is at byte {tensor.offset}, "
                f"but that before it ends at {stop} (alignment {alignment})"
            )
        stop = tensor.offset + tensor.size_bytes
    if stop > file_bytes and tensors:
        raise CheckpointError(f"tensors end at byte {stop}, the file at {file_bytes}; download it again")
    if file_bytes > _aligned(stop, alignment):
        raise CheckpointError(f"tensors end at byte {stop}, the file at {file_bytes}; the rest belongs to no tensor")


def _aligned(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment
