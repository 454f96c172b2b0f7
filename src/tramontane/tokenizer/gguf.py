"""Vocabularies inside GGUF files: `tokenizer.ggml.*` metadata to a tokenizer.

Every value comes from a file of unknown origin: lengths, types and ids are proved before any engine sees them. The
file's chat template is searched for known features and never rendered.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tramontane.errors import TokenizerError
from tramontane.tokenizer.base import CONTROL_NAMES, MAX_VOCAB_SIZE, Tokenizer
from tramontane.tokenizer.byte_pair import MAX_MERGES, TEKKEN_SPLIT, BytePairTokenizer, BytePairVocabulary
from tramontane.tokenizer.export import sentencepiece_description
from tramontane.tokenizer.recognise import attach_chat
from tramontane.tokenizer.sentencepiece import (
    SPACE,
    PieceType,
    SentencePieceTokenizer,
    SentencePieceVocabulary,
    piece_type,
)
from tramontane.tokenizer.special_tokens import AddedToken, SpecialTokens
from tramontane.tokenizer.tokenizer_json import byte_pair_tokenizer, read_vocabulary

_PREFIX = "tokenizer.ggml."
_STOP_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id", "eos_token_ids")


def gguf_tokenizer(metadata: Mapping[str, Any]) -> Tokenizer:
    """Tokenizer of a GGUF file's metadata: models `llama` (sentencepiece) and `gpt2` with pre-tokenizer `tekken`.

    Raises TokenizerError naming the key when a value is missing, of the wrong type, out of range or of a kind that
    is not supported.
    """
    metadata = _without_padding(metadata)
    model = _value(metadata, "model", str)
    match model:
        case "llama":
            tokenizer = _sentencepiece(metadata)
        case "gpt2":
            tokenizer = _byte_level(metadata)
        case _:
            raise TokenizerError(f"{_PREFIX}model={model!r} is not supported; known are llama and gpt2")
    # llama.cpp's defaults for both models
    tokenizer.prefix_ids = (tokenizer.bos_id,) if _flag(metadata, "add_bos_token", True) else ()
    tokenizer.suffix_ids = (tokenizer.eos_id,) if _flag(metadata, "add_eos_token", False) else ()
    template = metadata.get("tokenizer.chat_template")
    if template is not None and not isinstance(template, str):
        raise TokenizerError("tokenizer.chat_template must be text")
    attach_chat(tokenizer, template=template)
    return tokenizer


def padded_metadata(metadata: Mapping[str, Any], num_rows: int) -> dict[str, Any]:
    """`metadata` with unused tokens up to the rows of the embedding table, as llama.cpp's converters name them."""
    padded = dict(metadata)
    missing = range(len(metadata[_PREFIX + "tokens"]), num_rows)
    fillers: dict[str, list[Any]] = {
        "tokens": [_padding(token_id) for token_id in missing],
        "token_type": [int(PieceType.UNUSED)] * len(missing),
        "scores": [0.0] * len(missing),
    }
    for key, filler in fillers.items():
        if _PREFIX + key in metadata:
            padded[_PREFIX + key] = [*metadata[_PREFIX + key], *filler]
    return padded


def _padding(token_id: int) -> str:
    return f"[PAD{token_id}]"


def _without_padding(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """`metadata` without the unused tokens at the end that only make the list as long as the embedding table."""
    pieces, types = _list(metadata, "tokens", str), _list(metadata, "token_type", int)
    num_tokens = len(pieces)
    while num_tokens and pieces[num_tokens - 1] == _padding(num_tokens - 1):
        if types[num_tokens - 1 : num_tokens] != [PieceType.UNUSED]:
            break
        num_tokens -= 1
    lists = [_PREFIX + key for key in ("tokens", "token_type", "scores") if _PREFIX + key in metadata]
    return metadata if num_tokens == len(pieces) else {**metadata, **{key: metadata[key][:num_tokens] for key in lists}}


def _sentencepiece(metadata: Mapping[str, Any]) -> Tokenizer:
    pieces = _list(metadata, "tokens", str)
    scores = _list(metadata, "scores", float)
    types = _types(metadata, len(pieces))
    bos_id, eos_id, stop_ids = _special_ids(metadata, len(pieces))
    for token_id in _marks(stop_ids, pieces):
        types[token_id] = PieceType.CONTROL
    vocabulary = SentencePieceVocabulary(
        tuple(pieces), tuple(scores), tuple(types), _flag(metadata, "add_space_prefix", True)
    )
    tokenizer = _with_literal(SentencePieceTokenizer(vocabulary, bos_id=bos_id, eos_id=eos_id))
    tokenizer.stop_ids |= frozenset(stop_ids)
    return tokenizer


def _with_literal(tokenizer: SentencePieceTokenizer) -> Tokenizer:
    """A vocabulary with words added after its pieces, as fine-tunes leave them. llama.cpp takes those out of a text
    before it spells spaces, so that every stretch between them begins with one; sentencepiece does not, and the engine
    of tokenizer.json does."""
    vocabulary = tokenizer.vocabulary
    last_piece = max((i for i, kind in enumerate(vocabulary.types) if kind == PieceType.NORMAL), default=0)
    literal = [
        AddedToken(content=piece, token_id=token_id, source=f"{_PREFIX}tokens", special=False)
        for token_id, (piece, kind) in enumerate(zip(vocabulary.pieces, vocabulary.types, strict=True))
        if kind == PieceType.USER_DEFINED and token_id > last_piece and SPACE not in piece
    ]
    if not literal:
        return tokenizer
    names = SpecialTokens(tokenizer.control_name(tokenizer.bos_id), tokenizer.control_name(tokenizer.eos_id))
    return byte_pair_tokenizer(
        read_vocabulary(sentencepiece_description(tokenizer), literal, f"{_PREFIX}tokens"), names
    )


def _byte_level(metadata: Mapping[str, Any]) -> Tokenizer:
    pre = _value(metadata, "pre", str)
    if pre != "tekken":
        raise TokenizerError(
            f"{_PREFIX}pre={pre!r} splits text in a way that is not supported (known: tekken); use the Hugging Face "
            "folder of the same model"
        )
    pieces = _list(metadata, "tokens", str)
    types = _types(metadata, len(pieces))
    bos_id, eos_id, stop_ids = _special_ids(metadata, len(pieces))
    special = {bos_id, eos_id, *_marks(stop_ids, pieces)}
    tokens: dict[str, int] = {}
    control: dict[int, str] = {}
    literal: dict[int, dict[str, Any]] = {}
    for token_id, (piece, kind) in enumerate(zip(pieces, types, strict=True)):
        if kind == PieceType.BYTE:
            raise TokenizerError(f"{_PREFIX}token_type[{token_id}] marks a byte, which model gpt2 does not have")
        if kind not in (PieceType.NORMAL, PieceType.USER_DEFINED) or piece in CONTROL_NAMES or token_id in special:
            control[token_id] = piece
        elif kind == PieceType.USER_DEFINED:
            literal[token_id] = {
                "content": piece,
                **dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False),
            }
        elif tokens.setdefault(piece, token_id) != token_id:
            raise TokenizerError(f"{_PREFIX}tokens[{token_id}] {piece!r} is also token {tokens[piece]}")
    if len(set(control.values())) != len(control):
        raise TokenizerError(f"{_PREFIX}tokens names a control token twice")
    vocabulary = BytePairVocabulary(
        tokens=tokens,
        merges=_merges(metadata),
        control=control,
        literal=literal,
        byte_level=True,
        ignore_merges=True,  # as llama.cpp does for tekken: a word that is a token is taken whole
        normalizer=None,
        pre_tokenizer=TEKKEN_SPLIT,
    )
    tokenizer = BytePairTokenizer(vocabulary, bos_id=bos_id, eos_id=eos_id)
    tokenizer.stop_ids |= frozenset(stop_ids)
    return tokenizer


def _marks(stop_ids: Sequence[int], pieces: Sequence[str]) -> list[int]:
    """Those spelled like a control token (`<|im_end|>`), whatever type the file gives them; others may be words."""
    return [token_id for token_id in stop_ids if re.fullmatch(r"<.+>|\[.+\]", pieces[token_id])]


def _merges(metadata: Mapping[str, Any]) -> list[tuple[str, str]]:
    merges: list[tuple[str, str]] = []
    for place, entry in enumerate(_list(metadata, "merges", str, MAX_MERGES)):
        left, space, right = entry.partition(" ")
        if not (left and space and right):
            raise TokenizerError(f"{_PREFIX}merges[{place}]={entry[:80]!r} must be two tokens with a space between")
        merges.append((left, right))
    return merges


def _types(metadata: Mapping[str, Any], num_pieces: int) -> list[PieceType]:
    values = _list(metadata, "token_type", int)
    if len(values) != num_pieces:
        raise TokenizerError(f"{_PREFIX}token_type has {len(values)} entries for {num_pieces} tokens")
    return [piece_type(value, token_id) for token_id, value in enumerate(values)]


def _special_ids(metadata: Mapping[str, Any], num_pieces: int) -> tuple[int, int, tuple[int, ...]]:
    """(bos, eos, further stop ids), proved to be inside the vocabulary. A key of stop ids may hold a list of them."""
    ids: dict[str, list[int]] = {}
    for key in ("bos_token_id", *_STOP_KEYS):
        value = metadata.get(_PREFIX + key)
        if value is None and key not in ("bos_token_id", "eos_token_id"):
            continue
        is_list = key in _STOP_KEYS and (hasattr(value, "tolist") or isinstance(value, list | tuple))
        ids[key] = _list(metadata, key, int) if is_list and value != [] else [_value(metadata, key, int)]
        for token_id in ids[key]:
            if not 0 <= token_id < num_pieces:
                raise TokenizerError(f"{_PREFIX}{key}={token_id} is outside the vocabulary of {num_pieces}")
    stop_ids = dict.fromkeys(token_id for key in _STOP_KEYS for token_id in ids.get(key, ()))
    eos_id = ids["eos_token_id"][0]
    return ids["bos_token_id"][0], eos_id, tuple(token_id for token_id in stop_ids if token_id != eos_id)


def _flag(metadata: Mapping[str, Any], key: str, default: bool) -> bool:
    return bool(_value(metadata, key, bool)) if _PREFIX + key in metadata else default


def _value(metadata: Mapping[str, Any], key: str, kind: type[Any]) -> Any:
    value: Any = metadata.get(_PREFIX + key)
    if hasattr(value, "item") and not isinstance(value, str | Sequence):
        value = value.item()  # a numpy scalar
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        found = "absent" if _PREFIX + key not in metadata else type(value).__name__
        raise TokenizerError(f"{_PREFIX}{key} must be {kind.__name__}, but is {found}")
    return value


def _list(metadata: Mapping[str, Any], key: str, kind: type[Any], max_len: int = MAX_VOCAB_SIZE) -> list[Any]:
    values: Any = metadata.get(_PREFIX + key)
    if hasattr(values, "tolist"):
        values = values.tolist()  # a numpy array
    if not isinstance(values, list | tuple):
        found = "absent" if _PREFIX + key not in metadata else type(values).__name__
        raise TokenizerError(f"{_PREFIX}{key} must be a list, but is {found}")
    if len(values) > max_len:
        raise TokenizerError(f"{_PREFIX}{key} has {len(values)} entries; at most {max_len} are allowed")
    for place, value in enumerate(values):
        if type(value) is not kind:
            raise TokenizerError(f"{_PREFIX}{key}[{place}] must be {kind.__name__}, not {type(value).__name__}")
    if kind is str:
        try:
            "".join(values).encode()
        except UnicodeEncodeError:
            raise TokenizerError(f"{_PREFIX}{key} holds text that is not valid Unicode") from None
    return list(values)
