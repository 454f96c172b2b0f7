"""The usage page shows what the server has kept of its requests, and says so where there is nothing or no right."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import Locator, expect
from sqlalchemy import delete, insert

from tests.browser.app import App
from tests.browser.conftest import PATIENCE_MS
from tests.server.live import LiveServer
from tests.server.test_usage import ROW
from tramontane.server.store.database import open_database
from tramontane.server.store.tables import Usage
from tramontane.server.usage.writer import BATCH_S

Open = Callable[..., App]
DAY_S = 86_400


def report(url: str, **params: Any) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{url}/api/usage", params=params, timeout=60).raise_for_status().json()
    return found


def tile(app: App, name: str) -> Locator:
    return app.page.locator(".tile", has=app.page.get_by_text(name, exact=True)).locator("dd").first


def agreed(app: App) -> Any:
    """The totals of the last 30 days, once all that was asked is written down and the page has followed."""
    app.page.wait_for_timeout(2000 * BATCH_S)
    until = time.monotonic() + PATIENCE_MS / 1000
    while True:
        totals = report(app.url, since=time.time() - 29.5 * DAY_S)["totals"]
        if tile(app, "Requests").inner_text() == f"{totals['requests']}":
            return totals
        assert time.monotonic() < until, totals
        app.page.wait_for_timeout(200)


def plot(app: App, name: str) -> Locator:
    return app.page.locator(".plot", has=app.page.get_by_role("heading", name=name, exact=True))


def numbers(app: App, name: str) -> dict[str, list[str]]:
    """The table below a plot."""
    figure = plot(app, name)
    details = figure.locator("details")
    if details.get_attribute("open") is None:
        figure.get_by_text("Numbers").click()
    rows: list[list[str]] = figure.locator("tbody tr").evaluate_all(
        "rows => rows.map((row) => [...row.cells].map((cell) => cell.textContent))"
    )
    return {name: values for name, *values in rows}


@pytest.fixture
def past(server: LiveServer) -> Iterator[None]:
    """Requests of ten days ago, to a model that is no longer served."""
    database = open_database(f"sqlite:///{server.log.parent}/server/state.db")
    row = ROW | {"owner": "local", "key_id": "local", "model": "former", "ended_at": time.time() - 10 * DAY_S}
    with database.write() as session:
        session.execute(insert(Usage), [row, row | {"status": 503}])
    yield
    with database.write() as session:
        session.execute(delete(Usage).where(Usage.model == "former"))
    database.close()


def test_tiles_plots_and_tables_agree_with_the_rows(open_app: Open, past: None) -> None:
    app = open_app()
    app.send("say: something to count")
    app.page.get_by_role("link", name="Usage").click()
    expect(plot(app, "Requests by hour").locator("rect").first).to_be_visible()
    app.page.get_by_label("Period").select_option("Last 30 days")
    expect(plot(app, "Requests by day").locator("rect.series-1").first).to_be_visible()
    totals = agreed(app)
    assert tile(app, "Failures").inner_text() == f"{totals['failures']}"
    assert float(tile(app, "Cost").inner_text()) == pytest.approx(totals["cost"], rel=0.01)
    by_day = numbers(app, "Requests by day")
    assert len(by_day) == 30
    assert sum(int(answered) for answered, _ in by_day.values()) == totals["requests"] - totals["failures"]
    assert sum(int(failed) for _, failed in by_day.values()) == totals["failures"] >= 1
    first_token = numbers(app, "Mean time to the first token by day")
    assert list(first_token.values()).count(["1 s"]) == 1
    row = app.page.get_by_role("region", name="By model, numbers").get_by_role("row", name="former")
    assert row.locator("td").all_inner_texts()[:5] == ["2", "1", "200", "80", "22"]
    plot(app, "Requests by day").locator("svg").hover()
    expect(plot(app, "Requests by day").locator(".plot-tip")).to_contain_text("Answered: ")


def test_figures_follow_while_the_page_is_open(open_app: Open) -> None:
    app = open_app()
    app.send("say: first")
    app.page.get_by_role("link", name="Usage").click()
    numbers(app, "Requests by hour")
    before = int(tile(app, "Requests").inner_text())
    asked = {"model": "tiny", "messages": [{"role": "user", "content": "say: second"}]}
    httpx.post(f"{app.url}/v1/chat/completions", json=asked, timeout=60).raise_for_status()
    expect(tile(app, "Requests")).not_to_have_text(str(before))
    expect(plot(app, "Requests by hour").locator("tbody tr").last).to_be_visible()  # what was open has stayed so


def test_a_key_without_the_right_is_told_what_it_lacks(open_app: Open) -> None:
    app = open_app()
    app.expected_complaints.append("403")
    app.fake("**/api/usage*", status=403, json={"object": "error", "message": "this key lacks the scope 'usage'"})
    app.go("usage")
    alert = app.page.get_by_role("alert").filter(has_text="may not read usage")
    expect(alert).to_contain_text("tramontane keys create")
    expect(app.page.locator(".tile")).to_have_count(0)


def test_a_server_that_answered_nothing_says_so(open_app: Open) -> None:
    app = open_app()
    app.fake("**/api/usage*", json=report(app.url, since=2**39))
    app.go("usage")
    expect(app.page.get_by_text("No request has ended in the last 24 hours.")).to_be_visible()
    app.page.get_by_role("link", name="Ask something").click()
    expect(app.message).to_be_visible()


def test_without_a_price_nothing_is_said_to_cost_nothing(open_app: Open) -> None:
    app = open_app()
    app.send("say: something to count")
    app.page.route("**/api/usage*", lambda route: route.fulfill(json=unpriced(route.fetch().json())))
    app.page.get_by_role("link", name="Usage").click()
    expect(tile(app, "Cost")).to_have_text("–")
    expect(app.page.get_by_role("heading", name="Cost by hour")).to_have_count(0)


def unpriced(found: dict[str, Any]) -> dict[str, Any]:
    nothing = {"cost": None, "cost_per_million_tokens": None}
    data = [line | nothing for line in found["data"]]
    return found | {"price_per_hour": None, "data": data, "totals": found["totals"] | nothing}
