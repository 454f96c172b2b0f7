"""What `deploy/` has: read by the programs that it is for, and run where that can be done without being root's."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.server.fine_tuning.making import greetings, job_until, upload
from tests.server.live import LiveServer, start_server
from tests.system import require
from tests.tiny_checkpoint import write_tiny_checkpoint
from tramontane.server.settings import ServerSettings

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"
HELLO = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("served") / "tiny", max_seq_len=256)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# ---- nginx ----


def nginx_folder(folder: Path, server: str, **changes: str) -> tuple[Path, int]:
    """The site as it is, but for its port, its certificate, the address behind it and `changes`."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=models.example.org",
         "-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")],
        check=True, capture_output=True,
    )  # fmt: skip
    port, site = free_port(), (DEPLOY / "nginx.conf").read_text(encoding="utf-8")
    for old, new in {
        "listen 443": f"listen 127.0.0.1:{port}",
        "/etc/ssl/models.example.org.pem": f"{folder}/cert.pem",
        "/etc/ssl/models.example.org.key": f"{folder}/key.pem",
        "http://127.0.0.1:8000": server,
        **changes,
    }.items():
        assert old in site, old
        site = site.replace(old, new)
    (folder / "site.conf").write_text(site)
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;"
        + ("user root;" if os.geteuid() == 0 else "")
        + f"events {{ worker_connections 1024; }} http {{ access_log off; {temporary} include {folder}/site.conf; }}"
    )
    return folder / "nginx.conf", port


@contextlib.contextmanager
def running_nginx(folder: Path, server: str, **changes: str) -> Iterator[int]:
    config, port = nginx_folder(folder, server, **changes)
    process = subprocess.Popen(["nginx", "-c", str(config), "-e", str(folder / "error.log")])
    try:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
                break
            assert process.poll() is None, (folder / "error.log").read_text()
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(30)


def tls(port: int) -> socket.socket:
    import ssl

    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(socket.create_connection(("127.0.0.1", port), timeout=60))


@pytest.fixture(scope="module")
def server(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LiveServer, str]]:
    """With a key, without which nothing is served behind a proxy."""
    home = tmp_path_factory.mktemp("home")
    made = subprocess.run(
        [sys.executable, "-m", "tramontane.cli", "keys", "create", "proxy"],
        env={**os.environ, "TRAMONTANE_HOME": str(home)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    key = re.findall(r"\S{20,}", made.stdout)[0]
    live = start_server(home, [checkpoint, "--allowed-host", "models.example.org"])
    yield live, key
    assert live.stop() == 0


def test_nginx_takes_the_site(tmp_path: Path) -> None:
    require("nginx-light")
    require("openssl")
    config, _ = nginx_folder(tmp_path, "http://127.0.0.1:8000")
    done = subprocess.run(
        ["nginx", "-t", "-c", str(config), "-e", str(tmp_path / "log")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_its_bodies_are_those_that_the_server_takes() -> None:
    sizes = re.findall(r"client_max_body_size (\d+)m;", (DEPLOY / "nginx.conf").read_text())
    [uploads] = [field.default for field in dataclasses.fields(ServerSettings) if field.name == "max_upload_mib"]
    assert sizes == ["32", str(int(str(uploads)) + 1)]


def test_who_stalls_behind_nginx_costs_others_nothing(server: tuple[LiveServer, str], tmp_path: Path) -> None:
    require("nginx-light")
    require("openssl")
    live, key = server
    short = {
        "client_header_timeout 10s": "client_header_timeout 2s",
        "client_body_timeout 15s": "client_body_timeout 2s",
    }
    headers = {"Host": "models.example.org", "Authorization": f"Bearer {key}"}
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: models.example.org\r\nAuthorization: Bearer {key}\r\n"
    num_fds = len(os.listdir(f"/proc/{live.process.pid}/fd"))
    with running_nginx(tmp_path, live.url, **short) as port, contextlib.ExitStack() as stack:
        client = stack.enter_context(httpx.Client(base_url=f"https://127.0.0.1:{port}", verify=False, timeout=120))
        assert client.post("/v1/chat/completions", json=HELLO, headers=headers).status_code == 200
        slow = [stack.enter_context(tls(port)) for _ in range(80)]
        for place, connection in enumerate(slow):
            half = (
                f"{head}X-A: "
                if place % 2
                else f"{head}Content-Type: application/json\r\nContent-Length: 99999\r\n\r\n{{"
            )
            connection.sendall(half.encode())
        assert len(os.listdir(f"/proc/{live.process.pid}/fd")) < num_fds + 20, "they have reached the server"
        assert client.post("/v1/chat/completions", json=HELLO, headers=headers).status_code == 200
        for connection in slow:  # gone, each of them, without having sent anything more
            with contextlib.suppress(OSError):
                while connection.recv(4096):
                    pass
        assert client.get("/health", headers=headers).status_code == 200
        too_large = client.post("/v1/chat/completions", content=b" " * (33 << 20), headers=headers)
        assert too_large.status_code == 413


def test_no_address_gets_all_places(server: tuple[LiveServer, str], tmp_path: Path) -> None:
    require("nginx-light")
    require("openssl")
    live, key = server
    few = {"tramontane_address 100;": "tramontane_address 3;"}
    with running_nginx(tmp_path, live.url, **few) as port, contextlib.ExitStack() as stack:
        body = f"POST /v1/files HTTP/1.1\r\nHost: models.example.org\r\nAuthorization: Bearer {key}\r\n"
        body += "Content-Length: 9\r\n\r\n"
        slow = [stack.enter_context(tls(port)) for _ in range(4)]
        for connection in slow:
            connection.sendall(body.encode())
        answers = []
        for connection in slow:
            connection.settimeout(3)
            with contextlib.suppress(OSError):
                answers.append(connection.recv(12))
        assert answers == [b"HTTP/1.1 429"]


# ---- systemd ----


def unit() -> list[tuple[str, str]]:
    lines = (DEPLOY / "tramontane.service").read_text(encoding="utf-8").splitlines()
    return [
        (name, value) for name, equals, value in (line.partition("=") for line in lines if line[:1] != "#") if equals
    ]


def test_systemd_takes_the_unit_and_finds_little_exposed(tmp_path: Path) -> None:
    require("systemd")
    path = tmp_path / "tramontane.service"
    text = (DEPLOY / "tramontane.service").read_text(encoding="utf-8")
    path.write_text(re.sub(r"(?m)^ExecStart=\S+", f"ExecStart={sys.executable}", text))
    done = subprocess.run(["systemd-analyze", "verify", str(path)], capture_output=True, text=True)
    assert "tramontane.service" not in done.stderr, done.stderr
    done = subprocess.run(["systemd-analyze", "security", "--offline=true", str(path)], capture_output=True, text=True)
    exposure = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert exposure, done.stdout + done.stderr
    assert float(exposure[1]) < 2.5, done.stdout


def test_the_unit_bounds_what_the_server_may_take() -> None:
    assert {"MemoryHigh", "MemoryMax", "TasksMax", "LimitNOFILE", "SystemCallFilter"} <= {name for name, _ in unit()}


@functools.cache
def calls_of(group: str) -> frozenset[str]:
    done = subprocess.run(["systemd-analyze", "syscall-filter", group], capture_output=True, text=True, check=True)
    names = [line.strip() for line in done.stdout.splitlines()[1:] if line.strip() and not line.strip().startswith("#")]
    return frozenset().union(*(calls_of(name) if name.startswith("@") else {name} for name in names))


def test_the_server_runs_with_the_system_calls_that_the_unit_allows(checkpoint: Path, tmp_path: Path) -> None:
    """Chat, a document's child process and a fine-tuning job's."""
    require("systemd")
    allowed: set[str] = set()
    for value in (value for name, value in unit() if name == "SystemCallFilter"):
        calls = calls_of(value.lstrip("~"))
        allowed = allowed - calls if value.startswith("~") else allowed | calls
    assert "ptrace" not in allowed
    assert "mount" not in allowed
    (tmp_path / "calls").write_text("\n".join(sorted(allowed)))
    under_filter = [sys.executable, "-m", "tests.seccomp", str(tmp_path / "calls")]
    refused = subprocess.run(
        [*under_filter, shutil.which("chroot") or "chroot", "/", "true"], capture_output=True, text=True
    )
    assert "not permitted" in refused.stderr, refused.stderr
    live = start_server(tmp_path / "home", [checkpoint], launcher=under_filter)
    with live.client() as http:
        assert http.post("/v1/chat/completions", json=HELLO).status_code == 200
        page = "data:text/html;base64,PGgxPkhpPC9oMT48cD50ZXh0IG9mIGEgcGFnZTwvcD4="
        content = [{"type": "document_url", "document_url": page}, {"type": "text", "text": "What is it?"}]
        asked = {**HELLO, "messages": [{"role": "user", "content": content}]}
        answer = http.post("/v1/chat/completions", json=asked)
        assert answer.status_code == 200, answer.text
        wanted = {"training_steps": 2, "learning_rate": 0.01}
        body = {"model": HELLO["model"], "training_files": [upload(http, greetings())], "hyperparameters": wanted}
        job = job_until(http, http.post("/v1/fine_tuning/jobs", json=body).json()["id"])
        assert job["status"] == "SUCCESS", job
    assert live.stop() == 0, live.log.read_text(encoding="utf-8")


# ---- the container ----


def test_the_image_has_a_base_by_digest_and_packages_by_hash() -> None:
    text = (DEPLOY / "Containerfile").read_text(encoding="utf-8")
    assert re.findall(r"^FROM (\S+)", text, re.M) == ["${BASE}", "${BASE}"]
    assert re.search(r"^ARG BASE$", text, re.M), "the operator names it, with its digest"
    assert re.search(r"^USER \d+$", text, re.M)
    for line in re.findall(r"pip install[^\n]*(?:\\\n[^\n]*)*", text):
        assert "--no-deps" in line
        is_hashed = "--require-hashes" in line
        assert is_hashed or "TORCH_INDEX" in line or "--no-build-isolation . " in line, line
    for name in re.findall(r"requirements/([\w.]+)", text):
        assert (DEPLOY.parent / "requirements" / name).is_file()
