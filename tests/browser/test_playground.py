"""The playground: a text continued, each token with its probability and what else could have stood there."""

from __future__ import annotations

import math
from collections.abc import Callable

import httpx
from playwright.sync_api import expect

from tests.browser.app import App

Open = Callable[..., App]


def complete(app: App, prompt: str, *, seed: int = 3, tokens: int = 8) -> None:
    app.go("playground")
    app.page.get_by_label("Text to continue").fill(prompt)
    app.page.get_by_label("Seed").fill(str(seed))
    app.page.get_by_label("Most tokens").fill(str(tokens))
    app.page.get_by_role("button", name="Complete").click()
    expect(app.page.get_by_role("button", name="Complete")).to_be_visible()
    expect(app.page.locator(".tokens .token").first).to_be_visible()


def test_hovering_shows_the_probabilities_the_server_gave(open_app: Open) -> None:
    app = open_app()
    complete(app, "The wind")
    body = {"model": "tiny", "prompt": "The wind", "max_tokens": 8, "seed": 3, "logprobs": 5}
    logprobs = httpx.post(f"{app.url}/v1/completions", json=body, timeout=60).json()["choices"][0]["logprobs"]
    tokens = app.page.locator(".tokens .token")
    assert tokens.count() == len(logprobs["tokens"])
    for place in (0, 3):
        tokens.nth(place).hover()
        card = app.page.locator(".token-card")
        expect(card).to_be_visible()
        share = 100 * math.exp(logprobs["token_logprobs"][place])
        shown = card.locator(".token-card-head strong").inner_text()
        assert abs(float(shown.removesuffix(" %").removeprefix("< ")) - share) < 0.06
        assert card.locator("li").count() == len(logprobs["top_logprobs"][place])
    first, second = (float(tokens.nth(i).evaluate("node => node.style.getPropertyValue('--surprise')")) for i in (0, 3))
    assert first == 1 - math.exp(logprobs["token_logprobs"][0])
    assert second == 1 - math.exp(logprobs["token_logprobs"][3])


def test_another_token_leads_elsewhere(open_app: Open) -> None:
    app = open_app()
    complete(app, "The wind")
    tokens = app.page.locator(".tokens .token")
    kept = tokens.all_inner_texts()[:2]
    bodies = app.bodies("/v1/completions")
    tokens.nth(2).click()
    choice = app.page.locator(".token-card li button:not(:disabled):not(.same)").first
    label = (choice.get_attribute("aria-label") or "").rsplit(",", 1)[0]
    choice.click()
    expect(app.page.locator(".token.forced")).to_have_count(1)
    expect(app.page.get_by_role("button", name="Complete")).to_be_visible()
    assert tokens.all_inner_texts()[:2] == kept
    assert bodies[0]["prompt"].startswith("The wind")
    assert bodies[0]["prompt"].replace(" ", "␣").replace("\n", "↵").endswith(label)


def test_the_prompt_itself_is_scored_on_request(open_app: Open) -> None:
    app = open_app()
    app.go("playground")
    app.page.get_by_label("Show the prompt's own probabilities").check()
    complete(app, "The wind from the north", tokens=2)
    tokens = app.page.locator(".tokens .token")
    assert "".join(tokens.all_text_contents()).startswith("The wind from the north")
    expect(app.page.locator(".summary")).to_contain_text("perplexity")


def test_tokens_are_walked_by_keyboard(open_app: Open) -> None:
    app = open_app()
    complete(app, "Again")
    page = app.page
    page.locator(".tokens .token").first.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    expect(page.locator(".tokens .token").nth(3)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator(".token-card li button").first).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator(".tokens .token").nth(3)).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator(".token-card")).to_be_hidden()


def test_what_was_typed_is_kept(open_app: Open) -> None:
    app = open_app()
    complete(app, "Kept text", seed=5)
    app.page.get_by_role("button", name="Use as prompt").click()
    continued = app.page.get_by_label("Text to continue").input_value()
    assert continued.startswith("Kept text")
    app.page.reload()
    expect(app.page.get_by_label("Text to continue")).to_have_value(continued)
    expect(app.page.get_by_label("Seed")).to_have_value("5")
