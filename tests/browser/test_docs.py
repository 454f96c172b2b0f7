"""The API pages under their policy: they show every route, try one, and nothing of them is refused by the browser."""

from __future__ import annotations

from playwright.sync_api import Browser, expect

from tests.server.live import LiveServer


def test_the_api_pages_work_under_their_policy(browser: Browser, server: LiveServer) -> None:
    said: list[str] = []
    asked: list[str] = []
    with browser.new_context() as context, context.new_page() as page:
        page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        answer = page.goto(f"{server.url}/docs")
        assert answer is not None
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        operation = page.locator("#operations-server-health_health_get")
        operation.locator("button").first.click()
        operation.get_by_role("button", name="Try it out").click()
        operation.get_by_role("button", name="Execute").click()
        expect(operation.locator(".live-responses-table tbody .response-col_status").first).to_contain_text("200")
        assert page.locator(".opblock").count() > 30
        hidden = page.evaluate("getComputedStyle(document.querySelector('.opblock')).borderRadius")
        assert hidden != "0px", "the style sheet is not applied"
    assert said == []
    assert all(url.startswith((server.url, "data:")) for url in asked), asked
