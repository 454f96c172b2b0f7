"""SentencePiece vocabularies (Llama 1 and 2, Mistral v1 to v7): `tokenizer.model` files and GGUF model `llama`.

Only BPE with identity normalisation is accepted, which is all these families use and all that llama.cpp can run.
Every vocabulary, whatever file it came from, is given to the sentencepiece library through the same small model
that `write_model` builds; the files themselves are read here, so that nothing unchecked reaches native code.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING

from tramontane.errors import TokenizerError
from tramontane.tokenizer.base import CONTROL_NAMES, MAX_VOCAB_SIZE, Tokenizer
from tramontane.tokenizer.protobuf import fields, float32, write_bytes, write_float32, write_varint

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

SPACE = "▁"
BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")
MAX_PIECE_CHARS = 1024
MAX_FILE_BYTES = 16 * 2**20  # the largest, of 262,000 pieces, takes 5 MB

_MAX_FLOAT32 = 3.4e38
_PIECE_FIELDS = 8  # there are three
_SETTINGS = 10_000  # of training and of normalisation: some list words
_BPE = 2  # TrainerSpec.model_type


class PieceType(IntEnum):
    """Kinds of piece, with the numbers that sentencepiece and GGUF share."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


_PIECE_TYPES = {int(kind): kind for kind in PieceType}


@dataclass(frozen=True, slots=True)
class SentencePieceVocabulary:
    """Pieces in id order with score (higher merges first) and kind. Raises TokenizerError when they cannot work."""

    pieces: tuple[str, ...]
    scores: tuple[float, ...]
    types: tuple[PieceType, ...]
    adds_space: bool = True

    def __post_init__(self) -> None:
        num_pieces = len(self.pieces)
        if not 1 <= num_pieces <= MAX_VOCAB_SIZE:
            raise TokenizerError(f"a vocabulary of {num_pieces} pieces is outside 1..{MAX_VOCAB_SIZE}")
        if len(self.scores) != num_pieces or len(self.types) != num_pieces:
            raise TokenizerError(
                f"the vocabulary has {num_pieces} pieces, {len(self.scores)} scores and {len(self.types)} types; "
                "they must be equally many"
            )
        seen: dict[str, int] = {}
        for token_id, (piece, score, kind) in enumerate(zip(self.pieces, self.scores, self.types, strict=True)):
            if not piece or len(piece) > MAX_PIECE_CHARS or "\0" in piece:
                raise TokenizerError(f"piece {token_id} is empty, holds NUL or is longer than {MAX_PIECE_CHARS}")
            if seen.setdefault(piece, token_id) != token_id:
                raise TokenizerError(f"piece {token_id} {piece!r} is also piece {seen[piece]}")
            if not math.isfinite(score) or abs(score) > _MAX_FLOAT32:
                raise TokenizerError(f"piece {token_id} {piece!r} has score {score}; it must be a finite float32")
            if kind == PieceType.BYTE and not BYTE_PIECE.fullmatch(piece):
                raise TokenizerError(f"byte piece {token_id} {piece!r} is not spelled <0x00> to <0xFF>")
            if kind in (PieceType.CONTROL, PieceType.UNKNOWN) and len(piece) < 2:
                raise TokenizerError(f"control piece {token_id} {piece!r} must have a name of two characters or more")
        if self.types.count(PieceType.BYTE) != 256:
            raise TokenizerError("the vocabulary lacks some of the 256 byte pieces <0x00> to <0xFF>")
        if self.types.count(PieceType.UNKNOWN) != 1:
            raise TokenizerError("the vocabulary must have exactly one unknown piece")

    def id_of(self, piece: str) -> int:
        """Raises TokenizerError when there is no such piece."""
        try:
            return self.pieces.index(piece)
        except ValueError:
            raise TokenizerError(f"the vocabulary has no piece {piece!r}") from None


def read_model(data: bytes) -> SentencePieceVocabulary:
    """Vocabulary of a `tokenizer.model` (protobuf message ModelProto of sentencepiece).

    Raises TokenizerError for a damaged file, another algorithm than BPE, or a normalisation of the text.
    """
    pieces: list[str] = []
    known: set[str] = set()
    scores: list[float] = []
    types: list[PieceType] = []
    algorithm = 1
    adds_space, removes_space = True, True
    for number, value in fields(data, MAX_VOCAB_SIZE + _PIECE_FIELDS):
        if number == 1 and isinstance(value, bytes):
            piece = dict(fields(value, _PIECE_FIELDS))
            text = _utf8(piece.get(1, b""))
            if not text or text in known:
                fault = "given twice" if text else "empty"
                raise TokenizerError(f"piece {len(pieces)} of tokenizer.model is {fault}; the file is damaged")
            pieces.append(text)
            known.add(text)
            scores.append(float32(piece.get(2, b"\0\0\0\0")))
            types.append(piece_type(piece.get(3, 1), len(pieces) - 1))
        elif number == 2 and isinstance(value, bytes):
            algorithm = _number(dict(fields(value, _SETTINGS)).get(3, 1))
        elif number == 3 and isinstance(value, bytes):
            normalizer = dict(fields(value, _SETTINGS))
            if normalizer.get(2):
                raise TokenizerError("tokenizer.model rewrites text before splitting it; only identity is supported")
            adds_space = bool(normalizer.get(3, 1))
            removes_space = bool(normalizer.get(4, 1))
    if not pieces:
        raise TokenizerError("tokenizer.model holds no vocabulary; the file is damaged or of another kind")
    if algorithm != _BPE:
        raise TokenizerError(f"tokenizer.model uses algorithm {algorithm}; only BPE ({_BPE}) is supported")
    if removes_space:
        raise TokenizerError("tokenizer.model drops repeated spaces; only models that keep them are supported")
    return SentencePieceVocabulary(tuple(pieces), tuple(scores), tuple(types), adds_space)


def write_model(vocabulary: SentencePieceVocabulary) -> bytes:
    """`tokenizer.model` of a vocabulary: BPE, byte fallback, identity normalisation."""
    chunks = []
    for piece, score, kind in zip(vocabulary.pieces, vocabulary.scores, vocabulary.types, strict=True):
        message = write_bytes(1, piece.encode()) + write_float32(2, score) + write_varint(3, kind)
        chunks.append(write_bytes(1, message))
    special = {40: vocabulary.types.index(PieceType.UNKNOWN)}
    for number, name in ((41, "<s>"), (42, "</s>"), (43, "<pad>")):
        special[number] = vocabulary.pieces.index(name) if name in vocabulary.pieces else _ABSENT
    unknown = vocabulary.pieces[special[40]]
    trainer = write_varint(3, _BPE) + write_varint(35, 1)
    trainer += b"".join(write_varint(number, token_id) for number, token_id in special.items())
    trainer += write_bytes(45, unknown.encode())
    normalizer = write_bytes(1, b"identity") + write_varint(3, vocabulary.adds_space)
    normalizer += write_varint(4, 0) + write_varint(5, 1)
    return b"".join((*chunks, write_bytes(2, trainer), write_bytes(3, normalizer)))


_ABSENT = 2**64 - 1  # -1 as protobuf writes an int32


def piece_type(value: object, token_id: int) -> PieceType:
    """Raises TokenizerError for a number that is no kind of piece."""
    kind = _PIECE_TYPES.get(value) if type(value) is int else None
    if kind is None:
        raise TokenizerError(f"piece {token_id} has type {value!r}; known are 1 to 6")
    return kind


class SentencePieceTokenizer(Tokenizer):
    """A sentencepiece BPE vocabulary. Control pieces, and pieces known to be control tokens, never come from text."""

    def __init__(self, vocabulary: SentencePieceVocabulary, *, bos_id: int, eos_id: int) -> None:
        types = list(vocabulary.types)
        for token_id, piece in enumerate(vocabulary.pieces):
            if types[token_id] != PieceType.UNKNOWN and piece in CONTROL_NAMES:
                types[token_id] = PieceType.CONTROL
        for token_id in (bos_id, eos_id):
            if 0 <= token_id < len(types) and types[token_id] != PieceType.UNKNOWN:
                types[token_id] = PieceType.CONTROL
        vocabulary = SentencePieceVocabulary(vocabulary.pieces, vocabulary.scores, tuple(types), vocabulary.adds_space)
        control = {
            token_id: piece
            for token_id, (piece, kind) in enumerate(zip(vocabulary.pieces, types, strict=True))
            if kind in (PieceType.CONTROL, PieceType.UNKNOWN)
        }
        pieces = [_piece_bytes(piece, kind) for piece, kind in zip(vocabulary.pieces, types, strict=True)]
        super().__init__(pieces, control, bos_id=bos_id, eos_id=eos_id, adds_space=vocabulary.adds_space)
        self.vocabulary = vocabulary
        self._processor = _processor(vocabulary)

    def _encode_text(self, text: str) -> list[int]:
        token_ids: list[int] = self._processor.encode(text)
        return token_ids

    def gguf_metadata(self) -> dict[str, object]:
        from tramontane.tokenizer.export import sentencepiece_metadata

        vocabulary = self.vocabulary
        return sentencepiece_metadata(
            self, vocabulary.pieces, vocabulary.scores, vocabulary.types, adds_space=vocabulary.adds_space
        )

    def save(self, folder: Path) -> list[Path]:
        from tramontane.tokenizer.export import save_sentencepiece

        return save_sentencepiece(self, folder)


def load_sentencepiece(path: Path) -> SentencePieceTokenizer:
    """The tokenizer of a `tokenizer.model` file. Raises TokenizerError naming the file."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise TokenizerError(f"larger than {MAX_FILE_BYTES} bytes")
        vocabulary = read_model(path.read_bytes())
        return SentencePieceTokenizer(vocabulary, bos_id=vocabulary.id_of("<s>"), eos_id=vocabulary.id_of("</s>"))
    except (OSError, TokenizerError) as error:
        raise TokenizerError(f"{path}: {error}") from None


def _processor(vocabulary: SentencePieceVocabulary) -> SentencePieceProcessor:
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError:
        raise TokenizerError("this vocabulary needs the package sentencepiece; pip install sentencepiece") from None
    try:
        return SentencePieceProcessor(model_proto=write_model(vocabulary))
    except RuntimeError as error:
        raise TokenizerError(f"sentencepiece refuses the vocabulary: {error}") from None


def _piece_bytes(piece: str, kind: PieceType) -> bytes:
    match kind:
        case PieceType.CONTROL | PieceType.UNKNOWN:
            return b""
        case PieceType.BYTE:
            return bytes([int(piece[3:5], 16)])
        case _:
            return piece.replace(SPACE, " ").encode()


def _utf8(value: bytes | int) -> str:
    if not isinstance(value, bytes):
        raise TokenizerError("tokenizer.model is damaged: a piece is not text")
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise TokenizerError("tokenizer.model is damaged: a piece is not UTF-8") from None


def _number(value: bytes | int) -> int:
    if not isinstance(value, int):
        raise TokenizerError("tokenizer.model is damaged: a number is expected")
    return value
