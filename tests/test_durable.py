"""What is written durably is there whole or not at all: after failures, interruptions, and power cuts at any moment."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from fsspec.implementations.local import LocalFileSystem

from tests.io_faults import FAULTS, Faulty
from tests.power_cut import Recorder, State, Trace, lasting, put, states
from tramontane import durable
from tramontane.cli.conversation import Conversation
from tramontane.data.shards import Manifest, ShardWriter, SourceInfo, read_manifest, verify_shards, write_manifest
from tramontane.errors import TramontaneError
from tramontane.evals.run_folder import RESULTS, ItemLog, read_json_file, write_json
from tramontane.formats.destination import new_folder
from tramontane.formats.open_tensors import open_tensors
from tramontane.formats.write import write_safetensors
from tramontane.loading.packed_cache import PackedCache
from tramontane.server.store.contents import ContentStore
from tramontane.server.store.id_folder import IdFolder
from tramontane.training.checkpointer import Checkpointer, TrainerState, read_state


@dataclass
class Case:
    """`act(root, n)` writes generation n over generation n - 1; `read(root)` is what the project's own reader finds;
    it raises if that is not whole. `between`: what else may be found while it is under way."""

    act: Callable[[Path, int], object]
    read: Callable[[Path], object]
    between: tuple[object, ...] = ()
    begins_with: int = 1  # generations there are before


def generation_of(path: Path) -> int:
    with open_tensors(path / "model.safetensors") as source:
        found = int(source.read("w")[0])
    assert json.loads((path / "config.json").read_text("utf-8")) == {"generation": found}
    return found


def write_generation(folder: Path, n: int) -> None:
    write_safetensors(folder / "model.safetensors", {"w": (torch.float32, (20,))}, [("w", torch.full((20,), float(n)))])
    (folder / "config.json").write_text(json.dumps({"generation": n}), "utf-8")


def say(root: Path, n: int) -> None:
    conversation = Conversation()
    conversation.ask(f"message {n}")
    conversation.save(root / "chat.json")


def said(root: Path) -> object:
    conversation = Conversation()
    conversation.load(root / "chat.json")
    return conversation.messages[0]["content"]


def checkpoint(root: Path, n: int) -> None:
    state = TrainerState({"w": torch.full((5,), float(n))}, {"step": n})
    Checkpointer(root / "run", keep=1).save(n, state, lambda folder: write_generation(folder, n))


def checkpoints(root: Path) -> object:
    checkpointer = Checkpointer(root / "run", keep=1)
    for step in checkpointer.steps():
        state = read_state(checkpointer.path(step))
        assert (int(state.tensors["w"][0]), state.values["step"], generation_of(checkpointer.path(step))) == (step,) * 3
    return tuple(checkpointer.steps())


def release(root: Path, n: int) -> None:
    with new_folder(root / "model", overwrite=True) as folder:
        write_generation(folder, n)


def shards(root: Path, n: int) -> None:
    durable.make_folder(root / "sets")
    with durable.folder(root / "sets" / "train") as folder:
        writer = ShardWriter(folder, "a", np.dtype("<u2"), 100, has_mask=True)
        writer.add(np.full(9, n))
        writer.close_shard()
        source = SourceInfo(
            name="a", shards=tuple(writer.shards), num_documents=1, num_token_ids=9, num_learned=9, num_text_bytes=n
        )
        write_manifest(
            folder,
            Manifest(
                name="x",
                kind="chat",
                vocab_size=9,
                pad_id=0,
                max_document_len=9,
                tokenizer_sha256="",
                sources=(source,),
            ),
        )


def sharded(root: Path) -> object:
    if not (root / "sets" / "train").exists():
        return None
    verify_shards(root / "sets" / "train")
    return read_manifest(root / "sets" / "train").sources[0].num_text_bytes


def upload(root: Path, n: int) -> None:
    store = ContentStore(root)
    with store.incoming() as incoming:
        incoming.write(b"content" * n)
        store.publish(incoming)
        durable.write(root / "row", incoming.id)  # as the database has it, after the content


def uploaded(root: Path) -> object:
    if not (root / "row").exists():
        return None
    with ContentStore(root).open((root / "row").read_text("utf-8")) as file:
        data = file.read()
    assert data in (b"content", b"content" * 2)
    return len(data)


ENTRY = "0c3a58a4-0000-4000-8000-000000000000"


def set_aside(root: Path, n: int) -> None:
    entries = IdFolder(LocalFileSystem(), str(root), what="entries", is_sharded=True)
    if n == 1:
        durable.make_folder(root / ENTRY[:2])
        durable.write(Path(entries.path(ENTRY)), "kept")
    else:
        entries.sweep((), age_s=-1, day="2026-11-30")


def where_it_lies(root: Path) -> object:
    entries = IdFolder(LocalFileSystem(), str(root), what="entries", is_sharded=True)
    found = {"there": [e.path for e in entries.entries().values()], "trash": [*entries.trashed().values()]}
    lies = [name for name, paths in found.items() if [Path(path).read_text() for path in paths] == ["kept"]]
    return lies[0] if lies else None  # in both after a cut: then it is still there


def pack(root: Path, n: int) -> None:
    PackedCache(root / "cache", 10**6).store("k", {"w": 100}, [("w", torch.full((100,), n, dtype=torch.uint8))])


def packed(root: Path) -> object:
    found = PackedCache(root / "cache", 10**6).find("k", {"w": 100})
    return None if found is None else tuple(set(found["w"].tolist()))


CASES = {
    "a conversation": Case(say, said),
    "a checkpoint and rotation": Case(checkpoint, checkpoints, between=((1, 2),)),
    "the first checkpoint": Case(checkpoint, checkpoints, begins_with=0),
    "a model folder in place of another": Case(release, lambda root: generation_of(root / "model")),
    "a set of shards in place of another": Case(shards, sharded),
    "the first set of shards": Case(shards, sharded, begins_with=0),
    "results of an evaluation": Case(
        lambda root, n: write_json(root / RESULTS, {"n": n}), lambda root: read_json_file(root / RESULTS)
    ),
    "a log of items": Case(
        lambda root, n: ItemLog(root / "task.jsonl").add([{"id": f"{n}.{i}"} for i in range(2)]),
        lambda root: tuple(ItemLog(root / "task.jsonl").entries),
        between=(("1.0", "1.1", "2.0"),),
    ),
    "an uploaded file": Case(upload, uploaded),
    "an entry in the trash": Case(set_aside, where_it_lies),
    "packed weights": Case(pack, packed, between=(None,)),
}


def record(case: Case, root: Path, forgets: Callable[[Path], bool] = lambda path: False) -> tuple[Trace, list[object]]:
    """(trace of the last generation, what the reader may find)."""
    root.mkdir()
    allowed: list[object] = list(case.between)
    for n in range(1, case.begins_with + 1):
        case.act(root, n)
    allowed.append(case.read(root) if case.begins_with else empty(case))
    recorder = Recorder(root, forgets)
    with recorder.recording() as trace:
        case.act(root, case.begins_with + 1)
    allowed.append(case.read(root))
    assert allowed[-1] != allowed[-2]
    return trace, allowed


def empty(case: Case) -> object:
    return () if case.read is checkpoints else None


def broken(case: Case, found: list[State], allowed: list[object], scratch: Path) -> list[str]:
    """What the reader says of the states it must not find."""
    words = []
    for state in found:
        place = scratch / "after"
        put(state, place)
        try:
            value = case.read(place)
            if value not in allowed:
                words.append(f"{value!r} is neither old nor new: {state}")
        except Exception as error:
            words.append(f"{type(error).__name__}: {error}")
        shutil.rmtree(place)
    return words


def is_seen(case: Case, trace: Trace, allowed: list[object], scratch: Path) -> bool:
    """Whether there is a state that the reader must not find."""
    return any(broken(case, [state], allowed[-1:], scratch) for state in lasting(trace)) or any(
        broken(case, [state], allowed, scratch) for state in states(trace)
    )


@pytest.mark.parametrize("name", CASES)
def test_a_power_cut_leaves_the_old_or_the_new_whole(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    trace, allowed = record(case, tmp_path / "root")
    assert broken(case, states(trace), allowed, tmp_path) == []
    if name != "packed weights":  # which are only a cache
        assert broken(case, lasting(trace), allowed[-1:], tmp_path) == []


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (name, kind)
        for name in CASES
        for kind in ("files", "folders")
        # a cache may be lost; the name of a log, and what goes to the trash, is on disk from the first generation on
        if name != "packed weights"
        and (name, kind) not in (("a log of items", "folders"), ("an entry in the trash", "files"))
    ],
)
def test_without_a_sync_a_power_cut_would_be_seen(name: str, kind: str, tmp_path: Path) -> None:
    case = CASES[name]
    trace, allowed = record(case, tmp_path / "root", lambda path: path.is_dir() == (kind == "folders"))
    assert is_seen(case, trace, allowed, tmp_path)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", CASES)
def test_a_fault_at_any_call_leaves_the_old_or_the_new_and_the_next_try_ends_it(
    name: str, fault: str, tmp_path: Path
) -> None:
    case, root = CASES[name], tmp_path / "root"
    _, allowed = record(case, tmp_path / "whole")
    for fails_at in itertools.count():
        root.mkdir()
        for n in range(1, case.begins_with + 1):
            case.act(root, n)
        faulty = Faulty(root, FAULTS[fault], fails_at)
        with faulty.disk(), suppress(OSError, TramontaneError, MemoryError):  # what only tidies up may go unsaid
            case.act(root, case.begins_with + 1)
        assert case.read(root) in allowed, fails_at
        case.act(root, case.begins_with + 1)
        assert case.read(root) == allowed[-1], fails_at
        shutil.rmtree(root)
        if faulty.num_calls <= fails_at:
            break
    assert fails_at > 2


@pytest.mark.parametrize("suffix", [".part", "model"])
def test_the_sync_of_every_folder_counts(suffix: str, tmp_path: Path) -> None:
    case = CASES["a model folder in place of another"]
    root = tmp_path / "root"
    forgotten = (lambda path: path.suffix == ".part" and path.is_dir()) if suffix == ".part" else (lambda p: p == root)
    trace, allowed = record(case, root, forgotten)
    assert is_seen(case, trace, allowed, tmp_path)


def test_where_names_cannot_be_exchanged_the_next_write_mends_what_a_cut_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable, "_exchange", lambda one, other: False)

    def read_mended(root: Path) -> object:
        durable._restore(root / "model")
        return generation_of(root / "model")

    case = Case(release, read_mended)
    trace, allowed = record(case, tmp_path / "root")
    assert broken(case, states(trace), allowed, tmp_path) == []
    unmended = Case(release, lambda root: generation_of(root / "model"))
    assert broken(unmended, states(trace), allowed, tmp_path), "two renames are not one step"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
@pytest.mark.parametrize(
    ("kind", "step", "can_exchange"),
    [
        *[("file", step, True) for step in ("in the block", "_sync", "_rename")],
        *[("folder", step, True) for step in ("in the block", "_sync", "_exchange")],
        *[("folder", step, False) for step in ("in the block", "_sync", "_rename")],
    ],
)
def test_what_fails_leaves_nothing_behind(
    error: BaseException, kind: str, step: str, can_exchange: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release(tmp_path, 1)
    durable.write(tmp_path / "file", "1")
    if not can_exchange:
        monkeypatch.setattr(durable, "_exchange", lambda one, other: False)

    def fail(*arguments: object) -> None:
        raise error

    def replace() -> None:
        opened = durable.file(tmp_path / "file") if kind == "file" else durable.folder(tmp_path / "model")
        with opened as path:
            path.write_text("2", "utf-8") if kind == "file" else write_generation(path, 2)
            if step == "in the block":
                fail()
            monkeypatch.setattr(durable, step, fail)

    with pytest.raises(type(error)):
        replace()
    assert (tmp_path / "file").read_text("utf-8") == "1"
    assert generation_of(tmp_path / "model") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "model"]


def test_an_interruption_between_the_two_renames_puts_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release(tmp_path, 1)
    monkeypatch.setattr(durable, "_exchange", lambda one, other: False)
    renames = []

    def rename(one: Path, other: Path) -> None:
        renames.append(other)
        if len(renames) == 2:
            raise KeyboardInterrupt
        os.replace(one, other)

    monkeypatch.setattr(durable, "_rename", rename)
    with pytest.raises(KeyboardInterrupt):
        release(tmp_path, 2)
    assert generation_of(tmp_path / "model") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_file_and_a_folder_are_replaced_whole(tmp_path: Path) -> None:
    for name in ("old", "new"):
        durable.write(tmp_path / "x.json", name)
        with durable.folder(tmp_path / "model") as folder:
            (folder / name).write_text(name, "utf-8")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "x.json"]
    assert (tmp_path / "x.json").read_text("utf-8") == "new"
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["new"]


def test_permissions_and_links_of_what_is_replaced_stay(tmp_path: Path) -> None:
    secret, link = tmp_path / "secret", tmp_path / "link"
    durable.write(secret, "a")
    secret.chmod(0o600)
    link.symlink_to(secret)
    durable.write(link, "b")
    assert (secret.read_text("utf-8"), link.is_symlink()) == ("b", True)
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600


def test_what_is_no_file_is_not_replaced_by_one(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name, words in (("pipe", "no regular file"), ("folder", "Is a directory")):
        with pytest.raises(OSError, match=words) as caught:
            durable.write(tmp_path / name, "x")
        assert caught.value.filename == str(tmp_path / name)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_an_error_names_the_target_and_long_names_are_no_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        durable.write(tmp_path / "nowhere" / "x.json", "x")
    assert caught.value.filename == str(tmp_path / "nowhere" / "x.json")
    long = tmp_path / ("é" * 127)
    durable.write(long, "x")
    assert [path.name for path in tmp_path.iterdir()] == [long.name]


def test_leftovers_are_told_from_everything_else(tmp_path: Path) -> None:
    left = [tmp_path / f".model.{'0123456789abcdef'}.{suffix}" for suffix in ("part", "old")]
    for path in (*left, tmp_path / "model", tmp_path / ".model.lock", tmp_path / "x.part"):
        path.write_text("x", "utf-8")
    assert sorted(durable.leftovers(tmp_path)) == sorted(left)
    assert durable.leftovers(tmp_path, older_than_s=3600) == []
