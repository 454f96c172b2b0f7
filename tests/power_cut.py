"""Power cuts, simulated: a recorder of what `tramontane.durable` asks of the disk, and every state a cut may leave.

The model of a file system is the weakest that POSIX allows. What was written to a file since it was last synced may be
there, be missing, be cut off or be zeros, while what was there before stays as far as it was only added to. Each name
made, replaced or removed in a folder since that was last synced may be on disk or not, whatever became of the others;
a rename alone is one step, and so is an exchange.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tramontane import durable

Change = tuple[int, str, int | None]  # (folder, name, what it leads to from now on)
MAX_STATES = 48  # of one moment: all of them where there are no more, else so many drawn
_ROOT = 0


@dataclass
class Trace:
    """What happened: ("write", file, content), ("names", changes made in one step) or ("sync", file or folder)."""

    files: dict[int, bytes] = field(default_factory=dict)  # at the beginning, all of it on disk
    folders: dict[int, dict[str, int]] = field(default_factory=dict)
    events: list[tuple[str, int, bytes | tuple[Change, ...]]] = field(default_factory=list)


class Recorder:
    """Looks at everything below `root` whenever a sync or a rename is asked for; what differs from the last look was
    written in between, unsynced, in any order. `forgets(path)`: this sync is left out, as if it were not there."""

    def __init__(self, root: Path, forgets: Callable[[Path], bool] = lambda path: False) -> None:
        self.root, self.forgets = root, forgets
        self.trace = Trace()
        self._files: dict[int, bytes] = {}
        self._folders: dict[int, dict[str, int]] = {_ROOT: {}}
        self._numbers: dict[tuple[int, int], int] = {}
        self._held: list[int] = []  # open, so that no inode is used a second time
        self._look(is_one_step=False)
        self.trace = Trace(dict(self._files), {number: dict(names) for number, names in self._folders.items()})

    @contextmanager
    def recording(self) -> Iterator[Trace]:
        with pytest.MonkeyPatch.context() as patch:
            for name in ("_rename", "_exchange"):
                patch.setattr(durable, name, self._in_one_step(getattr(durable, name)))
            patch.setattr(durable, "_sync", self._sync)
            try:
                yield self.trace
            finally:
                self._look(is_one_step=False)
                for descriptor in self._held:
                    os.close(descriptor)

    def _in_one_step(self, act: Callable[[Path, Path], bool | None]) -> Callable[[Path, Path], bool | None]:
        def recorded(one: Path, other: Path) -> bool | None:
            self._look(is_one_step=False)
            result = act(one, other)
            self._look(is_one_step=True)
            return result

        return recorded

    def _sync(self, path: Path) -> None:
        self._look(is_one_step=False)
        if path.resolve().is_relative_to(self.root.resolve()) and not self.forgets(path):
            self.trace.events.append(("sync", self._number(path), b""))

    def _look(self, *, is_one_step: bool) -> None:
        seen: dict[int, dict[str, int]] = {}
        writes = []
        for place, _, _ in os.walk(self.root):
            names = seen.setdefault(self._number(Path(place)), {})
            for path in Path(place).iterdir():
                number = names[path.name] = self._number(path)
                if path.is_file():
                    data = path.read_bytes()
                    if self._files.get(number) != data:
                        self._files[number] = data
                        writes.append(("write", number, data))
        changes: list[Change] = []
        for folder in seen | self._folders:
            before, after = self._folders.get(folder, {}), seen.get(folder, {})
            changes += [
                (folder, name, after.get(name)) for name in before | after if before.get(name) != after.get(name)
            ]
        self._folders = seen
        steps = [tuple(changes)] if is_one_step and changes else [(change,) for change in changes]
        self.trace.events += [*writes, *(("names", 0, step) for step in steps)]

    def _number(self, path: Path) -> int:
        status = path.lstat()
        key = (status.st_dev, status.st_ino)
        if key not in self._numbers:
            self._numbers[key] = len(self._numbers)  # that of `root`, seen first, is _ROOT
            self._held.append(os.open(path, os.O_RDONLY))
        return self._numbers[key]


State = tuple[tuple[str, bytes | None], ...]  # (path, content; None for a folder), sorted


def states(trace: Trace, seed: int = 0) -> list[State]:
    """Everything that may be found after a cut in the midst of `trace`, each once, and so the two ends of it."""
    draw = random.Random(seed)
    return list(dict.fromkeys(state for moment in _moments(trace) for state in _after_cut(*moment, draw)))


def lasting(trace: Trace, seed: int = 0) -> list[State]:
    """Everything that may be found after a cut when all is over."""
    *_, last = _moments(trace)
    return list(dict.fromkeys(_after_cut(*last, random.Random(seed))))


def put(state: State, root: Path) -> None:
    """Lay a state out below `root`."""
    root.mkdir(parents=True)
    for name, content in state:
        path = root / name
        if content is None:
            path.mkdir()
        else:
            path.write_bytes(content)


_Moment = tuple[dict[int, bytes], dict[int, dict[str, int]], dict[int, bytes], list[tuple[Change, ...]]]


def _moments(trace: Trace) -> Iterator[_Moment]:
    """(files on disk, folders on disk, files as written, steps that are not on disk), after each event."""
    files = dict(trace.files)
    folders = {number: dict(names) for number, names in trace.folders.items()}
    written: dict[int, bytes] = {}
    steps: list[tuple[Change, ...]] = []
    yield files, folders, written, steps
    for kind, number, what in trace.events:
        if kind == "write" and isinstance(what, bytes):
            written = written | {number: what}
        elif kind == "names" and isinstance(what, tuple):
            steps = [*steps, what]
        elif number in written:
            files = files | {number: written[number]}
            written = {other: data for other, data in written.items() if other != number}
        elif kind == "sync":
            for step in steps:
                if any(folder == number for folder, _, _ in step):
                    folders = _taken(folders, step)
            steps = [step for step in steps if all(folder != number for folder, _, _ in step)]
        yield files, folders, written, steps


def _after_cut(
    files: dict[int, bytes],
    folders: dict[int, dict[str, int]],
    written: dict[int, bytes],
    steps: list[tuple[Change, ...]],
    draw: random.Random,
) -> Iterator[State]:
    contents = [list(dict.fromkeys(_remains(files.get(number), data))) for number, data in written.items()]
    num_states = 2 ** len(steps)
    for each in contents:
        num_states *= len(each)
    choices: Iterator[tuple[tuple[bool, ...], tuple[bytes, ...]]]
    if num_states <= MAX_STATES:
        kept = itertools.product((False, True), repeat=len(steps))
        choices = itertools.product(kept, itertools.product(*contents))
    else:
        extremes = [
            ((is_kept,) * len(steps), tuple(each[end] for each in contents))
            for is_kept in (False, True)
            for end in (0, -1)
        ]
        drawn = [
            (tuple(draw.random() < 0.5 for _ in steps), tuple(draw.choice(each) for each in contents))
            for _ in range(MAX_STATES - len(extremes))
        ]
        choices = iter(extremes + drawn)
    for kept_steps, kept_contents in choices:
        found = folders
        for step, is_kept in zip(steps, kept_steps, strict=True):
            if is_kept:
                found = _taken(found, step)
        yield tuple(sorted(_listed(_ROOT, "", found, files | dict(zip(written, kept_contents, strict=True)))))


def _remains(synced: bytes | None, data: bytes) -> Iterator[bytes]:
    """What may be left of a file that held `synced` and was then made to hold `data`; the worst first."""
    whole = synced or b""
    added = data[len(whole) :] if data.startswith(whole) else data
    start = whole if data.startswith(whole) else b""
    yield start
    yield start + added[: len(added) // 2]
    yield start + bytes(len(added))
    yield whole
    yield data


def _taken(folders: dict[int, dict[str, int]], step: tuple[Change, ...]) -> dict[int, dict[str, int]]:
    folders = dict(folders)
    for folder, name, number in step:
        names = {other: leads_to for other, leads_to in folders.get(folder, {}).items() if other != name}
        folders[folder] = names if number is None else names | {name: number}
    return folders


def _listed(
    folder: int, prefix: str, folders: dict[int, dict[str, int]], files: dict[int, bytes]
) -> Iterator[tuple[str, bytes | None]]:
    for name, number in folders.get(folder, {}).items():
        is_file = number in files
        yield prefix + name, files[number] if is_file else None
        if not is_file:
            yield from _listed(number, f"{prefix}{name}/", folders, files)
