"""The files of the web page: all served, under one policy, complete in the package."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest

from tramontane.server.web_page import HEADERS, STATIC

FILES = sorted(path.relative_to(STATIC).as_posix() for path in STATIC.rglob("*") if path.is_file())


def test_every_file_is_served_under_the_policy(http: httpx.Client) -> None:
    for path in ("", *FILES):
        answer = http.get(f"/{path}")
        assert answer.status_code == 200, path
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS
        again = http.get(f"/{path}", headers={"if-none-match": answer.headers["etag"]})
        assert again.status_code == 304
        assert again.headers["content-security-policy"]


@pytest.mark.parametrize("path", ["../app.py", "..%2fapp.py", "js/../../app.py", "%2e%2e/app.py", "js/", "nothing.js"])
def test_nothing_else_is(http: httpx.Client, path: str) -> None:
    assert http.get(f"/{path}").status_code == 404


@pytest.mark.parametrize("path", [path for path in FILES if path.endswith((".js", ".html", ".css"))])
def test_a_file_names_no_foreign_host_and_builds_no_markup(path: str) -> None:
    text = (STATIC / path).read_text(encoding="utf-8")
    code = re.sub(r"//.*|/\*[\s\S]*?\*/", "", text)
    assert not re.search(
        r"\b(innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|srcdoc)\b", code
    )
    assert set(re.findall(r"https?://[\w.]+", text)) <= {"http://www.w3.org"}
    assert len(text.splitlines()) <= 400


@pytest.mark.parametrize("path", [path for path in FILES if path.startswith("js/")])
def test_every_import_leads_to_a_file(path: str) -> None:
    for target in re.findall(r'(?:from|import\() ?"([^"]+)"', (STATIC / path).read_text(encoding="utf-8")):
        assert (STATIC / path).parent.joinpath(target).is_file(), target


def test_the_page_asks_only_for_what_is_there() -> None:
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    for target in re.findall(r'(?:href|src)="([^"#]+)"', page):
        assert Path(STATIC, target).is_file(), target
    assert not re.search(r"<script(?![^>]* src=)|<style| style=| on\w+=", page)
