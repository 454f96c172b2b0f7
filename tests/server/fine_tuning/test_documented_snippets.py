"""The Python of docs/fine_tuning.md, as it stands there, run by the clients it names against a live server."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.fine_tuning.making import PATH, greetings
from tests.server.live import LiveServer, start_server
from tests.server.test_mistral_client import OLD_CLIENT
from tramontane.server.fine_tuning.jobs import ENDED, QUEUED, VALIDATED, VALIDATING

PAGE = Path(__file__).resolve().parents[3] / "docs" / "fine_tuning.md"
ADDRESS = "http://127.0.0.1:8000"
SNIPPETS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
BY_CLIENT = {name: next(each for each in SNIPPETS if f"from {name}" in each) for name in ("mistralai", "openai")}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    live = start_server(tmp_path_factory.mktemp("home"), ["default", "--fine-tuning-nice", 0])
    yield live
    assert live.stop() == 0, live.log.read_text("utf-8")


def run(snippet: str, server: LiveServer, folder: Path) -> str:
    """What it prints, in a folder with a small file of samples."""
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in greetings(4)), "utf-8")
    assert ADDRESS in snippet
    environment = {**os.environ, "PYTHONPATH": str(OLD_CLIENT) if "mistralai" in snippet else ""}
    done = subprocess.run(
        [sys.executable, "-c", snippet.replace(ADDRESS, server.url)],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_every_snippet_is_run_here() -> None:
    assert sorted(SNIPPETS) == sorted(BY_CLIENT.values())


def test_the_one_of_mistral_s_client_ends_in_an_answer(server: LiveServer, tmp_path: Path) -> None:
    assert OLD_CLIENT.is_dir(), "run `make test`, which installs the client there"
    estimated, answer = run(BY_CLIENT["mistralai"], server, tmp_path).split("\n", 1)
    status = estimated.split()[0]
    assert status in (QUEUED, VALIDATING, VALIDATED)  # the first two where the check takes long on a busy machine
    assert ("data_tokens=" in estimated) == (status == VALIDATED)
    assert answer.strip()
    with server.client() as client:
        [job] = client.get(PATH).json()["data"]
        assert job["status"] == "succeeded"  # as OpenAI's API says it
        assert job["fine_tuned_model"] in {card["id"] for card in client.get("/v1/models").json()["data"]}


def test_the_one_of_openai_s_client_makes_a_job(server: LiveServer, tmp_path: Path) -> None:
    job_id, _status = run(BY_CLIENT["openai"], server, tmp_path).split()
    with server.client() as client:
        assert client.post(f"{PATH}/{job_id}/cancel").status_code == 200


def test_the_one_that_waits_ends_with_any_end_of_a_job() -> None:
    [loop] = [node for node in ast.walk(ast.parse(BY_CLIENT["mistralai"])) if isinstance(node, ast.While)]
    assert isinstance(loop.test, ast.Compare)
    assert sorted(ast.literal_eval(loop.test.comparators[0])) == sorted(ENDED)
