"""One browser and one server at a time; every page is watched for scripts that run and hosts that are contacted."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Dialog, Page, expect, sync_playwright

from tests.browser.app import App
from tests.server.live import LiveServer, start_server
from tests.system import require
from tests.tiny_checkpoint import write_tiny_checkpoint

PATIENCE_MS = 90_000  # until something is taken never to come: machines that run tests may be slow
ARGUMENTS = (
    "--no-sandbox",  # containers run the tests as root, where Chromium's sandbox does not start
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Not for the session: while Playwright is started, an event loop runs that tests elsewhere cannot start beside."""
    require("chromium")
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        expect.set_options(timeout=PATIENCE_MS)
        browser = playwright.chromium.launch(executable_path=executable, args=list(ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny", max_seq_len=2048)


@pytest.fixture(scope="session")
def server(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """One model under two names."""
    models = [f"{name}={checkpoint}" for name in ("tiny", "other")]
    arguments = [*models, "--price-per-hour", 2, "--fine-tuning-nice", 0]
    live = start_server(tmp_path_factory.mktemp("home"), arguments, module="tests.browser.scripted_serve")
    yield live
    assert live.stop() == 0, live.log.read_text(encoding="utf-8")


@pytest.fixture
def open_app(browser: Browser, server: LiveServer) -> Iterator[Callable[..., App]]:
    """Opens the page in a fresh profile. When the test ends, nothing may have run, failed or gone elsewhere."""
    opened: list[tuple[BrowserContext, Watch]] = []

    def open_page(*, url: str = server.url, width: int = 1100, height: int = 800, **options: Any) -> App:
        context = browser.new_context(
            viewport={"width": width, "height": height}, permissions=["clipboard-read", "clipboard-write"], **options
        )
        context.set_default_timeout(PATIENCE_MS)
        watch = Watch(context, url)
        opened.append((context, watch))
        page = context.new_page()
        page.goto(url)
        app = App(page, url, watch.expected)
        app.message.wait_for()
        return app

    yield open_page
    for context, watch in opened:
        context.close()
        assert watch.found == []


class Watch:
    """Collects what must not happen on any page: dialogs, uncaught errors, complaints on the console, and requests to
    anything but the server. `expected`: parts of console messages that a test provokes."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.found: list[str] = []
        self.expected: list[str] = []
        self.url = url
        context.on("page", self.follow)
        context.on("weberror", lambda error: self.found.append(f"error: {error.error}"))
        context.on("request", lambda request: self.check_address(request.url))

    def follow(self, page: Page) -> None:
        page.on("dialog", self.dismiss)
        page.on("console", lambda message: self.check_console(message.type, message.text))

    def dismiss(self, dialog: Dialog) -> None:
        self.found.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def check_address(self, address: str) -> None:
        if not address.startswith((f"{self.url}/", "blob:", "about:")):
            self.found.append(f"request: {address}")

    def check_console(self, kind: str, text: str) -> None:
        if kind in ("error", "warning") and not any(part in text for part in self.expected):
            self.found.append(f"{kind}: {text}")
