"""torch.save's zip checkpoints (.pth, .pt), read without unpickling.

A checkpoint is a zip of `data.pkl`, a pickle program, and `data/<key>`, the raw bytes of each storage. Running pickle
programs of strangers is running their code (CVE-2025-32434 did so even through torch.load's weights_only), so
nothing is run here: the program is interpreted symbolically. The few instructions and names with which torch describes
a dictionary of tensors are understood; anything else refuses the file. This is the only module that touches pickle.
"""

from __future__ import annotations

import io
import pickletools
import zipfile
import zlib
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING, cast

import torch

from tramontane.errors import CheckpointError
from tramontane.formats.mapped_file import MappedFile
from tramontane.formats.names import shown
from tramontane.formats.tensor_source import MappedSource, MappedTensor, TensorInfo

if TYPE_CHECKING:
    from pathlib import Path

_PROGRAM_LIMIT_BYTES = 4 << 20  # 30,000 tensors; the objects it makes take up to a hundred times its size
_MAX_DIMENSIONS = 8
_MAX_INSTRUCTIONS = 1_000_000
_FREE_INSTRUCTIONS = 10_000  # and so many more for each tensor, which takes some 35
_INSTRUCTIONS_PER_TENSOR = 100
_ZIP_READ_BYTES = 4 << 20  # the directory of some 40,000 records
_MAX_STACK = 10_000  # a dictionary is filled with 1,000 pairs at a time
_OLDEST_SAFE_TORCH = (2, 6)  # torch.load(weights_only=True) runs code before it: CVE-2025-32434

_STORAGES = {
    "torch FloatStorage": ("F32", torch.float32),
    "torch HalfStorage": ("F16", torch.float16),
    "torch BFloat16Storage": ("BF16", torch.bfloat16),
    "torch DoubleStorage": ("F64", torch.float64),
    "torch LongStorage": ("I64", torch.int64),
    "torch IntStorage": ("I32", torch.int32),
    "torch ShortStorage": ("I16", torch.int16),
    "torch CharStorage": ("I8", torch.int8),
    "torch ByteStorage": ("U8", torch.uint8),
    "torch BoolStorage": ("BOOL", torch.bool),
}
_DICT = "collections OrderedDict"
_TENSOR = "torch._utils _rebuild_tensor_v2"
_PARAMETER = "torch._utils _rebuild_parameter"
_ALLOWED_GLOBALS = {_DICT, _TENSOR, _PARAMETER, *_STORAGES}

# records of the zip other than data.pkl and data/<key>; none of them is read
_HARMLESS_RECORDS = {"version", "byteorder", ".format_version", ".storage_alignment", ".data/serialization_id"}


@dataclass(frozen=True, slots=True)
class _Global:
    name: str  # module and attribute, separated by a space; never imported


@dataclass(frozen=True, slots=True)
class _Storage:
    stored: str
    dtype: torch.dtype
    key: str
    num_elements: int


@dataclass(frozen=True, slots=True)
class _Tensor:
    storage: _Storage
    first_element: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class TorchSource(MappedSource):
    """One zip checkpoint. Raises CheckpointError if it holds anything but a flat dictionary of tensors."""

    def __init__(self, path: Path) -> None:
        require_safe_torch(torch.__version__)
        file = MappedFile(path)
        try:
            super().__init__(file, _read_tensors(file))
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from None


def require_safe_torch(version: str) -> None:
    """Raises CheckpointError for a torch whose own loader can be made to run code."""
    release = tuple(int(part) for part in version.split(".")[:2])
    if release < _OLDEST_SAFE_TORCH:
        raise CheckpointError(f"torch {version} cannot be trusted with .pth files; upgrade it to 2.6 or later")


def _read_tensors(file: MappedFile) -> dict[str, MappedTensor]:
    records = _read_records(file)
    start, size_bytes = records["data.pkl"]
    if size_bytes > _PROGRAM_LIMIT_BYTES:
        raise CheckpointError(f"its data.pkl takes {size_bytes} bytes; {_PROGRAM_LIMIT_BYTES} at most are read")
    state = _interpret(bytes(file.view()[start : start + size_bytes]))
    if not isinstance(state, dict):
        raise CheckpointError("does not hold a dictionary of tensors")
    tensors = {}
    for name, tensor in state.items():
        if not isinstance(tensor, _Tensor):
            raise CheckpointError(f"{shown([name])} is not a tensor; save the model's state_dict alone")
        tensors[name] = _place(name, tensor, records)
    return tensors


def _place(name: str, tensor: _Tensor, records: dict[str, tuple[int, int]]) -> MappedTensor:
    """Where the tensor's bytes are in the file, all of them inside its own record."""
    storage = tensor.storage
    record = records.get(f"data/{storage.key}")
    if record is None:
        raise CheckpointError(f"the data of tensor {shown([name])} is missing")
    start, size_bytes = record
    if storage.num_elements * storage.dtype.itemsize != size_bytes:
        raise CheckpointError(f"the data of tensor {shown([name])} has {size_bytes} bytes, not what it claims")
    if tensor.first_element + prod(tensor.shape) > storage.num_elements:
        raise CheckpointError(f"tensor {shown([name])} reaches beyond its data")
    expected = 1
    for length, stride in zip(reversed(tensor.shape), reversed(tensor.strides), strict=True):
        if length != 1 and stride != expected:
            raise CheckpointError(f"tensor {shown([name])} is not contiguous; save it with .contiguous()")
        expected *= length
    return MappedTensor(
        TensorInfo(name, tensor.shape, storage.stored),
        start + tensor.first_element * storage.dtype.itemsize,
        prod(tensor.shape) * storage.dtype.itemsize,
        storage.dtype,
    )


def _read_records(file: MappedFile) -> dict[str, tuple[int, int]]:
    """Start and size in bytes of each record of the zip, its name without the leading folder."""
    if bytes(file.view()[:4]) != b"PK\x03\x04":
        raise CheckpointError(
            "is not a zip checkpoint (older torch and tar formats cannot be read safely); "
            "have its owner save it again as safetensors"
        )
    try:
        with _ShortReads(file.path) as opened, zipfile.ZipFile(opened) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, EOFError, OverflowError):
        raise CheckpointError("is a damaged zip; download it again") from None
    records: dict[str, tuple[int, int]] = {}
    folders = {entry.filename.partition("/")[0] for entry in entries}
    for entry in entries:
        name = entry.filename.partition("/")[2]
        is_storage = name.startswith("data/") and name[5:].isascii() and name[5:].isdigit()
        if len(folders) != 1 or not (is_storage or name == "data.pkl" or name in _HARMLESS_RECORDS):
            raise CheckpointError(f"holds {shown([entry.filename])}, which no checkpoint of tensors needs")
        if name in records:
            raise CheckpointError(f"holds {shown([entry.filename])} twice")
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 or entry.file_size != entry.compress_size:
            raise CheckpointError(f"holds {shown([entry.filename])} compressed or encrypted")
        records[name] = start, size_bytes = _data_range(file, entry)
        if name == "data.pkl" and zlib.crc32(file.view()[start : start + size_bytes]) != entry.CRC:
            raise CheckpointError("has a damaged data.pkl; download it again")
    if "data.pkl" not in records:
        raise CheckpointError("holds no data.pkl; it was not written by torch.save")
    start, size_bytes = records.get("byteorder", (0, 0))
    if size_bytes and bytes(file.view()[start : start + size_bytes]) != b"little":
        raise CheckpointError("was written on a big-endian machine; save it again as safetensors")
    ranges = sorted(records.values())
    if any(start + size > following for (start, size), (following, _) in pairwise(ranges)):
        raise CheckpointError("has overlapping records")
    return records


class _ShortReads(io.FileIO):
    """A file of which the zip's directory is read at once, unless it is too large for that."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _ZIP_READ_BYTES:
            raise CheckpointError("lists more records than any checkpoint needs")
        return super().read(size)


def _data_range(file: MappedFile, entry: zipfile.ZipInfo) -> tuple[int, int]:
    """Start and size of a stored record; its local header (30 bytes, name, extra) must agree with the directory."""
    local = entry.header_offset
    header = bytes(file.view()[local : local + 30]) if 0 <= local < file.size_bytes else b""
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise CheckpointError(f"record {shown([entry.filename])} lies outside the file; download it again")
    name_bytes, extra_bytes = int.from_bytes(header[26:28], "little"), int.from_bytes(header[28:30], "little")
    start = local + 30 + name_bytes + extra_bytes
    name = bytes(file.view()[local + 30 : local + 30 + name_bytes])
    if name != entry.orig_filename.encode() or start + entry.file_size > file.size_bytes:
        raise CheckpointError(f"record {shown([entry.filename])} lies outside the file; download it again")
    return start, entry.file_size


def _interpret(program: bytes) -> object:
    try:
        return _Interpreter(program).run()
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, UnicodeError):
        raise CheckpointError("its data.pkl is damaged; download it again") from None


_MARK = object()


class _Interpreter:
    """Follows a pickle program on plain Python values; tensors, storages and names of code stay descriptions."""

    def __init__(self, program: bytes) -> None:
        self._program = program
        self._stack: list[object] = []
        self._memo: dict[int, object] = {}
        self._allowed = _FREE_INSTRUCTIONS

    def run(self) -> object:
        for number, (opcode, argument, position) in enumerate(pickletools.genops(self._program)):
            if number > min(self._allowed, _MAX_INSTRUCTIONS) or len(self._stack) > _MAX_STACK:
                raise CheckpointError("its data.pkl describes more than any checkpoint needs")
            if opcode.name == "STOP":
                if position != len(self._program) - 1 or len(self._stack) != 1:
                    raise CheckpointError("has something hidden behind its data.pkl")
                return self._stack.pop()
            self._follow(opcode.name, argument)
        raise ValueError("no STOP")

    def _follow(self, name: str, argument: object) -> None:
        stack = self._stack
        match name:
            case "PROTO":
                pass
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(name == "NEWTRUE")
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINUNICODE" | "SHORT_BINUNICODE":
                stack.append(argument)
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_TUPLE":
                stack.append(())
            case "MARK":
                stack.append(_MARK)
            case "TUPLE":
                stack.append(tuple(self._pop_to_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(name[-1])
                items = [self._pop() for _ in range(count)]
                if any(isinstance(item, tuple) for item in items):
                    raise CheckpointError("its data.pkl nests tuples as no tensor does")
                stack.append(tuple(reversed(items)))
            case "BINPUT" | "LONG_BINPUT":
                self._memo[cast("int", argument)] = stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self._memo[cast("int", argument)])
            case "SETITEM":
                value, key = self._pop(), self._pop()
                self._set_items([key, value])
            case "SETITEMS":
                self._set_items(self._pop_to_mark())
            case "GLOBAL":
                if argument not in _ALLOWED_GLOBALS:
                    raise CheckpointError(f"wants to run {shown([str(argument)])}; only tensors are read")
                stack.append(_Global(str(argument)))
            case "BINPERSID":
                stack.append(_read_storage(self._pop()))
            case "REDUCE":
                arguments, function = self._pop(), self._pop()
                stack.append(_describe_call(function, arguments))
                if isinstance(stack[-1], _Tensor):
                    self._allowed += _INSTRUCTIONS_PER_TENSOR
            case "BUILD":  # an OrderedDict's attributes: state_dict's _metadata, of no use here
                if not isinstance(self._pop(), dict) or not isinstance(stack[-1], dict):
                    raise CheckpointError("wants to build an object; only tensors are read")
            case _:
                raise CheckpointError(f"uses the pickle instruction {name}; only tensors are read")

    def _pop(self) -> object:
        value = self._stack.pop()
        if value is _MARK:
            raise ValueError("mark in place of a value")
        return value

    def _pop_to_mark(self) -> list[object]:
        items = []
        while (value := self._stack.pop()) is not _MARK:
            items.append(value)
        return items[::-1]

    def _set_items(self, items: list[object]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict):
            raise ValueError("items set on something else than a dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str):
                raise ValueError("a key that is not a string")
            if key in target:
                raise CheckpointError(f"names {shown([key])} twice")
            target[key] = value


def _read_storage(identity: object) -> _Storage:
    match identity:
        case ("storage", _Global(kind), str(key), str(), int(num_elements)) if kind in _STORAGES and num_elements >= 0:
            stored, dtype = _STORAGES[kind]
            return _Storage(stored, dtype, key, num_elements)
    raise ValueError("not a storage")


def _describe_call(function: object, arguments: object) -> object:
    match function, arguments:
        case _Global("collections OrderedDict"), ():
            return {}
        case _Global("torch._utils _rebuild_parameter"), (_Tensor() as tensor, bool(), {}):
            return tensor
        case (
            _Global("torch._utils _rebuild_tensor_v2"),
            (_Storage() as storage, int(first), tuple(shape), tuple(strides), bool(), {}),
        ):
            if first < 0 or len(shape) != len(strides) or len(shape) > _MAX_DIMENSIONS:
                raise ValueError("impossible shape")
            return _Tensor(storage, first, _whole_numbers(shape), _whole_numbers(strides))
    raise CheckpointError("wants to build an object; only tensors are read")


def _whole_numbers(values: tuple[object, ...]) -> tuple[int, ...]:
    if not all(type(value) is int and 0 <= value < 2**48 for value in values):
        raise ValueError("impossible length")
    return cast("tuple[int, ...]", values)
