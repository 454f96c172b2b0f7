"""Files that say little in many bytes: refused before it is built, and every beginning of a sound file too."""

from __future__ import annotations

import struct
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tramontane.config import read_json as read_config
from tramontane.errors import CheckpointError, ConfigError, TokenizerError
from tramontane.formats.gguf_file import read_header
from tramontane.formats.open_tensors import open_tensors
from tramontane.formats.torch_pickle import _Interpreter
from tramontane.tokenizer.json_file import read_json as read_vocabulary
from tramontane.tokenizer.sentencepiece import read_model

MIB = 1 << 20


def costs(read: Callable[[], object], kind: type[Exception]) -> None:
    """Refused within generous bounds: memory is traced, which takes several times as long."""
    tracemalloc.start()
    started = time.process_time()
    with pytest.raises(kind) as caught:
        read()
    spent, peak = time.process_time() - started, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert (spent < 30, peak < 200 * MIB) == (True, True), (spent, peak)


@pytest.mark.parametrize("num_tensors", [1_000_000, 60_000])
def test_a_gguf_of_bogus_tensors(num_tensors: int) -> None:
    record = struct.pack("<Q1sIQIQ", 1, b"t", 1, 32, 0, 1 << 40)
    start = b"GGUF" + struct.pack("<IQQ", 3, num_tensors, 0) + record * num_tensors
    costs(lambda: read_header(start, len(start)), CheckpointError)


@pytest.mark.parametrize(
    "body", ["[" + "{}," * 10_000_000 + "{}]", "[" + "[]," * 10_000_000 + "[]]", '"a":1,' * 4_000_000]
)
@pytest.mark.parametrize(("read", "kind"), [(read_config, ConfigError), (read_vocabulary, TokenizerError)])
def test_json_of_nothing(tmp_path: Path, body: str, read: Callable[[Path], Any], kind: type[Exception]) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(f'{{"a": {body}}}')
    costs(lambda: read(path), kind)


@pytest.mark.parametrize(
    "body",
    [b")" + b"\x85" * (4 * MIB - 10), b"K\x01" * (2 * MIB - 5), b"}" + b"\x94" * (4 * MIB - 10), b"]" * (4 * MIB - 5)],
    ids=["nested tuples", "numbers", "memos", "lists"],
)
def test_a_pickle_of_nothing(body: bytes) -> None:
    costs(lambda: _Interpreter(b"\x80\x02" + body + b".").run(), Exception)


def test_a_pickle_may_say_no_more_than_its_tensors_need() -> None:
    """Refused after 10,000 instructions, whatever they are, where none of them describes a tensor."""
    for body in (b"}b" * 6_000, b"(u" * 6_000, b"\x80\x02" * 11_000, b"\x94" * 11_000):
        with pytest.raises(CheckpointError, match="more than any checkpoint needs"):
            _Interpreter(b"\x80\x02}" + body + b".").run()


def test_a_zip_of_a_great_many_records(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(70_000):
            archive.writestr(f"archive/data/{number}", b"")
    costs(lambda: open_tensors(path), CheckpointError)
    with pytest.raises(CheckpointError, match="more records than any checkpoint needs"):
        open_tensors(path)


@pytest.mark.parametrize("piece", [b"", b"\x0a\x02xy", b"\x18\x01" * 60], ids=["empty", "again", "fields"])
def test_a_sentencepiece_file_of_nothing(piece: bytes) -> None:
    data = (b"\x0a" + bytes([len(piece)]) + piece) * (12 * MIB // (2 + len(piece)))
    costs(lambda: read_model(data), TokenizerError)
