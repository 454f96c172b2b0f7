"""torch's checkpoints: read without unpickling; whatever could run code is refused, and runs nothing."""

from __future__ import annotations

import ast
import collections
import contextlib
import io
import pickle
import re
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

import tramontane
from tests.formats.gadgets import CONTAINERS, as_zip, programs
from tests.formats.hostile import assert_one_line, refused_within, write_anew
from tramontane.errors import CheckpointError
from tramontane.formats.open_tensors import open_tensors
from tramontane.formats.torch_pickle import TorchSource, require_safe_torch


def refused(data: bytes, path: Path, message: str) -> None:
    write_anew(path, data)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_tensors(path)
    assert str(path) in str(caught.value)
    assert_one_line(caught.value)


def saved(state: object, **options: bool) -> bytes:
    out = io.BytesIO()
    torch.save(state, out, **options)
    return out.getvalue()


@pytest.mark.parametrize("container", CONTAINERS)
def test_gadgets_run_nothing(container: str, tmp_path: Path) -> None:
    """Hundreds of programs in each kind of file; each must be refused and the canary never appear."""
    canary = tmp_path / "canary"
    path = tmp_path / "x.pth"
    num_programs = 0
    for program in programs(canary):
        refused(CONTAINERS[container](program), path, "x\\.pth: ")
        assert not canary.exists()
        num_programs += 1
    assert num_programs > 500


@pytest.mark.filterwarnings("ignore:.*unclosed file|Exception ignored in")
def test_the_gadgets_are_live(tmp_path: Path) -> None:
    """Guards the test above: where Python's unpickler runs such programs, the canary does appear."""
    canary = tmp_path / "canary"
    num_live = 0
    for program in programs(canary):
        if b"builtins" in program or b"__builtin__" in program:  # the others are slower, or take the process along
            with contextlib.suppress(Exception):
                pickle.loads(program)
            num_live += canary.exists()
            canary.unlink(missing_ok=True)
    assert num_live > 30


def test_the_message_names_what_would_have_run(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    refused(
        as_zip(b"\x80\x02cos\nsystem\nX\x02\0\0\0ls\x85R."), path, "wants to run 'os system'; only tensors are read"
    )
    refused(as_zip(b"\x80\x02(X\x02\0\0\0lsios\nsystem\n."), path, "uses the pickle instruction INST")
    refused(pickle.dumps({}), path, "older torch and tar formats cannot be read safely")


def test_what_torch_saves_is_read(tmp_path: Path) -> None:
    """Plain dictionaries, state_dicts with their metadata, Parameters, views, shared storages, every dtype."""
    shared = torch.randn(6, 4)
    module = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    states: list[dict[str, torch.Tensor]] = [
        {"a": torch.randn(3, 5), "scalar": torch.tensor(2.0), "empty": torch.zeros(0, 3), "thin": torch.randn(4, 1).T},
        {str(dtype): torch.ones(3).to(dtype) for dtype in (torch.float16, torch.bfloat16, torch.float64)},
        {str(dtype): torch.ones(3).to(dtype) for dtype in (torch.int64, torch.int32, torch.int16, torch.int8)},
        {str(dtype): torch.ones(3).to(dtype) for dtype in (torch.uint8, torch.bool)},
        {"whole": shared, "rows": shared[2:4], "again": shared},
        module.state_dict(),
        collections.OrderedDict(weight=nn.Parameter(torch.randn(2, 2))),
        {},
    ]
    path = tmp_path / "x.pth"
    for state in states:
        write_anew(path, saved(state))
        with open_tensors(path) as source:
            assert source.names() == list(state)
            for name, tensor in state.items():
                read = source.read(name)
                assert read.dtype == tensor.dtype
                assert read.shape == tensor.shape
                assert torch.equal(read, tensor.detach())


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_binary_protocol_is_read(protocol: int, tmp_path: Path) -> None:
    state = {f"layers.{i}.weight": torch.full((2, 3), float(i)) for i in range(300)}  # more than one byte of memo
    path = tmp_path / "x.pth"
    torch.save(state, path, pickle_protocol=protocol)
    if protocol < 4:
        with TorchSource(path) as source:
            assert torch.equal(source.read("layers.299.weight"), state["layers.299.weight"])
    else:  # torch.load(weights_only=True) takes protocol 2 alone; from 4 on, names come computed
        with pytest.raises(CheckpointError, match="uses the pickle instruction"):
            TorchSource(path)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (torch.randn(2), "does not hold a dictionary"),
        ([torch.randn(2)], "only tensors are read"),
        ({"model": {"w": torch.randn(2)}}, "'model' is not a tensor"),
        ({"w": torch.randn(2), "epoch": 3}, "'epoch' is not a tensor"),
        ({"w": None}, "'w' is not a tensor"),
        ({1: torch.randn(2)}, "is damaged"),
        ({"w": torch.randn(4, 3).T}, "'w' is not contiguous"),
        ({"w": torch.randn(1, 3).expand(4, 3)}, "'w' is not contiguous|reaches beyond"),
        ({"w": torch.eye(2).to_sparse()}, "wants to run 'torch._utils _rebuild_sparse_tensor'"),
        ({"w": torch.zeros(2, dtype=torch.complex64)}, "wants to run 'torch ComplexFloatStorage'"),
        (nn.Linear(2, 2), "wants to run 'torch.nn.modules.linear Linear'"),
    ],
)
def test_other_contents_are_refused(state: object, message: str, tmp_path: Path) -> None:
    refused(saved(state), tmp_path / "x.pth", message)


def test_old_formats_of_torch_are_refused(tmp_path: Path) -> None:
    data = saved({"w": torch.randn(2)}, _use_new_zipfile_serialization=False)
    refused(data, tmp_path / "x.pth", "is not a zip checkpoint .* save it again as safetensors")


def small() -> bytes:
    return saved({"w": torch.arange(4.0), "v": torch.arange(6.0).reshape(2, 3)})


def test_truncated_at_every_byte(tmp_path: Path) -> None:
    data = small()
    for length in range(len(data)):
        refused(data[:length], tmp_path / "x.pth", "download it again|not a zip|is empty|lies outside")


def repack(data: bytes, **changes: bytes | None) -> bytes:
    """The zip with records replaced, added, or (None) left out."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        records = {entry.filename: old.read(entry) for entry in old.infolist()}
        folder = next(iter(records)).split("/")[0]
        for name, content in (records | {f"{folder}/{name}": content for name, content in changes.items()}).items():
            if content is not None:
                new.writestr(name, content)
    return out.getvalue()


def record_of(data: bytes, name: str) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return archive.read(next(entry for entry in archive.namelist() if entry.endswith(name)))


def test_records_are_proved(tmp_path: Path) -> None:
    path, data = tmp_path / "x.pth", small()
    refused(repack(data, **{"data/0": None}), path, "the data of tensor 'w' is missing")
    refused(repack(data, **{"data/0": bytes(15)}), path, "the data of tensor 'w' has 15 bytes, not what it claims")
    refused(repack(data, **{"data/0": bytes(17)}), path, "the data of tensor 'w' has 17 bytes, not what it claims")
    refused(repack(data, **{"data.pkl": None}), path, "holds no data.pkl")
    refused(repack(data, **{"byteorder": b"big"}), path, "big-endian")
    refused(repack(data, **{"data/../../x": b""}), path, "which no checkpoint of tensors needs")
    refused(repack(data, **{"data/x": b""}), path, "which no checkpoint of tensors needs")
    refused(repack(data, **{"code/m.py": b""}), path, "'archive/code/m.py'|code/m.py', which no")
    compressed = io.BytesIO()
    with zipfile.ZipFile(compressed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", record_of(data, "data.pkl"))
    refused(compressed.getvalue(), path, "compressed or encrypted")
    two = io.BytesIO()
    with zipfile.ZipFile(two, "w") as archive:
        archive.writestr("a/data.pkl", record_of(data, "data.pkl"))
        archive.writestr("b/data/0", bytes(16))
    refused(two.getvalue(), path, "which no checkpoint of tensors needs")
    twice = io.BytesIO()
    with zipfile.ZipFile(twice, "w") as archive:
        archive.writestr("a/data.pkl", record_of(data, "data.pkl"))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("a/data.pkl", b"\x80\x02}.")
    refused(twice.getvalue(), path, "holds 'a/data.pkl' twice")


def test_a_damaged_program_is_noticed(tmp_path: Path) -> None:
    """A single bit of a name turned: nothing but the checksum can tell."""
    data = saved({"weight": torch.zeros(2)})
    assert data.count(b"weight") == 1
    refused(data.replace(b"weight", b"veight"), tmp_path / "x.pth", "damaged data.pkl; download it again")


@pytest.mark.parametrize("filling", [b"}", b"(", b"(((((tttttt", b"}q\0h\0h\0\x87"])
def test_programs_that_only_grow(filling: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    for size in (1 << 18, 5 << 20):
        write_anew(path, as_zip(b"\x80\x02" + filling * (size // len(filling)) + b"."))
        with refused_within(seconds=3, extra_bytes=256 << 20):
            open_tensors(path)


@pytest.mark.parametrize("lie", [5, 2**16, 2**31 - 1])
def test_lying_sizes_in_the_program(lie: int, tmp_path: Path) -> None:
    """Every number of the program replaced in turn by a larger one: nothing outside the tensor's record is read."""
    data = small()
    program = record_of(data, "data.pkl")
    number = b"J" + lie.to_bytes(4, "little")
    places = [m.start() for m in re.finditer(rb"K[\x00-\x08]", program)]
    assert len(places) > 8
    for place in places:
        path = tmp_path / "x.pth"
        write_anew(path, repack(data, **{"data.pkl": program[:place] + number + program[place + 2 :]}))
        with pytest.raises(CheckpointError, match=r"claims|beyond its|not contiguous|is damaged|download it"):
            open_tensors(path)


@pytest.mark.parametrize("lie", [-1, -(2**31)])
def test_negative_sizes_in_the_program(lie: int, tmp_path: Path) -> None:
    data = small()
    program = record_of(data, "data.pkl")
    number = b"J" + lie.to_bytes(4, "little", signed=True)
    for match in re.finditer(rb"K[\x00-\x08]", program):
        path = tmp_path / "x.pth"
        write_anew(path, repack(data, **{"data.pkl": program[: match.start()] + number + program[match.end() :]}))
        with pytest.raises(CheckpointError, match="is damaged"):
            open_tensors(path)


def test_products_that_wrap(tmp_path: Path) -> None:
    """A shape of 2^40 x 2^24 elements, 0 modulo 2^64, over a storage of four."""
    data = small()
    program = record_of(data, "data.pkl")
    shape = b"\x8a\x06" + (2**40).to_bytes(6, "little") + b"\x8a\x04" + (2**24).to_bytes(4, "little") + b"\x86"
    assert b"K\x02K\x03\x86" in program
    refused(
        repack(data, **{"data.pkl": program.replace(b"K\x02K\x03\x86", shape)}),
        tmp_path / "x.pth",
        "reaches beyond its data",
    )


def test_every_byte_of_the_program_changed(tmp_path: Path) -> None:
    """Either the file is refused, or every tensor can be read within its own record."""
    data = saved({"w": torch.arange(4.0)})
    program = record_of(data, "data.pkl")
    path = tmp_path / "x.pth"
    for place in range(len(program)):
        for flip in (0x01, 0x20, 0xFF):
            changed = bytearray(program)
            changed[place] ^= flip
            write_anew(path, repack(data, **{"data.pkl": bytes(changed)}))
            try:
                source = TorchSource(path)
            except CheckpointError as error:
                assert_one_line(error)
                continue
            with source:
                for name in source.names():
                    assert source.read(name).numel() <= 4


def test_every_byte_of_the_zip_changed(tmp_path: Path) -> None:
    data = saved({"w": torch.arange(4.0)})
    path = tmp_path / "x.pth"
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 0xFF
        write_anew(path, bytes(changed))
        try:
            source = TorchSource(path)
        except CheckpointError as error:
            assert_one_line(error)
            continue
        with source:
            for name in source.names():
                assert source.read(name).shape == (4,)


@pytest.mark.parametrize("version", ["2.5.1", "1.13.0+cu117", "2.0", "0.4.1"])
def test_torch_that_runs_code_is_refused(version: str) -> None:
    with pytest.raises(CheckpointError, match=f"torch {re.escape(version)} cannot be trusted .* upgrade it to 2.6"):
        require_safe_torch(version)


@pytest.mark.parametrize("version", ["2.6.0", "2.13.0+cpu", "3.0.0a0", "10.0"])
def test_newer_torch_is_taken(version: str) -> None:
    require_safe_torch(version)


def test_no_other_module_unpickles() -> None:
    """Every import and attribute of the source, against the names through which pickles are run."""
    package = Path(tramontane.__file__).parent
    modules = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "pickletools"}
    found = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Import(names=aliases):
                    used = {alias.name.split(".")[0] for alias in aliases} & modules
                case ast.ImportFrom(module=str(module), names=aliases):
                    used = {module.split(".")[0]} & modules
                    used |= {"torch.load" for alias in aliases if module.startswith("torch") and alias.name == "load"}
                case ast.Attribute(value=ast.Name(id="torch"), attr="load"):
                    used = {"torch.load"}
                case ast.keyword(arg="allow_pickle"):
                    used = {"allow_pickle"}
                case _:
                    continue
            found |= {(path.relative_to(package).as_posix(), name) for name in used}
    assert found == {("formats/torch_pickle.py", "pickletools")}
