"""Process: a command that ends with the server which began it, whatever ends that, and is judged by the next one.

A folder holds what is known of it: `lock` is held while it lives, `pid` leads its group, `exit` is its exit code once
it has ended, `orphaned` says that its server was gone before it, `out` and `err` are what it printed. Whoever kills its
whole group leaves no `exit`.
"""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

SERVER_FD, LOCK_FD = 8, 9
GRACE_S = 30
"""For a command to save and end once its server is gone; then it is killed."""
# A limit on memory is inherited; `trap :` lets this shell live until the command has ended after a signal to both. The
# server alone holds the other end of the pipe at SERVER_FD and never writes: whatever ends it ends the read, as a
# signal on the parent's death would, which is one thread's and one system's. `kill 0` is to the group, this one's own.
SCRIPT = f"""
trap : TERM INT HUP
cd "$FOLDER" || exit 2
if [ -n "$MEMORY_KIB" ]; then ulimit -d "$MEMORY_KIB" || exit 2; fi
(
    trap '' TERM INT HUP
    read -r _ <&{SERVER_FD}
    : >orphaned
    kill -TERM 0
    sleep {GRACE_S}
    kill -KILL 0
) {LOCK_FD}>&- &
watcher=$!
nice -n "$NICENESS" "$@" {SERVER_FD}<&- &
child=$!
wait $child; code=$?
while kill -0 $child 2>/dev/null; do wait $child; code=$?; done
kill -KILL $watcher
echo $code >exit.partial && mv exit.partial exit
"""
_OWN_SIGNALS = frozenset(
    getattr(signal, name) for name in ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSYS", "SIGXCPU")
)
"""What a program brings upon itself."""


class Process:
    """The command of one folder. Call it from one server at a time; whatever this object forgets is in the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._pid: int | None = None  # where it is a child of this process
        self._was_begun_here = False
        self._hold: int | None = None  # while this is open, the command may live
        self._oom_kills: int | None = None  # by the system, before it began

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
        for name in ("exit", "pid", "orphaned"):
            (self.folder / name).unlink(missing_ok=True)
        self._let_go()
        self._was_begun_here, self._oom_kills = True, oom_kills()
        server_end, self._hold = os.pipe()
        limit = "" if memory_bytes is None else str(memory_bytes >> 10)
        settings = {"FOLDER": str(self.folder), "MEMORY_KIB": limit, "NICENESS": str(niceness)}
        writes = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        with open(server_end, "rb") as server, (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._pid = os.posix_spawn(
                "/bin/sh",
                ["/bin/sh", "-c", SCRIPT, "sh", *command],
                {**environment, **settings},
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 1, str(self.folder / "out"), writes, 0o600),
                    (os.POSIX_SPAWN_OPEN, 2, str(self.folder / "err"), writes, 0o600),
                    *_handed_down({server.fileno(): SERVER_FD, lock.fileno(): LOCK_FD}),  # lock: held there from now on
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
        self._let_go()
        if self._pid is not None:  # a child of this process that has let go of its lock is ending: let it go
            with suppress(ChildProcessError):
                os.waitpid(self._pid, 0)
            self._pid = None
        return False

    @property
    def exit_code(self) -> int | None:
        """Of a command that is not alive; None where it was killed, never began, or ended badly without its server:
        then the place it wrote to may have been taken from it."""
        code = self._exit
        if code is None or code >= 128 or (code and self._is_orphaned):
            return None
        return code

    @property
    def was_its_own_fault(self) -> bool:
        """Whether a command that was killed is to blame for it itself: by a fault, or by the memory it took, as far as
        can be told, while the server lived that had begun it. Who was killed by others, or with its server, is not."""
        if not self._was_begun_here or self._is_orphaned:
            return False
        number = signal.SIGKILL if self._exit is None else self._exit - 128  # a shell's way to tell of a signal
        if number == signal.SIGKILL:
            kills = oom_kills()
            return kills is None or kills != self._oom_kills
        return number in _OWN_SIGNALS

    @property
    def _is_orphaned(self) -> bool:
        return (self.folder / "orphaned").exists()

    @property
    def _exit(self) -> int | None:
        try:
            return int((self.folder / "exit").read_text("utf-8"))
        except (FileNotFoundError, ValueError):
            return None

    def _let_go(self) -> None:
        if self._hold is not None:
            os.close(self._hold)
            self._hold = None

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

    def last_words(self, num_chars: int) -> str:
        """The end of what it wrote to stderr, on one line."""
        return " | ".join(self._read("err")[-num_chars:].splitlines())

    def _read(self, name: str) -> str:
        try:
            return (self.folder / name).read_text("utf-8", "replace")
        except FileNotFoundError:
            return ""


def oom_kills() -> int | None:
    """How often this cgroup, or else the system, has killed a process for want of memory; None if it does not tell."""
    for path in (Path("/sys/fs/cgroup/memory.events"), Path("/proc/vmstat")):
        with suppress(OSError):
            for line in path.read_text("utf-8").splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
    return None


def _handed_down(numbers: Mapping[int, int]) -> Iterator[tuple[int, ...]]:
    """File actions that give open files their numbers in a child, whatever numbers they have here, and nothing else
    that this process was itself given to hand on."""
    for name in os.listdir("/dev/fd"):
        with suppress(OSError):  # the listing's own
            if int(name) > 2 and os.get_inheritable(int(name)):
                yield os.POSIX_SPAWN_CLOSE, int(name)
    free = max(*numbers, *numbers.values()) + 1
    for place, number in enumerate(numbers):  # first out of the way: one may have the number that another is to get
        yield os.POSIX_SPAWN_DUP2, number, free + place
    for place, wanted in enumerate(numbers.values()):
        yield os.POSIX_SPAWN_DUP2, free + place, wanted
    for place in range(len(numbers)):
        yield os.POSIX_SPAWN_CLOSE, free + place
