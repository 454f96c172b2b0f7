"""Parsers of foreign formats run in a child process with limits on memory, processor time and files.

PDF, Word and HTML parsers have a long history of loops and bombs that no check beforehand catches all of; a limit
set by the kernel does.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Literal

from tramontane.errors import DataError

Task = Literal["pdf", "docx", "html", "url"]
CPU_S = 120
WALL_S = 240


def run_parser(task: Task, data: bytes, *, name: str) -> str:
    """The text that parser `task` finds in `data`. Raises DataError naming `name`."""
    # -P: a module lying in the current folder must not be imported in place of ours; -B: nothing is written
    command = [sys.executable, "-P", "-B", "-m", "tramontane.documents.child", task]
    try:
        done = subprocess.run(command, input=data, capture_output=True, timeout=WALL_S, check=False)
    except subprocess.TimeoutExpired:
        raise DataError(f"{name}: reading it took more than {WALL_S} s; given up") from None
    try:
        reply = json.loads(done.stdout)
    except ValueError:
        reply = {"error": f"reading it took more than {CPU_S} s of processor time or too much memory; given up"}
    if "error" in reply:
        raise DataError(f"{name}: {reply['error']}")
    text: str = reply["text"]
    return text
