"""`tramontane`, in a group of processes that may hold so many bytes, as far as it can tell.

MEMORY_LIMIT_BYTES=800000000 python -m tests.server.limited_server serve MODEL --port 0
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tramontane.cli.main import main
from tramontane.loading import memory


def limited_group(*_: Path, is_whole: bool = False, **__: Any) -> int:
    """In place of what the cgroup says: anonymous memory counts, pages of files can be dropped."""
    limit = int(os.environ["MEMORY_LIMIT_BYTES"])
    lines = Path("/proc/self/status").read_text().splitlines()
    used = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))
    return limit if is_whole else limit - used


if __name__ == "__main__":
    memory._cgroup_bytes = limited_group
    main()
