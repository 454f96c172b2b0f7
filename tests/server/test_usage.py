"""Usage: what is kept of a request, who sees it, and what its tokens cost."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, insert, select

from tests.server.in_process import serving
from tramontane.cli.main import run
from tramontane.server.keys import KeyOptions, create_key, revoke_key
from tramontane.server.metrics import BusyTime
from tramontane.server.request_record import RequestRecord
from tramontane.server.store.database import Database, open_database
from tramontane.server.store.tables import Usage
from tramontane.server.usage.report import usage_report
from tramontane.server.usage.writer import UsageWriter

DAY_S = 86_400
ROW: dict[str, Any] = {
    "request_id": "0",
    "owner": "a",
    "key_id": "a",
    "endpoint": "/v1/chat/completions",
    "model": "chat",
    "status": 200,
    "prompt_tokens": 100,
    "cached_tokens": 40,
    "completion_tokens": 11,
    "first_token_s": 1.0,
    "duration_s": 3.0,
    "ended_at": 1000.0,
}


def filled(address: str, rows: list[dict[str, Any]]) -> Database:
    database = open_database(address)
    with database.write() as session:
        session.execute(insert(Usage), [ROW | row for row in rows])
    return database


def test_cost_is_the_price_of_busy_time_shared_out_by_tokens(address: str) -> None:
    rows: list[dict[str, Any]] = [
        {"duration_s": 100.0, "ended_at": 1100.0},  # 1000 to 1100
        {"duration_s": 20.0, "ended_at": 1050.0, "owner": "b", "key_id": "b"},  # within the first
        {"duration_s": 100.0, "ended_at": 1150.0, "model": "coder", "status": 500},  # 50 s more
        {"duration_s": 30.0, "ended_at": DAY_S + 3630.0, "first_token_s": None, "status": 422},  # the next day
    ]
    database = filled(address, rows)
    try:
        by_model = usage_report(database, price_per_hour=3600.0)
        assert by_model["totals"]["cost"] == pytest.approx(180)
        assert by_model["totals"]["cost_per_million_tokens"] == pytest.approx(180 / 444 * 1e6)
        assert (by_model["totals"]["requests"], by_model["totals"]["first_token_s"]) == (4, pytest.approx(1))
        assert by_model["totals"]["tokens_per_second"] == pytest.approx(30 / (99 + 19 + 99))
        chat, coder = by_model["data"]
        assert [(line["refusals"], line["failures"]) for line in (chat, coder, by_model["totals"])] == [
            (1, 0),
            (0, 1),
            (1, 1),
        ]
        assert (chat["model"], chat["requests"], chat["failures"], chat["prompt_tokens"]) == ("chat", 3, 0, 300)
        assert (coder["model"], coder["requests"], coder["failures"], coder["cached_tokens"]) == ("coder", 1, 1, 40)
        assert coder["cost"] == pytest.approx(180 / 4)
        assert coder["tokens_per_second"] == pytest.approx(10 / 99)
        days = usage_report(database, by="day", price_per_hour=3600.0)["data"]
        assert [(line["day"], line["requests"]) for line in days] == [("1970-01-01", 3), ("1970-01-02", 1)]
        assert [line["cost"] for line in days] == pytest.approx([150, 30])
        assert days[1]["tokens_per_second"] is None
        hours = usage_report(database, by="hour", since=DAY_S)
        assert [line["hour"] for line in hours["data"]] == ["1970-01-02T01:00Z"]
        assert hours["totals"]["cost"] is None
        own = usage_report(database, by="key", owner="b", price_per_hour=3600.0)["data"]
        assert [(line["key"], line["requests"]) for line in own] == [("b", 1)]
        assert own[0]["cost"] == pytest.approx(180 / 4)
        nothing = usage_report(database, since=1e9, price_per_hour=1.0)
        assert nothing["data"] == []
        assert (nothing["totals"]["requests"], nothing["totals"]["first_token_s"]) == (0, None)
    finally:
        database.close()


def test_busy_time_counts_what_overlaps_once() -> None:
    busy = BusyTime()
    for end, duration_s in ((10, 2), (11, 1.5), (20, 1), (21, 20)):
        busy.add(end, duration_s)
    assert busy.total_s == 20


def test_the_writer_writes_what_waits_when_it_is_closed_and_deletes_the_old(tmp_path: Path) -> None:
    database = filled(f"sqlite:///{tmp_path}/state.db", [{"ended_at": time.time() - 11 * DAY_S}])
    fields: dict[str, Any] = {name: ROW[name] for name in RequestRecord.__dataclass_fields__}
    writer = UsageWriter(database, days=10)
    started = time.perf_counter()
    for _ in range(2500):
        writer.observe(RequestRecord(**fields))
    assert (time.perf_counter() - started) / 2500 < 0.001  # seconds; a transaction takes longer
    writer.start()
    writer.close()
    with database.read() as session:
        assert session.scalar(select(func.count()).select_from(Usage)) in (2500, 2501)
    writer._sweep()
    with database.read() as session:
        assert session.scalar(select(func.count()).select_from(Usage)) == 2500
    database.close()


def test_a_database_that_cannot_be_written_is_told_of_and_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    database = open_database(f"sqlite:///{tmp_path}/state.db")
    with database.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE usage")
    writer = UsageWriter(database, days=10)
    writer.start()
    writer.observe(RequestRecord(**{name: ROW[name] for name in RequestRecord.__dataclass_fields__}))
    writer.close()
    assert "usage of 1 requests was not kept" in caplog.text
    database.close()


def test_requests_over_http_are_kept_without_a_word_of_them(
    checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home, secret_words = tmp_path / "home", "canary in a coal mine"
    address = f"sqlite:///{home}/server/state.db"
    database = open_database(address)
    key, token = create_key(database, KeyOptions("one"))
    other, other_token = create_key(database, KeyOptions("other"))
    _, admin_token = create_key(database, KeyOptions("admin", scopes=["usage", "admin"]))
    request_log = tmp_path / "requests.jsonl"
    body = {"model": "chat", "max_tokens": 4, "messages": [{"role": "user", "content": secret_words}]}
    chat = {"chat": checkpoints["chat"]}
    try:
        with serving(chat, home / "server", price_per_hour=2.0, request_log=request_log) as http:

            def ask(token: str, **more: object) -> Any:
                return http.post("/v1/chat/completions", json=body | more, headers={"authorization": f"Bearer {token}"})

            def read(token: str, **params: Any) -> Any:
                return http.get("/api/usage", params=params, headers={"authorization": f"Bearer {token}"})

            used = ask(token).json()["usage"]
            assert ask(token, stream=True).status_code == 200
            assert ask(other_token, model="no such model").status_code >= 400
            until = time.monotonic() + 60
            while read(admin_token).json()["totals"]["requests"] < 3 and time.monotonic() < until:
                time.sleep(0.05)
            everyone = read(admin_token, by="key").json()
            assert {line["key"]: line["requests"] for line in everyone["data"]} == {key.id: 2, other.id: 1}
            assert everyone["totals"]["prompt_tokens"] == 2 * used["prompt_tokens"]
            assert everyone["totals"]["cost_per_million_tokens"] > 0
            assert [line["key"] for line in read(other_token, by="key").json()["data"]] == [other.id]
            assert read(token, by="day").json()["totals"]["requests"] == 2
            assert read(token, by="colour").status_code == 422
            assert http.get("/api/usage").status_code == 401
            metrics = http.get("/metrics", headers={"authorization": f"Bearer {admin_token}"}).text
            assert "\ntramontane_cost_per_million_tokens " in metrics
            revoke_key(database, key.id)
            assert ask(admin_token).status_code == 403
            assert ask(other_token).status_code == 200
    finally:
        database.close()
    # the last one had no time to be written before the server was told to end
    assert run(["usage", "--database-url", address, "--by", "key", "--since", "1d", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {line["key"]: line["requests"] for line in report["data"]} == {key.id: 2, other.id: 2}
    assert run(["usage", "--database-url", address, "--price-per-hour", "2"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0].split()[:2] == ["model", "requests"]
    assert table[-1].split()[:2] == ["all", "4"]
    assert run(["usage", "--database-url", address, "--since", "yesterday"]) == 2
    assert "since='yesterday'" in capsys.readouterr().err
    text = request_log.read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    assert len(lines) == 4
    assert {line["status"] for line in lines} >= {200}
    streamed = [line for line in lines if line["first_token_s"] is not None]
    assert streamed[0]["tokens_per_second"] > 0
    assert request_log.stat().st_mode & 0o077 == 0
    kept = text.encode() + b"".join(path.read_bytes() for path in (home / "server").glob("state.db*"))
    for word in (secret_words, token.split("_", 2)[2], other_token.split("_", 2)[2]):
        assert word.encode() not in kept
