"""Reserve: room on the database's disk, held by a file, so that on a full one deleting and revoking still work.

Whatever is stored needs some room, also the note that something else is gone. The reserve is given up for that alone;
while it is, nothing else may be stored, so that nobody fills the room before it has served.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from pathlib import Path

from tramontane import durable

SIZE_BYTES = 8 * 2**20
"""SQLite's log grows by some hundred KiB for a change of many rows, and starts anew after 4 MiB."""
ROOM_BYTES = 2**20
"""What else must be free before it is made again, lest it is what fills the disk."""


class Reserve:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._making = threading.Lock()

    @property
    def is_whole(self) -> bool:
        try:
            return self.path.stat().st_size >= SIZE_BYTES
        except OSError:
            return False

    def keep(self) -> bool:
        """Make it, where there is room for it; whether it is there."""
        with self._making:
            if self.is_whole:
                return True
            with contextlib.suppress(OSError):
                if shutil.disk_usage(self.path.parent).free >= SIZE_BYTES + ROOM_BYTES:
                    durable.write(self.path, os.urandom(SIZE_BYTES))  # which no file system makes smaller
            return self.is_whole

    def give_up(self) -> bool:
        """Whether there was any."""
        try:
            self.path.unlink()
        except OSError:
            return False
        return True
