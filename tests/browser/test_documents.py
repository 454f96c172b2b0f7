"""Files attached to a conversation: short ones go into the prompt, long ones are read in parts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import expect

from tests.browser.app import App
from tests.documents.sample_files import pdf_of

Open = Callable[..., App]


def test_a_question_about_a_short_pdf_goes_with_its_text(open_app: Open, tmp_path: Path) -> None:
    app = open_app()
    path = tmp_path / "terms.pdf"
    path.write_bytes(pdf_of("The contract ends in March."))
    app.attach(path)
    expect(app.page.locator(".composer .chip")).to_contain_text("tokens")
    bodies = app.bodies("/chat/completions")
    app.send("say: In March.")
    [message] = bodies[0]["messages"]
    assert message["content"].startswith('Document "terms.pdf":\n\nThe contract ends in March.')
    assert message["content"].endswith("say: In March.")
    expect(app.questions.locator(".chip-name")).to_have_text("terms.pdf")
    expect(app.questions.locator(".bubble")).to_have_text("say: In March.")
    app.send("say: And then?")  # the document stays part of the conversation
    assert "The contract ends" in bodies[1]["messages"][0]["content"]


def test_a_file_attached_before_the_models_are_known_has_its_tokens_counted(open_app: Open) -> None:
    app = open_app()
    release = app.hold("**/v1/models")
    app.page.reload()
    sent: list[str] = []
    app.page.on("request", lambda request: sent.append(request.url))
    app.page.locator("input[type=file][multiple]").set_input_files(
        {"name": "early.txt", "mimeType": "text/plain", "buffer": b"The first file of the day."}
    )
    expect(app.page.locator(".composer .chip.reading")).to_contain_text("early.txt")
    assert not any(url.endswith("/api/documents/text") for url in sent)
    release()
    expect(app.page.locator(".composer .chip")).to_contain_text("tokens")


def test_a_long_document_is_answered_from_passages_and_later_questions_too(open_app: Open, tmp_path: Path) -> None:
    app = open_app()
    path = tmp_path / "report.md"
    path.write_text("\n\n".join(f"Section {i} is about wind number {i} of the coast." for i in range(400)))
    app.attach(path)
    app.page.get_by_role("button", name="Settings of this conversation").click()
    bodies = app.bodies("/api/documents/answer")
    app.send("What is wind number 217 about?")
    expect(app.answers.locator(".sources summary")).to_contain_text("Answered from")
    app.answers.locator(".sources summary").click()
    expect(app.answers.locator(".sources")).to_contain_text("wind number 217")
    expect(app.page.locator(".composer .chip")).to_contain_text("asking about this")
    app.send("And 218?")
    assert [body["question"] for body in bodies] == ["What is wind number 217 about?", "And 218?"]
    app.page.reload()
    expect(app.answers.locator(".sources")).to_have_count(2)
    expect(app.page.locator(".composer .chip")).to_contain_text("report.md")


def test_a_summary_shows_progress_and_can_be_stopped(open_app: Open, tmp_path: Path) -> None:
    app = open_app()
    path = tmp_path / "long.txt"
    path.write_text("The wind blows over the hills. " * 20_000)  # minutes of work, should it not be stopped
    app.attach(path)
    app.page.get_by_role("button", name="Summarise", exact=True).click()
    expect(app.page.get_by_role("progressbar")).to_be_visible()
    app.page.keyboard.press("Escape")
    app.wait()
    expect(app.answers.locator(".facts")).to_contain_text("Stopped")


def test_what_cannot_be_read_is_told_in_one_line(open_app: Open) -> None:
    app = open_app()
    app.expected_complaints.append("400")
    picker = app.page.locator("input[type=file][multiple]")
    picker.set_input_files({"name": "noise.pdf", "mimeType": "application/pdf", "buffer": b"%PDF-1.4 nothing"})
    expect(app.page.get_by_role("alert")).to_contain_text("noise.pdf: ")
    picker.set_input_files({"name": "empty.txt", "mimeType": "text/plain", "buffer": b" "})
    expect(app.page.get_by_role("alert").last).to_contain_text("empty.txt: holds no text")
    expect(app.page.locator(".composer .chip")).to_have_count(0)


def test_files_can_be_pasted_and_taken_away_again(open_app: Open) -> None:
    app = open_app()
    app.message.evaluate(
        """(field) => {
          const data = new DataTransfer();
          data.items.add(new File(["pasted text"], "pasted.txt", { type: "text/plain" }));
          field.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true }));
        }"""
    )
    expect(app.page.locator(".composer .chip")).to_contain_text("pasted.txt")
    app.page.get_by_role("button", name="Remove pasted.txt").click()
    expect(app.page.locator(".composer .chip")).to_have_count(0)
