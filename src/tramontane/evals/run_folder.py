"""What an evaluation leaves on disk: settings, one line per item, results. A run that was cut short goes on from it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tramontane import durable
from tramontane.errors import DataError

SETTINGS, RESULTS = "settings.json", "results.json"


class ItemLog:
    """`TASK.jsonl`: {"id", "group", "scores", "answer", …} per item, in the order they were answered.

    A line is written whole or not at all: one that an interruption cut off is dropped when the log is opened again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: dict[str, dict[str, Any]] = {}
        if path.exists():
            data = path.read_bytes()
            whole = data[: data.rfind(b"\n") + 1]
            for number, line in enumerate(whole.splitlines(), start=1):
                try:
                    entry = json.loads(line)
                    self.entries[entry["id"]] = entry
                except (ValueError, TypeError, KeyError):
                    raise DataError(f"{path}:{number}: damaged; delete the file to measure its task again") from None
            if len(whole) < len(data):
                os.truncate(path, len(whole))

    def add(self, entries: list[dict[str, Any]]) -> None:
        """Append the entries in one write, and have them on disk before going on."""
        lines = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
        with self.path.open("ab") as file:
            file.write(lines.encode())
        durable.sync(self.path)
        self.entries.update((entry["id"], entry) for entry in entries)


def write_json(path: Path, value: Any) -> None:
    """Whole or not at all."""
    durable.write(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json_file(path: Path) -> Any:
    """Raises DataError where there is no such file, or it is damaged."""
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path.parent}: holds no {path.name}; is it the folder of an evaluation?") from None
    except ValueError as error:
        raise DataError(f"{path}: damaged ({error})") from None


def open_run(folder: Path, settings: Mapping[str, Any]) -> None:
    """Make the folder, or make sure that what it holds was measured alike.

    Raises DataError naming the first setting that differs.
    """
    durable.make_folder(folder)
    path = folder / SETTINGS
    if not path.exists():
        write_json(path, settings)
        return
    known = read_json_file(path)
    for key in sorted(settings.keys() | known.keys()):
        ours, theirs = json.loads(json.dumps(settings.get(key))), known.get(key)
        if key == "tasks":
            differing = [name for name in ours if name in theirs and ours[name] != theirs[name]]
            if differing:
                raise DataError(f"{folder}: {differing[0]} was measured with other settings; choose another --out")
        elif ours != theirs:
            raise DataError(f"{folder}: was measured with {key}={theirs!r}, not {ours!r}; choose another --out")
    write_json(path, {**settings, "tasks": {**known["tasks"], **settings["tasks"]}})
