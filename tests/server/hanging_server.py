"""`tramontane`, but the engine stands still while the file that the environment names exists. KEEP_ALIVE_S, where
given, is the silence that streams fill.

HANGS_WHILE=/tmp/file python -m tests.server.hanging_server serve MODEL --port 0
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from tramontane.cli.main import main
from tramontane.engine.engine import Engine
from tramontane.engine.request import Output
from tramontane.server import endpoint, stream


def hanging_step(engine: Engine) -> list[Output]:
    while Path(os.environ["HANGS_WHILE"]).exists():
        time.sleep(0.02)
    return whole_step(engine)


if __name__ == "__main__":
    whole_step = Engine.step
    Engine.step = hanging_step  # type: ignore[method-assign, assignment]
    silence_s = float(os.environ.get("KEEP_ALIVE_S", stream.KEEP_ALIVE_S))
    for module in (stream, endpoint):
        vars(module)["KEEP_ALIVE_S"] = silence_s
    main()
