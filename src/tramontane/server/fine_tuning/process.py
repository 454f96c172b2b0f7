"""Process: a command that outlives the server which began it, and is found again by the next one.

A folder holds what is known of it: `lock` is held while it lives, `pid` leads its group, `exit` is its exit code once
it has ended by itself, `out` and `err` are what it printed. Whoever kills it leaves no `exit`.
"""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

LOCK_FD = 9
# A limit on memory is inherited; `trap :` lets this shell live until the command has ended after a signal to both.
SCRIPT = """
trap : TERM INT HUP
cd "$FOLDER" || exit 2
if [ -n "$MEMORY_KIB" ]; then ulimit -d "$MEMORY_KIB" || exit 2; fi
nice -n "$NICENESS" "$@" &
child=$!
wait $child; code=$?
while kill -0 $child 2>/dev/null; do wait $child; code=$?; done
echo $code >exit.partial && mv exit.partial exit
"""


class Process:
    """The command of one folder. Call it from one server at a time; whatever this object forgets is in the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._pid: int | None = None  # where it is a child of this process

    def start(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        niceness: int = 0,
        memory_bytes: int | None = None,
    ) -> None:
        """Run `command` in a session of its own, `niceness` behind others, with at most `memory_bytes` of data. What
        an earlier run of this folder left is removed. Raises OSError where that cannot be done."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in ("exit", "pid"):
            (self.folder / name).unlink(missing_ok=True)
        limit = "" if memory_bytes is None else str(memory_bytes >> 10)
        settings = {"FOLDER": str(self.folder), "MEMORY_KIB": limit, "NICENESS": str(niceness)}
        writes = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._pid = os.posix_spawn(
                "/bin/sh",
                ["/bin/sh", "-c", SCRIPT, "sh", *command],
                {**environment, **settings},
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 1, str(self.folder / "out"), writes, 0o600),
                    (os.POSIX_SPAWN_OPEN, 2, str(self.folder / "err"), writes, 0o600),
                    (os.POSIX_SPAWN_DUP2, lock.fileno(), LOCK_FD),  # held there after this file is closed here
                ],
                setsid=True,
            )
            (self.folder / "pid").write_text(str(self._pid), "utf-8")
        with suppress(OSError):  # where the kernel shares time between sessions first, niceness within one says nothing
            Path(f"/proc/{self._pid}/autogroup").write_text(str(niceness), "utf-8")

    @property
    def is_alive(self) -> bool:
        try:
            with (self.folder / "lock").open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        if self._pid is not None:  # a child of this process that has let go of its lock is ending: let it go
            with suppress(ChildProcessError):
                os.waitpid(self._pid, 0)
            self._pid = None
        return False

    @property
    def exit_code(self) -> int | None:
        """Of a command that is not alive; None where it was killed, or never began."""
        try:
            code = int((self.folder / "exit").read_text("utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        return code if code < 128 else None  # a shell's way to tell of a signal

    def signal(self, number: signal.Signals) -> None:
        """To all of its processes, while it is alive."""
        with suppress(OSError, ValueError):
            pid = int((self.folder / "pid").read_text("utf-8"))
            if self.is_alive:
                os.killpg(pid, number)

    @property
    def output(self) -> str:
        return self._read("out")

    @property
    def complaint(self) -> str:
        """The last line it wrote to stderr."""
        lines = [line for line in self._read("err").splitlines() if line.strip()]
        return lines[-1].strip() if lines else ""

    def _read(self, name: str) -> str:
        try:
            return (self.folder / name).read_text("utf-8", "replace")
        except FileNotFoundError:
            return ""
