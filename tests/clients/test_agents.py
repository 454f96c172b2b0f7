"""Coding agents against the server. The default model cannot code: what counts is that each reads its answer to the
end."""

from __future__ import annotations

import json
from pathlib import Path

from tests.clients.conftest import NODE, Journey, printed
from tests.server.live import LiveServer

QUESTION = "Hello, who are you?"


def events(command: list[str], cwd: Path, **environment: str) -> list[dict[str, object]]:
    """The JSON lines that an agent prints about its turn."""
    lines = printed(command, cwd=cwd, HOME=str(cwd), **environment).splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def test_codex(server: LiveServer, node: Journey, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(
        'model = "default"\nmodel_provider = "here"\n[model_providers.here]\nname = "here"\n'
        f'base_url = "{server.url}/v1"\nwire_api = "responses"\nrequest_max_retries = 0\nstream_max_retries = 0\n'
    )
    command = [str(NODE / "node_modules/.bin/codex"), "exec", "--json", "--skip-git-repo-check"]
    turn = events([*command, "--sandbox", "read-only", QUESTION], tmp_path, CODEX_HOME=str(tmp_path))
    kinds = [event["type"] for event in turn]
    assert "turn.completed" in kinds
    assert "turn.failed" not in kinds


def test_opencode(server: LiveServer, node: Journey, tmp_path: Path) -> None:
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "here",
        "options": {"baseURL": f"{server.url}/v1"},
        "models": {"default": {"name": "default"}},
    }
    settings = {"autoupdate": False, "share": "disabled", "provider": {"here": provider}}
    (tmp_path / "opencode.json").write_text(json.dumps(settings))
    [binary] = list((NODE / "node_modules").glob("opencode-linux-*/bin/opencode"))[:1]
    command = [str(binary), "run", "--format", "json", "-m", "here/default", QUESTION]
    turn = events(command, tmp_path, OPENCODE_DISABLE_MODELS_FETCH="1")
    assert turn[-1]["type"] == "step_finish"
    assert any(event["type"] == "text" for event in turn)
