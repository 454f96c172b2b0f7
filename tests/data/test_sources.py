from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from tramontane.data.html_text import html_to_text
from tramontane.data.recipe import SourceRecipe
from tramontane.data.record import Record
from tramontane.data.sources import expand, read_file, read_records
from tramontane.errors import DataError

ROWS = [{"text": "first"}, {"text": "zweitens: ü"}]
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def fields(path: Path, split_on: str | None = None) -> list[object]:
    return [dict(record.fields) for record in read_file(path, path.name, "s", split_on)]


def written(tmp_path: Path, name: str, data: bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jsonl", JSONL),
        ("a.jsonl.gz", gzip.compress(JSONL, mtime=0)),
        ("a.jsonl.bz2", bz2.compress(JSONL)),
        ("a.jsonl.xz", lzma.compress(JSONL)),
        ("a.jsonl.zst", zstandard.compress(JSONL)),
        ("a.json", json.dumps(ROWS).encode()),
        ("b.json", JSONL),
        ("a.csv", "text\nfirst\nzweitens: ü\n".encode()),
        ("a.tsv", "text\nfirst\nzweitens: ü\n".encode("utf-8-sig")),
        ("odd! name.jsonl", JSONL),
    ],
)
def test_every_kind_of_table_gives_the_same_rows(tmp_path: Path, name: str, data: bytes) -> None:
    assert fields(written(tmp_path, name, data)) == ROWS


def test_parquet(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    assert fields(tmp_path / "a.parquet") == ROWS


def test_toml_is_one_record(tmp_path: Path) -> None:
    assert fields(written(tmp_path, "a.toml", b'[[topic]]\nname = "x"\n')) == [{"topic": [{"name": "x"}]}]


def test_text_is_one_document_unless_it_is_split(tmp_path: Path) -> None:
    path = written(tmp_path, "a.txt", "\ufeffone<|end|>two<|end|>".encode())
    assert fields(path) == [{"text": "one<|end|>two<|end|>"}]
    assert fields(path, "<|end|>") == [{"text": "one"}, {"text": "two"}, {"text": ""}]


def test_split_text_is_right_across_read_blocks(tmp_path: Path) -> None:
    documents = ["é" * 700_000, "b" * 400_001, "c"]
    path = written(tmp_path, "a.txt", "<|end|>".join(documents).encode())
    assert [row["text"] for row in fields(path, "<|end|>")] == documents  # type: ignore[index]


def test_members_of_archives_by_their_own_kind(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.xz"
    with tarfile.open(path, "w:xz") as archive:
        for name, data in {
            "x/one.txt": b"hello",
            "../evil.jsonl": JSONL,
            "x/two.md.gz": gzip.compress(b"# hi"),
        }.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    records = list(read_file(path, "a.tar.xz", "s"))
    assert [dict(record.fields) for record in records] == [{"text": "hello"}, *ROWS, {"text": "# hi"}]
    assert str(records[2].origin) == "a.tar.xz!../evil.jsonl:2"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.tar.xz"]  # nothing was extracted


def test_html_keeps_the_readable_text() -> None:
    page = (
        "<html><head><title>A page</title><style>p{}</style></head><body><nav>Menu</nav><p>First &amp;\n best."
        "<script>evil()</script></p><ul><li>one<li>two</ul><pre>a\n  b</pre><p>unclosed <b>bold"
    )
    read = html_to_text(page)
    assert read["title"] == "A page"
    assert read["text"].split("\n\n")[0] == "First & best."
    assert "one\ntwo" in read["text"]
    assert "a\nb" in read["text"]
    assert read["text"].endswith("unclosed bold")
    assert not any(word in read["text"] for word in ("Menu", "evil", "p{}"))


def test_blank_lines_keep_line_numbers(tmp_path: Path) -> None:
    records: list[Record] = list(read_file(written(tmp_path, "a.jsonl", b'\n\n{"text": "x"}\n'), "a.jsonl", "s"))
    assert [record.origin.row for record in records] == [3]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a": \n', "a.jsonl:2: not valid JSON"),
        ("a.jsonl", b"[1]\n", "a.jsonl:1: a JSON list"),
        ("a.jsonl", b'{"a": "\xff"}\n', "a.jsonl:1: byte 7 is not UTF-8"),
        ("a.jsonl", b"[" * 200_000, "a.jsonl:1: not valid JSON"),
        ("a.json", b"[1]", "a.json:1: a JSON int"),
        ("a.txt", b"\xc3\x28", "a.txt: byte 0 is not UTF-8"),
        ("a.csv", b"a,b\n1\n", "a.csv:2: number of cells"),
        ("a.csv", b"a,b\n1,2,3\n", "a.csv:2: number of cells"),
        ("a.csv", b'a\n"open', "a.csv:1: unexpected end"),
        ("a.jsonl.gz", b"not gzip", "a.jsonl.gz: cannot be read"),
        ("a.jsonl.gz", gzip.compress(JSONL, mtime=0)[:-9], "a.jsonl.gz: cannot be read"),
        ("a.jsonl.xz", b"not xz at all", "a.jsonl.xz: cannot be read"),
        ("a.jsonl.zst", b"not zstandard", "a.jsonl.zst: cannot be read"),
        ("a.tar.gz", gzip.compress(b"x" * 2000, mtime=0), "a.tar.gz: cannot be read"),
        ("a.parquet", b"PAR1", "a.parquet: cannot be read"),
        ("a.toml", b"= 1", "a.toml: not valid TOML"),
        ("a.exe", b"MZ", "files of kind .exe are not read"),
        ("noname", b"", "files of kind without suffix"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    with pytest.raises(DataError) as caught:
        fields(written(tmp_path, name, data))
    assert message in str(caught.value)


def test_globs_are_sorted_joined_and_kept_inside(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "c.md"):
        written(tmp_path, name, name.encode())
    source = SourceRecipe(name="s", paths=("*.txt", "*.md", "a.*"))
    assert [file.shown for file in expand(source, tmp_path)] == ["a.txt", "b.txt", "c.md"]
    assert [record.fields["text"] for record in read_records(source, tmp_path)] == ["a.txt", "b.txt", "c.md"]
    for pattern, message in (
        ("*.xyz", "matches no file"),
        ("../*", "must stay inside"),
        ("/etc/*", "must stay inside"),
    ):
        with pytest.raises(DataError, match=message):
            expand(SourceRecipe(name="s", paths=(pattern,)), tmp_path)


def test_all_frames_of_zst_are_read_and_a_cut_one_is_told(tmp_path: Path) -> None:
    frames = [zstandard.compress(json.dumps({"text": "x" * 200_000 + str(n)}).encode() + b"\n") for n in range(3)]
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(b"".join(frames))
    assert [record.fields["text"][-1] for record in read_file(path, "a", "s")] == ["0", "1", "2"]
    path.write_bytes(b"".join(frames)[:-5])
    with pytest.raises(DataError, match="ends in the middle of a frame"):
        list(read_file(path, "a", "s"))
