"""The usage page shows what the server counts."""

from __future__ import annotations

import re
from collections.abc import Callable

import httpx
from playwright.sync_api import expect

from tests.browser.app import App

Open = Callable[..., App]


def counted(url: str, name: str) -> float:
    text = httpx.get(f"{url}/metrics", timeout=60).text
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name + "{"))


def tile(app: App, name: str) -> str:
    return app.page.locator(".tile", has_text=re.compile(f"^{name}")).locator("dd").first.inner_text()


def test_tiles_and_plots_agree_with_the_metrics(open_app: Open) -> None:
    app = open_app()
    app.send("say: something to count")
    app.page.get_by_role("link", name="Usage").click()
    plot = app.page.locator(".plot", has=app.page.get_by_role("heading", name="Requests by route"))
    expect(plot.locator("rect").first).to_be_visible()
    num_requests = counted(app.url, "tramontane_requests_total")
    assert num_requests >= 1
    assert tile(app, "Requests") == f"{num_requests:.0f}"
    plot.get_by_text("Numbers").click()
    rows = {row.locator("th").inner_text(): row.locator("td").inner_text() for row in plot.locator("tbody tr").all()}
    assert sum(int(value) for value in rows.values()) == num_requests
    plot.locator("svg").hover()
    expect(plot.locator(".plot-tip")).to_contain_text("Requests: ")


def test_figures_follow_while_the_page_is_open(open_app: Open) -> None:
    app = open_app()
    app.send("say: first")
    app.page.get_by_role("link", name="Usage").click()
    expect(app.page.locator(".tile").first).to_be_visible()
    before = int(tile(app, "Requests"))
    other = app.page.context.new_page()
    other.goto(app.url)
    App(other, app.url, app.expected_complaints).send("say: second")
    app.page.bring_to_front()
    expect(app.page.locator(".tile dd").first).to_have_text(str(before + 1))


def test_a_key_without_the_right_is_told_so(open_app: Open) -> None:
    app = open_app()
    app.expected_complaints.append("403")
    app.fake("**/metrics", status=403, json={"message": "forbidden"})
    app.go("usage")
    expect(app.page.get_by_text("Your key may not read")).to_be_visible()
