"""Notices: read, and gone again; never over what is being written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from playwright.sync_api import expect

from tests.browser.app import App

Open = Callable[..., App]
PNG = bytes.fromhex("89504e470d0a1a0a0000000d49484452")


def files(*contents: tuple[str, bytes]) -> list[Any]:
    return [{"name": name, "mimeType": "application/octet-stream", "buffer": data} for name, data in contents]


def attach(app: App, *contents: tuple[str, bytes]) -> None:
    app.page.locator("input[type=file][multiple]").set_input_files(files(*contents))


def test_a_picture_is_called_a_picture_and_an_empty_file_empty(open_app: Open) -> None:
    app = open_app()
    app.expected_complaints.append("400")
    attach(app, ("cat.png", PNG), ("empty.txt", b""))
    notices = app.page.get_by_role("alert")
    expect(notices.filter(has_text="cat.png: a picture (PNG); pictures are not read")).to_have_count(1)
    expect(notices.filter(has_text="empty.txt: holds no text")).to_have_count(1)
    expect(notices.filter(has_text="iconv")).to_have_count(0)
    expect(app.page.locator(".composer .chip")).to_have_count(0)


def test_errors_go_away_by_themselves_unless_pointed_at(open_app: Open) -> None:
    app = open_app()
    app.expected_complaints.append("400")
    app.page.clock.install()
    attach(app, ("cat.png", PNG))
    notice = app.page.get_by_role("alert")
    expect(notice).to_have_count(1)
    notice.hover()
    app.page.clock.run_for(60_000)
    expect(notice).to_have_count(1)
    app.message.hover()
    app.page.clock.run_for(60_000)
    expect(notice).to_have_count(0)


def test_a_notice_can_be_dismissed_and_is_not_shown_twice(open_app: Open) -> None:
    app = open_app()
    app.expected_complaints.append("400")
    for _ in range(3):
        attach(app, ("cat.png", PNG))
    notice = app.page.get_by_role("alert")
    expect(notice).to_have_count(1)
    notice.get_by_role("button", name="Dismiss").click()
    expect(notice).to_have_count(0)


def test_many_errors_leave_the_composer_free(open_app: Open) -> None:
    app = open_app(width=375, height=740)
    app.expected_complaints.append("400")
    for group in range(3):
        attach(app, *((f"a picture with a rather long name, {group} {i}.png", PNG) for i in range(4)))
        expect(app.page.get_by_role("alert").filter(has_text=f", {group} 3.png")).to_have_count(1)
        expect(app.page.locator(".composer .chip")).to_have_count(0)
    boxes = [box for notice in app.page.locator(".notice").all() if (box := notice.bounding_box())]
    composer = app.page.locator(".composer").bounding_box()
    assert composer is not None
    assert 1 <= len(boxes) <= 4
    assert max(box["y"] + box["height"] for box in boxes) < composer["y"]
    app.send("say: free")
