"""Keys: made once, kept as hashes, checked in constant time; what each allows, and what it does not."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from fastapi import APIRouter
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient

from tests.server.in_process import HELLO, serving
from tramontane.cli.main import run
from tramontane.errors import ConfigError
from tramontane.server.app import ROUTERS
from tramontane.server.auth import policies_of, require_policies, require_safe_address
from tramontane.server.errors import ApiError
from tramontane.server.keys import KeyOptions, create_key, find_key, has_keys, list_keys, revoke_key
from tramontane.server.limits import RateLimits
from tramontane.server.store.database import Database, open_database
from tramontane.server.store.tables import Key

CHAT = {"model": "chat", "messages": HELLO, "max_tokens": 2}


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = open_database(f"sqlite:///{tmp_path}/state.db")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def guarded(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """An app with keys, called from another machine."""
    home = tmp_path_factory.mktemp("guarded")
    with serving({"chat": checkpoints["chat"]}, home) as client:
        create_key(database_of(client), KeyOptions("first"))
        yield client


def database_of(client: TestClient) -> Database:
    found: Database = client.app.state.services.database  # type: ignore[attr-defined]
    return found


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def new_key(client: TestClient, **options: object) -> dict[str, str]:
    return bearer(create_key(database_of(client), KeyOptions("wind", **options))[1])  # type: ignore[arg-type]


def test_a_key_is_found_until_it_is_revoked(database: Database) -> None:
    assert not has_keys(database)
    key, token = create_key(database, KeyOptions("wind"))
    assert token.startswith(f"tm_{key.id}_")
    found = find_key(database, token)
    assert found is not None
    assert found.id == key.id
    secret = token.removeprefix(f"tm_{key.id}_")
    for path in Path(str(database.engine.url.database)).parent.glob("state.db*"):  # the write-ahead log too
        assert secret.encode() not in path.read_bytes()
    revoke_key(database, key.id)
    assert find_key(database, token) is None
    assert has_keys(database)


def test_an_expired_key_is_refused(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    _, token = create_key(database, KeyOptions("wind", expires_s=60))
    assert find_key(database, token) is not None
    monkeypatch.setattr("time.time", lambda: 1e11)
    assert find_key(database, token) is None


def test_a_thousand_injections_and_wrong_keys(database: Database) -> None:
    key, token = create_key(database, KeyOptions("wind"))
    draw = random.Random(0)
    parts = (
        "'",
        '"',
        ";",
        "--",
        "/*",
        " OR 1=1",
        "UNION SELECT * FROM keys",
        "%",
        "_",
        "\x00",
        "\n",
        token,
        key.id,
        "é",
    )
    for _ in range(1000):
        wrong = "".join(draw.choices(parts, k=draw.randrange(1, 6)))
        if wrong != token:
            assert find_key(database, wrong) is None
    flipped = "A" if token[-10] != "A" else "B"
    assert find_key(database, token[:-10] + flipped + token[-9:]) is None
    assert len(list_keys(database)) == 1


@pytest.mark.parametrize(
    "options",
    [{"name": ""}, {"name": "a\n"}, {"name": "a", "scopes": ["root"]}, {"name": "a", "scopes": []},
     {"name": "a", "owner": "a b"}, {"name": "a", "requests_per_minute": 0}, {"name": "a", "expires_s": -1}],
)  # fmt: skip
def test_options_that_make_no_key(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        KeyOptions(**options)  # type: ignore[arg-type]


def test_every_route_has_one_policy() -> None:
    require_policies(ROUTERS)
    open_routes = {
        route.path
        for router in ROUTERS
        for route in router.routes
        if isinstance(route, APIRoute) and policies_of(route) == {"public"}
    }
    assert open_routes == {"/health", "/docs", "/docs/start.js", "/docs/{name}", "/v1/files/{file_id}/download"}
    forgotten = APIRouter()
    forgotten.add_api_route("/wind", lambda: None)
    with pytest.raises(RuntimeError, match="/wind has 0 policies"):
        require_policies([forgotten])


def test_no_route_answers_without_a_key(guarded: TestClient) -> None:
    num_checked = 0
    for router in ROUTERS:
        for route in router.routes:
            assert isinstance(route, APIRoute)
            if policies_of(route) == {"public"}:
                continue
            path = route.path.replace("{rest:path}", "x").replace("{name:path}", "x")
            for method in route.methods or ():
                for headers in ({}, bearer("wrong"), {"authorization": "Basic eDp4"}, bearer("tm_0_0")):
                    answer = guarded.request(method, path, headers=headers)
                    assert answer.status_code == 401, (method, path)
                    assert answer.headers["www-authenticate"] == "Bearer"
                    num_checked += 1
    assert num_checked > 100


CRAFTED_HOSTS = (
    *("evil.example", "localhost/health", "localhost/docs?x=", "localhost/health#", "health", "/health", "?", "#", ""),
    *("evil.example/docs/..", "localhost:8000/health?", "user@health", "localhost:80:80", "[::1]/health", "[::1", "\\"),
    *("localhost\t", "localhost ", "localhost,health", "é", "%2fhealth", "x" * 300, "0", "localhost:health", "..", "*"),
)


def crafted_paths(path: str) -> list[str]:
    """Other spellings of `path`, as they come in a request line."""
    first = f"/%{ord(path[1]):02x}{path[2:]}"
    return [
        *(first, f"/{path}", f"{path}/", f"/.{path}", f"/x/..{path}", path.upper(), path.replace("/", "//")),
        *(path.replace("/", "%2f"), f"{path};x", f"{path}%00", f"{path}%20", f"{path}?/health", f"{path}#/health"),
        *(f"/health/..{path}", f"/docs/..{path}", f"/docs/%2e%2e{path}", f"/health{path}", f"/docs{path}"),
        *(path.replace("/", "\\"), f"\\{path}", f"http://evil.example{path}", path[1:], f"/health?{path}/.."),
    ]


def status_of(client: TestClient, method: str, target: str, host: str) -> int:
    """As a server would hand it to the app: a client's library would put both in order first."""
    raw_path, _, query = target.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(raw_path),
        "raw_path": raw_path.encode(),
        "query_string": query.encode(),
        "headers": [(b"host", host.encode("latin-1")), (b"content-type", b"application/json")],
        "client": ("192.0.2.1", 50000),
        "server": ("192.0.2.2", 80),
    }
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    portal: Any = client.portal
    portal.call(client.app, scope, receive, send)
    return statuses[0]


def test_no_host_and_no_spelling_of_a_path_leads_past_the_key(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """The check belongs to the handler that runs, so it cannot see another path than that handler's; where none runs, a
    path that clients know is 501."""
    database = open_database(f"sqlite:///{tmp_path}/state.db")
    create_key(database, KeyOptions("first"))
    database.close()
    kept = [
        (method, route.path.replace("{rest:path}", "x").replace("{name:path}", "x"))
        for router in ROUTERS
        for route in router.routes
        if isinstance(route, APIRoute) and policies_of(route) != {"public"}
        for method in sorted(route.methods or ())[:1]
    ]
    with serving({"chat": checkpoints["chat"]}, tmp_path, host="0.0.0.0") as client:
        for method, path in kept:
            assert status_of(client, method, path, "evil.example") == 401  # every name is ours, with a key
            for host in CRAFTED_HOSTS:
                assert status_of(client, method, path, host) in (400, 401), (method, path, host)
            for target in crafted_paths(path):
                status = status_of(client, method, target, "localhost")
                is_health = target.startswith("/health?")  # a query is no path
                assert status in ((200, 405) if is_health else (400, 401, 404, 405, 501)), (method, target)


def test_scopes(guarded: TestClient) -> None:
    inference = new_key(guarded, scopes=["inference"])
    assert guarded.get("/v1/models", headers=inference).status_code == 200
    assert guarded.post("/v1/chat/completions", json=CHAT, headers=inference).status_code == 200
    for path in ("/metrics", "/v1/files"):
        answer = guarded.get(path, headers=inference)
        assert (answer.status_code, answer.json()["code"]) == (403, "missing_scope")
    assert guarded.get("/metrics", headers=new_key(guarded, scopes=["admin"])).status_code == 200


def test_a_revoked_key_stops_within_seconds(guarded: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    key, token = create_key(database_of(guarded), KeyOptions("short"))
    assert guarded.get("/v1/models", headers=bearer(token)).status_code == 200
    revoke_key(database_of(guarded), key.id)
    monkeypatch.setattr("tramontane.server.auth.REMEMBERED_S", 0.0)
    import time

    time.sleep(1.1)
    assert guarded.get("/v1/models", headers=bearer(token)).status_code == 401


def test_requests_a_minute(guarded: TestClient) -> None:
    headers = new_key(guarded, requests_per_minute=3)
    answers = [guarded.get("/v1/models", headers=headers) for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    assert [answer.headers["x-ratelimit-remaining"] for answer in answers] == ["2", "1", "0", "0", "0"]
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 20
    assert answers[-1].json()["type"] == "rate_limited"


def test_tokens_a_minute(guarded: TestClient) -> None:
    headers = new_key(guarded, tokens_per_minute=10)
    first = guarded.post("/v1/chat/completions", json=CHAT, headers=headers)
    assert first.status_code == 200
    assert first.json()["usage"]["total_tokens"] >= 10
    refused = guarded.post("/v1/chat/completions", json=CHAT, headers=headers)
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1


def test_buckets_fill_steadily() -> None:
    now = 0.0
    limits = RateLimits(clock=lambda: now)
    key = Key(id="a", requests_per_minute=60, tokens_per_minute=600)
    for _ in range(60):
        limits.admit(key)
    with pytest.raises(ApiError) as refused:
        limits.admit(key)
    assert refused.value.headers["retry-after"] == "1"
    now = 1.0
    limits.admit(key)
    limits.charge("a", 1200)  # known only when the answer is over
    now = 31.0
    with pytest.raises(ApiError) as refused:
        limits.admit(key)
    assert refused.value.headers["retry-after"] == "31"
    now = 62.0
    limits.admit(key)


def test_without_keys_only_this_machine_is_served(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    with serving({"chat": checkpoints["chat"]}, tmp_path) as client:
        assert client.get("/v1/models").status_code == 200
        assert client.get("/v1/models", headers=bearer("any key at all")).status_code == 200
        for name in (
            *("x-forwarded-for", "forwarded", "x-real-ip", "via", "x-forwarded-host", "x-forwarded-proto", "cdn-loop"),
            *("x-forwarded-port", "x-forwarded", "cf-connecting-ip", "cf-ray", "true-client-ip", "x-client-ip"),
            *(
                "x-cluster-client-ip",
                "x-original-forwarded-for",
                "x-original-host",
                "fastly-client-ip",
                "x-amzn-trace-id",
            ),
            *("x-envoy-external-address", "tailscale-user-login", "cloudfront-viewer-address", "CF-Connecting-IPv6"),
        ):
            assert client.get("/v1/models", headers={name: "127.0.0.1"}).status_code == 401
        far = TestClient(client.app, base_url="http://localhost", client=("203.0.113.9", 40000))
        assert far.get("/v1/models").status_code == 401


def test_an_address_that_others_reach_needs_a_key(database: Database) -> None:
    require_safe_address("127.0.0.1", database)
    with pytest.raises(ConfigError, match="no key is configured"):
        require_safe_address("0.0.0.0", database)
    create_key(database, KeyOptions("wind"))
    require_safe_address("0.0.0.0", database)


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = ["--state-dir", str(tmp_path)]
    assert run(["keys", "create", "wind", "--scope", "inference", "--requests-per-minute", "9", "--json", *state]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["key"].startswith(f"tm_{made['id']}_")
    assert run(["keys", "list", "--json", *state]) == 0
    shown = capsys.readouterr().out
    (row,) = json.loads(shown)["keys"]
    assert (row["state"], row["scopes"], row["requests_per_minute"]) == ("valid", ["inference"], 9)
    assert made["key"] not in shown
    assert run(["keys", "revoke", made["id"], *state]) == 0
    assert run(["keys", "list", *state]) == 0
    _, heads, shown = capsys.readouterr().out.splitlines()  # the first is of revoke
    assert heads.split()[:5] == ["id", "state", "owner", "scopes", "name"]
    assert shown.split()[:5] == [made["id"], "revoked", made["id"], "inference", "wind"]
    assert shown.index("revoked") == heads.index("state")
    assert run(["keys", "revoke", "none", *state]) == 2
    assert run(["keys", "create", *state]) == 2
    assert run(["serve", "none", "--host", "0.0.0.0", "--state-dir", str(tmp_path / "new")]) == 2
    assert "no key is configured" in capsys.readouterr().err
