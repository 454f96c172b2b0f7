"""The vocabularies of the tests: mistral-common's own files, small tekken files cut from them, Llama-like ones."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import mistral_common
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

from tests.temporary import temporary_folder
from tramontane.tokenizer import Tokenizer, gguf_tokenizer, load_tokenizer
from tramontane.tokenizer.base import MISTRAL_CONTROL_NAMES
from tramontane.tokenizer.sentencepiece import PieceType, SentencePieceTokenizer, SentencePieceVocabulary

DATA = Path(mistral_common.__file__).parent / "data"
FILES = {
    "v1": DATA / "tokenizer.model.v1",
    "v2": DATA / "mistral_instruct_tokenizer_240216.model.v2",
    "v3": DATA / "mistral_instruct_tokenizer_240323.model.v3",
    "v7": DATA / "mistral_instruct_tokenizer_241114.model.v7",
    "v3-tekken": DATA / "tekken_240718.json",
}
NUM_SMALL = 1024
SMALL_TEKKEN = ("v3-small", "v7-small", "v11-small", "v13-small")
EVERY_FORMAT = (*FILES, *SMALL_TEKKEN)
COPIED = ("v1", "v3", "v3-tekken", "v7-small", "v11-small", "v13-small")  # one of each kind of file and chat format


@cache
def path_of(name: str) -> Path:
    """File of a vocabulary; `v7-small` and the like are the first tokens of tekken_240718.json under that version."""
    return FILES[name] if name in FILES else _write_small_tekken(name.removesuffix("-small"))


@cache
def ours(name: str) -> Tokenizer:
    return load_tokenizer(path_of(name))


@cache
def theirs(name: str) -> MistralTokenizer[Any, Any, Any, Any, Any]:
    return MistralTokenizer.from_file(path_of(name))


@cache
def _metadata(name: str) -> dict[str, Any]:
    return (tiny_sentencepiece() if name == "tiny" else ours(name)).gguf_metadata()


def metadata_of(name: str) -> dict[str, Any]:
    """GGUF metadata of a vocabulary (or of `tiny`), to be changed freely: its lists are copies."""
    return {key: list(value) if isinstance(value, list) else value for key, value in _metadata(name).items()}


@cache
def from_gguf(name: str) -> Tokenizer:
    """The same vocabulary by way of GGUF metadata."""
    return gguf_tokenizer(_metadata(name))


@cache
def saved(name: str) -> Path:
    """Folder with everything `save` writes."""
    folder = temporary_folder()
    ours(name).save(folder)
    return folder


@cache
def from_tokenizer_json(name: str) -> Tokenizer:
    """The same vocabulary by way of the tokenizer.json that `save` writes."""
    return load_tokenizer(saved(name) / "tokenizer.json")


@cache
def small_tekken(version: str) -> dict[str, Any]:
    """Contents of a tekken.json of 1,024 tokens with the control tokens of `version`."""
    data = json.loads(FILES["v3-tekken"].read_bytes())
    names = list(MISTRAL_CONTROL_NAMES)
    if version in ("v11", "v13"):
        names += ["[ARGS]", "[CALL_ID]"]
    if version == "v13":
        names += ["[THINK]", "[/THINK]"]
    num_text = NUM_SMALL - len(names)
    return {
        "config": {
            "pattern": data["config"]["pattern"],
            "num_vocab_tokens": num_text,
            "default_vocab_size": NUM_SMALL,
            "default_num_special_tokens": len(names),
            "version": version,
        },
        "vocab": data["vocab"][:num_text],
        "special_tokens": [{"rank": rank, "token_str": name, "is_control": True} for rank, name in enumerate(names)],
    }


@cache
def tiny_sentencepiece() -> SentencePieceTokenizer:
    """A few pieces beside the bytes: enough to merge, small enough to read."""
    words = ["▁", "a", "b", "c", "▁a", "ab", "▁ab", "abc", "▁abc", "e", "▁e", "aa"]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{value:02X}>" for value in range(256)), *words]
    types = [PieceType.UNKNOWN, PieceType.CONTROL, PieceType.CONTROL, *[PieceType.BYTE] * 256]
    types += [PieceType.NORMAL] * len(words)
    scores = [0.0] * 259 + [-float(place) for place in range(len(words))]
    vocabulary = SentencePieceVocabulary(tuple(pieces), tuple(scores), tuple(types))
    return SentencePieceTokenizer(vocabulary, bos_id=1, eos_id=2)


def _write_small_tekken(version: str) -> Path:
    path = temporary_folder() / "tekken.json"
    path.write_text(json.dumps(small_tekken(version)))
    return path
