"""Text of Word files (.docx), by python-docx, after the archive has proved small. Run in the child process only."""

from __future__ import annotations

import io
import re
import zipfile

from tramontane.errors import DataError

MAX_MEMBERS = 5000
MAX_UNPACKED_BYTES = 256 << 20
MAX_RATIO = 200  # XML packs 1:10 to 1:50, bombs 1:1000 and more
RATIO_FREE_BYTES = 1 << 20


def docx_text(data: bytes) -> str:
    """Paragraphs and tables in the order of the document; headings as Markdown. Raises DataError."""
    check_archive(data)
    import docx
    from docx.table import Table

    blocks = []
    for block in docx.Document(io.BytesIO(data)).iter_inner_content():
        if isinstance(block, Table):
            blocks.append("\n".join(" | ".join(cell.text.strip() for cell in row.cells) for row in block.rows))
        else:
            heading = re.fullmatch(r"Heading (\d)", block.style.name or "") if block.style else None
            blocks.append(f"{'#' * int(heading[1])} {block.text}" if heading else block.text)
    return "\n\n".join(block for block in blocks if block.strip())


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
