"""Shard sets packed into parts of bounded size, to be carried where they are needed and put together there.

Each shard file is compressed by itself (xz, tuned for 2- or 4-byte numbers) and laid into numbered folders;
`parts.json`, which lies in each of them, names every file with its part, sizes and checksums. Unpacking needs nothing
but the standard library.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tramontane import durable
from tramontane.data.ordered_map import ordered_map, worker_pool
from tramontane.errors import DataError

INDEX = "parts.json"
DEFAULT_PART_BYTES = 56 * 2**20
_BLOCK_BYTES = 2**20


def _filters(item_bytes: int) -> list[dict[str, Any]]:
    bits = item_bytes.bit_length() - 1  # of a place inside one number
    return [{"id": lzma.FILTER_LZMA2, "preset": 6, "lc": min(3, 4 - bits), "lp": bits, "pb": bits}]


def write_parts(
    folders: Sequence[Path], out: Path, *, max_part_bytes: int = DEFAULT_PART_BYTES, num_workers: int = 1
) -> list[Path]:
    """Pack finished sets and other folders (a tokenizer) into `out / part-00` and so on; returns the parts.

    Files keep their path below the parent of their folder. Raises DataError when one file alone exceeds a part.
    """
    shutil.rmtree(out, ignore_errors=True)
    files = [(folder, path) for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    parts: list[Path] = []
    sizes: list[int] = []
    index: list[dict[str, Any]] = []
    with worker_pool(num_workers) as pool:
        packings = ordered_map(_pack, (path for _, path in files), pool, num_workers)
        for (folder, path), packed in zip(files, packings, strict=True):
            if len(packed) > max_part_bytes:
                raise DataError(
                    f"{path}: {len(packed):,} bytes compressed exceed a part of {max_part_bytes:,}; "
                    "build with a smaller shard_len"
                )
            place = next((place for place, size in enumerate(sizes) if size + len(packed) <= max_part_bytes), None)
            if place is None:
                place = len(parts)
                parts.append(out / f"part-{place:02d}")
                parts[place].mkdir(parents=True)
                sizes.append(0)
            sizes[place] += len(packed)
            packed_name = f"{len(index):05d}.xz"
            (parts[place] / packed_name).write_bytes(packed)
            index.append(
                {
                    "path": path.relative_to(folder.parent).as_posix(),
                    "part": place,
                    "file": packed_name,
                    "size_bytes": path.stat().st_size,
                    "sha256": _sha256(path),
                    "packed_sha256": hashlib.sha256(packed).hexdigest(),
                }
            )
    for part in parts:
        (part / INDEX).write_text(json.dumps({"num_parts": len(parts), "files": index}, indent=1), "utf-8")
    return parts


def _pack(path: Path) -> bytes:
    item_bytes = {".tokens": 2, ".offsets": 4}.get(path.suffix, 1)
    return lzma.compress(path.read_bytes(), lzma.FORMAT_XZ, filters=_filters(item_bytes))


def read_parts(parts: Sequence[Path], out: Path) -> list[Path]:
    """Put the files of all `parts` (in any order) together under `out`; returns them. Files that are there already
    and whole are left alone, so that parts can come one after the other with `read_parts` called each time.

    Raises DataError for parts of different packings, a damaged file, or a path that leaves `out`.
    """
    indices = [_read_index(part) for part in parts]
    if any(index != indices[0] for index in indices):
        raise DataError("the parts belong to different packings; give those of one")
    by_number = {int(part.name.rsplit("-", 1)[-1]): part for part in parts}
    written = []
    for entry in indices[0]["files"]:
        target = out / entry["path"]
        if not target.resolve().is_relative_to(out.resolve()):
            raise DataError(f"{entry['path']}: leaves the folder it is unpacked to; the parts are not to be trusted")
        if entry["part"] in by_number and not (target.exists() and _sha256(target) == entry["sha256"]):
            source = by_number[entry["part"]] / entry["file"]
            _unpack(source, target, entry)
        if target.exists():
            written.append(target)
    return written


def missing_parts(parts: Sequence[Path]) -> list[int]:
    """Numbers of the parts that are not among `parts`."""
    held = {int(part.name.rsplit("-", 1)[-1]) for part in parts}
    return [number for number in range(_read_index(parts[0])["num_parts"]) if number not in held]


def _read_index(part: Path) -> dict[str, Any]:
    try:
        index: dict[str, Any] = json.loads((part / INDEX).read_text("utf-8"))
    except FileNotFoundError:
        raise DataError(f"{part}: holds no {INDEX}; is it a part?") from None
    except ValueError as error:
        raise DataError(f"{part / INDEX}: damaged ({error}); copy the part again") from None
    return index


def _unpack(source: Path, target: Path, entry: dict[str, Any]) -> None:
    if not source.exists() or _sha256(source) != entry["packed_sha256"]:
        raise DataError(f"{source}: missing or damaged; copy the part again")
    durable.make_folder(target.parent)
    with durable.file(target) as part:
        with lzma.open(source, "rb") as packed, part.open("wb") as file:
            shutil.copyfileobj(packed, file, _BLOCK_BYTES)
        if _sha256(part) != entry["sha256"]:
            raise DataError(f"{source}: does not unpack to what was packed; copy the part again")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
