"""App: the page as its users speak of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, Page, Request, Route, expect


class App:
    def __init__(self, page: Page, url: str, expected: list[str]) -> None:
        self.page = page
        self.url = url
        self.expected_complaints = expected
        self.message = page.get_by_label("Message", exact=True)
        self.answers = page.locator(".message.assistant")
        self.questions = page.locator(".message.user")

    def send(self, text: str, *, wait: bool = True) -> None:
        count = self.answers.count()
        self.message.fill(text)
        self.message.press("Enter")
        expect(self.answers).to_have_count(count + 1)
        if wait:
            self.wait()

    def wait(self) -> None:
        """Until no answer is on its way."""
        expect(self.page.locator('.message[aria-busy="true"]')).to_have_count(0)

    def tool(self, message: Locator, name: str) -> Locator:
        """A button below a message; they show when it is pointed at."""
        message.hover()
        return message.get_by_role("button", name=name, exact=True)

    def attach(self, *files: Path | dict[str, Any]) -> None:
        self.page.locator("input[type=file][multiple]").set_input_files(list(files))  # type: ignore[arg-type]
        expect(self.page.locator(".composer .chip:not(.reading)")).to_have_count(len(files))

    def go(self, page: str) -> None:
        self.page.goto(f"{self.url}/#/{page}")

    def conversation_menu(self, title: str, item: str) -> None:
        row = self.page.locator(".conversation-row", has_text=title)
        row.hover()
        row.get_by_role("button").click()
        self.page.get_by_role("menuitem", name=item, exact=True).click()

    def bodies(self, path: str) -> list[dict[str, Any]]:
        """Bodies of the requests to `path`; it grows with every request from now on."""
        found: list[dict[str, Any]] = []

        def note(request: Request) -> None:
            if request.url.endswith(path):
                found.append(json.loads(request.post_data or "{}"))

        self.page.on("request", note)
        return found

    def fake(self, pattern: str, **answer: Any) -> None:
        """Answer requests to `pattern` at the network, with what no real server would say."""
        self.page.route(pattern, lambda route: route.fulfill(**answer))

    def hold(self, pattern: str) -> Callable[[], None]:
        """Keep requests to `pattern` waiting until what this returns is called."""
        held: list[Route] = []
        is_open = False

        def release() -> None:
            nonlocal is_open
            is_open = True
            for route in held:
                route.continue_()

        self.page.route(pattern, lambda route: route.continue_() if is_open else held.append(route))
        return release

    @property
    def titles(self) -> list[str]:
        return [text.split("\n")[0] for text in self.page.locator(".conversation-row a").all_inner_texts()]
