"""The tokenizer beside a checkpoint, found by what the files hold."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tramontane.errors import TokenizerError
from tramontane.tokenizer.base import Tokenizer
from tramontane.tokenizer.byte_pair import spell
from tramontane.tokenizer.export import sentencepiece_description
from tramontane.tokenizer.json_file import get, read_json
from tramontane.tokenizer.recognise import attach_chat
from tramontane.tokenizer.sentencepiece import SentencePieceTokenizer, load_sentencepiece
from tramontane.tokenizer.special_tokens import SpecialTokens, read_special_tokens
from tramontane.tokenizer.tekken import TekkenTokenizer, load_tekken
from tramontane.tokenizer.tokenizer_json import (
    UnsupportedPartError,
    byte_pair_tokenizer,
    chat_template,
    load_tokenizer_json,
    read_vocabulary,
)

TOKENIZER_FILES = (
    "tekken.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "tokenizer.model*",
)
"""What belongs to the tokenizer of a checkpoint folder; `tokenizer.model` has suffixes such as .v3."""

# Mistral keeps the version of a sentencepiece vocabulary in its name: tokenizer.model.v3, .v7m1 (with images).
_DECLARED_VERSION = re.compile(r"\.model\.(v\d+)(m\d+)?$")


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Tokenizer of a checkpoint folder, or of one tokenizer file and the small files beside it.

    In a folder `tokenizer.json` speaks, as for transformers. Where it splits text in a way that is not supported, a
    native file (`tekken.json`, `tokenizer.model*`) of the very same tokens does; where there is none, the native file
    with what the small files add. The chat format is that of the chat template, if there is one. Raises
    TokenizerError naming the file that is missing, damaged or of an unknown kind, or two that disagree.
    """
    path = Path(path)
    if not path.exists():
        raise TokenizerError(f"{path} does not exist; a checkpoint needs its tokenizer files beside it")
    folder = path if path.is_dir() else path.parent
    special_tokens, template = read_special_tokens(folder), chat_template(folder)
    native = _native(folder) if path.is_dir() else None if path.name == "tokenizer.json" else path
    whole = folder / "tokenizer.json"
    if path not in (folder, whole) or not whole.is_file():
        if native is None:
            raise TokenizerError(f"{folder} has no tokenizer; it needs tekken.json, tokenizer.model or tokenizer.json")
        tokenizer = _load_native(native, special_tokens)
        attach_chat(tokenizer, template=template, version=_stated_version(native, tokenizer))
        return tokenizer
    try:
        tokenizer = load_tokenizer_json(whole, special_tokens)
    except UnsupportedPartError as error:
        if native is None:
            raise
        tokenizer = _load_native(native, special_tokens)
        if not _is_same(tokenizer, whole):
            raise TokenizerError(
                f"{error}, and {native.name} beside it holds another vocabulary; remove the one that is not the model's"
            ) from None
    version = None
    if template is None and native is not None:
        base = _load_native(native, SpecialTokens())
        version = _stated_version(native, base) if _is_same(base, whole) else None
    attach_chat(tokenizer, template=template, version=version)
    return tokenizer


def has_tokenizer(folder: Path) -> bool:
    """Whether a checkpoint folder holds a vocabulary."""
    return (folder / "tokenizer.json").is_file() or _native(folder) is not None


def _native(folder: Path) -> Path | None:
    # `tokenizer.model` may be of an older version than the `tokenizer.model.v3` beside it.
    models = sorted((file for file in folder.glob("tokenizer.model*") if file.is_file()), reverse=True)
    return next((file for file in (folder / "tekken.json", *models) if file.is_file()), None)


def _load_native(path: Path, special_tokens: SpecialTokens) -> Tokenizer:
    if path.suffix == ".json":
        tokenizer: Tokenizer = load_tekken(path, special_tokens)
    else:
        tokenizer = _with_added(load_sentencepiece(path), special_tokens, path)
    if special_tokens.adds_bos is False:
        tokenizer.prefix_ids = ()
    if special_tokens.adds_eos:
        tokenizer.suffix_ids = (tokenizer.eos_id,)
    return tokenizer


def _with_added(tokenizer: SentencePieceTokenizer, special_tokens: SpecialTokens, path: Path) -> Tokenizer:
    """The same vocabulary with added tokens: as a tokenizer.json, whose engine finds such tokens in a text."""
    of_old = ((special_tokens.bos or "<s>", tokenizer.bos_id), (special_tokens.eos or "</s>", tokenizer.eos_id))
    known = {tokenizer.control_name(token_id): token_id for token_id in range(tokenizer.vocab_size)}
    nothing_new = all(
        token.special and token.token_id in (None, known.get(token.content, -1)) and token.content in known
        for token in special_tokens.added
    )
    if nothing_new and all(known.get(name) == token_id for name, token_id in of_old):
        return tokenizer
    # found in the text as it is, before spaces are spelled
    added = [replace(token, normalized=False) for token in special_tokens.added]
    vocabulary = read_vocabulary(sentencepiece_description(tokenizer), added, str(path))
    try:
        return byte_pair_tokenizer(vocabulary, special_tokens)
    except TokenizerError as error:
        raise TokenizerError(f"{path}: {error}") from None


def _is_same(native: Tokenizer, whole: Path) -> bool:
    """Whether a native vocabulary and a tokenizer.json have the same tokens under the same ids."""
    data = read_json(whole)
    stated = dict(get(get(data, "model", dict, str(whole)), "vocab", dict, "model"))
    stated |= {entry["content"]: entry["id"] for entry in get(data, "added_tokens", list, str(whole))}
    pieces: Sequence[str] = ()
    if isinstance(native, TekkenTokenizer):
        pieces = [*native.vocabulary.control, *(spell(token) for token in native.vocabulary.token_bytes)]
    elif isinstance(native, SentencePieceTokenizer):
        pieces = native.vocabulary.pieces
    return stated == {piece: token_id for token_id, piece in enumerate(pieces)}


def _stated_version(native: Path, tokenizer: Tokenizer) -> str | None:
    """Version of the chat format that a native file states."""
    if isinstance(tokenizer, TekkenTokenizer):
        return tokenizer.vocabulary.version
    declared = _DECLARED_VERSION.search(native.name)
    return declared[1] if declared else None
