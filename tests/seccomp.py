"""`python -m tests.seccomp FILE COMMAND...`: the command with no system calls but those that the file names, as
systemd's SystemCallFilter with SystemCallErrorNumber=EPERM would run it."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from pathlib import Path

ALLOW = 0x7FFF0000
REFUSE = 0x00050000 | errno.EPERM
RUNNING_IT = ("execve",)  # by which the command is reached


def main(arguments: list[str]) -> None:
    library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(REFUSE)))
    num_rules = 0
    for name in (*Path(arguments[0]).read_text().split(), *RUNNING_IT):
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number >= 0:  # others are those of other processors
            num_rules += library.seccomp_rule_add_array(context, ctypes.c_uint32(ALLOW), number, 0, None) == 0
    if num_rules < 100 or library.seccomp_load(context) != 0:
        sys.exit("the filter could not be loaded")
    os.execvp(arguments[1], arguments[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
