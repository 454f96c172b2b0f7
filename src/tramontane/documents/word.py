"""Text of Word files (.docx), by python-docx, after the archive has proved small. Run in the child process only."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tramontane.errors import DataError

if TYPE_CHECKING:
    from docx.table import Table

MAX_MEMBERS = 5000
MAX_UNPACKED_BYTES = 256 << 20
MAX_RATIO = 200  # XML packs 1:10 to 1:50, bombs 1:1000 and more
RATIO_FREE_BYTES = 1 << 20
MAX_COLUMNS = 1000  # Word's own limit is 63


def docx_text(data: bytes, max_chars: int) -> str:
    """Paragraphs and tables in the order of the document; headings as Markdown. Raises DataError, also beyond
    `max_chars`."""
    check_archive(data)
    import docx
    from docx.table import Table

    document = docx.Document(io.BytesIO(data))
    style_names = {style.style_id: style.name or "" for style in document.styles}  # each look-up reads all of them
    blocks: list[str] = []
    num_chars = 0
    for block in document.iter_inner_content():
        if isinstance(block, Table):
            lines = table_lines(block)
        else:
            heading = re.fullmatch(r"Heading (\d)", style_names.get(block._p.style or "", ""))
            lines = iter((f"{'#' * int(heading[1])} {block.text}" if heading else block.text,))
        kept = []
        for line in lines:
            kept.append(line)
            num_chars += len(line)
            if num_chars > max_chars:
                raise DataError(f"holds more than {max_chars:,} characters; split it first")
        blocks.append("\n".join(kept))
    return "\n\n".join(block for block in blocks if block.strip())


def table_lines(table: Table) -> Iterator[str]:
    """One per row. The text of a cell that spans several columns or rows stands in each of them."""
    above: dict[int, str] = {}  # by the column where a cell begins
    for row in table.rows:
        texts: list[str] = []
        current: dict[int, str] = {}
        column = row.grid_cols_before
        for cell in row._tr.tc_lst:
            if cell.grid_span > MAX_COLUMNS:
                raise DataError(f"has a table cell over {cell.grid_span:,} columns, more than {MAX_COLUMNS:,}; refused")
            if cell.vMerge == "continue" and column in above:
                text = above[column]
            else:
                text = "\n".join(paragraph.text for paragraph in cell.p_lst).strip()
            texts += [text] * cell.grid_span
            current[column] = text
            column += cell.grid_span
        above = current
        yield " | ".join(texts)


def check_archive(data: bytes) -> None:
    """Refuse what unpacks beyond measure. zipfile never yields more than a member's declared size, so the declared
    sizes, which are checked here, are the true limits."""
    try:
        members = zipfile.ZipFile(io.BytesIO(data)).infolist()
    except zipfile.BadZipFile as error:
        raise DataError(f"damaged archive ({error})") from None
    if "word/document.xml" not in {member.filename for member in members}:
        raise DataError("a zip archive, but not a Word document (.docx)")
    if len(members) > MAX_MEMBERS:
        raise DataError(f"its archive has {len(members)} members, more than {MAX_MEMBERS}; refused")
    unpacked = sum(member.file_size for member in members)
    if unpacked > MAX_UNPACKED_BYTES:
        raise DataError(f"unpacks to {unpacked} bytes, more than {MAX_UNPACKED_BYTES >> 20} MiB; refused")
    for member in members:
        if member.file_size > max(RATIO_FREE_BYTES, MAX_RATIO * member.compress_size):
            raise DataError(f"member {member.filename!r} unpacks more than 1:{MAX_RATIO}; refused as a bomb")
