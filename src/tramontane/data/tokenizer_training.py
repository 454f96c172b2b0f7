"""Byte-level BPE trained on our own text and written in tekken format, so that mistral-common's chat, tool and
fill-in-the-middle machinery works for home-grown models.

Trade-off: only the control tokens that the chosen instruct version needs are reserved (20 for v7). The shipped tekken
files reserve 1,000, which would be an eighth of a vocabulary of 8,192.
"""

from __future__ import annotations

import base64
import importlib.util
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tramontane import durable
from tramontane.errors import DataError, TokenizerError
from tramontane.tokenizer.tekken import TEKKEN_PATTERN

InstructVersion = Literal["v7", "v11", "v13"]

# Ids are the places in these tuples; the first twenty are fixed by the tekken files of version 7 and before.
_V7_CONTROL_TOKENS = (
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]"),
    *("[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]"),
    *("[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"),
)
CONTROL_TOKENS: Mapping[InstructVersion, tuple[str, ...]] = {
    "v7": _V7_CONTROL_TOKENS,
    "v11": (*_V7_CONTROL_TOKENS, "[ARGS]", "[CALL_ID]"),
    "v13": (*_V7_CONTROL_TOKENS, "[ARGS]", "[CALL_ID]", "[THINK]", "[/THINK]"),
}

# mistral-common finds where a fill-in-the-middle suffix starts by encoding it after "☺" and dropping two tokens, as all
# shipped vocabularies write that sign. Ours must do so too: its first two bytes are the first merge, its third stays
# single.
_FIM_SIGN = "☺".encode()

NUM_BYTES = 256  # a tekken vocabulary opens with all single bytes, in order


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Learned byte strings in merge order. `token_bytes[:256]` are the single bytes; a place is a tiktoken rank."""

    token_bytes: tuple[bytes, ...]
    pattern: str = TEKKEN_PATTERN


@dataclass(frozen=True, slots=True)
class Compression:
    """How densely one tokenizer writes a corpus."""

    name: str
    vocab_size: int
    num_bytes: int
    num_token_ids: int

    @property
    def bytes_per_token(self) -> float:
        return self.num_bytes / max(1, self.num_token_ids)


def train_vocabulary(
    texts: Iterable[str],
    vocab_size: int,
    *,
    version: InstructVersion = "v7",
    min_frequency: int = 2,
    max_token_len: int = 24,
) -> Vocabulary:
    """Learn the merges of `texts` (consumed once; memory grows with distinct words, not with text).

    `vocab_size` counts everything: control tokens, the 256 bytes and the merges. `max_token_len` (bytes) keeps rulers
    such as "--------" from taking places. The same texts in the same order give the same vocabulary.
    Raises DataError when the corpus is too small to fill the vocabulary.
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    num_learned = vocab_size - len(CONTROL_TOKENS[version]) - NUM_BYTES
    if num_learned < 1:
        raise DataError(
            f"vocab_size={vocab_size} leaves no room for merges; "
            f"use more than {len(CONTROL_TOKENS[version]) + NUM_BYTES} with version {version}"
        )
    trainee = Tokenizer(models.BPE())
    trainee.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(TEKKEN_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=NUM_BYTES + num_learned + 8,  # a few more than needed: those with the FIM sign are left out
        min_frequency=min_frequency,
        max_token_length=max_token_len,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    trainee.train_from_iterator(texts, trainer)
    by_id = sorted(trainee.get_vocab().items(), key=lambda item: item[1])
    byte_of = _byte_level_alphabet()
    merged = (bytes(byte_of[char] for char in token) for token, _ in by_id if len(token) > 1)
    learned = [_FIM_SIGN[:2], *(token for token in merged if token != _FIM_SIGN[:2] and _FIM_SIGN not in token)]
    if len(learned) < num_learned:
        raise DataError(
            f"the corpus supports only {len(learned) + NUM_BYTES + len(CONTROL_TOKENS[version])} tokens; "
            f"ask for at most that (vocab_size={vocab_size}) or give more text"
        )
    return Vocabulary((*(bytes([value]) for value in range(NUM_BYTES)), *learned[:num_learned]))


def _byte_level_alphabet() -> dict[str, int]:
    """The printable stand-in of every byte in byte-level BPE (GPT-2): printable Latin-1 stays, the others follow
    from U+0100 on in byte order."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [value for value in range(NUM_BYTES) if value not in printable]
    return {chr(value): value for value in printable} | {chr(256 + n): value for n, value in enumerate(others)}


def tekken_document(vocabulary: Vocabulary, *, version: InstructVersion = "v7") -> dict[str, Any]:
    """The content of a tekken.json. Text token t of the model is rank `t - number of control tokens`."""
    control = CONTROL_TOKENS[version]
    return {
        "config": {
            "pattern": vocabulary.pattern,
            "num_vocab_tokens": len(vocabulary.token_bytes),
            "default_vocab_size": len(vocabulary.token_bytes) + len(control),
            "default_num_special_tokens": len(control),
            "version": version,
        },
        "vocab": [
            {"rank": rank, "token_bytes": base64.b64encode(token).decode("ascii"), "token_str": _text_or_none(token)}
            for rank, token in enumerate(vocabulary.token_bytes)
        ],
        "special_tokens": [
            {"rank": rank, "token_str": token_str, "is_control": True} for rank, token_str in enumerate(control)
        ],
        "version": 1,
        "type": "Tekken",
    }


def _text_or_none(token: bytes) -> str | None:
    try:
        return token.decode("utf-8")
    except UnicodeDecodeError:
        return None


def write_tekken(path: Path, vocabulary: Vocabulary, *, version: InstructVersion = "v7") -> None:
    """Write `path`, which must be named tekken*.json (mistral-common knows the format by that name).

    The file appears whole or not at all. Raises TokenizerError for another name.
    """
    if not (path.name.startswith("tekken") and path.suffix == ".json"):
        raise TokenizerError(f"{path.name}: a tekken vocabulary must be named tekken.json or tekken_*.json")
    durable.make_folder(path.parent)
    durable.write(path, json.dumps(tekken_document(vocabulary, version=version), ensure_ascii=False, indent=1))


def shipped_tokenizers() -> dict[str, Path]:
    """Vocabulary files that come with mistral-common, by file name; those of sentencepiece only where it is
    installed."""
    import mistral_common

    folder = Path(mistral_common.__file__).parent / "data"
    marks = ("tekken", ".model.") if importlib.util.find_spec("sentencepiece") else ("tekken",)
    return {path.name: path for path in sorted(folder.iterdir()) if any(mark in path.name for mark in marks)}


def compression_report(texts: Sequence[str], tokenizers: Mapping[str, Path]) -> list[Compression]:
    """Bytes per token of each tokenizer over the same texts, densest first."""
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

    num_bytes = sum(len(text.encode("utf-8")) for text in texts)
    rows = []
    for name, path in tokenizers.items():
        inner = MistralTokenizer.from_file(str(path)).instruct_tokenizer.tokenizer
        num_token_ids = sum(len(inner.encode(text, bos=False, eos=False)) for text in texts)
        rows.append(Compression(name, inner.n_words, num_bytes, num_token_ids))
    return sorted(rows, key=lambda row: -row.bytes_per_token)
