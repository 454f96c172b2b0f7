"""Canaries through a live server: keys, headers, the database's password and the words of prompts, along every way a
request can fail. None may show in the log, the request log or the metrics, and no key or password in an answer."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import httpx
import pytest
from sqlalchemy import create_engine, make_url, text

from tests.server.live import start_server
from tests.server.test_guard import ROUTES
from tramontane.server.keys import KeyOptions, create_key, revoke_key
from tramontane.server.store.database import open_database

CHAT = "/v1/chat/completions"
PASSWORD, HEADER, PROMPT = "canary-password", "canary-header", "canary-prompt"


def damaged_bodies(words: str) -> list[bytes]:
    """Requests with `words` in them that fail in different places, and the first two that do not."""
    message = {"role": "user", "content": words}
    body = {"model": "chat", "messages": [message], "max_tokens": 2}
    changes: list[dict[str, object]] = [
        {},
        {"stream": True},
        {"messages": words},
        {"messages": [message | {"role": words}]},
        {"messages": [message | {"content": [{"type": "text", "text": [words]}]}]},
        {"messages": [message | {"content": [{"type": "image_url", "image_url": words}]}]},
        {"messages": [message | {"content": words * 2000}]},
        {"messages": [message | {"role": "assistant"}]},
        {"model": words},
        {words: words},
        {"stop": [words, 1]},
        {"stream": True, "max_tokens": words},
        {"max_tokens": 10**9},
        {"tools": [{"type": "function", "function": {"name": words, "parameters": {"type": words}}}]},
        {"response_format": {"type": "regex", "regex": f"({words}"}},
        {"response_format": {"type": "grammar", "grammar": words}},
    ]
    content = json.dumps(body).encode()
    broken = [content[:-1], content.replace(b'"', b"'"), content + b"\xff", b"[" * 5000 + content]
    return [*(json.dumps(body | change).encode() for change in changes), *broken]


def test_secrets_stay_where_they_belong(
    checkpoints: dict[str, Path], postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin = create_engine(postgres, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text("CREATE DATABASE canaries"))
    address = make_url(postgres).set(database="canaries", password=PASSWORD).render_as_string(hide_password=False)
    database = open_database(address)
    _, token = create_key(database, KeyOptions("wind", scopes=["inference", "files", "batch", "usage", "admin"]))
    revoked, revoked_token = create_key(database, KeyOptions("gone"))
    revoke_key(database, revoked.id)
    monkeypatch.setenv("TRAMONTANE_DATABASE_URL", address)
    request_log = tmp_path / "requests.jsonl"
    live = start_server(tmp_path / "home", [f"chat={checkpoints['chat']}", "--request-log", request_log])
    secrets = (PASSWORD, HEADER, token.split("_", 2)[2], revoked_token.split("_", 2)[2])
    answers: list[httpx.Response] = []
    ours = {"authorization": f"Bearer {token}"}
    try:
        with live.client() as http:
            wrong = [f"Bearer {HEADER}", f"Basic {HEADER}", HEADER, f"Bearer {token[:-1]}", f"Bearer {revoked_token}"]
            for (method, path), value in itertools.product(ROUTES, wrong):
                answers.append(http.request(method, path, headers={"authorization": value, "x-api-key": HEADER}))
                assert answers[-1].status_code < 500, (method, path)
            as_json = {**ours, "content-type": "application/json"}
            sent = [http.post(CHAT, content=body, headers=as_json) for body in damaged_bodies(PROMPT)]
            assert [answer.status_code for answer in sent[:2]] == [200, 200]
            assert {answer.status_code for answer in sent[2:]} <= {200, 400, 422}
            with http.stream("POST", CHAT, content=damaged_bodies(PROMPT)[1], headers=as_json) as left:
                left.close()
            form = {"file": (f"{PROMPT}.jsonl", PROMPT.encode())}
            answers += [*sent, http.post("/v1/files", files=form, data={"purpose": "batch"}, headers=ours)]
            with database.engine.begin() as connection:
                connection.execute(text("DROP TABLE files CASCADE"))
                connection.execute(text("DROP TABLE usage"))
            failed = http.post("/v1/files", files=form, data={"purpose": "user_data"}, headers=ours)
            assert failed.status_code == 500
            metrics = http.get("/metrics", headers=ours)
            assert "tramontane_requests_total" in metrics.text
            database.close()
            with admin.connect() as connection:
                connection.execute(text("DROP DATABASE canaries WITH (FORCE)"))
            gone = http.get("/v1/files", headers=ours)
            assert gone.status_code >= 500
            answers += [failed, metrics, gone]
    finally:
        live.stop()
        admin.dispose()
    log = live.log.read_text(encoding="utf-8")
    assert "/v1/files failed" in log, "what fails is told of"
    kept = {"log": log, "request log": request_log.read_text(encoding="utf-8"), "metrics": metrics.text}
    for (place, content), canary in itertools.product(kept.items(), (*secrets, PROMPT)):
        assert canary not in content, place
    for answer in answers:
        told = f"{answer.headers} {answer.text}"
        assert not [canary for canary in secrets if canary in told], answer.url
