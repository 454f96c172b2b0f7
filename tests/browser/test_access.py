"""For everyone: by keyboard alone, at phone width, in both themes, with names and contrast for assistive technology."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.app import App

Open = Callable[..., App]
PAGES = ("chat", "playground", "usage", "tuning", "tuning/done")
HERE = Path(__file__).parent
UNNAMED = (HERE / "unnamed.js").read_text(encoding="utf-8")
FAINT = (HERE / "faint.js").read_text(encoding="utf-8")
SKIPPED = (HERE / "skipped.js").read_text(encoding="utf-8")

RICH = (
    "# One\n\nText with `code`, a [link](https://ok.example) and **weight**.\n\n> quoted\n\n- [x] done\n\n"
    "| column | another one | and a third | and yet a fourth | fifth |\n|---|---|---|---|---|\n"
    "| 1 | 2 | 3 | 4 | 5 |\n\n"
    "```python\n@tag\ndef f(x: Thing) -> int:  # why\n"
    '    return len("a string so long that it does not fit the width of any phone at all, ever") + 12\n```\n\n'
    "averyveryveryveryveryveryveryveryveryveryveryveryveryveryveryverylongwordwithoutanyspaceinit"
)

LONG_NAME = "ft:a-base-of-a-rather-long-name:25bf8e1a:20261126:a-long-suffix-too:5f925725"
ESTIMATE = {"data_tokens": 12345, "train_tokens": 37035, "train_tokens_per_step": 1024, "cost": 0.0123,
            "expected_duration_seconds": 95}  # fmt: skip
QUESTIONS = ("A question of some length, as people ask them?", "Another one?")
SAMPLES = [
    {"step": step, "prompt": question, "answer": f"{question} {'word ' * 30}"}
    for step in (0, 9)
    for question in QUESTIONS
]
PROBLEM = {"file_id": "f", "line": 7, "message": f"not valid JSON: {'x' * 90}"}
EVENTS = [
    {"name": "status-updated", "data": {"status": "QUEUED"}, "created_at": 1},
    {"name": "invalid-line", "data": PROBLEM, "created_at": 2},
    *({"name": "sample", "data": sample, "created_at": 3} for sample in SAMPLES),
]
DONE_JOB = {"id": "done", "status": "SUCCESS", "job_type": "completion", "model": "tiny", "suffix": "a-long-suffix-too",
            "fine_tuned_model": LONG_NAME, "trained_tokens": 37035, "metadata": ESTIMATE, "events": EVENTS}  # fmt: skip
LOSSES = {"train": [[step, 4 / step] for step in range(1, 10)], "held_out": [[3, 2.0], [9, 1.5]]}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1100])
def test_nothing_is_too_wide_unnamed_or_faint(open_app: Open, scheme: str, width: int) -> None:
    app = open_app(width=width, height=740, color_scheme=scheme)
    app.attach(
        {
            "name": "a rather long name for a file, of the kind people have.txt",
            "mimeType": "text/plain",
            "buffer": b"text",
        }
    )
    assert app.page.evaluate(SKIPPED) == []
    app.send(f"say: {RICH}")
    for page in PAGES:
        if page == "usage":
            app.go(page)
            expect(app.page.locator(".plot rect").first).to_be_visible()
        elif page == "playground":
            app.go(page)
            app.page.get_by_label("Seed").fill("3")  # random weights may end after a token; with this seed they do not
            app.page.get_by_role("button", name="Complete").click()
            expect(app.page.locator(".tokens .token").nth(3)).to_be_visible()
            app.page.locator(".tokens .token").nth(3).click()
        elif page == "tuning":
            app.go(page)
            expect(app.page.get_by_role("form", name="New job")).to_be_visible()
        elif page == "tuning/done":
            app.fake("**/v1/fine_tuning/jobs/done", json=DONE_JOB)
            app.fake("**/api/fine_tuning/jobs/done/losses", json=LOSSES)
            app.go(page)
            expect(app.page.locator(".plot polyline").first).to_be_visible()
        else:
            app.page.get_by_role("button", name="Settings of this conversation").click()
        assert app.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert app.page.evaluate(
            "document.querySelector('.scroller').scrollWidth <= document.querySelector('.scroller').clientWidth"
        )
        assert app.page.evaluate(UNNAMED) == []
        assert app.page.evaluate(FAINT) == []
        assert app.page.evaluate(SKIPPED) == []
        if page == "chat":
            app.page.keyboard.press("Escape")


def test_headings_of_answers_skip_no_level_however_they_are_written(open_app: Open) -> None:
    app = open_app()
    app.send("say: #### Deep\n\ntext\n\n###### Deeper\n\n# Top\n\n> ### Quoted\n\n- ##### In a list\n\n## Second")
    app.send("say: ### Another answer\n\n#### Below it")
    assert app.page.evaluate(SKIPPED) == []
    shown = (
        app.page.get_by_role("log")
        .get_by_role("heading")
        .evaluate_all("nodes => nodes.map((node) => [Number(node.tagName[1]), node.textContent])")
    )
    assert shown == [
        *([2, "Your message"], [2, "Answer by tiny"]),
        *([3, "Deep"], [4, "Deeper"], [3, "Top"], [4, "Quoted"], [5, "In a list"], [4, "Second"]),
        *([2, "Your message"], [2, "Answer by tiny"]),
        *([3, "Another answer"], [4, "Below it"]),
    ]
    expect(app.page.get_by_role("article", name="Answer by tiny")).to_have_count(2)


def test_an_answer_asked_for_before_the_models_are_known_bears_the_name_of_its_model(open_app: Open) -> None:
    app = open_app()
    release = app.hold("**/v1/models")
    app.page.reload()
    app.send("say: early", wait=False)
    expect(app.page.get_by_role("article", name="Answer by the assistant")).to_have_count(1)
    release()
    app.wait()
    expect(app.page.get_by_role("article", name="Answer by tiny")).to_contain_text("early")


def test_a_conversation_by_keyboard_alone(open_app: Open) -> None:
    app = open_app()
    keys = app.page.keyboard
    expect(app.message).to_be_focused()
    keys.type("say: hello")
    keys.press("Enter")
    app.wait()
    expect(app.answers.locator(".prose")).to_have_text("hello")
    keys.type("count")
    keys.press("Enter")
    expect(app.answers.nth(1)).to_contain_text("2 3")
    keys.press("Escape")
    app.wait()
    expect(app.answers.nth(1).locator(".facts")).to_contain_text("Stopped")

    app.message.blur()
    keys.press("e")
    keys.press("Control+a")
    keys.type("say: edited")
    keys.press("Control+Enter")
    app.wait()
    expect(app.answers.locator(".prose")).to_have_text(["hello", "edited"])
    app.message.blur()
    keys.press("[")
    expect(app.answers.nth(1)).to_contain_text("0 1 2")
    keys.press("]")
    expect(app.answers.nth(1)).to_contain_text("edited")
    app.message.blur()
    app.page.evaluate("document.activeElement.blur()")
    keys.press("c")
    expect(app.page.locator("#announcements")).to_contain_text("Copied")
    assert app.page.evaluate("navigator.clipboard.readText()") == "edited"

    keys.press("g")
    keys.press("p")
    expect(app.page.get_by_label("Text to continue")).to_be_focused()
    app.page.evaluate("document.activeElement.blur()")
    keys.press("n")
    expect(app.page.locator(".welcome")).to_be_visible()
    expect(app.message).to_be_focused()


def test_the_list_of_shortcuts_and_turning_single_keys_off(open_app: Open) -> None:
    app = open_app()
    keys = app.page.keyboard
    app.message.blur()
    keys.press("?")
    dialog = app.page.get_by_role("dialog", name="Keyboard")
    expect(dialog).to_be_visible()
    dialog.get_by_label("Single keys are shortcuts").uncheck()
    keys.press("Escape")
    expect(dialog).to_be_hidden()
    keys.press("?")
    expect(dialog).to_be_hidden()


def test_every_control_is_reached_by_tab_in_the_order_it_is_seen(open_app: Open) -> None:
    app = open_app()
    app.page.evaluate("document.body.tabIndex = -1; document.body.focus()")  # as when the page was just opened
    seen: list[str] = []
    for _ in range(30):
        app.page.keyboard.press("Tab")
        name: str = app.page.evaluate(
            "document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent.trim()"
        )
        if name in seen:
            break
        seen.append(name)
    wanted = (
        *("Skip to content", "New chat", "Playground", "Usage", "Search conversations", "All conversations"),
        *("Keyboard shortcuts", "Model", "Settings of this conversation", "Message", "Attach a document"),
    )
    order = [seen.index(name) for name in wanted]
    assert order == sorted(order)


def test_focus_goes_back_to_where_it_was(open_app: Open) -> None:
    app = open_app()
    app.send("say: x")
    opener = app.page.get_by_role("button", name="Settings of this conversation")
    opener.press("Enter")
    expect(app.page.get_by_label("System prompt")).to_be_focused()
    app.page.keyboard.press("Escape")
    expect(opener).to_be_focused()
    menu = app.page.get_by_role("button", name="Options of say: x")
    menu.press("Enter")
    expect(app.page.get_by_role("menuitem").first).to_be_focused()
    app.page.keyboard.press("ArrowDown")
    expect(app.page.get_by_role("menuitem").nth(1)).to_be_focused()
    app.page.keyboard.press("Escape")
    expect(menu).to_be_focused()
    app.page.get_by_role("button", name="Keyboard shortcuts").press("Enter")
    app.page.keyboard.press("Escape")
    expect(app.page.get_by_role("button", name="Keyboard shortcuts")).to_be_focused()


def test_what_is_read_aloud_while_an_answer_streams(open_app: Open) -> None:
    app = open_app()
    app.send("say: The first sentence. The second one.\n\nA third")
    region = app.page.locator("#announcements")
    expect(region).to_contain_text("A third")
    lines = region.locator("p").all_inner_texts()
    assert len(lines) <= 4
    assert not any(len(line.split()) == 1 for line in lines if line not in ("Answering", "Ready"))


def test_the_theme_is_switched_and_remembered(open_app: Open) -> None:
    app = open_app(color_scheme="light")
    colour = "getComputedStyle(document.body).backgroundColor"
    light = app.page.evaluate(colour)
    app.page.get_by_role("button", name="Theme: as the system").click()
    assert app.page.evaluate(colour) == light
    app.page.get_by_role("button", name="Theme: light").click()
    dark = app.page.evaluate(colour)
    assert dark != light
    app.page.reload()
    expect(app.page.get_by_role("button", name="Theme: dark")).to_be_visible()
    assert app.page.evaluate(colour) == dark


def test_the_sidebar_of_a_phone_opens_over_the_page_and_leaves_it(open_app: Open) -> None:
    app = open_app(width=360, height=740, has_touch=True, is_mobile=True)
    app.message.fill("say: small")
    app.message.press("Enter")  # a new line, on phones
    expect(app.answers).to_have_count(0)
    app.page.get_by_role("button", name="Send").tap()
    expect(app.answers.locator(".prose")).to_have_text("small")
    expect(app.page.get_by_role("link", name="Playground")).to_be_hidden()
    app.page.get_by_role("button", name="Open navigation").tap()
    expect(app.page.get_by_role("link", name="Playground")).to_be_visible()
    app.page.get_by_role("link", name="Playground").tap()
    expect(app.page.get_by_role("link", name="Playground")).to_be_hidden()
    expect(app.page.get_by_label("Text to continue")).to_be_visible()
