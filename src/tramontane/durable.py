"""Files and folders written durably: whatever ends us, and whenever, a name stands for the whole old or the whole new.

Everything is written beside its target under one temporary spelling, `.NAME.<16 hex digits>.part`, synced with all that
it holds, renamed, and the folder that holds the name synced; only then is what was replaced removed. A folder trades
places with the one it replaces in one step, where the system can exchange names (Linux, on nearly every file system);
elsewhere a cut between two renames leaves the old one as `.NAME.<16 hex digits>.old`, and the next write of that name
puts it back first. Nothing else renames (`tests/test_source.py`). Logs that only grow are not written anew: `sync`.

What fails raises OSError that names the target, and leaves nothing behind.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}\.(part|old)", re.S)
_NAME_CHARS = 50  # of the target's in the temporary name: at most 200 bytes, and a name may have 255
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of <linux/fs.h>


def write(target: Path, data: str | bytes) -> None:
    """`target` holds `data` (text as UTF-8) and nothing else, in one step."""
    with file(target) as path:
        path.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)


@contextmanager
def file(target: Path) -> Iterator[Path]:
    """A path to write to; it becomes `target` if the block ends well, and vanishes otherwise."""
    target = _file_behind(target)
    part = _name_beside(target, "part")
    try:
        with _named_after(target, part):
            yield part
            publish(part, target)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


@contextmanager
def folder(target: Path) -> Iterator[Path]:
    """An empty folder to fill; it becomes `target` if the block ends well, in place of the one there, and vanishes
    otherwise."""
    target = Path(os.path.realpath(target))
    part = _name_beside(target, "part")
    try:
        with _named_after(target, part):
            part.mkdir()
            yield part
            publish(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def publish(source: Path, target: Path) -> None:
    """The file or folder `source`, on the same file system, becomes `target` with all that it holds, and takes over the
    permissions of what it replaces."""
    is_folder = source.is_dir()
    target = Path(os.path.realpath(target)) if is_folder else _file_behind(target)
    if is_folder:
        _restore(target)
    if target.exists():
        os.chmod(source, stat.S_IMODE(target.stat().st_mode))
    for path in (*source.rglob("*"), source) if is_folder else (source,):
        if not path.is_symlink():
            _sync(path)
    if is_folder and target.is_dir():
        _replace_folder(source, target)
    else:
        _rename(source, target)
        _sync(target.parent)
    if source.parent != target.parent:
        _sync(source.parent)


def remove_folder(target: Path) -> None:
    """`target` is gone in one step: it is never seen half deleted."""
    doomed = _name_beside(target, "part")
    _rename(target, doomed)
    _sync(target.parent)
    shutil.rmtree(doomed)


def transfer(source: Path, target: Path) -> None:
    """The file or folder `source` moves to `target` on the same file system, in one step. Raises FileExistsError for a
    target that is there."""
    if target.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    _rename(source, target)
    _sync(target.parent)
    _sync(source.parent)


def make_folder(path: Path, mode: int = 0o777) -> None:
    """`path` is a folder, and so is what is above it; those that are made are of `mode` and survive a power cut."""
    missing = [place for place in (path, *path.parents) if not place.exists()]
    for place in reversed(missing):
        place.mkdir(mode, exist_ok=True)
        _sync(place.parent)


def sync(path: Path) -> None:
    """What has been written to the file `path`, a log that only grows, survives a power cut, and so does its name."""
    _sync(path)
    _sync(path.parent)


def leftovers(place: Path, *, older_than_s: float = 0.0) -> list[Path]:
    """What writers that died have left in the folder `place`. Those that live still write to the youngest."""
    old = time.time() - older_than_s
    found = []
    for path in place.iterdir():
        with suppress(FileNotFoundError):
            if _TEMPORARY.fullmatch(path.name) and path.lstat().st_mtime <= old:
                found.append(path)
    return found


def _replace_folder(source: Path, target: Path) -> None:
    """`source`, synced, takes the place of the folder `target`, which is removed."""
    part = source
    if not _TEMPORARY.fullmatch(source.name):  # under its own name the old one could be taken for an unfinished new one
        part = _name_beside(target, "part")
        _rename(source, part)
    try:
        if not _exchange(part, target):
            _swap(part, target)
    except BaseException:
        if part != source:
            _rename(part, source)
        raise
    _sync(target.parent)  # before the old one goes: else it might be the one that stands there after a cut
    shutil.rmtree(part, ignore_errors=True)


def _swap(part: Path, target: Path) -> None:
    """As `_exchange`, in three steps; `_restore` mends what a cut leaves."""
    old = part.with_suffix(".old")
    _rename(target, old)
    try:
        _rename(part, target)
    except BaseException:
        _rename(old, target)
        raise
    _sync(target.parent)  # `_restore` must find the old one for as long as the new one may be lost
    _rename(old, part)


def _restore(target: Path) -> None:
    """The old folder that a cut in the midst of `_swap` has left without its name gets it back."""
    if target.exists() or not target.parent.is_dir():
        return
    prefix = f".{target.name[:_NAME_CHARS]}."
    for path in leftovers(target.parent):
        if path.suffix == ".old" and path.name.startswith(prefix) and len(path.name) == len(prefix) + 20:
            _rename(path, target)
            _sync(target.parent)
            return


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step; False where the system cannot."""
    exchange = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if os.name == "posix" else None
    if exchange is None:
        return False
    if exchange(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
        return False
    raise OSError(code, os.strerror(code), str(other))


def _rename(source: Path, target: Path) -> None:
    os.replace(source, target)


def _sync(path: Path) -> None:
    if os.name != "posix" and path.is_dir():  # which cannot be opened there
        return
    descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that has nothing to sync
            raise
    finally:
        os.close(descriptor)


def _file_behind(target: Path) -> Path:
    """The file that `target` leads to, which is what is replaced, or will be made. Raises OSError for a folder, and for
    a device or pipe: a file in its place would serve nobody."""
    path = Path(os.path.realpath(target))
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "is no regular file", str(target))
    return path


def _name_beside(target: Path, suffix: str) -> Path:
    return target.with_name(f".{target.name[:_NAME_CHARS]}.{secrets.token_hex(8)}.{suffix}")


@contextmanager
def _named_after(target: Path, part: Path) -> Iterator[None]:
    """An OSError about `part` is about `target` to whoever reads it."""
    try:
        yield
    except OSError as error:
        if error.filename is not None and Path(error.filename) == part:
            raise type(error)(error.errno, error.strerror, str(target)) from None
        raise
