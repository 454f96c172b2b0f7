"""The safetensors reader: what it reads equals the reference implementation's; what is not exactly right is refused."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors import deserialize as their_deserialize
from safetensors.torch import save_file

from tests.formats.hostile import PATIENCE, assert_one_line, mutations, refused_within
from tramontane.bounded_json import TENSOR_HEADER
from tramontane.errors import CheckpointError
from tramontane.formats.open_tensors import open_tensors
from tramontane.formats.safetensors_file import DTYPES, SafetensorsSource, read_header

TWO: dict[str, dict[str, object]] = {
    "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
    "b": {"dtype": "BF16", "shape": [3], "data_offsets": [16, 22]},
}


def build(header: object, data: bytes = bytes(22), claimed: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if claimed is None else claimed).to_bytes(8, "little") + text + data


def refused(data: bytes, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        read_header(data, len(data))
    assert_one_line(caught.value)


def check_sane(data: bytes) -> None:
    """Accepting is right only if the tensors tile the data; otherwise nothing but CheckpointError may come."""
    try:
        header = read_header(data, len(data))
    except CheckpointError as error:
        assert_one_line(error)
        return
    stop = 8 + int.from_bytes(data[:8], "little")
    for name, tensor in header.tensors.items():
        assert tensor.info.name == name
        assert tensor.offset == stop
        assert tensor.size_bytes == torch.Size(tensor.info.shape).numel() * tensor.dtype.itemsize
        stop += tensor.size_bytes
    assert stop == len(data)


def test_every_dtype_as_the_library_writes_it(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {stored: torch.randint(0, 2, (3, 5), generator=generator).to(dtype) for stored, dtype in DTYPES.items()}
    tensors["scalar"] = torch.tensor(2.5)
    tensors["empty"] = torch.zeros(0, 3)
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt", "note": "ünï"})
    with SafetensorsSource(tmp_path / "x.safetensors") as source:
        assert source.metadata == {"format": "pt", "note": "ünï"}
        assert sorted(source.names()) == sorted(tensors)
        for name, tensor in tensors.items():
            read = source.read(name)
            assert read.dtype == tensor.dtype
            assert read.shape == tensor.shape == source.info(name).shape
            assert read.to(torch.float64).equal(tensor.to(torch.float64))
            if name in DTYPES:
                assert source.info(name).stored == name


def test_odd_offsets_are_read_right(tmp_path: Path) -> None:
    """Float data behind one byte: legal, but no view of the file can be aligned."""
    header = {
        "a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        "b": {"dtype": "F32", "shape": [2], "data_offsets": [1, 9]},
    }
    values = torch.tensor([1.5, -2.0])
    path = tmp_path / "x.safetensors"
    path.write_bytes(build(header, b"\x07" + values.numpy().tobytes()))
    with SafetensorsSource(path) as source:
        assert torch.equal(source.read("b"), values)
        assert source.read("b").data_ptr() % 4 == 0


def test_rows_are_those_of_the_flattened_tensor(tmp_path: Path) -> None:
    stack = torch.arange(24.0).reshape(2, 3, 4)
    save_file({"x": stack}, tmp_path / "x.safetensors")
    with SafetensorsSource(tmp_path / "x.safetensors") as source:
        assert torch.equal(source.read("x", (2, 5)), stack.reshape(6, 4)[2:5])
        with pytest.raises(CheckpointError, match="stored as F32, not in packed blocks"):
            source.read_blocks("x")
        with pytest.raises(CheckpointError, match="has no tensor 'y'"):
            source.read("y")


def test_errors_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(build(TWO, bytes(21)))
    with pytest.raises(CheckpointError, match=r"^/.*/x\.safetensors: tensors end at byte .*; download it again$"):
        open_tensors(tmp_path / "x.safetensors")


def test_truncated_at_every_byte() -> None:
    data = build(TWO)
    read_header(data, len(data))
    for length in range(len(data)):
        refused(data[:length], "download it again|not JSON|not valid")


def test_trailing_data_is_refused() -> None:
    for extra in (1, 8, 4096):
        refused(build(TWO) + bytes(extra), "the rest belongs to no tensor")


@pytest.mark.parametrize("claimed", [2**64 - 1, 2**63, 2**61, 2**32 + 1, 2**31, 100_000_001, 300, 0, 1, 7])
def test_lying_header_lengths(claimed: int, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(build(TWO, claimed=claimed))
    with refused_within(seconds=0.1, extra_bytes=16 << 20):
        open_tensors(path)


@pytest.mark.parametrize("moved", [1, 2, 22, 2**10, 2**20, 2**30, 2**40, 2**63, 2**64, 10**30])
def test_tensors_that_reach_beyond_the_file(moved: int) -> None:
    """The end of each tensor moved by 1 byte to 1 TB and beyond, its shape grown with it or not."""
    for name in TWO:
        for grow in (False, True):
            entry = json.loads(json.dumps(TWO[name]))
            entry["data_offsets"][1] += moved * 4
            if grow:
                entry["shape"] = [entry["data_offsets"][1] - entry["data_offsets"][0]]
                entry["dtype"] = "U8"
            refused(build(TWO | {name: entry}), "tensors end at byte|overlaps the tensor|but is given")


@pytest.mark.parametrize(
    "shape",
    [
        [2**32, 2**32],
        [2**31, 2**31, 4],
        [2**63],
        [2**64],
        [2**64 + 4],
        [0x7FFFFFFFFFFFFFC0],
        [2**61, 8],
        [0, 2**63],
        [0, 2**32, 2**32],
        [10**4000, 10**4000],
        [1] * 9,
    ],
)
def test_shapes_whose_product_wraps(shape: list[int]) -> None:
    """Products that are 0, 4 or 16 modulo 2^32 or 2^64, the size given."""
    for size in (0, 4, 16):
        header = {"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}}
        refused(build(header, bytes(size)), "but is given|impossible shape")


BROKEN = {
    "no dtype": {"shape": [4], "data_offsets": [0, 16]},
    "another key": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16], "x": 1},
    "unknown dtype": {"dtype": "F128", "shape": [4], "data_offsets": [0, 16]},
    "dtype of another type": {"dtype": ["F32"], "shape": [4], "data_offsets": [0, 16]},
    "dtype in small letters": {"dtype": "f32", "shape": [4], "data_offsets": [0, 16]},
    "negative length": {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]},
    "negative lengths": {"dtype": "F32", "shape": [-2, -2], "data_offsets": [0, 16]},
    "length of true": {"dtype": "F32", "shape": [True, 4], "data_offsets": [0, 16]},
    "length with a fraction": {"dtype": "F32", "shape": [4.0], "data_offsets": [0, 16]},
    "length in a string": {"dtype": "F32", "shape": ["4"], "data_offsets": [0, 16]},
    "shape of another type": {"dtype": "F32", "shape": 4, "data_offsets": [0, 16]},
    "shape of null": {"dtype": "F32", "shape": None, "data_offsets": [0, 16]},
    "one offset": {"dtype": "F32", "shape": [4], "data_offsets": [16]},
    "three offsets": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16, 16]},
    "offsets turned": {"dtype": "F32", "shape": [4], "data_offsets": [16, 0]},
    "negative offset": {"dtype": "F32", "shape": [4], "data_offsets": [-16, 0]},
    "size of another shape": {"dtype": "F32", "shape": [3], "data_offsets": [0, 16]},
    "a list": [1, 2],
    "null": None,
}


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_entries(fault: str) -> None:
    refused(build({"a": BROKEN[fault]}, bytes(16)), "^tensor 'a'")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"", "not JSON where"),
        (b"[]", "not JSON where"),
        (b" {}", "not JSON where"),
        (b"{}{}", "not valid"),
        (b'{"a":}', "not valid"),
        (b"{'a': 1}", "not valid"),
        (b'{"\xff": 1}', "not valid"),
        (b'{"a": NaN}', "holds NaN"),
        (b'{"a": -Infinity}', "holds -Infinity"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not valid"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested too deeply"),
        (b'{"a": 1, "a": 1}', "names 'a' twice"),
        (b'{"__metadata__": {"x": "1", "x": "2"}}', "names 'x' twice"),
        (b'{"__metadata__": {"x": 1}}', "__metadata__ must map strings"),
        (b'{"__metadata__": []}', "__metadata__ must map strings"),
        (b'{"__metadata__": null}', "__metadata__ must map strings"),
    ],
)
def test_headers_that_are_not_headers(header: bytes, message: str) -> None:
    refused(build(header, b""), message)


def test_duplicate_tensors_are_refused() -> None:
    entry = json.dumps(TWO["a"])
    refused(build(f'{{"a": {entry}, "a": {entry}}}'.encode(), bytes(16)), "names 'a' twice")


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ((0, 16), (12, 28), "overlaps"),
        ((0, 16), (0, 16), "overlaps"),
        ((0, 16), (20, 36), "gap"),
        ((4, 20), (20, 36), "gap"),
    ],
)
def test_overlaps_and_gaps(first: tuple[int, int], second: tuple[int, int], message: str) -> None:
    header = {
        "a": {"dtype": "F32", "shape": [4], "data_offsets": first},
        "b": {"dtype": "F32", "shape": [4], "data_offsets": second},
    }
    refused(build(header, bytes(second[1])), message)


def test_a_hundred_thousand_tensors_load_or_are_refused_quickly() -> None:
    entry = '"layers.%d.attention.wq.weight":{"dtype":"BF16","shape":[1,2],"data_offsets":[%d,%d]}'
    header = "{" + ",".join(entry % (i, 4 * i, 4 * i + 4) for i in range(100_000)) + "}"
    data = build(header.encode(), bytes(400_001))
    start = time.process_time()
    assert len(read_header(data, len(data) - 1).tensors) == 100_000
    assert time.process_time() - start < PATIENCE * 2
    with refused_within(seconds=2, extra_bytes=256 << 20):
        read_header(data, len(data))


@pytest.mark.parametrize(
    "filling",
    [b'"a":1,', b"[],", b"1,", b'"' + b"x" * 1000 + b'",', b'{"a":'],
    ids=["keys", "lists", "numbers", "strings", "depth"],
)
def test_the_largest_header(filling: bytes) -> None:
    size = TENSOR_HEADER.num_bytes
    data = build(b'{"a":[' + (filling * (size // len(filling)))[: size - 8] + b"]}")
    with refused_within(seconds=2, extra_bytes=512 << 20):
        read_header(data, len(data))


def test_messages_cannot_be_flooded_or_forged_by_names() -> None:
    name = "x\n\x1b[31mERROR" * 1000
    refused(build({name: TWO["a"] | {"dtype": name}}), r"^tensor 'x\\n")


VALID = build({"__metadata__": {"format": "pt"}, **TWO})


@given(mutations(VALID, len(VALID) - 22))
@settings(max_examples=600, deadline=None, derandomize=True, database=None)
def test_mutated_headers(data: bytes) -> None:
    check_sane(data)


def test_every_byte_of_a_header_changed_in_every_bit() -> None:
    for place in range(len(VALID) - 22):
        for bit in range(8):
            data = bytearray(VALID)
            data[place] ^= 1 << bit
            check_sane(bytes(data))


small = st.integers(-2, 40)
json_values = st.recursive(
    st.none() | st.booleans() | small | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from([*DTYPES, "F4", ""]) | json_values,
        "shape": st.lists(small, max_size=3) | json_values,
        "data_offsets": st.lists(small, min_size=2, max_size=2) | json_values,
    }
)


@given(
    st.dictionaries(st.text(max_size=3) | st.just("__metadata__"), entries | json_values, max_size=4),
    st.integers(0, 60),
)
@settings(max_examples=400, deadline=None, derandomize=True, database=None)
def test_invented_headers(header: dict[str, object], num_bytes: int) -> None:
    """Whatever we accept the reference implementation accepts too."""
    data = build(header, bytes(num_bytes))
    check_sane(data)
    try:
        read_header(data, len(data))
    except CheckpointError:
        return
    their_deserialize(data)  # type: ignore[no-untyped-call]


def test_the_reference_implementation_refuses_as_well() -> None:
    """Guards the comparison above: it would be empty if the library took anything."""
    with pytest.raises(SafetensorError):
        their_deserialize(build(TWO, bytes(21)))  # type: ignore[no-untyped-call]


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "empty.safetensors").write_bytes(b"")
    (tmp_path / "zero.safetensors").symlink_to("/dev/zero")
    for name, message in {
        "pipe": "is not a regular file",
        "folder": "holds no weights",
        "empty": "is empty; download it again",
        "zero": "is not a regular file",
        "absent": "cannot be opened: No such file",
    }.items():
        with pytest.raises(CheckpointError, match=message):
            open_tensors(tmp_path / f"{name}.safetensors")
