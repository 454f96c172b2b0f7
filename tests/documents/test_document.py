"""Files of every kind become their text; damaged and hostile ones become one line."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import pypdf
import pytest

from tests.documents.sample_files import docx_of, pdf_of, zip_of
from tramontane.documents import parse_document, read_document
from tramontane.documents.document import MAX_BYTES, kind_of
from tramontane.documents.word import MAX_MEMBERS, check_archive
from tramontane.errors import DataError

PAGE = (
    b"<!doctype html><html><head><title>Winds</title><style>p { color: red }</style><script>alert('x')</script></head>"
    b"<body><nav><a href='/'>Home</a></nav><article><h1>The tramontane</h1>"
    + b"<p>The tramontane blows from the north over the Languedoc, dry and cold, for days on end.</p>" * 8
    + "<p>Its sister, the mistral, follows the Rhône.</p></article></body></html>".encode()
)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"plain", "plain"),
        ("été".encode(), "été"),
        ("\ufeffété".encode(), "été"),
        ("été".encode("utf-16"), "été"),
        (b"# Head\n\nText.\n", "# Head\n\nText.\n"),
        (b"GIF89a is how such a picture begins", "GIF89a is how such a picture begins"),
        (b"BMW and MZ", "BMW and MZ"),
    ],
)
def test_text_files(tmp_path: Path, data: bytes, text: str) -> None:
    path = tmp_path / "notes.md"
    path.write_bytes(data)
    document = read_document(path)
    assert document.text == text
    assert document.name == str(path)


def test_pdf() -> None:
    assert parse_document(pdf_of("First page.", "Second page."), "a.pdf").text == "First page.\n\nSecond page."


def test_encrypted_pdf_names_the_remedy() -> None:
    import io

    writer = pypdf.PdfWriter(io.BytesIO(pdf_of("Secret.")))
    writer.encrypt("password", algorithm="RC4-128")
    out = io.BytesIO()
    writer.write(out)
    with pytest.raises(DataError, match=r"^a.pdf: encrypted PDF; remove its password"):
        parse_document(out.getvalue(), "a.pdf")


def test_pdf_without_text_points_to_ocr() -> None:
    with pytest.raises(DataError, match=r"^scan.pdf: holds no text; a scan needs OCR"):
        parse_document(pdf_of(""), "scan.pdf")


def test_docx_keeps_the_order_of_headings_paragraphs_and_tables() -> None:
    data = docx_of("Winds", "Two winds are known.", table=[["name", "from"], ["mistral", "north-west"]])
    assert parse_document(data, "a.docx").text == (
        "# Winds\n\nTwo winds are known.\n\nname | from\nmistral | north-west"
    )


def test_html_gives_the_article_and_no_script() -> None:
    text = parse_document(PAGE, "page").text
    assert "The tramontane blows" in text
    assert "Rhône" in text
    assert "alert" not in text
    assert "color" not in text


def test_html_without_an_article_gives_all_visible_text() -> None:
    assert parse_document(b"<html><script>let x</script><div>Just this</div></html>", "x").text == "Just this"


@pytest.mark.parametrize(
    ("data", "name", "content_type", "kind"),
    [
        (b"%PDF-1.7", "x.txt", "", "pdf"),
        (b"\n%PDF-1.7", "", "", "pdf"),
        (b"PK\x03\x04..", "x.pdf", "", "docx"),
        (b"  <HTML>", "", "", "html"),
        (b"<p>x", "x.HTM", "", "html"),
        (b"<p>x", "x.html", "text/plain", "text"),
        (b"x", "", "text/html", "html"),
        (b"x", "x.md", "", "text"),
    ],
)
def test_kind_follows_the_content(data: bytes, name: str, content_type: str, kind: str) -> None:
    assert kind_of(data, name, content_type) == kind


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "holds no text$"),
        (b" \n\t", "holds no text$"),
        (b"caf\xe9", r"byte 0xe9 at 3.*iconv"),
        (b"a\0b", "NUL byte at 1"),
        (b"\x89PNG\r\n\x1a\n\0\0", r"a picture \(PNG\); pictures are not read; .*OCR"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", r"a picture \(JPEG\)"),
        (b"GIF89a\x01\0\x01\0\x80", r"a picture \(GIF\)"),
        (b"RIFF\x24\0\0\0WEBPVP8 ", r"a picture \(WebP\)"),
        (b"RIFF\x24\0\0\0WAVEfmt ", r"sound \(WAV\)"),
        (b"\0\0\0\x18ftypmp42\0\0", r"a film \(MP4\)"),
        (b"\0\0\0\x1cftypheic\0\0", r"a picture \(HEIC\)"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\0", "older Office programs.*docx or PDF"),
        (gzip.compress(b"text"), r"\(gzip\); unpack it first"),
        (b"\xff\xfea", "neither PDF"),
        (b"%PDF-1.4 and nothing else", "damaged"),
        (pdf_of("x")[:200], "damaged|no text"),
        (b"PK\x03\x04 and nothing else", "damaged archive"),
        (zip_of({"a.txt": b"x"}), "not a Word document"),
        (zip_of({"word/document.xml": b"<not-word/>"}), "damaged"),
    ],
)
def test_damaged_files_give_one_line_naming_the_file(data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        parse_document(data, "my file")
    assert str(caught.value).startswith("my file: ")
    assert "\n" not in str(caught.value)


def test_missing_file_folder_and_foreign_scheme(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_document(tmp_path / "none.txt")
    with pytest.raises(DataError, match="not a file"):
        read_document(tmp_path)
    for url in ("file:///etc/passwd", "ftp://example.org/x", "gopher://x"):
        with pytest.raises(DataError, match="only http and https"):
            read_document(url)


def test_file_beyond_the_limit_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "huge.txt"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(DataError, match="larger than 64 MiB"):
        read_document(path)


def test_docx_bombs_are_refused_before_unpacking() -> None:
    document = zip_of({"word/document.xml": b"\0" * (8 << 20)})  # 1:1000
    with pytest.raises(DataError, match="more than 1:200; refused as a bomb"):
        check_archive(document)
    with pytest.raises(DataError, match="members, more than"):
        check_archive(zip_of({"word/document.xml": b"", **{f"{i}": b"" for i in range(MAX_MEMBERS)}}))
    many = zip_of({"word/document.xml": b"", **{f"m{i}": bytes(1 << 20) for i in range(257)}})
    with pytest.raises(DataError, match="unpacks to"):
        check_archive(many)


def test_docx_that_lies_about_its_sizes_is_refused() -> None:
    """The declared size is what is read at most: a smaller one than the truth fails the checksum."""
    data = bytearray(zip_of({"word/document.xml": b"<x>" * 100_000, "[Content_Types].xml": b"x" * 64}))
    for magic, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = data.find(magic) + offset
        data[at : at + 4] = (10).to_bytes(4, "little")
    with pytest.raises(DataError, match="damaged"):
        parse_document(bytes(data), "liar.docx")


def test_entity_bombs_and_outside_entities_in_docx_stay_inert(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("CANARY")
    good = docx_of("Title", "Body.")
    import io
    import zipfile

    entities = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 12))
    head = f'<?xml version="1.0"?><!DOCTYPE w [<!ENTITY e0 "x">{entities}<!ENTITY f SYSTEM "file://{secret}">]>'
    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    xml = members["word/document.xml"].decode()
    for reference in ("&e11;", "&f;"):
        body = xml.partition("?>")[2].replace("Body.", f"Body{reference}.")
        try:
            text = parse_document(zip_of({**members, "word/document.xml": (head + body).encode()}), "x.docx").text
        except DataError:
            continue
        assert "CANARY" not in text
        assert len(text) < 1000


def test_pdf_bomb_ends_within_the_limits() -> None:
    """A page of 256 MiB of zeros in 256 kB."""
    packer = zlib.compressobj(9)
    body = b"".join(packer.compress(bytes(1 << 20)) for _ in range(256)) + packer.flush()
    with pytest.raises(DataError, match=r"^bomb.pdf: "):
        parse_document(pdf_of("", filter_bytes=body), "bomb.pdf")


def test_a_module_in_the_current_folder_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    canary = tmp_path / "canary"
    for name in ("pypdf", "json", "tramontane"):
        (tmp_path / f"{name}.py").write_text(f"open({str(canary)!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    assert parse_document(pdf_of("Text."), "a.pdf").text == "Text."
    assert not canary.exists()
