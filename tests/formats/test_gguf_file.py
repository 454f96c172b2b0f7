"""The GGUF reader: what it reads equals the gguf package's reading; whatever is not exactly right is refused."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.formats.hostile import assert_one_line, mutations, refused_within, write_anew
from tramontane.errors import CheckpointError
from tramontane.formats.gguf_file import READABLE_TYPES, TENSOR_TYPES, GgufSource, MetadataValue, read_header
from tramontane.formats.open_tensors import open_tensors
from tramontane.formats.quant_blocks import BLOCK_TYPES

U32, STRING, ARRAY, U64 = 4, 8, 9, 10
F32, F16, Q8_0, I8 = 0, 1, 8, 24
LIES = [2**64 - 1, 2**63, 2**61, 2**32 + 8, 2**32 + 1, 2**31]


def string(text: str | bytes, claimed: int | None = None) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw) if claimed is None else claimed) + raw


def key(name: str, kind: int, value: bytes) -> bytes:
    return string(name) + struct.pack("<I", kind) + value


def record(name: str, dimensions: list[int], kind: int, offset: int, num_dimensions: int | None = None) -> bytes:
    count = len(dimensions) if num_dimensions is None else num_dimensions
    return string(name) + struct.pack(f"<I{len(dimensions)}QIQ", count, *dimensions, kind, offset)


def build(
    keys: list[bytes],
    records: list[bytes],
    data: bytes,
    *,
    num_keys: int | None = None,
    num_tensors: int | None = None,
    version: int = 3,
    alignment: int = 32,
) -> bytes:
    counts = (len(records) if num_tensors is None else num_tensors, len(keys) if num_keys is None else num_keys)
    header = b"GGUF" + struct.pack("<IQQ", version, *counts) + b"".join(keys) + b"".join(records)
    return header + bytes(-len(header) % alignment) + data


KEYS = [
    key("general.architecture", STRING, string("llama")),
    key("llama.block_count", U32, struct.pack("<I", 2)),
    key("llama.rope.freq_base", 6, struct.pack("<f", 1e4)),
    key("tokenizer.ggml.add_bos_token", 7, b"\1"),
    key("tokenizer.ggml.tokens", ARRAY, struct.pack("<IQ", STRING, 2) + string("<s>") + string("wind")),
    key("tokenizer.ggml.scores", ARRAY, struct.pack("<IQ2f", 6, 2, 0.0, -1.0)),
]
RECORDS = [record("a", [4, 2], F32, 0), record("b", [32, 2], Q8_0, 32), record("c", [3], F16, 128)]
DATA = bytes(32 + 68 + 28 + 6)
VALID = build(KEYS, RECORDS, DATA)
HEADER_BYTES = len(VALID) - len(DATA)


def refused(data: bytes, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        read_header(data, len(data))
    assert_one_line(caught.value)


def refused_file(data: bytes, path: Path) -> None:
    write_anew(path, data)
    with refused_within(seconds=0.1, extra_bytes=16 << 20):
        open_tensors(path)


def check_sane(data: bytes) -> None:
    """Accepting is right only if the tensors lie in the file one behind the other; else CheckpointError must come."""
    try:
        header = read_header(data, len(data))
    except CheckpointError as error:
        assert_one_line(error)
        return
    stop = 24
    for name, tensor in header.tensors.items():
        assert tensor.info.name == name
        assert tensor.offset >= stop
        stored = tensor.info.stored
        block_size, block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[stored]]
        assert tensor.size_bytes == torch.Size(tensor.info.shape).numel() // block_size * block_bytes > 0
        stop = tensor.offset + tensor.size_bytes
    assert stop <= len(data)


def test_files_of_the_gguf_package(tmp_path: Path) -> None:
    """Every metadata type and every readable tensor type, as llama.cpp's own writer puts them."""
    generator = np.random.default_rng(0)
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    expected: dict[str, MetadataValue] = {
        "t.uint8": 255, "t.int8": -128, "t.uint16": 65535, "t.int16": -32768, "t.uint32": 2**32 - 1,
        "t.int32": -(2**31), "t.uint64": 2**64 - 1, "t.int64": -(2**63), "t.float32": 0.1, "t.float64": 0.1,
        "t.bool": True, "t.string": "naïve 🌬",
    }  # fmt: skip
    for name, value in expected.items():
        getattr(writer, "add_" + name[2:])(name, value)
    expected["t.float32"] = float(np.float32(0.1))
    arrays: dict[str, MetadataValue] = {
        "t.strings": ["<s>", "▁wind", ""],
        "t.ints": [1, -2],
        "t.floats": [0.5, -1.0],
        "t.bools": [True, False],
    }
    for name, value in arrays.items():
        writer.add_array(name, value)
    writer.add_custom_alignment(64)
    raw = {}
    for stored in READABLE_TYPES:
        kind = gguf.GGMLQuantizationType[stored]
        block_size, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        raw[stored] = generator.integers(0, 60, (3, 2 * block_bytes * (1 if block_size > 1 else 8)), dtype=np.uint8)
        writer.add_tensor(stored, raw[stored], raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    theirs = gguf.GGUFReader(tmp_path / "x.gguf")
    with GgufSource(tmp_path / "x.gguf") as source:
        alignment = {"general.architecture": "llama", "general.alignment": 64}
        assert source.metadata == expected | arrays | alignment
        assert source.names() == [tensor.name for tensor in theirs.tensors] == list(READABLE_TYPES)
        for tensor in theirs.tensors:
            info = source.info(tensor.name)
            assert info.stored == tensor.tensor_type.name
            assert info.shape == tuple(tensor.shape.tolist()[::-1])
            values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(info.shape)
            np.testing.assert_array_equal(source.read(tensor.name).to(torch.float32).numpy(), values)
            np.testing.assert_array_equal(source.read(tensor.name, (1, 3)).to(torch.float32).numpy(), values[1:3])
            if info.is_quantised:
                np.testing.assert_array_equal(source.read_blocks(tensor.name).numpy(), raw[tensor.name])
                np.testing.assert_array_equal(source.read_blocks(tensor.name, (1, 2)).numpy(), raw[tensor.name][1:2])


def test_type_numbers_are_ggmls() -> None:
    assert {number: gguf.GGMLQuantizationType(number).name for number in TENSOR_TYPES} == TENSOR_TYPES
    assert set(READABLE_TYPES) == {"F32", "F16", "BF16", *BLOCK_TYPES}


@pytest.mark.parametrize("version", [2, 3])
def test_hand_made_file(version: int) -> None:
    data = build(KEYS, RECORDS, DATA, version=version)
    header = read_header(data, len(data))
    assert header.metadata["tokenizer.ggml.tokens"] == ["<s>", "wind"]
    assert [tensor.info.shape for tensor in header.tensors.values()] == [(2, 4), (2, 32), (3,)]


def test_truncated_at_every_byte() -> None:
    for length in range(len(VALID)):
        refused(VALID[:length], "download it again|not a GGUF file")


@pytest.mark.parametrize("extra", [1, 31, 32, 4096])
def test_trailing_data(extra: int) -> None:
    """Writers may pad the last tensor to the alignment; beyond that, data that belongs to nothing is refused."""
    data = VALID + bytes(extra)
    if len(DATA) + extra <= 160:
        assert read_header(data, len(data)).tensors.keys() == {"a", "b", "c"}
    else:
        refused(data, "the rest belongs to no tensor")


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (b"GGML", "not a GGUF file"),
        (b"PK\3\4", "not a GGUF file"),
        (b"GGUF" + struct.pack(">I", 3), "big-endian GGUF"),
        (b"GGUF" + struct.pack(">I", 2), "big-endian GGUF"),
        (b"GGUF" + struct.pack("<I", 0), "GGUF version 0"),
        (b"GGUF" + struct.pack("<I", 1), "GGUF version 1; versions 2 and 3 are read"),
        (b"GGUF" + struct.pack("<I", 4), "GGUF version 4"),
        (b"GGUF" + struct.pack("<I", 2**32 - 1), "GGUF version 4294967295"),
    ],
)
def test_other_files(start: bytes, message: str) -> None:
    refused(start + VALID[len(start) :], message)


@pytest.mark.parametrize("lie", [*LIES, 0xFFFFFFFF, 1000])
def test_lying_counts_and_lengths(lie: int, tmp_path: Path) -> None:
    """Every count and length of the format, in files of a few dozen bytes (SECURITY.md rows 1, 3 and 7)."""
    body = bytes(64)
    tokens = struct.pack("<IQ", STRING, 1)
    hostile = [
        build([], [], body, num_tensors=lie),
        build([], [], body, num_keys=lie),
        build(KEYS, RECORDS, DATA, num_tensors=lie),
        build(KEYS, RECORDS, DATA, num_keys=lie),
        build([string("k", claimed=lie) + struct.pack("<I", U32) + body], [], body),
        build([key("k", STRING, string("value", claimed=lie) + body)], [], body),
        build([key("tokenizer.ggml.tokens", ARRAY, tokens + string("piece", claimed=lie) + body)], [], body),
        build([], [string("name", claimed=lie) + body], body),
        *[build([key("k", ARRAY, struct.pack("<IQ", kind, lie) + body)], [], body) for kind in range(14)],
    ]
    for data in hostile:
        refused_file(data, tmp_path / "x.gguf")


@pytest.mark.parametrize("kind", [13, 14, 2**31, 2**32 - 1])
def test_unknown_value_types(kind: int) -> None:
    refused(build([key("k", kind, bytes(64))], [], b""), f"'k' has the unknown type {kind}")
    for inner in (kind, ARRAY):  # nested arrays: no model has them
        refused(
            build([key("k", ARRAY, struct.pack("<IQ", inner, 1) + bytes(64))], [], b""), "array of the unknown type"
        )


@pytest.mark.parametrize("alignment", [0, 1, 3, 4, 13, 24, 2**17, 2**31, 2**32 - 1])
def test_impossible_alignments(alignment: int) -> None:
    refused(
        build([key("general.alignment", U32, struct.pack("<I", alignment))], [], b""),
        f"general.alignment={alignment} must be a power of two",
    )


@pytest.mark.parametrize(
    "value",
    [
        key("general.alignment", STRING, string("32")),
        key("general.alignment", 6, struct.pack("<f", 32)),
        key("general.alignment", 7, b"\1"),
        key("general.alignment", 5, struct.pack("<i", -32)),
        key("general.alignment", U64, struct.pack("<Q", 2**64 - 1)),
        key("general.alignment", ARRAY, struct.pack("<IQI", U32, 1, 32)),
    ],
)
def test_alignments_of_another_type(value: bytes) -> None:
    refused(build([value], [], b""), "general.alignment=.* must be a power of two")


@pytest.mark.parametrize("alignment", [8, 16, 64, 4096])
def test_other_alignments_are_honoured(alignment: int) -> None:
    keys = [key("general.alignment", U32, struct.pack("<I", alignment))]
    records = [record("a", [1], F32, 0), record("b", [1], F32, alignment)]
    data = build(keys, records, bytes(alignment + 4), alignment=alignment)
    assert [t.offset % alignment for t in read_header(data, len(data)).tensors.values()] == [0, 0]


@pytest.mark.parametrize(
    "dimensions",
    [
        [0],
        [4, 0],
        [2**31],
        [2**32, 2**32],
        [2**31, 2**31, 2, 2],
        [2**63],
        [2**64 - 1],
        [0x7FFFFFFFFFFFFFC0],
        [2**61, 8],
        [2**30, 2**30, 16],
        [2**30, 2**30, 2**30, 2**30],
        [2**31 - 32, 2**31 - 1],
    ],
)
def test_dimensions_whose_product_wraps(dimensions: list[int]) -> None:
    """For each readable type; products that are 0 or small modulo 2^32, 2^63 and 2^64 (SECURITY.md rows 2 and 8)."""
    for kind, stored in TENSOR_TYPES.items():
        if stored in READABLE_TYPES:
            refused(
                build(KEYS, [record("a", dimensions, kind, 0)], bytes(64)), "impossible shape|end at byte|not whole"
            )


def test_sums_of_sizes_that_wrap() -> None:
    """Two tensors whose sizes sum to a small number modulo 2^64, the case of llama.cpp's own test included."""
    refused(build([], [record(name, [0x7FFFFFFFFFFFFFC0], I8, 0) for name in "ab"], bytes(64)), "impossible shape")
    for start in (0, 2**62):  # four tensors of 2^62 bytes, a fifth where they would end modulo 2^64
        records = [record(name, [2**30, 2**30], F32, i * 2**62) for i, name in enumerate("abcd")]
        refused(build([], [*records, record("e", [8], F32, start)], bytes(64)), "is at byte|end at byte")


@pytest.mark.parametrize("count", [0, 5, 2**31, 2**32 - 1])
def test_numbers_of_dimensions(count: int) -> None:
    refused(build(KEYS, [record("a", [1] * 8, F32, 0, num_dimensions=count)], bytes(64)), f"has {count} dimensions")


@pytest.mark.parametrize("moved", [1, 2, 4, 31, 32, 64, 2**10, 2**20, 2**30, 2**40, 2**63, 2**64 - 200])
def test_tensors_that_reach_beyond_the_file(moved: int) -> None:
    """Each tensor's end moved by 1 byte to 1 TB and beyond, by its offset (SECURITY.md row 5)."""
    offsets = {"a": 0, "b": 32, "c": 128}
    shapes = {"a": ([4, 2], F32), "b": ([32, 2], Q8_0), "c": ([3], F16)}
    for name in offsets:
        records = [record(n, *shapes[n], offsets[n] + moved * (n == name)) for n in offsets]
        refused(build(KEYS, records, DATA), "is at byte|end at byte|the same data")


@pytest.mark.parametrize("grown", [33, 2**10, 2**20, 2**30])
def test_shapes_that_reach_beyond_the_file(grown: int) -> None:
    refused(build(KEYS, [*RECORDS[:2], record("c", [3 + grown], F16, 128)], DATA), "end at byte .* download it again")


def test_overlaps_and_gaps() -> None:
    for offset in (0, 8, 64):
        records = [record("a", [8], F32, 0), record("b", [8], F32, offset)]
        refused(
            build(KEYS, records, bytes(96)),
            r"'b' is at byte \d+, but that before it ends at|'a' is at byte|the same data",
        )


def test_rows_that_are_not_whole_blocks() -> None:
    for kind, stored in TENSOR_TYPES.items():
        if stored in BLOCK_TYPES:
            size = BLOCK_TYPES[stored].block_size
            refused(build(KEYS, [record("a", [size // 2, 2], kind, 0)], bytes(64)), f"not whole {stored} blocks")


@pytest.mark.parametrize("kind", [9, 15, 16, 20, 24, 25, 26, 27, 28, 34, 39, 40, 4, 5, 36, 99, 2**31, 2**32 - 1])
def test_types_that_are_not_read_are_named(kind: int) -> None:
    name = TENSOR_TYPES.get(kind, f"type {kind}")
    refused(build(KEYS, [record("a", [256], kind, 0)], bytes(2048)), f"'a' is stored as {name}; readable are F32, F16")


def test_duplicates_are_refused() -> None:
    refused(build([KEYS[0], KEYS[0]], [], b""), "holds the metadata key 'general.architecture' twice")
    records = [record("a", [8], F32, 0), record("a", [8], F32, 32)]
    refused(build([], records, bytes(64)), "names tensor 'a' twice")
    refused(build([key("", U32, bytes(4))], [], b""), "a key without name")


@pytest.mark.parametrize("name", ["", "x" * 65, "ü" * 33])
def test_tensor_names_have_a_length(name: str) -> None:
    refused(build([], [record(name, [8], F32, 0)], bytes(32)), "must have 1 to 64 bytes")


def test_strings_must_be_utf_8_and_truth_values_0_or_1() -> None:
    refused(build([key("k", STRING, string(b"\xff\xfe"))], [], b""), "not UTF-8")
    refused(build([string(b"\xc3") + struct.pack("<II", U32, 1)], [], b""), "not UTF-8")
    for value in (2, 255):
        refused(build([key("k", 7, bytes([value]))], [], b""), "truth value other than 0 and 1")
        refused(build([key("k", ARRAY, struct.pack("<IQ", 7, 2) + bytes([1, value]))], [], b""), "truth value other")


def test_split_models_are_refused() -> None:
    refused(build([key("split.count", 2, struct.pack("<H", 3))], [], b""), "one part of a split model; join the parts")


def test_arrays_beyond_any_vocabulary_are_refused(tmp_path: Path) -> None:
    """Honest, but absurd: a list of Python numbers takes eight times the file."""
    array = struct.pack("<IQ", 0, 2**21 + 1) + bytes(2**21 + 1)
    refused_file(build([key("k", ARRAY, array)], [], b""), tmp_path / "x.gguf")
    half = struct.pack("<IQ", 0, 2**20) + bytes(2**20)
    refused(build([key(k, ARRAY, half) for k in "abc"], [], b""), "arrays of more than 2097152 items")


def test_retyped_or_removed_metadata_is_the_configurations_business() -> None:
    """Formats neither need nor guess a key: each may be missing or of another type, and is handed on as it is."""
    for place in range(len(KEYS)):
        for replacement in ([], [key("general.name", STRING, string("x"))]):
            data = build(KEYS[:place] + replacement + KEYS[place + 1 :], RECORDS, DATA)
            header = read_header(data, len(data))
            assert len(header.metadata) == len(KEYS) - 1 + len(replacement)
            assert header.tensors.keys() == {"a", "b", "c"}


@given(mutations(VALID, HEADER_BYTES))
@settings(max_examples=600, deadline=None, derandomize=True, database=None)
def test_mutated_headers(data: bytes) -> None:
    check_sane(data)


def test_every_byte_of_a_header_changed() -> None:
    for place in range(HEADER_BYTES):
        for value in (0x00, 0x01, 0x7F, 0x80, 0xFF, VALID[place] ^ 1, VALID[place] ^ 0x10):
            data = bytearray(VALID)
            data[place] = value
            check_sane(bytes(data))


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.lists(st.sampled_from([0, 1, 3, 32, 256, 2**31, 2**32, 2**63]), min_size=1, max_size=5),
            st.sampled_from([*TENSOR_TYPES, 99]),
            st.sampled_from([0, 32, 64, 2**40, 2**64 - 32]),
        ),
        max_size=3,
    ),
    st.integers(0, 4096),
)
@settings(max_examples=300, deadline=None, derandomize=True, database=None)
def test_invented_tensors(tensors: list[tuple[str, list[int], int, int]], num_bytes: int) -> None:
    check_sane(build(KEYS, [record(*tensor) for tensor in tensors], bytes(num_bytes)))


def test_mutated_files_read_or_are_refused(tmp_path: Path) -> None:
    """Through the file system: whatever is accepted can be read to its last byte."""
    path = tmp_path / "x.gguf"
    for place in range(0, len(VALID), 3):
        data = bytearray(VALID)
        data[place] ^= 0x41
        write_anew(path, bytes(data))
        try:
            source = GgufSource(path)
        except CheckpointError:
            continue
        with source:
            for name in source.names():
                assert source.read(name).shape == source.info(name).shape
