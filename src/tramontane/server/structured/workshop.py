"""Workshop: formats are translated and compiled for the first time in child processes, under limits of the kernel.

What a caller may ask for is a program of sorts for libraries that recurse, copy and expand; some of it overflows their
stack, which would end the server. A child that dies takes one request with it.
"""

from __future__ import annotations

import atexit
import json
import queue
import subprocess
import sys
import threading
from collections import OrderedDict
from dataclasses import asdict
from typing import Any

from tramontane.runtime import environment_of_child
from tramontane.server.notes import Notes
from tramontane.server.structured.format_error import FormatError
from tramontane.server.structured.translation import Job

NUM_CHILDREN = 2
WALL_S = 60.0
MAX_CACHED = 64
MAX_CACHED_CHARS = 16 * 1024


class Workshop:
    """Children start when first needed and are kept; called from threads that may wait."""

    def __init__(self) -> None:
        self._idle: queue.LifoQueue[subprocess.Popen[str] | None] = queue.LifoQueue()
        for _ in range(NUM_CHILDREN):
            self._idle.put(None)
        self._lock = threading.Lock()
        self._replies: OrderedDict[str, dict[str, Any]] = OrderedDict()

    def translate(self, job: Job, notes: Notes) -> str:
        """As `translation.translate`. Raises FormatError, also where that takes too much time or memory."""
        line = json.dumps(asdict(job))
        with self._lock:
            reply = self._replies.get(line)
        if reply is None:
            reply = self._ask(line)
            if len(line) <= MAX_CACHED_CHARS:
                with self._lock:
                    self._replies[line] = reply
                    if len(self._replies) > MAX_CACHED:
                        self._replies.popitem(last=False)
        if "error" in reply:
            raise FormatError(reply["error"], reply["param"])
        notes.ignored.update(reply["ignored"])
        return str(reply["grammar"])

    def close(self) -> None:
        """End the children that wait for work."""
        while not self._idle.empty():
            child = self._idle.get()
            if child is not None:
                child.kill()
                child.communicate()

    def _ask(self, line: str) -> dict[str, Any]:
        child = self._idle.get()
        try:
            if child is None or child.poll() is not None:
                child = _child()
            answer = _exchange(child, line)
            if not answer:
                child.kill()
                child.communicate()
                child = None
        finally:
            self._idle.put(child)
        if not answer:
            return {
                "error": "the format asked for is too complex to be compiled; make it smaller",
                "param": "response_format",
            }
        reply: dict[str, Any] = json.loads(answer)
        return reply


def _child() -> subprocess.Popen[str]:
    # -P: a module lying in the current folder must not be imported in place of ours; -B: nothing is written
    return subprocess.Popen(
        [sys.executable, "-P", "-B", "-m", "tramontane.server.structured.child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        encoding="utf-8",
        env=environment_of_child(),
    )


def _exchange(child: subprocess.Popen[str], line: str) -> str:
    """The child's answer; nothing where it has died or was given up."""
    if child.stdin is None or child.stdout is None:
        return ""
    alarm = threading.Timer(WALL_S, child.kill)
    alarm.start()
    try:
        child.stdin.write(line + "\n")
        child.stdin.flush()
        return child.stdout.readline()
    except OSError:
        return ""
    finally:
        alarm.cancel()


WORKSHOP = Workshop()
atexit.register(WORKSHOP.close)
