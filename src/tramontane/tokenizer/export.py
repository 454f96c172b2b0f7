"""Vocabularies written for others: GGUF metadata for llama.cpp, files beside a checkpoint for transformers.

A checkpoint gets its native file (tekken.json, tokenizer.model) and a tokenizer.json with tokenizer_config.json, which
gives the same ids in the tokenizers library.
"""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tramontane.errors import TokenizerError
from tramontane.tokenizer.byte_pair import SPACE_NORMALIZER, TEKKEN_SPLIT, spell
from tramontane.tokenizer.sentencepiece import BYTE_PIECE, SPACE, PieceType, write_model
from tramontane.tokenizer.templates import TEMPLATES

if TYPE_CHECKING:
    from tramontane.tokenizer.base import Tokenizer
    from tramontane.tokenizer.byte_pair import BytePairTokenizer, BytePairVocabulary
    from tramontane.tokenizer.sentencepiece import SentencePieceTokenizer
    from tramontane.tokenizer.tekken import TekkenTokenizer, TekkenVocabulary

_BYTE_LEVEL_DECODER = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}


def _space_decoder(adds_space: bool) -> dict[str, Any]:
    """Of vocabularies that spell a space as sentencepiece does."""
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if adds_space else []
    replace = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    return {"type": "Sequence", "decoders": [replace, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]}


def chat_template_metadata(tokenizer: Tokenizer) -> dict[str, object]:
    """`tokenizer.chat_template` where there is one, or the chat format can be written as one."""
    template = chat_template_of(tokenizer)
    return {} if template is None else {"tokenizer.chat_template": template}


def chat_template_of(tokenizer: Tokenizer) -> str | None:
    """Of the chat format; what was found of one that is not known here goes along unread, lest the control tokens alone
    seem to tell another."""
    return tokenizer.foreign_template if tokenizer.chat is None else TEMPLATES.get(tokenizer.chat.name)


def byte_level_metadata(
    tokenizer: Tokenizer, tokens: Sequence[str], types: Sequence[PieceType], merges: Iterable[tuple[str, str]]
) -> dict[str, object]:
    """GGUF metadata of a byte-level vocabulary that splits text as tekken does."""
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "tekken",
        "tokenizer.ggml.tokens": list(tokens),
        "tokenizer.ggml.token_type": [int(kind) for kind in types],
        "tokenizer.ggml.merges": [f"{left} {right}" for left, right in merges],
        "tokenizer.ggml.bos_token_id": tokenizer.bos_id,
        **_stop_metadata(tokenizer),
        **_around_metadata(tokenizer),
        **chat_template_metadata(tokenizer),
    }


def _stop_metadata(tokenizer: Tokenizer) -> dict[str, object]:
    """llama.cpp knows three ids that end an answer; `eos_token_ids`, all of them, is read by us alone."""
    others = sorted(tokenizer.stop_ids - {tokenizer.eos_id})
    keys = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")
    metadata: dict[str, object] = dict(zip(keys, (tokenizer.eos_id, *others), strict=False))
    if len(others) > 2:
        metadata["tokenizer.ggml.eos_token_ids"] = [tokenizer.eos_id, *others]
    return metadata


def _around_metadata(tokenizer: Tokenizer) -> dict[str, object]:
    """What llama.cpp is to put around a text. Raises TokenizerError for what it has no words for."""
    if tokenizer.prefix_ids not in ((), (tokenizer.bos_id,)) or tokenizer.suffix_ids not in ((), (tokenizer.eos_id,)):
        raise TokenizerError(
            f"tokens {list(tokenizer.prefix_ids)} before and {list(tokenizer.suffix_ids)} after every text have no "
            f"GGUF form, which knows beginning ({tokenizer.bos_id}) and end of sequence ({tokenizer.eos_id}) only"
        )
    return {
        "tokenizer.ggml.add_bos_token": bool(tokenizer.prefix_ids),
        "tokenizer.ggml.add_eos_token": bool(tokenizer.suffix_ids),
    }


def tekken_metadata(tokenizer: TekkenTokenizer) -> dict[str, object]:
    """GGUF metadata of a tekken vocabulary."""
    vocabulary = tokenizer.vocabulary
    tokens = [*vocabulary.control, *(spell(token) for token in vocabulary.token_bytes)]
    types = [PieceType.CONTROL] * len(vocabulary.control) + [PieceType.NORMAL] * len(vocabulary.token_bytes)
    return byte_level_metadata(tokenizer, tokens, types, tekken_merges(vocabulary))


def tekken_merges(vocabulary: TekkenVocabulary) -> list[tuple[str, str]]:
    """Every way to make each token of two others, tokens in rank order: the merges that tiktoken's ranks imply."""
    spelled = {token: spell(token) for token in vocabulary.token_bytes}
    ranks = {token: rank for rank, token in enumerate(vocabulary.token_bytes)}
    merges: list[tuple[str, str]] = []
    for token in vocabulary.token_bytes[256:]:
        pairs = [
            (ranks[left], ranks[right], left, right)
            for cut in range(1, len(token))
            if (left := token[:cut]) in ranks and (right := token[cut:]) in ranks
        ]
        merges.extend((spelled[left], spelled[right]) for _, _, left, right in sorted(pairs))
    return merges


def byte_pair_metadata(tokenizer: BytePairTokenizer) -> dict[str, object]:
    """GGUF metadata of a vocabulary with merges: `gpt2` when byte-level, `llama` when spelled as sentencepiece does.

    Raises TokenizerError when llama.cpp would split text in another way.
    """
    vocabulary = tokenizer.vocabulary
    tokens = [f"[unused_{token_id}]" for token_id in range(tokenizer.vocab_size)]
    types = [PieceType.UNUSED] * tokenizer.vocab_size
    for token, token_id in vocabulary.tokens.items():
        tokens[token_id], types[token_id] = token, PieceType.NORMAL
    for token_id, name in vocabulary.control.items():
        tokens[token_id] = name
        is_unknown = name == "<unk>" and not vocabulary.byte_level
        types[token_id] = PieceType.UNKNOWN if is_unknown else PieceType.CONTROL
    for token_id, entry in vocabulary.literal.items():
        tokens[token_id], types[token_id] = entry["content"], PieceType.USER_DEFINED
    if vocabulary.byte_level:
        if vocabulary.pre_tokenizer != TEKKEN_SPLIT or not vocabulary.ignore_merges:
            raise TokenizerError("llama.cpp cannot run this vocabulary: it does not split text as tekken does")
        return byte_level_metadata(tokenizer, tokens, types, vocabulary.merges)
    types = [
        PieceType.BYTE if kind == PieceType.NORMAL and BYTE_PIECE.fullmatch(token) else kind
        for token, kind in zip(tokens, types, strict=True)
    ]
    scores = _scores(vocabulary, tokens)
    return sentencepiece_metadata(tokenizer, tokens, scores, types, adds_space=vocabulary.adds_space)


def _scores(vocabulary: BytePairVocabulary, tokens: Sequence[str]) -> list[float]:
    """Merge order as sentencepiece scores: the earlier a piece can first be merged, the higher."""
    first: dict[str, int] = {}
    for rank, (left, right) in enumerate(vocabulary.merges):
        first.setdefault(left + right, rank)
    places = {piece: place for place, piece in enumerate(sorted(first, key=first.__getitem__))}
    return [-float(places.get(token, 0)) for token in tokens]


def sentencepiece_metadata(
    tokenizer: Tokenizer,
    pieces: Sequence[str],
    scores: Sequence[float],
    types: Sequence[PieceType],
    *,
    adds_space: bool,
) -> dict[str, object]:
    """GGUF metadata of a sentencepiece vocabulary."""
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": list(pieces),
        "tokenizer.ggml.scores": list(scores),
        "tokenizer.ggml.token_type": [int(kind) for kind in types],
        "tokenizer.ggml.bos_token_id": tokenizer.bos_id,
        **_stop_metadata(tokenizer),
        "tokenizer.ggml.unknown_token_id": list(types).index(PieceType.UNKNOWN),
        **_around_metadata(tokenizer),
        "tokenizer.ggml.add_space_prefix": adds_space,
        **chat_template_metadata(tokenizer),
    }


def save_tekken(tokenizer: TekkenTokenizer, folder: Path) -> list[Path]:
    """Write tekken.json, tokenizer.json and tokenizer_config.json."""
    vocabulary = tokenizer.vocabulary
    native = folder / "tekken.json"
    if tokenizer.source is not None:
        _copy(tokenizer.source, native)
    else:
        native.write_text(json.dumps(_tekken_json(vocabulary)), encoding="utf-8")
    num_control = len(vocabulary.control)
    pattern = {"Regex": vocabulary.pattern}
    split = {**TEKKEN_SPLIT["pretokenizers"][0], "pattern": pattern}
    model = {
        "type": "BPE",
        "ignore_merges": True,
        "vocab": {
            **{name: token_id for token_id, name in enumerate(vocabulary.control)},
            **{spell(token): num_control + rank for rank, token in enumerate(vocabulary.token_bytes)},
        },
        "merges": [list(pair) for pair in tekken_merges(vocabulary)],
    }
    description = _tokenizer_json(
        tokenizer,
        dict(enumerate(vocabulary.control)),
        model,
        normalizer=None,
        pre_tokenizer={"type": "Sequence", "pretokenizers": [split, TEKKEN_SPLIT["pretokenizers"][1]]},
        decoder=_BYTE_LEVEL_DECODER,
    )
    return [native, *_write_hugging_face(tokenizer, description, folder)]


def save_sentencepiece(tokenizer: SentencePieceTokenizer, folder: Path) -> list[Path]:
    """Write tokenizer.model (and tokenizer.model.vN for Mistral's tools), tokenizer.json and tokenizer_config.json."""
    vocabulary = tokenizer.vocabulary
    data = write_model(vocabulary)
    names = ["tokenizer.model"]
    if tokenizer.chat is not None and tokenizer.chat.name in ("v2", "v3", "v7"):
        names.append(f"tokenizer.model.{tokenizer.chat.name}")
    native = [folder / name for name in names]
    for path in native:
        path.write_bytes(data)
    return [*native, *_write_hugging_face(tokenizer, sentencepiece_description(tokenizer), folder)]


def sentencepiece_description(tokenizer: SentencePieceTokenizer) -> dict[str, Any]:
    """The same vocabulary as the contents of a tokenizer.json."""
    vocabulary = tokenizer.vocabulary
    control = {
        token_id: piece
        for token_id, piece in enumerate(vocabulary.pieces)
        if vocabulary.types[token_id] in (PieceType.CONTROL, PieceType.UNKNOWN)
    }
    model = {
        "type": "BPE",
        "unk_token": vocabulary.pieces[vocabulary.types.index(PieceType.UNKNOWN)],
        "fuse_unk": True,
        "byte_fallback": True,
        "vocab": {piece: token_id for token_id, piece in enumerate(vocabulary.pieces)},
        "merges": [list(pair) for pair in sentencepiece_merges(tokenizer)],
    }
    return _tokenizer_json(
        tokenizer,
        control,
        model,
        normalizer=SPACE_NORMALIZER if vocabulary.adds_space else SPACE_NORMALIZER["normalizers"][1],
        pre_tokenizer=None,
        decoder=_space_decoder(vocabulary.adds_space),
    )


def sentencepiece_merges(tokenizer: SentencePieceTokenizer) -> list[tuple[str, str]]:
    """Every way to make each piece of two others, pieces by falling score: the merges that the scores imply."""
    vocabulary = tokenizer.vocabulary
    places = {
        piece: token_id
        for token_id, piece in enumerate(vocabulary.pieces)
        if vocabulary.types[token_id] in (PieceType.NORMAL, PieceType.USER_DEFINED)
    }
    by_score = sorted(places, key=lambda piece: (-vocabulary.scores[places[piece]], places[piece]))
    merges: list[tuple[str, str]] = []
    for piece in by_score:
        pairs = [
            (places[left], places[right], left, right)
            for cut in range(1, len(piece))
            if (left := piece[:cut]) in places and (right := piece[cut:]) in places
        ]
        merges.extend((left, right) for _, _, left, right in sorted(pairs))
    return merges


def save_byte_pair(tokenizer: BytePairTokenizer, folder: Path) -> list[Path]:
    """Copy the files the vocabulary came from; write tokenizer.json and tokenizer_config.json when it had none."""
    if tokenizer.files:
        return [_copy(file, folder / file.name) for file in tokenizer.files]
    vocabulary = tokenizer.vocabulary
    names = {name: token_id for token_id, name in vocabulary.control.items()}
    literal = {entry["content"]: token_id for token_id, entry in vocabulary.literal.items()}
    model = {
        "type": "BPE",
        "ignore_merges": vocabulary.ignore_merges,
        "byte_fallback": not vocabulary.byte_level,
        "vocab": {**names, **literal, **vocabulary.tokens},
        "merges": [list(pair) for pair in vocabulary.merges],
    }
    description = _tokenizer_json(
        tokenizer,
        vocabulary.control,
        model,
        normalizer=vocabulary.normalizer,
        pre_tokenizer=vocabulary.pre_tokenizer,
        decoder=_BYTE_LEVEL_DECODER if vocabulary.byte_level else _space_decoder(vocabulary.adds_space),
    )
    description["added_tokens"] += [{"id": token_id, **entry} for token_id, entry in vocabulary.literal.items()]
    return _write_hugging_face(tokenizer, description, folder)


def _tokenizer_json(
    tokenizer: Tokenizer,
    control: Mapping[int, str],
    model: Mapping[str, Any],
    *,
    normalizer: Mapping[str, Any] | None,
    pre_tokenizer: Mapping[str, Any] | None,
    decoder: Mapping[str, Any],
) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": token_id, "content": control[token_id], **flags} for token_id in sorted(control)],
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": _post_processor(tokenizer),
        "decoder": decoder,
        "model": model,
    }


def _post_processor(tokenizer: Tokenizer) -> dict[str, Any]:
    """What transformers puts around a text, alone and in pairs."""

    names = {i: tokenizer.control_name(i) for i in (*tokenizer.prefix_ids, *tokenizer.suffix_ids)}

    def one(name: str, type_id: int) -> list[dict[str, Any]]:
        before, after = (
            [{"SpecialToken": {"id": names[i], "type_id": type_id}} for i in token_ids]
            for token_ids in (tokenizer.prefix_ids, tokenizer.suffix_ids)
        )
        return [*before, {"Sequence": {"id": name, "type_id": type_id}}, *after]

    return {
        "type": "TemplateProcessing",
        "single": one("A", 0),
        "pair": [*one("A", 0), *one("B", 1)],
        "special_tokens": {name: {"id": name, "ids": [i], "tokens": [name]} for i, name in names.items()},
    }


def _write_hugging_face(tokenizer: Tokenizer, description: Mapping[str, Any], folder: Path) -> list[Path]:
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokenizer.control_name(tokenizer.bos_id),
        "eos_token": tokenizer.control_name(tokenizer.eos_id),
        "add_bos_token": bool(tokenizer.prefix_ids),
        "add_eos_token": bool(tokenizer.suffix_ids),
        "clean_up_tokenization_spaces": False,
    }
    config |= {f"{role}_token": name for role in ("unk", "pad") if (name := f"<{role}>") in tokenizer.control_names}
    template = chat_template_of(tokenizer)
    if template is not None:
        config["chat_template"] = template
    paths = [folder / "tokenizer.json", folder / "tokenizer_config.json"]
    for path, data in zip(paths, (description, config), strict=True):
        path.write_text(json.dumps(data, ensure_ascii=False, indent=1), encoding="utf-8")
    return paths


def _tekken_json(vocabulary: TekkenVocabulary) -> dict[str, Any]:
    return {
        "config": {
            "pattern": vocabulary.pattern,
            "num_vocab_tokens": len(vocabulary.token_bytes),
            "default_vocab_size": len(vocabulary.token_bytes) + len(vocabulary.control),
            "default_num_special_tokens": len(vocabulary.control),
            "version": vocabulary.version,
        },
        "vocab": [
            {"rank": rank, "token_bytes": base64.b64encode(token).decode(), "token_str": _text_or_none(token)}
            for rank, token in enumerate(vocabulary.token_bytes)
        ],
        "special_tokens": [
            {"rank": rank, "token_str": name, "is_control": True} for rank, name in enumerate(vocabulary.control)
        ],
    }


def _text_or_none(token: bytes) -> str | None:
    try:
        return token.decode()
    except UnicodeDecodeError:
        return None


def _copy(source: Path, target: Path) -> Path:
    if source.resolve() != target.resolve():
        shutil.copyfile(source, target)
    return target
