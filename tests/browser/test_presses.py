"""A press is not lost: what is being pressed stays where it is, whatever else is drawn meanwhile."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from playwright.sync_api import Locator, Page, expect

from tests.browser.app import App

Open = Callable[..., App]


def press(page: Page, target: Locator) -> Callable[[], None]:
    """The mouse button goes down on `target`; what this returns lets it go."""
    target.scroll_into_view_if_needed()
    box = target.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    return page.mouse.up


def test_a_conversation_is_opened_though_an_answer_ends_meanwhile(open_app: Open) -> None:
    app = open_app()
    app.send("say: the first")
    first = app.page.url
    app.page.get_by_role("link", name="New chat").click()
    release = app.hold("**/v1/chat/completions")
    app.send("say: the second", wait=False)
    expect(app.page.locator(".conversation-row")).to_have_count(2)
    let_go = press(app.page, app.page.locator(".conversation-row a", has_text="the first"))
    release()
    app.wait()
    expect(app.page.locator(".conversation-row .live")).to_have_count(0)
    let_go()
    expect(app.page).to_have_url(first)
    expect(app.answers.locator(".prose")).to_have_text("the first")


def test_a_document_is_removed_though_another_arrives_meanwhile(open_app: Open) -> None:
    app = open_app()
    files: list[Any] = [{"name": f"{i}.txt", "mimeType": "text/plain", "buffer": b"text"} for i in range(2)]
    app.attach(files[0])
    release = app.hold("**/api/documents/text")
    app.page.locator("input[type=file][multiple]").set_input_files(files[1:])
    expect(app.page.locator(".chip.reading")).to_have_count(1)
    let_go = press(app.page, app.page.get_by_role("button", name="Remove 0.txt"))
    release()
    expect(app.page.locator(".chip.reading")).to_have_count(0)
    let_go()
    expect(app.page.locator(".composer .chip-name")).to_have_text(["1.txt"])


def test_try_again_is_heard_though_the_page_is_drawn_again_meanwhile(open_app: Open) -> None:
    app = open_app()
    app.expected_complaints.append("500")
    app.fake("**/v1/chat/completions", status=500, json={"message": "It broke."})
    app.send("say: back")
    app.page.unroute("**/v1/chat/completions")
    other = App(app.page.context.new_page(), app.url, app.expected_complaints)
    other.page.goto(app.url)
    other.conversation_menu("say: back", "Rename")
    other.page.get_by_role("dialog").get_by_label("Title").fill("Renamed")
    app.page.bring_to_front()
    let_go = press(app.page, app.answers.get_by_role("button", name="Try again"))
    other.page.get_by_role("dialog").get_by_role("button", name="Save").evaluate("node => node.click()")
    expect(app.page.get_by_role("heading", name="Renamed", level=1)).to_have_count(1)
    let_go()
    expect(app.answers.locator(".prose")).to_have_text(["back"])


def test_buttons_and_rows_outlast_what_happens_elsewhere(open_app: Open) -> None:
    app = open_app()
    app.send("say: one")
    mark = "node => (node.dataset.marked = 'yes')"
    for target in (app.answers.locator(".message-foot button").first, app.page.locator(".conversation-row button")):
        target.evaluate(mark)
    app.send("say: two")
    app.page.evaluate("document.dispatchEvent(new CustomEvent('models-loaded'))")
    app.page.get_by_role("link", name="New chat").click()
    app.page.locator(".conversation-row a").click()
    expect(app.answers).to_have_count(2)
    expect(app.page.locator(".conversation-row button")).to_have_attribute("data-marked", "yes")
    expect(app.page).to_have_url(re.compile("#/chat/"))
