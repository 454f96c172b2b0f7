"""Byte-pair vocabularies with explicit merges (tokenizer.json, GGUF model `gpt2`), run by the tokenizers library.

The library is given a description written here from checked parts: text tokens, merges, and one of the few known ways
to split text. Control tokens are left out of it, so that neither its matching of added tokens nor a merge can make
one from text. Unknown ways to split are refused: an arbitrary regular expression can take exponential time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tramontane.errors import TokenizerError
from tramontane.tokenizer.base import MAX_VOCAB_SIZE, Tokenizer
from tramontane.tokenizer.sentencepiece import BYTE_PIECE, SPACE
from tramontane.tokenizer.tekken import TEKKEN_PATTERN

MAX_MERGES = 2**23
MAX_TOKEN_CHARS = 2048

# The library's regular expressions recurse over a run of white space; see MAX_SPACE_RUN of tekken.py.
MAX_SPACE_RUN = 500_000
_SPACES = re.compile(r"\s+")

TEKKEN_SPLIT: Mapping[str, Any] = {
    "type": "Sequence",
    "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": TEKKEN_PATTERN}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
    ],
}
SPACE_NORMALIZER: Mapping[str, Any] = {
    "type": "Sequence",
    "normalizers": [
        {"type": "Prepend", "prepend": SPACE},
        {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
    ],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BytePairVocabulary:
    """Text tokens by spelling, merges in rank order, control tokens and literal tokens by id.

    `byte_level`: spelled in the byte alphabet of GPT-2; otherwise as sentencepiece does (`▁` for a space, `<0x0A>`
    for a byte without a character). `literal` tokens are matched whole in the text. `normalizer` and `pre_tokenizer`
    are in the notation of tokenizer.json. Raises TokenizerError when the parts contradict each other.
    """

    tokens: Mapping[str, int]
    merges: Sequence[tuple[str, str]]
    control: Mapping[int, str]
    literal: Mapping[int, Mapping[str, Any]]
    byte_level: bool
    ignore_merges: bool
    normalizer: Mapping[str, Any] | None
    pre_tokenizer: Mapping[str, Any] | None

    def __post_init__(self) -> None:
        ids = [*self.tokens.values(), *self.control, *self.literal]
        if not ids or len(ids) > MAX_VOCAB_SIZE or len(set(ids)) != len(ids):
            raise TokenizerError(f"the vocabulary of {len(ids)} tokens is empty, too large or uses an id twice")
        if min(ids) < 0 or max(ids) >= MAX_VOCAB_SIZE:
            raise TokenizerError(f"token ids must lie between 0 and {MAX_VOCAB_SIZE - 1}")
        if len(self.merges) > MAX_MERGES:
            raise TokenizerError(f"{len(self.merges)} merges; at most {MAX_MERGES} are allowed")
        known = set(self.tokens)
        for token in known:
            if not 0 < len(token) <= MAX_TOKEN_CHARS:
                raise TokenizerError(f"token {self.tokens[token]} has {len(token)} characters; 1 to {MAX_TOKEN_CHARS}")
        for left, right in self.merges:
            if left not in known or right not in known or left + right not in known:
                raise TokenizerError(f"merge {left!r} {right!r} names tokens that the vocabulary lacks")
        missing = self._missing_bytes()
        if missing:
            raise TokenizerError(f"the vocabulary cannot spell byte {missing[0]} ({len(missing)} bytes are missing)")

    def _missing_bytes(self) -> list[int]:
        if self.byte_level:
            return [value for value, char in enumerate(byte_alphabet()) if char not in self.tokens]
        return [value for value in range(256) if f"<0x{value:02X}>" not in self.tokens]

    @property
    def adds_space(self) -> bool:
        """Whether a space is put before the text."""
        return self._prepends or (self.pre_tokenizer or {}).get("prepend_scheme") in ("always", "first")

    @property
    def _prepends(self) -> bool:
        parts = (self.normalizer, *(self.normalizer or {}).get("normalizers", ()))
        return any(part is not None and part["type"] == "Prepend" for part in parts)

    def pieces(self) -> list[bytes]:
        """Bytes of every token by id; control tokens and unused ids are empty."""
        pieces = [b""] * (1 + max((*self.tokens.values(), *self.control, *self.literal)))
        for token, token_id in self.tokens.items():
            pieces[token_id] = self.bytes_of(token)
        for token_id, entry in self.literal.items():
            # one that is found in the text as it is spelled has taken the space before it in
            space = " " if entry["normalized"] and self._prepends else ""
            pieces[token_id] = f"{space}{entry['content']}".encode()
        return pieces

    def bytes_of(self, token: str) -> bytes:
        """Bytes of one spelling. Raises TokenizerError for a character outside the byte alphabet."""
        if self.byte_level:
            try:
                return bytes(byte_values()[char] for char in token)
            except KeyError as error:
                raise TokenizerError(f"token {token!r} holds {error}, which spells no byte") from None
        byte = BYTE_PIECE.fullmatch(token)
        return bytes([int(byte[1], 16)]) if byte else token.replace(SPACE, " ").encode()


class BytePairTokenizer(Tokenizer):
    """A byte-pair vocabulary with explicit merges. `files` are copied along when a checkpoint is saved."""

    def __init__(
        self,
        vocabulary: BytePairVocabulary,
        *,
        bos_id: int,
        eos_id: int,
        files: Sequence[Path] = (),
    ) -> None:
        super().__init__(
            vocabulary.pieces(),
            vocabulary.control,
            bos_id=bos_id,
            eos_id=eos_id,
            adds_space=vocabulary.adds_space,
        )
        for role, token_id in (("bos", bos_id), ("eos", eos_id)):
            if token_id not in vocabulary.control:
                raise TokenizerError(f"{role} token {token_id} is not a control token of the vocabulary")
        self.vocabulary = vocabulary
        self.files = tuple(files)
        self._engine = _engine(vocabulary)

    def _encode_text(self, text: str) -> list[int]:
        if len(text) > MAX_SPACE_RUN and any(m.end() - m.start() > MAX_SPACE_RUN for m in _SPACES.finditer(text)):
            raise TokenizerError(f"the text has more than {MAX_SPACE_RUN:,} white-space characters in a row")
        token_ids: list[int] = self._engine.encode(text, add_special_tokens=False).ids
        return token_ids

    def gguf_metadata(self) -> dict[str, object]:
        from tramontane.tokenizer.export import byte_pair_metadata

        return byte_pair_metadata(self)

    def save(self, folder: Path) -> list[Path]:
        from tramontane.tokenizer.export import save_byte_pair

        return save_byte_pair(self, folder)


def _engine(vocabulary: BytePairVocabulary) -> Any:
    from tokenizers import AddedToken, models
    from tokenizers import Tokenizer as Engine

    splitting = {
        "version": "1.0",
        "normalizer": vocabulary.normalizer,
        "pre_tokenizer": vocabulary.pre_tokenizer,
        "model": {"type": "BPE", "vocab": {}, "merges": []},
    }
    # Literal tokens must be in the model, or the library would number them itself.
    literal = {entry["content"]: token_id for token_id, entry in vocabulary.literal.items()}
    try:
        engine = Engine.from_str(json.dumps(splitting))
        engine.model = models.BPE(
            vocab={**vocabulary.tokens, **literal},
            merges=list(vocabulary.merges),
            byte_fallback=not vocabulary.byte_level,
            ignore_merges=vocabulary.ignore_merges,
        )
        engine.add_tokens([AddedToken(**entry) for entry in vocabulary.literal.values()])
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise TokenizerError(f"the tokenizers library refuses the vocabulary: {error}") from None
    return engine


@cache
def byte_alphabet() -> tuple[str, ...]:
    """The character that spells each byte in GPT-2's alphabet: itself where printable, else U+0100 and up."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    substitutes = iter(range(0x100, 0x200))
    return tuple(chr(value if value in printable else next(substitutes)) for value in range(256))


@cache
def byte_values() -> Mapping[str, int]:
    return {char: value for value, char in enumerate(byte_alphabet())}


def spell(token: bytes) -> str:
    """`token` in GPT-2's byte alphabet."""
    alphabet = byte_alphabet()
    return "".join([alphabet[value] for value in token])
