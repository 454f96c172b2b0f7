"""Fine-tuned models beside their base: from the start, and while the server runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.llm.test_adapters import make_adapter
from tests.server.in_process import serving
from tramontane.errors import ConfigError
from tramontane.server.keys import KeyOptions, create_key
from tramontane.server.models import serve_adapter


def text(client: TestClient, model: str) -> Any:
    body = {"model": model, "prompt": "The wind", "max_tokens": 9, "temperature": 0}
    answer = client.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["text"]


def test_adapters_come_and_go_without_a_restart(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    base = checkpoints["chat"]
    folders = [make_adapter(tmp_path / f"adapter-{seed}", base, seed) for seed in (1, 2)]
    with serving({"chat": base}, tmp_path / "state", adapter=[f"first={folders[0]}"]) as client:
        bare, first = text(client, "chat"), text(client, "first")
        assert bare != first
        registry = client.app.state.services.registry  # type: ignore[attr-defined]

        async def add() -> None:
            registry.add(serve_adapter(registry.resolve("chat", "local"), "ft:chat:second", folders[1], job="job-1"))

        portal: Any = client.portal
        portal.call(add)
        second = text(client, "ft:chat:second")
        assert second not in (bare, first)
        assert client.get("/health").json()["models"].keys() == {"chat"}  # anyone may ask; their names are private
        card = client.get("/v1/models/ft:chat:second").json()
        assert card["type"] == "fine-tuned"
        assert card["root"] == "chat"
        assert card["job"] == "job-1"
        vectors = [
            client.post("/v1/embeddings", json={"model": m, "input": "a"}).json()["data"] for m in ("chat", "first")
        ]
        assert vectors[0] != vectors[1]
        assert client.delete("/v1/models/ft:chat:second").json()["deleted"] is True
        assert client.post("/v1/completions", json={"model": "ft:chat:second", "prompt": "x"}).status_code == 400
        assert text(client, "first") == first
        assert text(client, "chat") == bare


def test_an_adapter_is_served_as_a_model_over_a_base_of_ones_choice(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    base = checkpoints["chat"]
    adapter = make_adapter(tmp_path / "adapter", base, 1)
    with serving({"chat": base, "own": adapter}, tmp_path / "state", base=str(base)) as client:
        assert text(client, "own") != text(client, "chat")
        assert client.get("/health").json()["models"].keys() == {"own", "chat"}
    with (
        pytest.raises(ConfigError, match="is for LoRA adapters, and none is to be served"),
        serving({"chat": base}, tmp_path / "state", base=str(base)),
    ):
        pass


def test_one_that_was_given_at_the_start_is_not_for_everyone_to_unload(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    base = checkpoints["chat"]
    adapter = make_adapter(tmp_path / "adapter", base, 1)
    with serving({"chat": base}, tmp_path / "state", adapter=[f"first={adapter}"]) as client:
        database = client.app.state.services.database  # type: ignore[attr-defined]
        tuner, admin = (
            {"authorization": f"Bearer {create_key(database, KeyOptions('a', scopes=scopes))[1]}"}
            for scopes in (["fine_tuning"], ["fine_tuning", "admin"])
        )
        refused = client.delete("/v1/models/first", headers=tuner)
        assert refused.status_code == 403
        assert "admin" in refused.json()["message"]
        assert client.delete("/v1/models/first", headers=admin).json()["deleted"] is True


def test_an_adapter_needs_a_name(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match="write NAME=FOLDER"),
        serving({"chat": checkpoints["chat"]}, tmp_path, adapter=["folder"]),
    ):
        pass
