"""`make audit ADVISORIES=…`: what is locked and what is installed against known flaws, without asking anybody.

Advisories are OSV records (ossf.github.io/osv-schema), as which every database of flaws can be had: JSON files,
or folders and zip archives of them. Prints a line for each flaw of a package, and exits with 1 if there is one.
"""

from __future__ import annotations

import json
import re
import sys
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from packaging.version import InvalidVersion, Version

FOLDER = Path(__file__).resolve().parent
Advisory = Mapping[str, Any]


@dataclass(frozen=True, slots=True, order=True)
class Package:
    """`source`: the lock that pins it, or "installed"."""

    name: str
    version: str
    source: str


def main(arguments: list[str]) -> int:
    if not arguments:
        print("name the advisories: OSV records as JSON files, folders or zip archives", file=sys.stderr)
        return 2
    try:
        advisories = [record for name in arguments for record in read_advisories(Path(name))]
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    packages = sorted({*installed(), *(p for lock in sorted(FOLDER.glob("*.lock")) for p in locked(lock))})
    found = list(flaws(packages, advisories))
    for line in found:
        print(line)
    print(f"{len(packages)} packages against {len(advisories)} advisories: {len(found)} flaws")
    if not advisories:
        print("error: no advisory was found; nothing was audited", file=sys.stderr)
        return 2
    return int(bool(found))


def installed() -> Iterator[Package]:
    for each in distributions():
        yield Package(normal(each.metadata["Name"]), each.version, "installed")


def locked(path: Path) -> Iterator[Package]:
    for name, version in re.findall(r"^([\w.-]+)==([^\s;\\]+)", path.read_text(encoding="utf-8"), re.MULTILINE):
        yield Package(normal(name), version, path.name)


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def read_advisories(path: Path) -> Iterator[Advisory]:
    """Raises OSError, ValueError naming a file that is no OSV record, and BadZipFile."""
    if path.is_dir():
        for inner in sorted(path.rglob("*.json")):
            yield from _records(inner.read_bytes(), str(inner))
    elif path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith(".json"):
                    yield from _records(archive.read(name), f"{path}: {name}")
    else:
        yield from _records(path.read_bytes(), str(path))


def _records(data: bytes, where: str) -> Iterator[Advisory]:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise ValueError(f"{where}: no JSON: {error}") from None
    for record in value if isinstance(value, list) else [value]:
        if not isinstance(record, dict) or not isinstance(record.get("id"), str):
            raise ValueError(f"{where}: no OSV record")
        yield record


def flaws(packages: Iterable[Package], advisories: Iterable[Advisory]) -> Iterator[str]:
    by_name: dict[str, list[Package]] = {}
    for package in packages:
        by_name.setdefault(package.name, []).append(package)
    for advisory in advisories:
        if advisory.get("withdrawn"):
            continue
        for affected in advisory.get("affected", ()):
            where = affected.get("package", {})
            if where.get("ecosystem") != "PyPI":
                continue
            for package in by_name.get(normal(str(where.get("name"))), ()):
                if is_affected(package.version, affected):
                    fixed = [event["fixed"] for events in _events(affected) for event in events if "fixed" in event]
                    names = ", ".join([advisory["id"], *advisory.get("aliases", ())])
                    remedy = f"fixed in {', '.join(fixed)}" if fixed else "not fixed"
                    summary = " ".join(str(advisory.get("summary", "")).split())[:100]
                    yield f"{package.name} {package.version} ({package.source}): {names}: {summary}: {remedy}"


def is_affected(version: str, affected: Mapping[str, Any]) -> bool:
    """As the OSV schema has it: a version that is listed, or that lies in a range of events."""
    if version.partition("+")[0] in affected.get("versions", ()):
        return True
    parsed = _parsed(version)
    return any(_is_within(parsed, events) for events in _events(affected))


def _events(affected: Mapping[str, Any]) -> Iterator[list[Mapping[str, str]]]:
    for each in affected.get("ranges", ()):
        if each.get("type") == "ECOSYSTEM":
            yield each.get("events", [])


def _is_within(version: Version, events: list[Mapping[str, str]]) -> bool:
    """The last event at or below the version decides; `last_affected` still is, what follows is not."""
    found = False
    known = [(_parsed(at), _ORDER[kind]) for event in events for kind, at in event.items() if kind in _ORDER]
    for place, kind in sorted(known):
        if place > version or (place == version and kind == _ORDER["last_affected"]):
            break
        found = kind == _ORDER["introduced"]
    return found


_ORDER = {"fixed": 0, "introduced": 1, "last_affected": 2}


def _parsed(version: str) -> Version:
    """Without what a builder has added, such as +cpu. What is no version lies below all: events begin at 0 too."""
    try:
        return Version(version.partition("+")[0])
    except InvalidVersion:
        return Version("0")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
