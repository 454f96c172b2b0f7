"""Language of a text, by the n-gram classifier of py3langid (97 languages, no download)."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from tramontane.errors import DataError
from tramontane.extras import install_hint

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier  # type: ignore[import-untyped]

_SAMPLE_CHARS = 500  # enough for 99 % of paragraphs; the classifier walks them byte by byte in Python


@functools.lru_cache(maxsize=1)
def _identifier() -> LanguageIdentifier:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError:
        raise DataError(f"telling languages apart needs the package py3langid; {install_hint('data')}") from None
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def is_language(text: str, language: str, min_confidence: float = 0.5) -> bool:
    """False when the text is in another language than `language` (two letters) with at least `min_confidence`.
    Texts below 40 letters are too short to tell and count as right."""
    sample = text[:_SAMPLE_CHARS]
    if sum(map(str.isalpha, sample)) < 40:
        return True
    found, confidence = _identifier().classify(sample)
    return bool(found == language or confidence < min_confidence)


def language_of(text: str) -> str:
    """The likeliest language of a text, as two letters (ISO 639-1)."""
    return str(_identifier().classify(text)[0])
