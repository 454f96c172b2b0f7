"""`tramontane`, but the engine dies at the step that the environment names.

FAILS_AT=10 python -m tests.server.failing_server serve MODEL --port 0
"""

from __future__ import annotations

import os

from tramontane.cli.main import main
from tramontane.engine.engine import Engine
from tramontane.engine.request import Output


def dying_step(engine: Engine) -> list[Output]:
    if engine.scheduler.num_steps >= int(os.environ["FAILS_AT"]):
        raise MemoryError("the test ends this engine")
    return whole_step(engine)


if __name__ == "__main__":
    whole_step = Engine.step
    Engine.step = dying_step  # type: ignore[method-assign, assignment]
    main()
