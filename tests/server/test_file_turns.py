"""Files of tenants are read, written and checked in turns: nobody's hours of them keep another's waiting."""

from __future__ import annotations

import gzip
import io
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.server.in_process import HELLO, serving
from tests.server.test_body_bounds import Cpu
from tramontane.data import sample_files
from tramontane.server.errors import ApiError
from tramontane.server.files.formats import Format, check_format
from tramontane.server.keys import KeyOptions, create_key
from tramontane.server.routes import files

LINE = json.dumps({"custom_id": "a", "body": {"messages": HELLO}}).encode()
LONG = LINE + b"\n" * (files.SHORT_BYTES + 1)
PATIENCE_S = 60


def test_long_checks_of_two_owners_keep_no_third_waiting(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four of them once held every thread that files had, and each takes minutes."""
    is_over = threading.Event()
    begun: list[int] = []

    def dawdling(path: Path, purpose: str) -> Format:
        if path.stat().st_size > files.SHORT_BYTES:
            begun.append(1)
            is_over.wait(PATIENCE_S)
        return check_format(path, purpose)

    monkeypatch.setattr(files, "check_format", dawdling)
    with serving({"chat": checkpoints["chat"]}, tmp_path) as client:
        database = client.app.state.services.database  # type: ignore[attr-defined]
        tenants = {
            name: {"authorization": f"Bearer {create_key(database, KeyOptions(name, owner=name[0]))[1]}"}
            for name in ("alice", "another of alice's", "bob", "carol")
        }

        def upload(name: str, content: bytes) -> int:
            form = {"file": ("a.jsonl", content)}
            return client.post("/v1/files", files=form, data={"purpose": "batch"}, headers=tenants[name]).status_code

        with ThreadPoolExecutor(8) as senders:
            names = ["alice", "another of alice's"] * 3 + ["bob"] * 2
            long = [senders.submit(upload, name, LONG) for name in names]
            try:
                while len(begun) < 2:
                    assert not any(each.done() for each in long)
                assert [upload(name, LINE) for name in ("carol", "bob", "alice")] == [200] * 3
                assert len(begun) == 2  # one of each owner, however many keys there are
            finally:
                is_over.set()
            assert [each.result() for each in long] == [200] * len(long)


@pytest.mark.parametrize("purpose", ["batch", "fine-tune"])
@pytest.mark.parametrize("line", [b"\n", b" " * 1000], ids=["lines", "one line"])
def test_a_small_file_of_endless_lines_is_cut_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, purpose: str, line: bytes
) -> None:
    monkeypatch.setattr(sample_files, "MAX_LINES", 1000)
    monkeypatch.setattr(sample_files, "MAX_UNPACKED_BYTES", 4_000_000)
    monkeypatch.setattr(sample_files, "MAX_LINE_BYTES", 1_000_000)
    packed = io.BytesIO()
    with gzip.open(packed, "wb") as stream:
        for _ in range(64):
            stream.write(line * (4 * 2**20 // len(line)))
    path = tmp_path / "a"
    path.write_bytes(packed.getvalue())
    with Cpu() as cpu, pytest.raises(ApiError, match=r"split the file|longer than") as refused:
        check_format(path, purpose)
    assert refused.value.status == 422
    assert cpu.seconds < 1
