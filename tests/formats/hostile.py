"""Shared by the tests of hostile files: limits on time and memory, and mutations of valid files."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import strategies as st

from tramontane.errors import CheckpointError


def assert_one_line(error: Exception) -> None:
    """Whatever a hostile file puts into a message, it stays short and on one line."""
    assert "\n" not in str(error)
    assert len(str(error)) < 1000


def write_anew(path: Path, data: bytes) -> None:
    """Like write_bytes; but ext4 writes a file through to the disk when it is truncated and written again."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


def resident_bytes() -> int:
    return _status_bytes("VmRSS")


class Growth:
    """Peak memory of a block beyond what was in use before it."""

    extra_bytes = 0


@contextmanager
def peak_memory() -> Iterator[Growth]:
    growth = Growth()
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak
    before = resident_bytes()
    yield growth
    growth.extra_bytes = _status_bytes("VmHWM") - before


# What is bounded grows with the square of the input where it goes wrong: a machine may be slow, not that slow.
PATIENCE = 5


@contextmanager
def refused_within(*, seconds: float, extra_bytes: int) -> Iterator[None]:
    """The block must raise CheckpointError of one line, with at most that much more peak memory and, if nothing else
    keeps the machine busy, in that processor time."""
    start = time.process_time()
    with peak_memory() as growth, pytest.raises(CheckpointError) as caught:
        yield
    elapsed = time.process_time() - start
    assert_one_line(caught.value)
    assert elapsed < PATIENCE * seconds, f"took {elapsed:.3f} s"
    assert growth.extra_bytes < extra_bytes, f"took {growth.extra_bytes} bytes"


@st.composite
def mutations(draw: st.DrawFn, original: bytes, header_bytes: int) -> bytes:
    """`original` after a few edits of its first `header_bytes`: bytes changed, removed, inserted, numbers blown up."""
    data = bytearray(original)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, min(header_bytes, len(data))))
        match draw(st.sampled_from(["set", "flip", "delete", "insert", "number", "cut", "append", "copy"])):
            case "set":
                data[place : place + 1] = draw(st.binary(min_size=1, max_size=1))
            case "flip":
                if place < len(data):
                    data[place] ^= 1 << draw(st.integers(0, 7))
            case "delete":
                del data[place : place + draw(st.integers(1, 16))]
            case "insert":
                data[place:place] = draw(st.binary(min_size=1, max_size=16))
            case "number":
                extreme = st.sampled_from([0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32 + 1, 2**61, 2**63, 2**64 - 1])
                data[place : place + 8] = draw(extreme).to_bytes(8, "little")
            case "cut":
                del data[place:]
            case "append":
                data += draw(st.binary(max_size=8))
            case "copy":
                start = draw(st.integers(0, len(data)))
                data[place:place] = data[start : start + draw(st.integers(1, 64))]
    return bytes(data)
