"""Tekken vocabularies (`tekken.json`): byte-level BPE by rank, run by tiktoken, control tokens at the low ids.

The file is read and checked here instead of through mistral-common's Tekkenizer: that one takes three times as long
to start (1.4 s against 0.4 s for 131,072 tokens) and checks by assertions, which `python -O` removes.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tramontane.errors import TokenizerError
from tramontane.tokenizer.base import MAX_VOCAB_SIZE, MISTRAL_CONTROL_NAMES, Tokenizer
from tramontane.tokenizer.json_file import get, read_json
from tramontane.tokenizer.special_tokens import SpecialTokens

# Pre-tokenisation of every published tekken.json.
TEKKEN_PATTERN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
MAX_PATTERN_CHARS = 4096

# tiktoken's regular expressions keep one backtracking entry per white-space character and give up at 10^6.
MAX_SPACE_RUN = 500_000
_SPACES = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class TekkenVocabulary:
    """`token_bytes` in rank order (the 256 single bytes first); token ids are ranks + len(control)."""

    token_bytes: tuple[bytes, ...]
    control: tuple[str, ...]
    pattern: str
    version: str


class TekkenTokenizer(Tokenizer):
    """A tekken vocabulary. Raises TokenizerError when the pattern is not a regular expression."""

    def __init__(
        self, vocabulary: TekkenVocabulary, *, bos: str = "<s>", eos: str = "</s>", source: Path | None = None
    ) -> None:
        import tiktoken

        control = dict(enumerate(vocabulary.control))
        for name in (bos, eos):
            if name not in vocabulary.control:
                raise TokenizerError(f"the vocabulary has no control token {name}")
        super().__init__(
            [b""] * len(control) + list(vocabulary.token_bytes),
            control,
            bos_id=vocabulary.control.index(bos),
            eos_id=vocabulary.control.index(eos),
            adds_space=False,
        )
        self.vocabulary = vocabulary
        self.source = source
        self._first_text_id = len(control)
        try:
            self._encoding = tiktoken.Encoding(
                "tekken",
                pat_str=vocabulary.pattern,
                mergeable_ranks={token: rank for rank, token in enumerate(vocabulary.token_bytes)},
                special_tokens={},
            )
        except ValueError as error:
            raise TokenizerError(f"config.pattern is not a regular expression: {error}") from None

    def _encode_text(self, text: str) -> list[int]:
        if len(text) > MAX_SPACE_RUN and any(m.end() - m.start() > MAX_SPACE_RUN for m in _SPACES.finditer(text)):
            raise TokenizerError(f"the text has more than {MAX_SPACE_RUN:,} white-space characters in a row")
        try:
            ranks = self._encoding.encode_ordinary(text)
        except BaseException as error:
            # A panic of the native library is no Exception; it must not take the process down.
            if type(error).__name__ != "PanicException":
                raise
            raise TokenizerError("config.pattern of this vocabulary cannot split this text") from None
        first = self._first_text_id
        return [first + rank for rank in ranks]

    def gguf_metadata(self) -> dict[str, object]:
        from tramontane.tokenizer.export import tekken_metadata

        if self.vocabulary.pattern != TEKKEN_PATTERN:
            raise TokenizerError("llama.cpp cannot run this vocabulary: config.pattern is not that of tekken")
        return tekken_metadata(self)

    def save(self, folder: Path) -> list[Path]:
        from tramontane.tokenizer.export import save_tekken

        return save_tekken(self, folder)


def load_tekken(path: Path, special_tokens: SpecialTokens | None = None) -> TekkenTokenizer:
    """The tokenizer of a `tekken.json`. Raises TokenizerError naming the file, or both where a file beside it names
    a token that it lacks: such a file has no room for more."""
    special_tokens = special_tokens or SpecialTokens()
    try:
        vocabulary = read_tekken(read_json(path))
        for token in special_tokens.added:
            has = vocabulary.control.index(token.content) if token.content in vocabulary.control else None
            if has is None or token.token_id not in (None, has):
                raise TokenizerError(
                    f"it has {'no' if has is None else 'another'} token {token.content!r} "
                    f"({'' if token.token_id is None else f'id {token.token_id} in '}{token.source}); put the model's "
                    "own tokenizer.json beside it"
                )
        bos, eos = special_tokens.bos or "<s>", special_tokens.eos or "</s>"
        return TekkenTokenizer(vocabulary, bos=bos, eos=eos, source=path)
    except TokenizerError as error:
        message = str(error)
        raise TokenizerError(message if message.startswith(str(path)) else f"{path}: {message}") from None


def read_tekken(data: dict[str, Any]) -> TekkenVocabulary:
    """Checked contents of a tekken.json. Raises TokenizerError naming the key."""
    config = get(data, "config", dict, "tekken.json")
    version = get(config, "version", str, "config")
    pattern = get(config, "pattern", str, "config")
    vocab_size = get(config, "default_vocab_size", int, "config")
    num_control = get(config, "default_num_special_tokens", int, "config")
    entries = get(data, "vocab", list, "tekken.json")
    if len(pattern) > MAX_PATTERN_CHARS:
        raise TokenizerError(f"config.pattern has {len(pattern)} characters; at most {MAX_PATTERN_CHARS} are allowed")
    if not 2 <= num_control < vocab_size <= MAX_VOCAB_SIZE:
        raise TokenizerError(
            f"config.default_vocab_size={vocab_size} and default_num_special_tokens={num_control} make no vocabulary"
        )
    num_text = vocab_size - num_control
    if not 256 <= num_text <= len(entries):
        raise TokenizerError(f"vocab has {len(entries)} tokens, but config asks for {num_text} (256 at least)")
    token_bytes = tuple(_token_bytes(entry, rank) for rank, entry in enumerate(entries[:num_text]))
    if token_bytes[:256] != tuple(bytes([value]) for value in range(256)):
        raise TokenizerError("vocab must open with the 256 single bytes in order")
    if len(set(token_bytes)) != num_text:
        raise TokenizerError("vocab holds a token twice")
    return TekkenVocabulary(token_bytes, _control_names(data, version, num_control), pattern, version)


def _token_bytes(entry: object, rank: int) -> bytes:
    if not isinstance(entry, dict) or entry.get("rank") != rank or not isinstance(entry.get("token_bytes"), str):
        raise TokenizerError(f"vocab[{rank}] must be an object with rank={rank} and token_bytes")
    try:
        token = base64.b64decode(entry["token_bytes"], validate=True)
    except (binascii.Error, ValueError):
        raise TokenizerError(f"vocab[{rank}].token_bytes is not base64") from None
    if not 1 <= len(token) <= 1024:
        raise TokenizerError(f"vocab[{rank}] has {len(token)} bytes; 1 to 1024 are allowed")
    return token


def _control_names(data: dict[str, Any], version: str, num_control: int) -> tuple[str, ...]:
    entries = data.get("special_tokens")
    if entries is None:
        if version not in ("v3", "v7"):
            raise TokenizerError(f"special_tokens is missing; files of version {version} must name them")
        names = list(MISTRAL_CONTROL_NAMES)
    elif isinstance(entries, list):
        names = []
        for rank, entry in enumerate(entries):
            if not isinstance(entry, dict) or entry.get("rank") != rank or not isinstance(entry.get("token_str"), str):
                raise TokenizerError(f"special_tokens[{rank}] must be an object with rank={rank} and token_str")
            names.append(entry["token_str"])
    else:
        raise TokenizerError("special_tokens must be a list")
    if len(names) > num_control:
        raise TokenizerError(f"{len(names)} special tokens are named, but config reserves {num_control}")
    names.extend(f"<SPECIAL_{token_id}>" for token_id in range(len(names), num_control))
    if len(set(names)) != num_control or not all(0 < len(name) <= 256 for name in names):
        raise TokenizerError("special_tokens holds a name twice, an empty one or one of more than 256 characters")
    return tuple(names)
