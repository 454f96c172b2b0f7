"""A real PostgreSQL for a test: a cluster in a temporary folder, on a Unix socket, gone afterwards."""

from __future__ import annotations

import contextlib
import glob
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.system import require

START_S = 30.0


def program(name: str) -> str:
    found = shutil.which(name) or max(glob.glob(f"/usr/lib/postgresql/*/bin/{name}"), default=None)
    return found or name


@contextlib.contextmanager
def running_postgres() -> Iterator[str]:
    """The SQLAlchemy URL of its database. PostgreSQL refuses to run as root, so root lends it to another user."""
    require("postgresql")
    user = None
    if os.geteuid() == 0:
        user = next(name for name in ("postgres", "nobody") if name in {entry.pw_name for entry in pwd.getpwall()})
    folder = Path(tempfile.mkdtemp(prefix="pg-"))  # short: the path of a Unix socket has at most 107 bytes
    if user is not None:
        shutil.chown(folder, user)
    data, log = folder / "data", folder / "log"
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, user=user, env=environment, cwd=folder, capture_output=True, text=True, check=False
        )

    made = run(program("initdb"), "-D", str(data), "-U", "wind", "-A", "trust", "-E", "UTF8", "--no-sync")
    assert made.returncode == 0, made.stderr
    command = [program("postgres"), "-D", str(data), "-k", str(folder), "-c", "listen_addresses=", "-F"]
    with log.open("w") as output:
        server = subprocess.Popen(command, user=user, env=environment, cwd=folder, stdout=output, stderr=output)
    try:
        started = time.monotonic()
        while run(program("pg_isready"), "-h", str(folder)).returncode:
            assert server.poll() is None, log.read_text()
            assert time.monotonic() - started < START_S, log.read_text()
            time.sleep(0.05)
        yield f"postgresql+psycopg://wind@/postgres?host={folder}"
    finally:
        server.send_signal(signal.SIGINT)  # "fast": open connections do not hold it up
        server.wait(30)
        shutil.rmtree(folder)
