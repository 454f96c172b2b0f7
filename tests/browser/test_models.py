"""Which models the page offers, and what it says of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import expect

from tests.browser.app import App
from tests.server.live import LiveServer, start_server

Open = Callable[..., App]
CAN_CHAT = {"completion_chat": True}
TOY = {"id": "toy", "object": "model", "name": "toy", "alias_of": None, "aliases": ["mistral-large-latest"],
       "max_context_length": 32768, "num_parameters": 11_147_520, "description": "A toy: facts are beyond it.",
       "default_sampling": {"temperature": 0.5, "top_p": 0.9, "presence_penalty": 0, "frequency_penalty": 0},
       "capabilities": CAN_CHAT}  # fmt: skip
LARGE = {"id": "large", "object": "model", "name": "large", "alias_of": None, "aliases": ["codestral-latest"],
         "max_context_length": 8192, "num_parameters": 7_248_023_552, "description": None,
         "default_sampling": {"temperature": 1.0, "top_p": 1.0}, "capabilities": CAN_CHAT}  # fmt: skip


@pytest.fixture(scope="module")
def default_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of the model that comes along."""
    live: LiveServer = start_server(tmp_path_factory.mktemp("home"), ["default"])
    yield live.url
    assert live.stop() == 0, live.log.read_text(encoding="utf-8")


def offered(app: App) -> list[str]:
    return app.page.get_by_label("Model", exact=True).locator("option").all_inner_texts()


def test_models_are_listed_once_whatever_other_names_they_have(open_app: Open) -> None:
    app = open_app()
    expect(app.page.locator("option", has_text="other")).to_have_count(1)
    assert offered(app) == ["tiny", "other"]


def test_an_alias_used_before_stands_for_its_model(open_app: Open) -> None:
    app = open_app()
    alias = TOY | {"id": "mistral-large-latest", "name": "mistral-large-latest", "alias_of": "toy", "aliases": ["toy"]}
    app.fake("**/v1/models", json={"object": "list", "data": [TOY, alias, LARGE]})
    app.page.evaluate("""localStorage.setItem("tramontane.preferences", '{"model": "mistral-large-latest"}')""")
    app.page.reload()
    expect(app.page.get_by_label("Model", exact=True)).to_have_value("toy")
    assert offered(app) == ["toy", "large"]


def test_what_is_suggested_the_model_can_do(open_app: Open) -> None:
    app = open_app()
    app.fake("**/v1/models", json={"object": "list", "data": [TOY, LARGE]})
    app.page.reload()
    starters = app.page.locator(".starters button")
    expect(app.page.locator(".welcome")).to_contain_text("A toy: facts are beyond it.")
    expect(starters).to_have_count(4)
    small = starters.all_inner_texts()
    assert not any("Python" in text or "Summarise" in text for text in small)
    starters.first.click()
    expect(app.message).to_have_value(small[0])
    app.page.get_by_label("Model", exact=True).select_option("large")
    expect(starters.filter(has_text="Python")).to_have_count(1)
    expect(app.page.locator(".welcome")).not_to_contain_text("A toy")


def test_the_facts_of_a_model_are_a_button_away(open_app: Open) -> None:
    app = open_app()
    app.fake("**/v1/models", json={"object": "list", "data": [LARGE, TOY]})
    app.page.reload()
    app.page.get_by_role("button", name="About this model").click()
    dialog = app.page.get_by_role("dialog", name="large")
    for fact in ("7.2 billion", "8,192 tokens", "Other names", "codestral-latest"):
        expect(dialog).to_contain_text(fact)
    app.page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)


def test_sliders_stand_where_the_model_does(open_app: Open) -> None:
    app = open_app()
    app.fake("**/v1/models", json={"object": "list", "data": [TOY, LARGE]})
    app.page.reload()
    app.page.get_by_role("button", name="Settings of this conversation").click()
    field = app.page.get_by_role("spinbutton", name="Temperature")
    slider = app.page.get_by_role("slider", name="Temperature")
    expect(field).to_have_attribute("placeholder", "default: 0.5")
    expect(slider).to_have_value("0.5")
    expect(app.page.get_by_role("slider", name="Presence penalty")).to_have_value("0")
    field.fill("1.2")
    expect(slider).to_have_value("1.2")
    app.page.get_by_role("button", name="Back to defaults").click()
    expect(slider).to_have_value("0.5")
    app.page.get_by_label("Model", exact=True).select_option("large")
    expect(field).to_have_attribute("placeholder", "default: 1")
    expect(slider).to_have_value("1")
    app.go("playground")
    expect(app.page.get_by_role("spinbutton", name="Top p")).to_have_attribute("placeholder", "default: 1")


def test_the_model_that_comes_along_is_called_a_toy(open_app: Open, default_url: str) -> None:
    app = open_app(url=default_url)
    expect(app.page.locator(".welcome")).to_contain_text("toy of 11 million weights")
    assert offered(app) == ["default"]
    app.page.get_by_role("button", name="About this model").click()
    expect(app.page.get_by_role("dialog", name="default")).to_contain_text("32,768 tokens")
    app.page.keyboard.press("Escape")
    app.page.get_by_role("button", name="Settings of this conversation").click()
    expect(app.page.get_by_role("spinbutton", name="Top p")).to_have_attribute("placeholder", "default: 0.9")
