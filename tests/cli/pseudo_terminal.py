"""A program in a real pseudo-terminal: type, wait for text, press Ctrl-C."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Sequence
from typing import Self

ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[ -/]*[@-~]|\][^\x07]*\x07|[=>78])")


class PseudoTerminal:
    """`python *arguments` as a child on its own terminal. `raw` is all it wrote, `output` the
    same without escape sequences."""

    def __init__(self, arguments: Sequence[str], environment: dict[str, str]) -> None:
        self.raw = ""
        self.output = ""
        self.read_up_to = 0  # where the next `wait_for` begins to look
        self.pid, self.fd = pty.fork()
        fcntl.ioctl(self.fd if self.pid else 0, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 300, 0, 0))
        if self.pid == 0:
            # no CPR: this terminal does not answer questions about the cursor
            os.execve(sys.executable, [sys.executable, *arguments], {**environment, "PROMPT_TOOLKIT_NO_CPR": "1"})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        os.close(self.fd)
        try:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def send(self, line: str) -> None:
        self.type(f"{line}\r")

    def interrupt(self) -> None:
        self.type("\x03")

    def interrupt_until_over(self, timeout_s: float = 30.0) -> int:
        """Ctrl-C again and again: signals that reach a program before it had its turn count as one."""
        deadline = time.monotonic() + timeout_s
        while True:
            time.sleep(0.5)
            try:
                self.interrupt()
            except OSError:  # the other side of the terminal is gone
                return self.exit_code()
            if not self.read():
                return self.exit_code()
            assert time.monotonic() < deadline, f"still running: {self.output[self.read_up_to :]!r}"

    def wait_for(self, text: str, timeout_s: float = 30.0) -> str:
        """Read until `text` appears after what was waited for before; what came up to its end."""
        deadline = time.monotonic() + timeout_s
        while (at := self.output.find(text, self.read_up_to)) < 0:
            assert time.monotonic() < deadline, f"no {text!r} in {self.output[self.read_up_to :]!r}"
            assert self.read(), f"ended without {text!r}: {self.output[self.read_up_to :]!r}"
        start, self.read_up_to = self.read_up_to, at + len(text)
        return self.output[start : self.read_up_to]

    def wait_for_more(self, num_chars: int, timeout_s: float = 30.0) -> None:
        """Read until so much came after what was waited for before."""
        deadline = time.monotonic() + timeout_s
        while len(self.output) < self.read_up_to + num_chars:
            assert time.monotonic() < deadline, f"only {self.output[self.read_up_to :]!r}"
            assert self.read(), f"ended: {self.output[self.read_up_to :]!r}"

    def read(self) -> bool:
        """Take in what there is, waiting briefly; False once the program has ended."""
        if not select.select([self.fd], [], [], 0.1)[0]:
            return True
        try:
            data = os.read(self.fd, 65536)
        except OSError:  # the other side of a terminal is gone
            return False
        self.raw += data.decode("utf-8", "replace")
        self.output = ESCAPES.sub("", self.raw)
        return bool(data)

    def exit_code(self, timeout_s: float = 30.0) -> int:
        """Wait for the end."""
        deadline = time.monotonic() + timeout_s
        while self.read():
            assert time.monotonic() < deadline, f"still running: {self.output[self.read_up_to :]!r}"
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
