"""Files made to cost far more than they weigh end with a text or with one line, within their limits."""

from __future__ import annotations

import asyncio
import resource

import pytest

from tests.documents.hostile_files import HOSTILE, mutated
from tests.documents.sample_files import docx_of, pdf_of
from tramontane.documents.document import kind_of
from tramontane.documents.sandbox import Limits, run_parser_async
from tramontane.errors import DataError

LIMITS = Limits(cpu_s=3, memory_bytes=256 << 20, max_chars=2_000_000)


def end_of(data: bytes, name: str) -> tuple[str, float]:
    """What it ends with, text or line, and the seconds of processor time it took."""
    kind = kind_of(data, name)
    assert kind != "text"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    try:
        end = asyncio.run(run_parser_async(kind, data, name=name, limits=LIMITS))
        assert len(end) <= LIMITS.max_chars
    except DataError as error:
        end = str(error)
        assert end.startswith(f"{name}: ")
        assert "\n" not in end
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return end, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize("name", HOSTILE)
def test_no_file_takes_more_than_its_limits(name: str) -> None:
    _, cpu_s = end_of(HOSTILE[name](30_000), name)
    assert cpu_s <= LIMITS.cpu_s + 1.5  # the kernel counts in ticks


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("attributes.html", 300_000, "more than 3 s of processor time"),
        ("nested.html", 1_000_000, "1,000,0.. tags, more than 500,000"),
        ("nested.html", 100_000, "beyond what is read of a page: Excessive depth"),
        ("ascii85.pdf", 300_000, "more than 256 MiB of memory"),
        ("paragraphs.docx", 400_000, "more than 3 s of processor time|MiB of memory"),
        ("wide_cell.docx", 50_000, "a table cell over 50,000,000 columns"),
        ("merged_text.docx", 30_000, "holds more than 2,000,000 characters"),
        ("pages.pdf", 100_000, "100000 pages, more than 5000"),
        ("zeros.docx", 30_000, "refused as a bomb"),
    ],
)
def test_the_line_names_the_limit(name: str, size: int, message: str) -> None:
    end, cpu_s = end_of(HOSTILE[name](size), name)
    with pytest.raises(DataError, match=message):
        raise DataError(end)
    assert cpu_s <= LIMITS.cpu_s + 1.5


@pytest.mark.parametrize("seed", range(6))
def test_changed_files_end_the_same_way(seed: int) -> None:
    names = sorted(HOSTILE)
    name = names[seed * 7919 % len(names)]
    for of, data in ((name, HOSTILE[name](300)), ("a.pdf", pdf_of("One.", "Two.")), ("a.docx", docx_of("One", "two."))):
        changed = mutated(data, seed)
        if kind_of(changed, of) != "text":
            _, cpu_s = end_of(changed, of)
            assert cpu_s <= LIMITS.cpu_s + 1.5


def test_a_page_with_much_text_in_one_place_keeps_all_of_it() -> None:
    """libxml2 by itself leaves out texts from 10 MB on, and everything below 256 elements, without a word."""
    deep = b"<div>" * 300 + b"Far down." + b"</div>" * 300
    assert end_of(b"<html><body>" + deep + b"</body></html>", "x.html")[0] == "Far down."
