"""Pulled models on disk: what a name leads to, and the record by which a whole pull is told from a part of one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tramontane import durable
from tramontane.config import read_json
from tramontane.errors import CheckpointError, ConfigError
from tramontane.hub.name import HubName, parse_hub_name

RECORD = ".pulled.json"


@dataclass(frozen=True, slots=True)
class Record:
    """What was pulled: the commit, and the size of every file."""

    commit: str
    sizes: dict[str, int]

    def write(self, folder: Path) -> None:
        durable.write(folder / RECORD, json.dumps({"commit": self.commit, "sizes": self.sizes}, indent=2))


def read_record(folder: Path) -> Record | None:
    """The record of a pull, None if none was completed here. Raises CheckpointError if it is damaged."""
    if not (folder / RECORD).is_file():
        return None
    try:
        data = read_json(folder / RECORD)
    except ConfigError as error:
        raise CheckpointError(f"{error}; or delete {folder} and pull again") from None
    commit, sizes = data.get("commit"), data.get("sizes")
    if not isinstance(commit, str) or not isinstance(sizes, dict) or not all(type(n) is int for n in sizes.values()):
        raise CheckpointError(f"{folder / RECORD} is not the record of a pull; delete {folder} and pull again")
    return Record(commit, sizes)


def resolve_model(name: str) -> Path:
    """The folder or .gguf file that a model's name stands for.

    `name` is a folder, a file, `default`, or a hub id that was pulled: `org/name[:file.gguf][@revision]`. What exists
    on disk comes first. Raises CheckpointError, naming the remedy, where there is no such model.
    """
    if name == "default":
        return default_model()
    try:
        path = Path(name).expanduser()
        if name and path.exists():
            return path
    except (OSError, RuntimeError, ValueError):  # too long, no such user, or a NUL byte
        pass
    hub_name = _hub_name(name)
    if hub_name is None:
        raise CheckpointError(
            f"model {_short(name)} does not exist; name a folder, a .gguf file or a hub id, "
            "such as mistralai/Mistral-7B-Instruct-v0.3"
        )
    record = read_record(hub_name.folder)
    if record is None:
        raise CheckpointError(f"{hub_name} is neither a file nor pulled from the hub; run: tramontane pull {hub_name}")
    require_whole(hub_name.folder, record, f"run: tramontane pull {hub_name}")
    return hub_name.folder if hub_name.file is None else hub_name.folder / Path(hub_name.file).name


def require_whole(folder: Path, record: Record, remedy: str) -> None:
    """Raise CheckpointError unless every file of the pull is there in its full size."""
    for file, size in record.sizes.items():
        path = folder / file
        if not path.is_file() or path.stat().st_size != size:
            raise CheckpointError(f"{path} is missing or cut off; {remedy}")


def default_model() -> Path:
    """The model that comes with the package. Raises CheckpointError while there is none."""
    folder = Path(__file__).resolve().parents[1] / "default_model"
    if not folder.is_dir():
        raise CheckpointError(
            "no default model comes with this version; name one, such as --model mistralai/Mistral-7B-Instruct-v0.3, "
            "or set TRAMONTANE_MODEL"
        )
    return folder


def _hub_name(name: str) -> HubName | None:
    """`name` as a hub id; None for what can only have been meant as a file."""
    if name.startswith((".", "/", "~")) or (name.endswith(".gguf") and ":" not in name):
        return None
    try:
        return parse_hub_name(name)
    except CheckpointError:
        return None


def _short(text: str) -> str:
    return repr(text if len(text) <= 200 else f"{text[:197]}...")
