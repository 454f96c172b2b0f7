"""`tramontane`, killed (SIGKILL, by itself) at a point of the first create with a key; the environment says which.

DIES_AT=3 python -m tests.server.idempotency.dying_server serve MODEL --port 0
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

from tramontane.cli.main import main
from tramontane.server.idempotency.records import IdempotencyRecords


def mortal(method: Callable[..., Any]) -> Callable[..., Any]:
    """Before it and after it is a point each."""

    def call(*arguments: Any, **options: Any) -> Any:
        point()
        found = method(*arguments, **options)
        point()
        return found

    return call


def point() -> None:
    global points_left
    if points_left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    points_left -= 1


if __name__ == "__main__":
    points_left = int(os.environ["DIES_AT"])
    for name in ("claim", "mark", "finish"):
        setattr(IdempotencyRecords, name, mortal(getattr(IdempotencyRecords, name)))
    main()
