"""Documents made to cost far more than they weigh: every kind named in HOSTILE, in any size."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable

from tests.documents.sample_files import docx_of, pdf_file, pdf_of, unzipped, zip_of

W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'


def page(body: bytes, head: bytes = b"") -> bytes:
    return b"<!doctype html><html><head>" + head + b"</head><body>" + body + b"</body></html>"


def pdf_stream(content: bytes, coding: bytes) -> bytes:
    """A page whose content is encoded as `coding` says."""
    plain = pdf_of("", filter_bytes=content)
    return plain.replace(b"/Filter /FlateDecode", b"/Filter " + coding)


CATALOGUE = b"<< /Type /Catalog /Pages 2 0 R >>"
FORM = (
    b"<< /Type /XObject /Subtype /Form /Resources << /XObject << /X %d 0 R >> >> /Length 12 >>\n"
    b"stream\n/X Do /X Do\nendstream"
)


def docx_body(body: str) -> bytes:
    members = unzipped(docx_of("Title"))
    text = f'<?xml version="1.0"?><w:document {W}><w:body>{body}</w:body></w:document>'
    return zip_of(members | {"word/document.xml": text.encode()})


def paragraph(text: object, properties: str = "") -> str:
    return f"<w:p>{properties}<w:r><w:t>{text}</w:t></w:r></w:p>"


def cell(text: object, properties: str = "") -> str:
    return f"<w:tc><w:tcPr>{properties}</w:tcPr>{paragraph(text)}</w:tc>"


def table(rows: list[list[str]]) -> str:
    return f"<w:tbl>{''.join('<w:tr>' + ''.join(row) + '</w:tr>' for row in rows)}</w:tbl>"


def words(count: int) -> list[str]:
    """That do not compress to nothing."""
    return [f"{number * 7919 % 1_000_003:x}" for number in range(count)]


HOSTILE: dict[str, Callable[[int], bytes]] = {
    "attributes.html": lambda n: page(b"<p " + b" ".join(b"a%d=1" % i for i in range(n)) + b">x</p>"),
    "attributes_of_many_tags.html": lambda n: page(
        (b"<p " + b" ".join(b"a%d=1" % i for i in range(300)) + b">xxxx</p>") * (n // 300)
    ),
    "nested.html": lambda n: page(b"<div>" * n + b"x"),
    "unclosed_formatting.html": lambda n: page(b"<b><p>x " * n),
    "one_attribute.html": lambda n: page(b"<p a='" + b"x" * (100 * n) + b"'>hello</p>"),
    "one_text.html": lambda n: page(b"word " * (20 * n)),
    "entities.html": lambda n: page(b"&amp;&lt;&#x41;&CounterClockwiseContourIntegral;" * n),
    "paragraphs.html": lambda n: page(b"<article>" + b"<p>a b c" * n),
    "rows.html": lambda n: page(b"<table>" + b"<tr><td>a<td>b" * n),
    "lists.html": lambda n: page(b"<ul><li>" * 120 + b"<li>x y" * n),
    "comments.html": lambda n: page(b"<!-->" * n),
    "never_closed.html": lambda n: page(b"<a " * n),
    "less_than.html": lambda n: page(b"<" * n),
    "nul.html": lambda n: page(b"\0" * (50 * n)),
    "metadata.html": lambda n: page(b"x", b"<meta property='og:title' content='x'>" * n),
    "linked_data.html": lambda n: page(
        b"x", b'<script type="application/ld+json">{"author":"' + b"a" * (50 * n) + b'"}</script>'
    ),
    "ascii85.pdf": lambda n: pdf_stream(b"z" * (60 * n) + b"~>", b"/ASCII85Decode"),
    "hexadecimal.pdf": lambda n: pdf_stream(b"20" * (50 * n) + b">", b"/ASCIIHexDecode"),
    "run_length.pdf": lambda n: pdf_stream(b"\x81 " * (30 * n), b"/RunLengthDecode"),
    "flate.pdf": lambda n: pdf_stream(zlib.compress(b"\0" * (3000 * n), 9), b"/FlateDecode"),
    "flate_twice.pdf": lambda n: pdf_stream(
        zlib.compress(zlib.compress(b" " * (3000 * n), 9), 9), b"[/FlateDecode /FlateDecode]"
    ),
    "lzw.pdf": lambda n: pdf_stream(random.Random(1).randbytes(10 * n), b"/LZWDecode"),
    "operators.pdf": lambda n: pdf_stream(
        zlib.compress(b"BT /F1 12 Tf " + b"(a) Tj " * (6 * n) + b"ET"), b"/FlateDecode"
    ),
    "one_string.pdf": lambda n: pdf_stream(
        zlib.compress(b"BT /F1 12 Tf (" + b"a" * (100 * n) + b") Tj ET"), b"/FlateDecode"
    ),
    "brackets.pdf": lambda n: pdf_stream(zlib.compress(b"[" * (10 * n)), b"/FlateDecode"),
    "pages.pdf": lambda n: pdf_file(
        CATALOGUE,
        b"<< /Type /Pages /Kids [" + b"3 0 R " * n + b"] /Count %d >>" % n,
        b"<< /Type /Page /Parent 2 0 R >>",
    ),
    "deep_pages.pdf": lambda n: pdf_file(
        CATALOGUE, *(b"<< /Type /Pages /Kids [%d 0 R] /Count 1 >>" % (i + 3) for i in range(n)), b"<< /Type /Page >>"
    ),
    "pages_of_pages.pdf": lambda n: pdf_file(
        CATALOGUE, *(b"<< /Type /Pages /Kids [%d 0 R %d 0 R] /Count 9 >>" % (i + 3, i + 3) for i in range(min(n, 40))),
        b"<< /Type /Page >>",
    ),
    "pages_in_a_circle.pdf": lambda n: pdf_file(CATALOGUE, b"<< /Type /Pages /Kids [2 0 R 2 0 R] /Count 5 >>"),
    "nested_objects.pdf": lambda n: pdf_file(CATALOGUE, b"<< /A " * n + b">>"),
    "objects.pdf": lambda n: pdf_file(CATALOGUE, *([b"<< /A 1 >>"] * n)),
    "tables_in_a_circle.pdf": lambda n: b"%PDF-1.4\nxref\n0 1\n0000000000 65535 f \ntrailer << /Size 2 /Root 1 0 R "
    b"/Prev 9 >>\nstartxref\n9\n%%EOF\n" * max(1, n // 1000),
    "forms_of_forms.pdf": lambda n: pdf_file(
        CATALOGUE,
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /Contents 4 0 R /Resources << /XObject << /X 5 0 R >> >> >>",
        b"<< /Length 12 >>\nstream\n/X Do /X Do\nendstream",
        *(FORM % (i + 6) for i in range(min(n, 30))),
        b"<< /Length 1 >>\nstream\n \nendstream",
    ),
    "paragraphs.docx": lambda n: docx_body("".join(map(paragraph, words(n)))),
    "runs.docx": lambda n: docx_body(f"<w:p>{''.join(f'<w:r><w:t>{w}</w:t></w:r>' for w in words(n))}</w:p>"),
    "rows.docx": lambda n: docx_body(table([[cell(word), cell("")] for word in words(n // 2)])),
    "columns.docx": lambda n: docx_body(table([[cell(word) for word in words(n // 2)]])),
    "merged_rows.docx": lambda n: docx_body(table([[cell(word, "<w:vMerge/>")] for word in words(n // 2)])),
    "merged_text.docx": lambda n: docx_body(
        table([[cell(" ".join(words(n)))], *([[cell("", "<w:vMerge/>")]] * n)])
    ),
    "wide_cell.docx": lambda n: docx_body(table([[cell("x", f'<w:gridSpan w:val="{1000 * n}"/>')]])),
    "nested_tables.docx": lambda n: docx_body(
        "<w:tbl><w:tr><w:tc>" * min(n, 60) + "<w:p/>" + "</w:tc></w:tr></w:tbl>" * min(n, 60)
    ),
    "nested.docx": lambda n: docx_body("<w:p>" * n + " ".join(words(n)) + "</w:p>" * n),
    "attributes.docx": lambda n: docx_body(f"<w:p {' '.join(f'a{word}=' + repr('1') for word in words(n))}/>"),
    "zeros.docx": lambda n: zip_of({"word/document.xml": b"\0" * (300 * n)}),
    "members.docx": lambda n: zip_of({"word/document.xml": b"", **{str(i): b"x" for i in range(n)}}),
}  # fmt: skip
"""By what is hostile in them, with the suffix of their kind; the size is about how many of it there are."""


def mutated(data: bytes, seed: int) -> bytes:
    """Some bytes changed, a part repeated or left out."""
    random_ = random.Random(seed)
    changed = bytearray(data)
    for _ in range(random_.randint(1, 8)):
        place = random_.randrange(len(changed))
        part = changed[place : place + random_.randint(1, 200)]
        changed[place : place + random_.choice((0, 1, len(part)))] = random_.choice(
            (b"", part * random_.randint(1, 50), random_.randbytes(4))
        )
    return bytes(changed) or b"x"
