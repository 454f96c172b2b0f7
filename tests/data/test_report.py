from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import numpy as np

from tramontane.data.report import SourceReport, markdown, write_report
from tramontane.data.report_page import bars

EVIL = "<script>alert(1)</script> | pipe\nline"


def report() -> SourceReport:
    source = SourceReport("notes", num_records=7)
    source.train.count(np.arange(10), np.arange(10) < 4, 42)
    for number in range(5):
        source.drop(EVIL, f"file:{number}", 100, EVIL)
    source.show("file:9", EVIL)
    return source


def test_a_report_survives_json() -> None:
    assert SourceReport.from_json(report().to_json()) == report()


def test_numbers_reasons_and_at_most_three_examples() -> None:
    page = markdown("Title", [report()], ["a note"])
    assert "| notes | 7 | 1 | 10 | 4 | 4.20 | 0 | 5 |" in page
    assert "| 5 | 500 |" in page
    assert page.count("file:") == 4
    assert "<script" not in page
    rows = [line for line in page.split("\n") if line.startswith("|")]
    assert all(line.replace("\\|", "").count("|") in (5, 9) for line in rows)


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)


def test_the_page_has_plots_and_runs_nothing(tmp_path: Path) -> None:
    write_report(tmp_path, EVIL, [report()], [EVIL])
    parser = Tags()
    parser.feed((tmp_path / "report.html").read_text())
    assert parser.tags.count("svg") == 3
    assert parser.tags.count("rect") == 3
    assert not {"script", "link", "img", "iframe"} & set(parser.tags)
    assert (tmp_path / "report.json").exists()


def test_bars_are_scaled_to_the_largest() -> None:
    drawn = bars([("a", 50), ("b", 100), ("c", 0)])
    widths = [float(part.split('"')[0]) for part in drawn.split('width="')[1:]]
    assert widths == [270.0, 540.0, 0.0]
    assert bars([]) == "<p>None.</p>"
