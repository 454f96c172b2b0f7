"""Conversations that outgrow the model's context: the oldest turns are left out, the page says so, and goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Route, expect

from tests.browser.app import App

Open = Callable[..., App]
CONTEXT = 2048  # of the model served
TOO_LONG = {
    "object": "error",
    "message": f"This model's maximum context length is {CONTEXT} tokens; shorten the messages",
    "type": "invalid_request_error",
    "param": "messages",
    "code": "context_length_exceeded",
}


def words(count: int) -> str:
    return " ".join(f"w{i}" for i in range(count))


def asked(route: Route) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = json.loads(route.request.post_data or "")["messages"]
    return messages


def used(app: App) -> int:
    return int(app.page.get_by_role("meter", name="Context in use").get_attribute("aria-valuenow") or -1)


def below(app: App) -> str:
    """The first question below the line that says where reading begins."""
    return app.page.locator(".boundary + .message .bubble").inner_text()


def test_a_conversation_longer_than_the_context_goes_on(open_app: Open) -> None:
    app = open_app()
    app.page.get_by_role("button", name="Settings of this conversation").click()
    app.page.get_by_label("System prompt").fill("Be brief.")
    app.page.keyboard.press("Escape")
    bodies = app.bodies("/chat/completions")
    for turn in range(7):
        app.send(f"say: {turn} {words(120)}")
        expect(app.answers.last.locator(".prose")).to_contain_text(f"{turn} w0")
        assert 0 < used(app) < CONTEXT
    assert all(body["messages"][0] == {"role": "system", "content": "Be brief."} for body in bodies)
    last = bodies[-1]["messages"]
    assert [message["role"] for message in last[1:]] == ["user", "assistant"] * (len(last) // 2 - 1) + ["user"]
    assert last[-1]["content"].startswith("say: 6 ")
    assert not last[1]["content"].startswith("say: 0 ")
    boundary = app.page.get_by_role("note")
    expect(boundary).to_contain_text("no longer read")
    assert below(app).startswith(last[1]["content"][:8])
    expect(app.page.get_by_role("alert")).to_have_count(0)
    app.page.reload()
    expect(boundary).to_have_count(1)


def test_once_turns_have_gone_the_next_prompts_begin_alike(open_app: Open) -> None:
    app = open_app()
    bodies = app.bodies("/chat/completions")
    for turn in range(9):
        app.send(f"say: {turn} {words(60)}")
    firsts = [body["messages"][0]["content"][:6] for body in bodies]
    assert len(set(firsts)) < 5, firsts
    assert firsts[-1] != firsts[0]


def test_a_refusal_has_older_turns_left_out_and_not_the_question(open_app: Open) -> None:
    """The server counts, whatever the page had estimated."""
    app = open_app()
    app.expected_complaints.append("400")
    for turn in range(3):
        app.send(f"say: {turn}")

    def refuse_longer(route: Route) -> None:
        if len(asked(route)) > 3:
            route.fulfill(status=400, json=TOO_LONG)
        else:
            route.continue_()

    app.page.route("**/v1/chat/completions", refuse_longer)
    app.send("say: gone on")
    expect(app.answers.last.locator(".prose")).to_have_text("gone on")
    assert below(app) == "say: 2"
    expect(app.page.locator("#announcements")).to_contain_text("no longer read")


def test_a_message_too_long_by_itself_is_refused_in_words_and_the_conversation_lives(open_app: Open) -> None:
    app = open_app()
    app.expected_complaints.append("400")
    app.send("say: before")
    app.send(f"say: {words(3000)}")
    alert = app.answers.nth(1).get_by_role("alert")
    expect(alert).to_contain_text("This message is too long for tiny, which reads 2,048 tokens")
    expect(alert).to_contain_text("attached as a file")
    expect(alert.get_by_role("button", name="Try again")).to_have_count(0)
    expect(app.page.get_by_role("note")).to_have_count(0)
    assert used(app) < CONTEXT / 2  # what is not read takes no room

    bodies = app.bodies("/chat/completions")
    app.send("say: after")  # what was refused is not sent again with it
    expect(app.answers.last.locator(".prose")).to_have_text("after")
    assert [message["content"] for message in bodies[0]["messages"]] == ["say: before", "before", "say: after"]

    alert.get_by_role("button", name="Edit the message").click()
    app.page.get_by_label("Edit the message").fill("say: shorter")
    app.page.keyboard.press("Control+Enter")
    expect(app.answers.last.locator(".prose")).to_have_text("shorter")


def test_the_meter_follows_what_is_written_and_which_model_is_asked(open_app: Open) -> None:
    app = open_app()
    meter = app.page.get_by_role("meter", name="Context in use")
    expect(meter).to_have_attribute("aria-valuemax", str(CONTEXT))
    assert used(app) == 0
    app.message.fill(words(200))
    written = used(app)
    assert 200 < written < CONTEXT
    app.message.fill("")
    assert used(app) == 0
    app.send(f"say: {words(50)}")
    expect(meter).to_have_attribute(
        "aria-valuetext", f"About {used(app)} of the 2,048 tokens that the model reads at once"
    )
    assert used(app) > 50
    app.page.get_by_role("link", name="New chat").click()
    assert used(app) == 0


@pytest.mark.parametrize(("status", "offers"), [(500, True), (503, True), (429, True), (400, False), (422, False)])
def test_what_would_be_refused_again_is_not_offered_again(open_app: Open, status: int, offers: bool) -> None:
    app = open_app()
    app.expected_complaints.append(str(status))
    app.fake("**/v1/chat/completions", status=status, json={"message": "It cannot be."})
    app.send("say: x")
    alert = app.answers.get_by_role("alert")
    expect(alert).to_contain_text("It cannot be.")
    expect(alert.get_by_role("button", name="Try again")).to_have_count(int(offers))
    expect(app.tool(app.answers.first, "Regenerate")).to_be_visible()  # with other settings it may succeed
