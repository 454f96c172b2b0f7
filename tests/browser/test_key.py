"""Servers that ask for a key. The refusals are made at the network here; tests/server has the real ones."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import Route, expect

from tests.browser.app import App

Open = Callable[..., App]


def guard(app: App, key: str) -> None:
    """Let only requests with `key` through to the server."""
    app.expected_complaints.append("401")

    def check(route: Route) -> None:
        if route.request.headers.get("authorization") == f"Bearer {key}":
            route.continue_()
        else:
            route.fulfill(
                status=401, json={"object": "error", "message": "Unauthorized", "type": "authentication_error"}
            )

    app.page.context.route("**/v1/**", check)


def test_the_key_is_asked_for_checked_and_used(open_app: Open) -> None:
    app = open_app()
    guard(app, "right")
    app.page.reload()
    dialog = app.page.get_by_role("dialog", name="This server asks for an API key")
    dialog.get_by_label("Key", exact=True).fill("wrong")
    dialog.get_by_role("button", name="Use key").click()
    expect(dialog.get_by_role("alert")).to_contain_text("refused")
    dialog.get_by_label("Key", exact=True).fill("right")
    dialog.get_by_label("Key", exact=True).press("Enter")
    expect(app.page.get_by_text("Connected")).to_be_visible()
    app.send("say: let in")
    expect(app.answers.locator(".prose")).to_have_text("let in")
    app.page.reload()
    expect(app.page.get_by_text("Connected")).to_be_visible()  # this tab still knows it
    assert app.page.evaluate("localStorage.getItem('tramontane.key')") is None
    other = app.page.context.new_page()
    other.goto(app.url)
    expect(other.get_by_role("dialog", name="This server asks for an API key")).to_be_visible()


def test_a_key_may_be_remembered(open_app: Open) -> None:
    app = open_app()
    guard(app, "right")
    app.page.reload()
    dialog = app.page.get_by_role("dialog", name="This server asks for an API key")
    dialog.get_by_label("Key", exact=True).fill("right")
    dialog.get_by_label("Remember on this device").check()
    dialog.get_by_role("button", name="Use key").click()
    expect(app.page.get_by_text("Connected")).to_be_visible()
    other = app.page.context.new_page()
    other.goto(app.url)
    expect(other.get_by_text("Connected")).to_be_visible()


def test_a_key_that_expires_in_mid_conversation_costs_nothing(open_app: Open) -> None:
    app = open_app()
    app.send("say: before")
    guard(app, "new")
    app.send("say: after")
    dialog = app.page.get_by_role("dialog", name="This server asks for an API key")
    dialog.get_by_label("Key", exact=True).fill("new")
    dialog.get_by_role("button", name="Use key").click()
    expect(app.answers.locator(".prose").last).to_have_text("after")


def test_without_a_key_the_page_says_so_and_asks_again_on_request(open_app: Open) -> None:
    app = open_app()
    guard(app, "right")
    app.page.reload()
    app.page.get_by_role("dialog").wait_for()
    app.page.keyboard.press("Escape")
    expect(app.page.get_by_role("alert")).to_contain_text("Without a key")
    app.page.get_by_role("button", name="Enter key").click()
    expect(app.page.get_by_role("dialog", name="This server asks for an API key")).to_be_visible()


def test_a_key_can_be_forgotten_in_every_tab_and_another_taken(open_app: Open) -> None:
    app = open_app()
    key_button = app.page.get_by_role("button", name="API key")
    expect(key_button).to_have_count(0)  # there is none to forget
    guard(app, "right")
    app.page.reload()
    asks = app.page.get_by_role("dialog", name="This server asks for an API key")
    asks.get_by_label("Key", exact=True).fill("right")
    asks.get_by_label("Remember on this device").check()
    asks.get_by_role("button", name="Use key").click()
    expect(app.page.get_by_text("Connected")).to_be_visible()
    other = app.page.context.new_page()
    other.goto(app.url)
    expect(other.get_by_text("Connected")).to_be_visible()

    key_button.click()
    dialog = app.page.get_by_role("dialog", name="API key", exact=True)
    expect(dialog).to_contain_text("on this device, until it is forgotten")
    dialog.get_by_role("button", name="Forget this key").click()
    expect(asks).to_be_visible()
    expect(other.get_by_role("dialog", name="This server asks for an API key")).to_be_visible()
    for storage in ("localStorage", "sessionStorage"):
        assert app.page.evaluate(f"{storage}.getItem('tramontane.key')") is None
    app.page.reload()
    asks.get_by_label("Key", exact=True).fill("right")
    asks.get_by_role("button", name="Use key").click()
    expect(app.page.get_by_text("Connected")).to_be_visible()

    key_button.click()
    expect(dialog).to_contain_text("for this tab")
    dialog.get_by_role("button", name="Use another key").click()
    asks.get_by_label("Key", exact=True).fill("right ")
    with app.page.expect_event("load"):
        asks.get_by_role("button", name="Use key").click()
    expect(app.page.get_by_text("Connected")).to_be_visible()
    app.send("say: in")
    expect(app.answers.locator(".prose")).to_have_text("in")
