"""A few requests made up from our own schema; `benchmarks/api_fuzz.py` sends ten thousand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.server.fuzz import fuzz
from tests.server.live import start_server


@pytest.mark.filterwarnings("ignore")  # schemathesis' and jsonschema's own
def test_no_request_is_too_much(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    live = start_server(tmp_path, [checkpoints["chat"], "--max-seq-len", 96])
    try:
        report = fuzz(live.url, 70, model="chat")
    finally:
        code = live.stop()
    assert code == 0
    assert report.num_cases > 40
    assert {200, 422} <= set(report.statuses)
