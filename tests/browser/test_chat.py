"""Talking: streaming, stopping, editing, regenerating, branches, and what lasts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import expect

from tests.browser.app import App

Open = Callable[..., App]


def test_an_answer_streams_in_and_the_model_is_told_everything_before(open_app: Open) -> None:
    app = open_app()
    bodies = app.bodies("/chat/completions")
    app.send("say: The **first** answer.")
    expect(app.answers.locator("strong")).to_have_text("first")
    app.send("count", wait=False)
    expect(app.answers.last).to_contain_text("0 1 2")
    assert app.answers.last.get_attribute("aria-busy") == "true"
    app.page.keyboard.press("Escape")
    app.wait()
    assert [m["role"] for m in bodies[1]["messages"]] == ["user", "assistant", "user"]
    assert bodies[1]["messages"][1]["content"] == "The **first** answer."


def test_random_weights_answer_too_and_the_length_is_told(open_app: Open) -> None:
    app = open_app()
    app.page.get_by_role("button", name="Settings of this conversation").click()
    app.page.get_by_label("Most tokens").fill("5")
    app.page.get_by_label("Seed").fill("1")  # random weights may say that they are done; with this seed they do not
    app.page.keyboard.press("Escape")
    app.send("Anything")
    expect(app.answers.locator(".facts")).to_contain_text("tiny")
    expect(app.answers.locator(".facts")).to_contain_text("5 tokens")


def test_stop_keeps_what_came_and_the_answer_can_go_on(open_app: Open) -> None:
    app = open_app()
    app.send("count", wait=False)
    expect(app.answers.first).to_contain_text("3 4 5")
    app.page.get_by_role("button", name="Stop").click()
    app.wait()
    stopped = app.answers.locator(".prose").inner_text()
    assert stopped.startswith("0 1 2")
    assert not stopped.endswith("299")
    expect(app.answers.locator(".facts")).to_contain_text("Stopped")
    app.tool(app.answers.first, "Continue this answer").click()
    expect(app.answers.first).to_contain_text(f"{stopped.rsplit(' ', 1)[0]} ")
    expect(app.answers.first).to_contain_text("60 61 62")
    app.page.keyboard.press("Escape")
    app.wait()
    expect(app.page.get_by_role("group", name="Version 2 of 2")).to_be_attached()


def test_regenerating_and_editing_make_branches(open_app: Open) -> None:
    app = open_app()
    app.send("say: one")
    app.send("say: two")
    app.tool(app.answers.nth(1), "Regenerate").click()
    expect(app.answers.nth(1).get_by_role("group", name="Version 2 of 2")).to_be_visible()
    app.wait()

    app.tool(app.questions.first, "Edit message").click()
    editor = app.page.get_by_label("Edit the message")
    editor.fill("say: three")
    editor.press("Control+Enter")
    expect(app.answers.locator(".prose")).to_have_text(["three"])
    app.wait()

    app.tool(app.questions.first, "Previous version").click()
    expect(app.answers.locator(".prose")).to_have_text(["one", "two"])
    expect(app.answers.nth(1).get_by_role("group", name="Version 2 of 2")).to_be_visible()
    app.tool(app.questions.first, "Next version").click()
    expect(app.answers.locator(".prose")).to_have_text(["three"])

    app.tool(app.answers.first, "Edit answer").click()
    app.page.get_by_label("Edit the answer").fill("written by hand")
    app.page.get_by_role("button", name="Save").click()
    expect(app.answers.locator(".prose")).to_have_text(["written by hand"])
    expect(app.answers.locator(".facts")).to_contain_text("Edited")


def test_settings_go_into_the_request(open_app: Open) -> None:
    app = open_app()
    app.page.get_by_role("button", name="Settings of this conversation").click()
    app.page.get_by_label("System prompt").fill("Be brief.")
    app.page.locator('input[name="temperature"]').fill("0.25")
    app.page.get_by_label("Seed").fill("7")
    app.page.get_by_label("Stop at").fill("END")
    app.page.locator('input[name="top_p"]').fill("7")  # not a probability: marked, and not sent
    expect(app.page.locator('input[name="top_p"]')).to_have_attribute("aria-invalid", "true")
    app.page.get_by_label("Model", exact=True).select_option("other")
    bodies = app.bodies("/chat/completions")
    app.send("say: ok")
    [body] = bodies
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert {k: body[k] for k in ("model", "temperature", "random_seed", "stop")} == {
        "model": "other", "temperature": 0.25, "random_seed": 7, "stop": ["END"],
    }  # fmt: skip
    assert "top_p" not in body


def test_conversations_outlast_a_reload_and_are_searched_renamed_deleted(open_app: Open) -> None:
    app = open_app()
    app.send("say: about boats")
    app.page.get_by_role("link", name="New chat").click()
    app.send("say: about stars")
    address = app.page.url
    app.page.reload()
    assert app.page.url == address
    expect(app.answers.locator(".prose")).to_have_text(["about stars"])
    assert app.titles == ["say: about stars", "say: about boats"]

    search = app.page.get_by_label("Search conversations")
    search.fill("boats")
    expect(app.page.locator(".conversation-row")).to_have_count(1)
    expect(app.page.locator(".snippet")).to_have_text("say: about boats")
    app.conversation_menu("boats", "Rename")
    app.page.get_by_label("Title").fill("Of ships")
    app.page.get_by_label("Title").press("Enter")
    expect(app.page.locator(".conversation-row a")).to_contain_text("Of ships")
    search.fill("")
    expect(app.page.locator(".snippet")).to_have_count(0)

    app.conversation_menu("stars", "Delete")
    app.page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(app.page.locator(".welcome")).to_be_visible()
    app.page.reload()
    expect(app.page.locator(".conversation-row a")).to_have_text("Of ships")


def test_an_answer_cut_off_by_closing_the_page_is_kept(open_app: Open) -> None:
    app = open_app()
    app.send("count", wait=False)
    expect(app.answers.first).to_contain_text("60 61")  # past the first save
    app.page.reload()
    expect(app.answers.first).to_contain_text("0 1 2 3")
    expect(app.answers.locator(".facts")).to_contain_text("Interrupted")


def test_export_and_import(open_app: Open, tmp_path: Path) -> None:
    app = open_app()
    app.send("say: kept **forever**")
    with app.page.expect_download() as download:
        app.conversation_menu("kept", "Export as Markdown")
    text = Path(download.value.path()).read_text()
    assert text.startswith("# say: kept **forever**\n")
    assert "**tiny**\n\nkept **forever**" in text
    with app.page.expect_download() as download:
        app.conversation_menu("kept", "Export as JSON")
    exported = tmp_path / "export.json"
    download.value.save_as(exported)

    fresh = open_app()
    fresh.page.get_by_label("File to import").set_input_files(exported)
    expect(fresh.page.locator(".conversation-row a")).to_have_text("say: kept **forever**")
    fresh.page.locator(".conversation-row a").click()
    expect(fresh.answers.locator("strong")).to_have_text("forever")
    fresh.page.reload()
    expect(fresh.answers.locator("strong")).to_have_text("forever")

    for content, complaint in (("[]", "no conversations"), ("{", "not JSON")):
        exported.write_text(content)
        fresh.page.get_by_label("File to import").set_input_files(exported)
        expect(fresh.page.get_by_role("alert").last).to_contain_text(complaint)


def test_two_tabs_see_the_same_conversations(open_app: Open) -> None:
    app = open_app()
    second = app.page.context.new_page()
    second.goto(app.url)
    expect(second.locator(".nothing")).to_be_visible()
    app.send("say: from the first tab")
    expect(second.locator(".conversation-row a")).to_have_text("say: from the first tab")


def test_an_error_says_what_is_wrong_and_can_be_retried(open_app: Open) -> None:
    app = open_app()
    app.page.route("**/v1/chat/completions", lambda route: route.abort())
    app.expected_complaints.append("ERR_FAILED")
    app.send("say: back")
    expect(app.answers.get_by_role("alert")).to_contain_text("does not answer")
    expect(app.page.locator(".banner")).to_be_visible()
    app.page.unroute("**/v1/chat/completions")
    expect(app.page.locator(".banner")).to_be_hidden()
    app.answers.get_by_role("button", name="Try again").click()
    expect(app.answers.locator(".prose")).to_have_text(["back"])


def test_copying(open_app: Open) -> None:
    app = open_app()
    app.send("say: look\n\n```python\nprint(1)\n```")
    app.tool(app.answers.first, "Copy code").click()
    assert app.page.evaluate("navigator.clipboard.readText()") == "print(1)"
    app.tool(app.answers.first, "Copy answer").click()
    assert app.page.evaluate("navigator.clipboard.readText()") == "look\n\n```python\nprint(1)\n```"


def test_an_answer_goes_on_while_another_conversation_is_shown(open_app: Open) -> None:
    app = open_app()
    app.send("count", wait=False)
    expect(app.answers.first).to_contain_text("0 1 2")
    app.page.get_by_role("link", name="New chat").click()
    expect(app.page.get_by_role("img", name="answering")).to_be_visible()
    app.send("say: meanwhile")
    expect(app.answers.locator(".prose")).to_have_text(["meanwhile"])
    app.page.locator(".conversation-row a", has_text="count").click()
    expect(app.answers.first).to_contain_text("90 91 92")
    app.page.get_by_role("button", name="Stop").click()
    app.wait()
    expect(app.page.get_by_role("img", name="answering")).to_have_count(0)


def test_a_question_asked_again_takes_the_place_of_the_answer_on_its_way(open_app: Open) -> None:
    app = open_app()
    app.send("count", wait=False)
    expect(app.answers.first).to_contain_text("0 1 2")
    app.tool(app.questions.first, "Edit message").click()
    app.page.get_by_label("Edit the message").fill("say: instead")
    app.page.get_by_role("button", name="Send", exact=True).first.click()
    app.wait()
    expect(app.answers.locator(".prose")).to_have_text(["instead"])
    app.tool(app.questions.first, "Previous version").click()
    expect(app.answers.locator(".facts")).to_contain_text("Stopped")


def test_escape_closes_a_dialog_and_leaves_the_answer_alone(open_app: Open) -> None:
    app = open_app()
    app.send("count", wait=False)
    expect(app.answers.first).to_contain_text("0 1 2")
    app.page.get_by_role("button", name="Keyboard shortcuts").click()
    app.page.keyboard.press("Escape")
    expect(app.page.get_by_role("dialog")).to_have_count(0)
    assert app.answers.first.get_attribute("aria-busy") == "true"
    app.page.keyboard.press("Escape")
    app.wait()
    expect(app.answers.locator(".facts")).to_contain_text("Stopped")


def test_deleting_a_conversation_stops_its_answer_for_good(open_app: Open) -> None:
    app = open_app()
    app.send("count", wait=False)
    expect(app.answers.first).to_contain_text("0 1 2")
    app.conversation_menu("count", "Delete")
    app.page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(app.page.locator(".nothing")).to_be_visible()
    app.page.reload()
    expect(app.page.locator(".nothing")).to_be_visible()
