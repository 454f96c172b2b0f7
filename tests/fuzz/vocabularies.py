"""Vocabularies small enough to lie in a corpus: the bytes, a few pieces, the control tokens."""

from __future__ import annotations

import base64
from functools import cache
from typing import Any

from tramontane.tokenizer.base import MISTRAL_CONTROL_NAMES
from tramontane.tokenizer.sentencepiece import PieceType, SentencePieceVocabulary

PATTERN = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@cache
def tekken(version: str = "v7") -> dict[str, Any]:
    """Contents of a tekken.json."""
    names = list(MISTRAL_CONTROL_NAMES)
    if version == "v13":
        names += ["[ARGS]", "[CALL_ID]", "[THINK]", "[/THINK]"]
    tokens = [*(bytes([value]) for value in range(256)), b"th", b"the", b" the"]
    return {
        "config": {
            "pattern": PATTERN,
            "num_vocab_tokens": len(tokens),
            "default_vocab_size": len(names) + len(tokens),
            "default_num_special_tokens": len(names),
            "version": version,
        },
        "vocab": [{"rank": rank, "token_bytes": base64.b64encode(token).decode()} for rank, token in enumerate(tokens)],
        "special_tokens": [{"rank": rank, "token_str": name, "is_control": True} for rank, name in enumerate(names)],
    }


def sentencepiece() -> SentencePieceVocabulary:
    words = ["▁", "a", "b", "▁a", "ab", "▁ab"]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{value:02X}>" for value in range(256)), *words]
    types = [PieceType.UNKNOWN, PieceType.CONTROL, PieceType.CONTROL, *[PieceType.BYTE] * 256]
    types += [PieceType.NORMAL] * len(words)
    scores = [0.0] * 259 + [-float(place) for place in range(len(words))]
    return SentencePieceVocabulary(tuple(pieces), tuple(scores), tuple(types))
