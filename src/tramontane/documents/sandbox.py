"""Parsers of foreign formats run in a child process with limits on memory, processor time, files and network.

PDF, Word and HTML parsers have a long history of loops and bombs that no check beforehand catches all of; a limit
set by the kernel does.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal, cast

from tramontane.errors import DataError
from tramontane.runtime import environment_of_child

if TYPE_CHECKING:
    import asyncio

Task = Literal["pdf", "docx", "html", "url"]

BASE_CPU_S = 10
CPU_S_PER_MIB = 2  # 5,000 pages of dense text are 6 MiB and take a quarter of what they may
MAX_CPU_S = 30
WALL_S = 120  # processor time ends a parser; this ends what waits for it on a crowded machine
FETCH_S = 60
MEMORY_BYTES = 2 << 30
MAX_CHARS = 64 << 20
REPLY_BYTES_PER_CHAR = 4  # of UTF-8, at most


@dataclass(frozen=True, slots=True)
class Limits:
    """What one document may take. `cpu_s` are seconds of one core; `memory_bytes` of the child, its libraries apart."""

    cpu_s: int
    memory_bytes: int = MEMORY_BYTES
    max_chars: int = MAX_CHARS


def limits_for(num_bytes: int, *, memory_bytes: int = MEMORY_BYTES, max_chars: int = MAX_CHARS) -> Limits:
    cpu_s = min(MAX_CPU_S, BASE_CPU_S + CPU_S_PER_MIB * (num_bytes >> 20))
    return Limits(cpu_s, memory_bytes, max_chars)


def command(task: Task, limits: Limits) -> list[str]:
    # -P: a module lying in the current folder must not be imported in place of ours; -B: nothing is written
    module = ("-P", "-B", "-m", "tramontane.documents.child")
    return [sys.executable, *module, task, json.dumps(asdict(limits)), str(os.getpid())]


def environment() -> dict[str, str]:
    return {
        **environment_of_child(),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }  # a child can start no threads


def run_parser(task: Task, data: bytes, *, name: str, limits: Limits) -> str:
    """The text that parser `task` finds in `data`. Raises DataError naming `name`."""
    try:
        done = subprocess.run(
            command(task, limits),
            input=data,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment(),
            timeout=WALL_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise DataError(f"{name}: {TOO_LONG}") from None
    return read_reply(done.stdout, done.returncode, name, limits)


async def run_parser_async(task: Task, data: bytes, *, name: str, limits: Limits) -> str:
    """As `run_parser`, without a thread. Whoever cancels it ends the child."""
    import asyncio  # here, since the child imports this file and starts sooner without

    child = await asyncio.create_subprocess_exec(
        *command(task, limits),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment(),
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(WALL_S):
            reply, _ = await asyncio.gather(_received(child, limits), _sent(child, data))
            await child.wait()
    except TimeoutError:
        raise DataError(f"{name}: {TOO_LONG}") from None
    finally:
        if child.returncode is None:
            _kill(child)
            await asyncio.shield(child.wait())
    return read_reply(reply, child.returncode or 0, name, limits)


async def _sent(child: asyncio.subprocess.Process, data: bytes) -> None:
    stdin = cast("asyncio.StreamWriter", child.stdin)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has ended: its reply or its status says why
        stdin.write(data)
        await stdin.drain()
    stdin.close()


async def _received(child: asyncio.subprocess.Process, limits: Limits) -> bytes:
    """No more than a child that keeps to its limits would say."""
    stdout = cast("asyncio.StreamReader", child.stdout)
    reply = bytearray()
    while chunk := await stdout.read(1 << 20):
        reply += chunk
        if len(reply) > REPLY_BYTES_PER_CHAR * limits.max_chars + 1:
            _kill(child)
            break
    return bytes(reply)


def _kill(child: asyncio.subprocess.Process) -> None:
    """With whatever it has started, which it should not be able to."""
    with contextlib.suppress(ProcessLookupError):
        if hasattr(os, "killpg"):
            os.killpg(child.pid, signal.SIGKILL)
        else:  # Windows
            child.kill()


TOO_LONG = f"reading it took more than {WALL_S} s; given up"


def read_reply(reply: bytes, returncode: int, name: str, limits: Limits) -> str:
    """The text of a child's reply: `+` and it, or `-` and what is wrong. Raises DataError naming the document."""
    mark, said = reply[:1], reply[1:].decode("utf-8", "replace")
    if returncode == 0 and mark == b"+":
        return said
    if returncode == 0 and mark == b"-":
        raise DataError(f"{name}: {said}")
    if hasattr(signal, "SIGXCPU") and returncode == -signal.SIGXCPU:
        raise DataError(f"{name}: reading it took more than {limits.cpu_s} s of processor time; given up")
    raise DataError(
        f"{name}: reading it broke off; it may need more than the {limits.memory_bytes >> 20} MiB of memory that a "
        "document may take"
    )
