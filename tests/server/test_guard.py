"""Host, Origin and sizes, on every route there is."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient

from tests.server.in_process import serving
from tramontane.server.app import ROUTERS, guard_policy
from tramontane.server.guard import MAX_PARAMETERS, MAX_PATH_BYTES, MIB
from tramontane.server.settings import ServerSettings

ROUTES = sorted(
    {
        (method, route.path.replace(":path", ""))
        for router in ROUTERS
        for route in router.routes
        if isinstance(route, APIRoute)
        for method in sorted(route.methods or ())[: 1 if len(route.methods or ()) == 5 else None]
    }
    | {("GET", "/"), ("GET", "/openapi.json"), ("POST", "/nowhere")}
)
FOREIGN_HOSTS = (
    *("evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "evil-localhost"),
    *("169.254.169.254", "[::ffff:7f00:1]", "0.0.0.0", "2130706433", "0x7f.1", "localhost."),
)
BROKEN_HOSTS = (
    *("", " ", "localhost/v1/models", "localhost?x", "localhost#x", "user@localhost", "localhost:99999", "localhost:x"),
    *("localhost:", "a b", "[::1", "::1", "localhost\\@evil", "local%68ost", "localhost, evil", "é"),
)
FOREIGN_ORIGINS = ("null", "http://evil.example", "https://localhost.evil.example", "http://localhost:1", "file://", "")


def test_foreign_hosts_reach_no_route(app_client: TestClient) -> None:
    for (method, path), host in itertools.product(ROUTES, FOREIGN_HOSTS):
        answer = app_client.request(method, path, headers={"host": host})
        assert answer.status_code == 403, (method, path, host)
    for host in ("localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]:8000", "127.0.0.2"):
        assert app_client.get("/v1/models", headers={"host": host}).status_code == 200


def test_a_host_that_is_none(app_client: TestClient) -> None:
    for (method, path), host in itertools.product(ROUTES, BROKEN_HOSTS):
        answer = app_client.request(method, path, headers={b"host": host.encode("latin-1")})
        assert answer.status_code == 400, (method, path, host)


def test_pages_of_other_sites_reach_no_route(app_client: TestClient) -> None:
    for (method, path), origin in itertools.product(ROUTES, FOREIGN_ORIGINS):
        for cookies in ({}, {"cookie": "session=1"}):
            headers = {"origin": origin, "content-type": "text/plain", "user-agent": "tramontane", **cookies}
            answer = app_client.request(method, path, headers=headers)
            assert answer.status_code == 403, (method, path, origin)
            assert "access-control-allow-origin" not in answer.headers
        preflight = {"origin": origin, "access-control-request-method": method}
        assert app_client.options(path, headers=preflight).status_code == 403


def test_requests_that_carry_no_origin_but_come_from_other_pages(app_client: TestClient) -> None:
    for (method, path), site in itertools.product(ROUTES, ("cross-site", "same-site")):
        headers = {"sec-fetch-site": site, "sec-fetch-mode": "no-cors"}
        assert app_client.request(method, path, headers=headers).status_code == 403
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert app_client.get("/docs", headers=link).status_code == 200
    assert app_client.post("/v1/files", headers=link).status_code == 403


def test_our_own_pages_and_clients_pass(app_client: TestClient) -> None:
    for headers in ({}, {"origin": "http://localhost"}, {"sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"}):
        assert app_client.get("/v1/models", headers=headers).status_code == 200


def test_a_site_that_is_let_in(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    with serving(
        {"chat": checkpoints["chat"]}, tmp_path, cors_origin=["https://chat.example"], allowed_host=["models.example"]
    ) as client:
        answer = client.get("/health", headers={"origin": "https://chat.example", "host": "models.example"})
        assert answer.headers["access-control-allow-origin"] == "https://chat.example"
        assert "access-control-allow-credentials" not in answer.headers
        preflight = {"origin": "https://chat.example", "access-control-request-method": "POST"}
        names = ("authorization", "content-type", *(f"x-stainless-{part}" for part in ("arch", "os", "retry-count")))
        preflight["access-control-request-headers"] = ", ".join(names)
        allowed = client.options("/v1/chat/completions", headers=preflight)
        assert allowed.status_code == 200
        assert set(allowed.headers["access-control-allow-headers"].split(", ")) >= set(names)
        for path, length in (("/v1/models", "0"), ("/v1/nowhere", "0"), ("/v1/chat/completions", "1" * 15)):
            headers = {"origin": "https://chat.example", "content-length": length}
            answer = client.get(path, headers=headers)
            assert answer.headers["access-control-allow-origin"] == "https://chat.example"
            assert answer.headers["access-control-expose-headers"] == "*"
        evil = {**preflight, "origin": "https://chat.example.evil"}
        assert client.options("/v1/chat/completions", headers=evil).status_code == 403
        assert client.get("/health", headers={"origin": "https://chat.example.evil"}).status_code == 403


def test_sizes_on_every_route(app_client: TestClient) -> None:
    limit = guard_policy(ServerSettings()).max_body_bytes
    for method, path in ROUTES:
        for length in (10**12, 10**30):
            answer = app_client.request(method, path, headers={"content-length": str(length)})
            assert answer.status_code == 413, (method, path)
        for length_text in ("-1", "1e3", "0x10", " "):
            assert app_client.request(method, path, headers={"content-length": length_text}).status_code == 400
    chunks = (b" " * MIB for _ in range(limit // MIB + 1))  # without a length, counted as it comes
    headers = {"content-type": "application/json"}
    assert app_client.post("/v1/chat/completions", content=chunks, headers=headers).status_code == 413


def test_methods_and_paths_nobody_needs(app_client: TestClient) -> None:
    for method in ("TRACE", "CONNECT", "PROPFIND", "WIND"):
        assert app_client.request(method, "/v1/models").status_code == 405
    assert app_client.get("/" + "a" * MAX_PATH_BYTES).status_code == 414
    for parameters in ("&" * MAX_PARAMETERS, "a=1&" * 7_000):
        assert app_client.get(f"/v1/batch/jobs?{parameters}").status_code == 414
    assert app_client.get("/v1/batch/jobs?" + "&" * (MAX_PARAMETERS - 1)).status_code == 200


@pytest.mark.parametrize("bracket", ["[", '{"a":'])
def test_nesting(app_client: TestClient, bracket: str) -> None:
    for depth in (1_000, 100_000, 1_000_000):
        body = '{"model": "chat", "messages": ' + bracket * depth
        headers = {"content-type": "application/json"}
        for path in ("/v1/chat/completions", "/v1/embeddings", "/v1/responses"):
            assert app_client.post(path, content=body, headers=headers).status_code in (400, 413)


def test_every_answer_says_what_browsers_may_do_with_it(app_client: TestClient) -> None:
    for path in ("/", "/v1/models", "/nowhere", "/health"):
        headers = app_client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
    assert app_client.get("/v1/models", headers={"host": "evil"}).headers["x-content-type-options"] == "nosniff"
