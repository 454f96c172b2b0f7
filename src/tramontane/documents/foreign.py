"""What a file is that is no document: pictures, sound, films, archives and programs, by their first bytes."""

from __future__ import annotations

OFFICE = "save it as .docx or PDF first"
UNPACK = "unpack it first"
PICTURE = "pictures are not read; if it shows text, OCR can make a text of it first"

# Offset, bytes there, what it is, and what to do about it. From the formats' own specifications; the shortest last.
KINDS: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"\x89PNG\r\n\x1a\n", "a picture (PNG)", PICTURE),
    (0, b"\xff\xd8\xff", "a picture (JPEG)", PICTURE),
    (0, b"GIF87a", "a picture (GIF)", PICTURE),
    (0, b"GIF89a", "a picture (GIF)", PICTURE),
    (8, b"WEBP", "a picture (WebP)", PICTURE),
    (0, b"II*\0", "a picture (TIFF)", PICTURE),
    (0, b"MM\0*", "a picture (TIFF)", PICTURE),
    (4, b"ftypavif", "a picture (AVIF)", PICTURE),
    (4, b"ftyphei", "a picture (HEIC)", PICTURE),
    (4, b"ftypmif1", "a picture (HEIF)", PICTURE),
    (0, b"\0\0\1\0", "a picture (icon)", PICTURE),
    (0, b"8BPS", "a picture (Photoshop)", PICTURE),
    (0, b"\xff\x0a", "a picture (JPEG XL)", PICTURE),
    (0, b"\0\0\0\x0cJXL ", "a picture (JPEG XL)", PICTURE),
    (0, b"\0\0\0\x0cjP  ", "a picture (JPEG 2000)", PICTURE),
    (0, b"ID3", "sound (MP3)", "sound is not read"),
    (0, b"OggS", "sound (Ogg)", "sound is not read"),
    (0, b"fLaC", "sound (FLAC)", "sound is not read"),
    (8, b"WAVE", "sound (WAV)", "sound is not read"),
    (4, b"ftypM4A", "sound (M4A)", "sound is not read"),
    (0, b"\xff\xfb", "sound (MP3)", "sound is not read"),
    (8, b"AVI ", "a film (AVI)", "films are not read"),
    (4, b"ftyp", "a film (MP4)", "films are not read"),
    (0, b"\x1aE\xdf\xa3", "a film (Matroska or WebM)", "films are not read"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a file of older Office programs (.doc, .xls, .ppt)", OFFICE),
    (0, b"\x1f\x8b", "a compressed file (gzip)", UNPACK),
    (0, b"BZh", "a compressed file (bzip2)", UNPACK),
    (0, b"\xfd7zXZ\0", "a compressed file (xz)", UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "a compressed file (Zstandard)", UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "an archive (7z)", UNPACK),
    (0, b"Rar!\x1a\x07", "an archive (RAR)", UNPACK),
    (257, b"ustar", "an archive (tar)", UNPACK),
    (0, b"SQLite format 3\0", "a database (SQLite)", "export its text first"),
    (0, b"GGUF", "the weights of a model (GGUF)", "they are served, not read"),
    (0, b"\x7fELF", "a program", "only text is read"),
    (0, b"MZ", "a program", "only text is read"),
    (0, b"BM", "a picture (BMP)", PICTURE),
)


def describe(data: bytes) -> str | None:
    """In words, with the remedy; None where the bytes tell nothing. For data that is not text: some marks are letters
    that a text may begin with."""
    for offset, mark, what, remedy in KINDS:
        if data.startswith(mark, offset):
            return f"{what}; {remedy}"
    return None
