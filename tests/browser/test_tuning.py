"""The fine-tuning page: from a file to a model, and what it says of a file that is not sound."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from playwright.sync_api import Page, expect

from tests.browser.app import App
from tests.server.fine_tuning.making import conversation, greetings

Open = Callable[..., App]
TRAINED_MS = 300_000  # until something is taken never to come: a process starts, twice, and trains


def choose(page: Page, samples: Sequence[Mapping[str, Any]], label: str = "Samples") -> None:
    text = "".join(json.dumps(sample) + "\n" for sample in samples)
    file: Any = {"name": "samples.jsonl", "mimeType": "application/jsonl", "buffer": text.encode()}
    page.get_by_label(label, exact=True).set_input_files(file)


def test_from_a_file_to_a_model(open_app: Open) -> None:
    app = open_app()
    page = app.page
    page.get_by_role("link", name="Fine-tuning").click()
    expect(page.get_by_text("No job yet.")).to_be_visible()
    choose(page, greetings())
    choose(page, greetings(3), "Samples to measure with")
    page.get_by_label("Name").fill("ahoy")
    page.get_by_label("Epochs").fill("1")
    page.get_by_role("button", name="Check and estimate").click()
    job = page.get_by_role("region", name="Job", exact=True)
    expect(job.get_by_text("Ready to start")).to_be_visible(timeout=TRAINED_MS)
    expect(job.get_by_text("Takes", exact=True)).to_be_visible()
    expect(page.locator(".plot")).to_have_count(0)
    job.get_by_role("button", name="Start training").click()
    expect(job.get_by_text("Done", exact=True)).to_be_visible(timeout=TRAINED_MS)
    expect(job.get_by_text("ft:tiny:")).to_be_visible()
    expect(page.locator(".plot polyline")).to_have_count(2)
    table = page.get_by_role("region", name="What it answers, by update")
    expect(table.get_by_role("columnheader", name="Question number 1?")).to_be_visible()
    expect(table.get_by_role("row").last).to_be_visible()
    page.get_by_label("Question", exact=True).fill("say: the same to both")
    page.get_by_role("button", name="Ask both").click()
    expect(page.locator(".tuning-answer", has_text="the same to both")).to_have_count(2)
    page.get_by_role("link", name="All jobs").click()
    row = page.get_by_role("region", name="Jobs, table").get_by_role("row", name="ahoy")
    expect(row).to_contain_text("Done")
    row.get_by_role("link").click()
    page.get_by_role("button", name="Chat with it").click()
    expect(page.get_by_label("Model", exact=True)).to_have_value(re.compile("ft:tiny:"))
    app.send("say: ahoy")
    expect(app.answers.locator(".prose")).to_have_text("ahoy")
    page.go_back()
    page.get_by_role("button", name="Delete the model").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.get_by_role("region", name="Jobs, table")).to_be_visible()


def test_a_file_that_is_not_sound_is_told_line_by_line(open_app: Open) -> None:
    app = open_app()
    app.expected_complaints.append("422")
    app.go("tuning")
    page = app.page
    choose(page, [conversation("a", "b"), {"messages": []}, {"messages": [{"role": "user", "content": "c"}]}])
    page.get_by_role("button", name="Check and estimate").click()
    problems = page.locator(".tuning-problems li")
    expect(problems).to_have_count(2)
    expect(problems.first).to_contain_text("Line 2:")
    expect(problems.last).to_contain_text("Line 3:")
    expect(page.get_by_role("alert")).to_have_count(1)  # said once
    expect(page.get_by_text("Line 2:")).to_have_count(1)
    expect(page.get_by_text("line 2", exact=False)).to_have_count(1)
    expect(page.get_by_role("button", name="Check and estimate")).to_be_enabled()


def test_a_key_without_the_right_is_told_what_it_lacks(open_app: Open) -> None:
    app = open_app()
    app.expected_complaints.append("403")
    app.fake("**/v1/fine_tuning/jobs?*", status=403, json={"message": "this key lacks the scope 'fine_tuning'"})
    app.go("tuning")
    expect(app.page.get_by_role("alert").filter(has_text="may not train models")).to_be_visible()
