"""HubName: `org/name[:file.gguf][@revision]`, parsed so strictly that it can be a path and a URL."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tramontane.errors import CheckpointError
from tramontane.runtime import home

_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9_.\-]{0,94}[A-Za-z0-9_\-])?"  # neither `.`, `..` nor a hidden name
_REPOSITORY = re.compile(rf"(?P<org>{_PART})/(?P<name>{_PART})")
_FILE = re.compile(rf"(?:{_PART}/){{0,3}}{_PART}\.gguf")
_REVISION = re.compile(rf"{_PART}(?:/{_PART}){{0,3}}")


@dataclass(frozen=True, slots=True)
class HubName:
    """A model on the hub: a repository, one .gguf file of it or all that is needed, at a branch, tag or commit."""

    repository: str
    file: str | None = None
    revision: str = "main"

    def __str__(self) -> str:
        file = f":{self.file}" if self.file else ""
        return f"{self.repository}{file}" + ("" if self.revision == "main" else f"@{self.revision}")

    @property
    def folder(self) -> Path:
        """Where it is kept once pulled. `+` is in no part of a name, so no two names share a folder."""
        key = self.revision.replace("/", "+") + (f"++{self.file.replace('/', '+')}" if self.file else "")
        return home() / "models" / self.repository / key


def parse_hub_name(text: str) -> HubName:
    """Raises CheckpointError for anything but `org/name[:file.gguf][@revision]`."""
    rest, at, revision = text.partition("@")
    repository, colon, file = rest.partition(":")
    is_repository = _REPOSITORY.fullmatch(repository) and "--" not in repository and ".." not in text
    is_file = not colon or _FILE.fullmatch(file)
    is_revision = not at or _REVISION.fullmatch(revision)
    if not (is_repository and is_file and is_revision):
        shown = repr(text if len(text) <= 100 else f"{text[:97]}...")
        raise CheckpointError(f"{shown} is not the name of a model on the hub; write org/name[:file.gguf][@revision]")
    return HubName(repository, file or None, revision or "main")
