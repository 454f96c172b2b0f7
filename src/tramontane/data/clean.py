"""Cleaning: Unicode repair, line filters, quality heuristics, personal data.

`tidy` never drops a document; `quality_problem` says why one should be. The thresholds are those of Gopher
(arXiv:2112.11446, tables A1 and A2), C4 (arXiv:1910.10683) and FineWeb (arXiv:2406.17557, section 3.6).
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

from tramontane.data.recipe import Quality

_STRAIGHT = str.maketrans(
    {"‘": "'", "’": "'", "‚": "'", "‛": "'", "“": '"', "”": '"', "„": '"', "‟": '"', "′": "'", "″": '"', "…": "..."}
    | {"‐": "-", "‑": "-", "ﬁ": "fi", "ﬂ": "fl"}
)
_MARKS = re.compile("[\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff\x00-\x08\x0b\x0e-\x1f\x7f]")
_INVISIBLE = re.compile("[\x80-\x9f\u00ad]")  # what mojibake is made of too, so that it is read first
_SPACES = str.maketrans(
    dict.fromkeys("\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u3000", " ")
)
_LINE_BREAKS = re.compile("\r\n?|[\x85\u2028\u2029\x0c]")
# UTF-8 read as Windows-1252 shows as one of these followed by 1 to 3 characters of the upper half
_MOJIBAKE = re.compile(
    "[\u00c2-\u00f4][\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013-\u203a\u20ac\u2122]{1,3}"
)
_BOILERPLATE = re.compile(
    r"(?i)\b(?:all rights reserved|terms of (?:use|service)|privacy policy|cookie policy|we use cookies|"
    r"click here to|sign up for our|subscribe to our|enable javascript|lorem ipsum|share this (?:post|article)|"
    r"project gutenberg(?:-tm)?|powered by wordpress)\b"
)
_STOP_WORDS = frozenset({"the", "be", "to", "of", "and", "that", "have", "with"})


def tidy(text: str, *, straight_quotes: bool = False, fold_space: bool = False) -> str:
    """NFC, mojibake repaired, one kind of line break and space, invisible characters gone, no empty lines around and no
    space at the end. Indentation and empty lines inside stay: they may be code. `fold_space` takes space off the ends
    of lines, and of several empty lines in a row leaves one; `straight_quotes` writes typographic quotes, ellipses and
    hyphens in ASCII."""
    text = _repair_mojibake(_MARKS.sub("", unicodedata.normalize("NFC", text)))
    text = _INVISIBLE.sub("", _LINE_BREAKS.sub("\n", text).translate(_SPACES))
    if straight_quotes:
        text = text.translate(_STRAIGHT)
    text = unicodedata.normalize("NFC", text)
    if fold_space:
        text = re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t]+\n", "\n", text)).strip()
    return re.sub(r"\A(?:[ \t]*\n)+", "", text).rstrip()


def _repair_mojibake(text: str) -> str:
    """Undo it as often as it was done: each round makes the text shorter."""

    def repair(match: re.Match[str]) -> str:
        try:
            return b"".join(map(_windows_byte, match.group())).decode("utf-8")
        except UnicodeError:
            return match.group()

    while (repaired := _MOJIBAKE.sub(repair, text)) != text:
        text = repaired
    return text


def _windows_byte(char: str) -> bytes:
    """The byte that Windows-1252 shows as `char`; the five it leaves undefined show as control characters."""
    return bytes([ord(char)]) if ord(char) in (0x81, 0x8D, 0x8F, 0x90, 0x9D) else char.encode("cp1252")


def drop_lines(text: str, patterns: Sequence[re.Pattern[str]]) -> str:
    """`text` without the lines that match one of `patterns`."""
    return "\n".join(line for line in text.split("\n") if not any(pattern.search(line) for pattern in patterns))


def quality_problem(text: str, quality: Quality) -> str | None:
    """Why a text is not worth learning from, in a few words, or None. `prose` applies Gopher's rules; `web` adds C4's
    and FineWeb's, which are about page furniture; `none` only asks for a letter or digit."""
    if not any(char.isalnum() for char in text):
        return "no letters"
    if quality == "none":
        return None
    return _document_problem(text) or _repetition_problem(text) or (_web_problem(text) if quality == "web" else None)


def _document_problem(text: str) -> str | None:
    words = text.split()
    if len(words) < 50:  # Gopher's upper bound is left out: long texts are cut later
        return "fewer than 50 words"
    if not 3 <= sum(map(len, words)) / len(words) <= 10:
        return "mean word length outside 3..10"
    if max(text.count("#"), text.count("...") + text.count("…")) > 0.1 * len(words):
        return "too many # or ellipses"
    if sum(any(char.isalpha() for char in word) for word in words) < 0.8 * len(words):
        return "fewer than 80 % of words have a letter"
    if len(_STOP_WORDS & {word.lower().strip(".,;:!?\"'") for word in words}) < 2:
        return "fewer than 2 stop words"
    lines = [line for line in text.split("\n") if line.strip()]
    if sum(line.lstrip().startswith(("- ", "* ", "• ", "·")) for line in lines) > 0.9 * len(lines):
        return "bullet points only"
    if sum(line.rstrip().endswith(("...", "…")) for line in lines) > 0.3 * len(lines):
        return "lines end in ellipses"
    return None


def _repetition_problem(text: str) -> str | None:
    for unit, pieces in (
        ("lines", [line for line in text.split("\n") if line.strip()]),
        ("paragraphs", [part for part in text.split("\n\n") if part.strip()]),
    ):
        repeated = [piece for piece, count in Counter(pieces).items() for _ in range(count - 1)]
        if len(repeated) > 0.3 * len(pieces) or sum(map(len, repeated)) > 0.2 * len(text):
            return f"repeated {unit}"
    words = text.split()
    for length, limit in ((2, 0.20), (3, 0.18), (4, 0.16)):
        grams = Counter(zip(*(words[start:] for start in range(length)), strict=False))
        if grams:
            gram, count = max(grams.items(), key=lambda item: item[1] * sum(map(len, item[0])))
            if count > 1 and count * sum(map(len, gram)) > limit * len(text):
                return f"one {length}-gram repeated"
    for length, limit in zip(range(5, 11), (0.15, 0.14, 0.13, 0.12, 0.11, 0.10), strict=True):
        if _repeated_share(words, length) > limit:
            return f"repeated {length}-grams"
    return None


def _repeated_share(words: list[str], length: int) -> float:
    """Share of characters inside word n-grams that occurred before, each character counted once."""
    seen: set[tuple[str, ...]] = set()
    covered_to, repeated = 0, 0
    for start in range(len(words) - length + 1):
        gram = tuple(words[start : start + length])
        if gram in seen:
            repeated += sum(map(len, words[max(start, covered_to) : start + length]))
            covered_to = start + length
        seen.add(gram)
    return repeated / max(1, sum(map(len, words)))


def _web_problem(text: str) -> str | None:
    lowered = text.lower()
    if "lorem ipsum" in lowered:
        return "lorem ipsum"
    if "{" in text and "}" in text:
        return "curly brackets"
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if sum(bool(_BOILERPLATE.search(line)) for line in lines) > 0.1 * len(lines):
        return "page furniture"
    if sum(line.endswith((".", "!", "?", '"', "'", "”", "’")) for line in lines) <= 0.12 * len(lines):
        return "lines without closing punctuation"
    if sum(len(line) < 30 for line in lines) >= 0.67 * len(lines):
        return "short lines"
    return None


def drop_boilerplate(text: str) -> str:
    """`text` without lines of page furniture (cookies, subscriptions, rights, Gutenberg's frame)."""
    return drop_lines(text, [_BOILERPLATE])


_EMAIL = re.compile(r"\b[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})*\.[A-Za-z]{2,24}\b")
_IPV4 = re.compile(r"(?<![\d.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?![\d.])")
_CARD = re.compile(r"\b\d(?:[ -]?\d){12,18}\b")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")
_PHONE = re.compile(r"(?<![\w.])(?:\+\d{1,3}[ .-]?)?(?:\(\d{2,4}\)[ .-]?)?\d{2,4}(?:[ .-]\d{2,4}){2,3}(?![\w.]\d)")


def mask_personal_data(text: str) -> str:
    """E-mail and IP addresses, card numbers (by their check digit), IBANs and phone numbers become [email], [ip],
    [card], [iban], [phone]."""
    text = _EMAIL.sub("[email]", text)
    text = _IPV4.sub("[ip]", text)
    text = _IBAN.sub("[iban]", text)
    text = _CARD.sub(lambda match: "[card]" if _luhn(match.group()) else match.group(), text)
    return _PHONE.sub(
        lambda match: "[phone]" if 9 <= sum(map(str.isdigit, match.group())) <= 15 else match.group(), text
    )


def _luhn(number: str) -> bool:
    digits = [int(char) for char in number if char.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0
