"""What a fine-tuning run was begun with, kept beside it, so that going on with other arguments is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tramontane import durable
from tramontane.errors import ConfigError

FILE = "arguments.json"


def save_arguments(run: Path, arguments: Mapping[str, Any]) -> None:
    """`arguments` by their names on the command line, plain JSON."""
    durable.write(run / FILE, json.dumps(arguments, indent=1))


def require_same_arguments(run: Path, given: Mapping[str, Any]) -> None:
    """Raises ConfigError that names each argument of `given` that is not the run's, with both values. A run of version
    0.1.0, which kept none, is gone on with as it is."""
    path = run / FILE
    if not path.is_file():
        return
    known = json.loads(path.read_text("utf-8"))
    differing = [
        f"{name} is {_told(value)} here and {_told(known[name])} in the run"
        for name, value in given.items()
        if name in known and not _is_same(known[name], value)
    ]
    if differing:
        raise ConfigError(
            f"{run} was begun with other arguments: {'; '.join(differing)}. Leave them out to go on, or choose another "
            "--run"
        )


def file_arguments(files: Sequence[str]) -> list[dict[str, str | None]]:
    """Files as they are named, and by what is in them: a file that was moved is the same one, a changed one is not."""
    return [{"name": name, "content": _content(name)} for name in files]


def _content(name: str) -> str | None:
    """Checksum and weight of FILE or FILE:WEIGHT; None for what is no file here."""
    path, weight = Path(name), ""
    if not path.is_file():
        path, weight = Path(name.rpartition(":")[0]), name.rpartition(":")[2]
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return f"{hashlib.file_digest(file, 'sha256').hexdigest()} {weight}".rstrip()


def _is_same(known: Any, value: Any) -> bool:
    if not isinstance(value, list) or not isinstance(known, list):
        return bool(known == value)
    return len(known) == len(value) and all(
        one["name"] == other["name"]
        if None in (one["content"], other["content"])
        else one["content"] == other["content"]
        for one, other in zip(known, value, strict=True)
    )


def _told(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(f"{each['name']} (sha256 {(each['content'] or 'unknown')[:8]})" for each in value)
    return "left out" if value is None else str(value)
