"""pull: fetch a model from the Hugging Face hub into `TRAMONTANE_HOME`, whole and checked, or not at all.

The configuration comes first: weights of a model that this version would refuse are not fetched.
Files gather in a hidden folder beside the target, which takes the model's name only when every one of them is there
and has the hash the hub's listing states. Nothing is unpacked, and no name from the hub becomes a path unless it
matched a fixed pattern.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from tramontane import durable
from tramontane.errors import CapacityError, CheckpointError
from tramontane.hub.judge import CONFIGURATIONS, require_readable
from tramontane.hub.listing import hub_address, hub_token, list_files
from tramontane.hub.name import HubName, parse_hub_name
from tramontane.hub.selection import select_files
from tramontane.hub.store import Record, read_record, require_whole
from tramontane.hub.transfer import RemoteFile, Transfer, is_whole

Progress = Callable[[str, int, int], None]
"""Called with (file under way, bytes present, bytes in all)."""

DISK_RESERVE_BYTES = 64 * 2**20


def pull(name: str, *, token: str | None = None, progress: Progress | None = None, retry_delay_s: float = 1.0) -> Path:
    """Fetch `org/name[:file.gguf][@revision]` and return what `resolve_model` will: its folder or .gguf file.

    A pull that was cut short is continued; one that is complete and current is left as it is. `token` is by default
    that of `HF_TOKEN` or `hf auth login`; the hub's address is `HF_ENDPOINT`. Raises CheckpointError, or
    CapacityError where the disk has no room.
    """
    hub_name = parse_hub_name(name)
    token = hub_token(token)
    target = hub_name.folder
    listing = list_files(hub_name, token)
    names = select_files(listing.files.keys(), hub_name.file, hub_name.repository)
    wanted = {Path(file).name: listing.files[file] for file in names}
    with _disk_errors(target), _only_one(target, hub_name):
        record = Record(listing.commit, {file: remote.size_bytes for file, remote in wanted.items()})
        if not _is_current(target, record):
            _fetch(target, wanted, record, _transfer(token, retry_delay_s), progress)
    return target if hub_name.file is None else target / Path(hub_name.file).name


def _transfer(token: str | None, retry_delay_s: float) -> Transfer:
    from huggingface_hub import get_session

    return Transfer(get_session(), hub_address(), token, retry_delay_s)


def _is_current(target: Path, record: Record) -> bool:
    try:
        if read_record(target) != record:
            return False
        require_whole(target, record, "pull again")
    except CheckpointError:
        return False
    return True


def _fetch(
    target: Path, files: dict[str, RemoteFile], record: Record, transfer: Transfer, progress: Progress | None
) -> None:
    # one folder per commit: what was fetched of another is never mixed in
    staging = target.parent / f".{target.name}.{record.commit[:12]}.partial"
    staging.mkdir(exist_ok=True)
    total_bytes = sum(record.sizes.values())
    present = {file: (staging / file).stat().st_size for file in files if _is_size(staging / file, record.sizes[file])}
    partial_bytes = sum(part.stat().st_size for part in staging.glob("*.part"))
    _require_disk(staging, total_bytes - sum(present.values()) - partial_bytes)
    done_bytes = sum(present.values())

    is_judged = False
    for file, remote in sorted(files.items(), key=lambda item: item[0] not in CONFIGURATIONS):
        if not is_judged and file not in CONFIGURATIONS:
            require_readable(staging, files)
            is_judged = True

        def report(num_bytes: int, file: str = file) -> None:
            nonlocal done_bytes
            done_bytes += num_bytes
            if progress is not None:
                progress(file, done_bytes, total_bytes)

        if file in present:
            continue
        if _is_size(target / file, remote.size_bytes) and is_whole(remote, target / file):
            with durable.file(staging / file) as part:
                shutil.copyfile(target / file, part)
            report(remote.size_bytes)
        else:
            transfer.fetch(remote, staging / file, report)
    _keep_only(staging, files)
    record.write(staging)
    _activate(staging, target)


def _keep_only(staging: Path, files: Collection[str]) -> None:
    """Remove what an earlier pull has left of files that were found elsewhere, or are not listed any more."""
    for path in staging.iterdir():
        if path.name not in files:
            path.unlink()


def _activate(staging: Path, target: Path) -> None:
    """Give the complete folder its name; what an interruption leaves is completed by the next pull."""
    durable.publish(staging, target)
    for leftover in target.parent.glob(f".{target.name}.*"):
        if leftover.is_dir() and leftover.suffix in (".partial", ".part", ".old"):
            shutil.rmtree(leftover, ignore_errors=True)


def _is_size(path: Path, size_bytes: int) -> bool:
    return path.is_file() and path.stat().st_size == size_bytes


def _require_disk(folder: Path, needed_bytes: int) -> None:
    free_bytes = shutil.disk_usage(folder).free
    if needed_bytes + DISK_RESERVE_BYTES > free_bytes:
        raise CapacityError(
            f"{folder.parent} has {free_bytes / 1e9:.1f} GB free, but {needed_bytes / 1e9:.1f} GB are still to be "
            "fetched; make room, or set TRAMONTANE_HOME to another disk"
        )


@contextmanager
def _only_one(target: Path, hub_name: HubName) -> Iterator[None]:
    """Hold a lock on `target`; the system releases it whatever happens to this process."""
    from filelock import FileLock, Timeout

    durable.make_folder(target.parent)
    lock = FileLock(target.parent / f".{target.name}.lock")
    try:
        with lock.acquire(timeout=0):
            yield
    except Timeout:
        raise CheckpointError(f"another pull of {hub_name} is under way; wait for it to end") from None


@contextmanager
def _disk_errors(target: Path) -> Iterator[None]:
    """A full or forbidden disk in one line; what was fetched stays for the next pull."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise CheckpointError(
                f"{target} cannot be written ({error.strerror}); check the folder, or set TRAMONTANE_HOME"
            ) from None
        free_bytes = shutil.disk_usage(target.parent).free
        raise CapacityError(
            f"{target.parent} is full ({free_bytes / 1e9:.1f} GB left); make room and pull again to continue"
        ) from None
