"""What models, files and names say stays text: nothing runs, nothing is loaded, no link leads where it should not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import expect

from tests.browser.app import App
from tests.browser.payloads import BREAKOUTS, ELEMENTS, file_name_payloads, payloads

Open = Callable[..., App]

OFFENCES = (Path(__file__).parent / "offences.js").read_text(encoding="utf-8")


def conversation(texts: list[str], names: list[str]) -> dict[str, Any]:
    """As exported: a question and an answer for each text."""
    messages: list[dict[str, Any]] = []
    chosen = {}
    for index, text in enumerate(texts):
        name = names[index % len(names)]
        for role in ("user", "assistant"):
            parent = messages[-1]["id"] if messages else None
            message = {
                "id": f"m{len(messages)}", "parent": parent, "role": role, "created": 1, "content": text, "model": text,
                "documents": [{"id": "d", "name": name, "num_tokens": 3}], "thinking": text, "finish": text,
                "passages": [{"text": text, "isCited": True}],
                "task": {"kind": "passages", "documents": [{"id": "d", "name": name}]},
                "error": {"message": text}, "usage": {"prompt": text, "completion": text},
            }  # fmt: skip
            messages.append(message)
            chosen[parent or "root"] = message["id"]
    return {
        "id": "<img src=x onerror=alert(1)>", "title": texts[0], "isNamed": True, "created": 1, "updated": 1,
        "model": texts[0], "system": texts[0], "parameters": {"stop": texts[0], "temperature": texts[0]},
        "messages": messages, "chosen": chosen,
        "__proto__": {"polluted": True},
    }  # fmt: skip


def test_hundreds_of_payloads_in_answers_names_and_documents(open_app: Open, tmp_path: Path) -> None:
    texts = payloads()
    assert len(texts) > 500
    file = tmp_path / "hostile.json"
    exported = {"format": "tramontane.conversations", "version": 1, "documents": []}
    file.write_text(json.dumps(exported | {"conversations": [conversation(texts, file_name_payloads())]}))
    app = open_app()
    app.page.get_by_label("File to import").set_input_files(file)
    app.page.locator(".conversation-row a").click()
    expect(app.answers).to_have_count(len(texts))
    app.page.evaluate("document.querySelectorAll('details').forEach((details) => (details.open = true))")
    assert app.page.evaluate(OFFENCES) == []
    assert app.page.evaluate("({}).polluted") is None
    for text in (ELEMENTS[0], BREAKOUTS[0]):
        expect(app.questions.filter(has_text=text).first).to_be_attached()  # shown, as the text it is
    app.page.reload()
    expect(app.answers).to_have_count(len(texts))
    assert app.page.evaluate(OFFENCES) == []


def test_what_a_model_streams_is_text_at_every_moment(open_app: Open) -> None:
    app = open_app()
    app.page.evaluate(
        f"""() => {{
          const offences = {OFFENCES.partition("() =>")[1]} {OFFENCES.partition("() =>")[2]};
          window.offences = [];
          const observer = new MutationObserver(() => window.offences.push(...offences()));
          observer.observe(document.body, {{ subtree: true, childList: true, attributes: true }});
        }}"""
    )
    for text in (*ELEMENTS[:8], *BREAKOUTS[:6], "[click](javascript:alert(1)) ![x](//evil.example/x)"):
        app.send(f"say: {text}")
    app.send("say: [ok](https://ok.example/a) <mail@ok.example>")
    assert app.page.evaluate("window.offences") == []
    links = app.answers.last.locator("a")
    assert [link.get_attribute("href") for link in links.all()] == ["https://ok.example/a", "mailto:mail@ok.example"]
    expect(app.answers.nth(0).locator(".prose")).to_have_text(ELEMENTS[0])


def test_file_names_and_texts(open_app: Open) -> None:
    app = open_app()
    names = file_name_payloads()[:3]
    app.attach(*({"name": name, "mimeType": "text/plain", "buffer": ELEMENTS[0].encode()} for name in names))
    app.send("say: read")
    expect(app.questions.locator(".chip-name").first).to_have_text(names[0])
    assert app.page.evaluate(OFFENCES) == []


def test_tokens_of_the_playground(open_app: Open) -> None:
    app = open_app()
    token = "<img src=x onerror=alert(1)>"
    choice = {
        "index": 0, "text": token, "finish_reason": "stop",
        "logprobs": {
            "tokens": [token], "token_logprobs": [-0.5], "top_logprobs": [{token: -0.5, BREAKOUTS[0]: -1.0}],
        },
    }  # fmt: skip
    body = f"data: {json.dumps({'choices': [choice]})}\n\ndata: [DONE]\n\n"
    app.fake("**/v1/completions", content_type="text/event-stream", body=body)
    app.go("playground")
    app.page.get_by_role("button", name="Complete").click()
    app.page.locator(".tokens .token").hover()
    expect(app.page.locator(".token-card")).to_contain_text(BREAKOUTS[0])
    assert app.page.evaluate(OFFENCES) == []


def test_model_names_and_errors_of_a_server(open_app: Open) -> None:
    app = open_app()
    app.expected_complaints.append("500")
    names = ELEMENTS + BREAKOUTS
    cards = [{"id": name, "name": name, "capabilities": {"completion_chat": True}} for name in names]
    app.fake("**/v1/models", json={"object": "list", "data": cards})
    app.fake("**/v1/chat/completions", status=500, json={"message": ELEMENTS[0]})
    app.page.reload()
    expect(app.page.get_by_label("Model", exact=True).locator("option")).to_have_count(len(names))
    app.send("x")
    expect(app.answers.get_by_role("alert")).to_contain_text(ELEMENTS[0])
    assert app.page.evaluate(OFFENCES) == []


def test_the_browser_itself_refuses_what_our_code_might_let_through(open_app: Open) -> None:
    app = open_app()
    app.expected_complaints += ["Trusted", "TrustedHTML", "Content Security Policy", "violates"]
    refused = app.page.evaluate(
        """() => {
          const attempts = [
            () => (document.createElement("div").innerHTML = "<b>x</b>"),
            () => document.write("<b>x</b>"),
            () => setTimeout("window.ran = 1", 0),
            () => (document.body.appendChild(document.createElement("script")).textContent = "window.ran = 1"),
          ];
          return attempts.map((attempt) => { try { attempt(); return false; } catch { return true; } });
        }"""
    )
    assert refused == [True] * 4
    assert app.page.evaluate("window.ran") is None


def test_adversarial_markdown_comes_to_an_end_and_nests_in_bounds(open_app: Open) -> None:
    app = open_app()
    n = 20_000
    texts = [
        *("*" * n, "*a **b" * n, "[" * n + "](" * n, "![" * n, ">" * n, "> " * n, "- " * n, "- a\n" * n, "- a\n\n" * n),
        *("|" * n + "\n" + "|-" * n, "a" + " " * n + "b\n", "# " + " " * n + "x", "http://" + ")" * n, "~~a" * n),
        *("`" * n + "a", "_a_" * n, "\\" * n, "&a" * n, "*a **b " * 5000 + "** *" * 5000),
        "\n".join(" " * (2 * i) + "- a" for i in range(400)),
    ]
    app.page.evaluate("texts => { window.texts = texts; }", texts)
    depths = app.page.wait_for_function(
        """async () => {
          const { MarkdownView } = await import("./js/markdown_view.js");
          const depth = (node) => 1 + Math.max(0, ...[...node.children].map(depth));
          return window.texts.map((text) => {
            const view = new MarkdownView();
            view.update(text);
            return depth(view.element);
          });
        }""",
        timeout=120_000,  # where a pass is quadratic it takes far longer
    ).json_value()
    assert len(depths) == len(texts)
    assert max(depths) < 200


def test_markdown_as_models_write_it(open_app: Open) -> None:
    app = open_app()
    text = (
        "## Title\n\n1. one\n2. two\n   - sub `x`\n\n| a | b |\n|:--|--:|\n| 1 | **2** |\n\n> quoted\n\n"
        "```python\ndef f(x):  # why\n"
        '    return "s"\n```\n- [x] done\n- [ ] open\n\n~~old~~ snake_case_name https://ok.example/p_(q).\n\n---'
    )
    app.send(f"say: {text}")
    answer = app.answers.locator(".prose")
    expect(answer.locator("h3.level-2")).to_have_text("Title")
    expect(answer.locator("ol > li")).to_have_count(2)
    expect(answer.locator("ol ul code")).to_have_text("x")
    expect(answer.locator("td").nth(1)).to_have_class("align-right")
    expect(answer.locator("blockquote")).to_have_text("quoted")
    expect(answer.locator(".code-keyword")).to_have_text(["def", "return"])
    expect(answer.locator(".code-comment")).to_have_text("# why")
    expect(answer.locator("li.task input:checked")).to_have_count(1)
    expect(answer.locator("s")).to_have_text("old")
    expect(answer.locator("p a")).to_have_attribute("href", "https://ok.example/p_(q)")
    expect(answer.locator("p").last).to_contain_text("snake_case_name")
    expect(answer.locator("hr")).to_have_count(1)


def test_text_that_arrives_bit_by_bit_looks_as_if_it_had_come_at_once(open_app: Open) -> None:
    app = open_app()
    text = (
        "Title\n---\n\n- a\n- b\n\n  more of b\n  1. x\n\n> quote\nlazily on\n\n"
        "para **bold\nstill** `co\n\nde` end\n***\n"
        "| a | b |\n|---|---|\n| 1 | 2 |\nafter\n\n```py\nx = 1\n\n- not a list\n```\n"
        "# H #\n### deeper\n- ## in a list\n~~~\nopen\n\nfence\n~~~\n"
        "1) one\n3) three\n===\n[l](https://ok.example)"
    )
    differing = app.page.evaluate(
        """async (text) => {
          const { MarkdownView } = await import("./js/markdown_view.js");
          const differing = [];
          for (const step of [1, 2, 5, 17]) {
            const growing = new MarkdownView();
            for (let end = step; end < text.length + step; end += step) {
              const fresh = new MarkdownView();
              fresh.update(text.slice(0, end));
              growing.update(text.slice(0, end));
              if (growing.element.outerHTML !== fresh.element.outerHTML) differing.push([step, end]);
            }
          }
          return differing;
        }""",
        text,
    )
    assert differing == []


def test_thoughts_are_kept_apart_in_either_dialect(open_app: Open) -> None:
    app = open_app()
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm <b>.</b>"}]}
    dialects: list[list[dict[str, Any]]] = [
        [{"reasoning_content": "Hm "}, {"reasoning_content": "<b>.</b>"}, {"content": "Done"}],
        [
            {"content": [thinking]},
            {"content": [{"type": "thinking", "thinking": []}, {"type": "text", "text": "Done"}]},
        ],
    ]
    for deltas in dialects:
        chunks = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
        body = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
        app.fake("**/chat/completions", content_type="text/event-stream", body=body)
        app.send("x")
        expect(app.answers.last.locator(".prose")).to_have_text("Done")
        app.answers.last.get_by_text("Thoughts").click()
        expect(app.answers.last.locator(".thoughts > div")).to_have_text("Hm <b>.</b>")
