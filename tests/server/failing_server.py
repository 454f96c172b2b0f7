"""`tramontane`, but steps take their time, and the engine dies once the file that the environment names exists.

DIES_WHEN=/tmp/file python -m tests.server.failing_server serve MODEL --port 0
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from tramontane.cli.main import main
from tramontane.engine.engine import Engine
from tramontane.engine.request import Output

STEP_S = 0.01


def dying_step(engine: Engine) -> list[Output]:
    if Path(os.environ["DIES_WHEN"]).exists():
        raise MemoryError("the test ends this engine")
    time.sleep(STEP_S)
    return whole_step(engine)


if __name__ == "__main__":
    whole_step = Engine.step
    Engine.step = dying_step  # type: ignore[method-assign, assignment]
    main()
