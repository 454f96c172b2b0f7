"""Tokenizer: text to token ids and back, the same for every kind of vocabulary file.

Control tokens are told apart by id alone. Each engine is built without them, so no text can ever be encoded into
one: they enter a prompt only through the chat format, which places their ids.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from tramontane.errors import TokenizerError

if TYPE_CHECKING:
    from pathlib import Path

    from tramontane.tokenizer.chat import ChatFormat

MAX_TEXT_CHARS = 2**28  # one call's text: a bound on time and memory, far above the longest document
MAX_VOCAB_SIZE = 2**20

MISTRAL_CONTROL_NAMES = (
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]"),
    *("[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]"),
    *("[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"),
)
"""Ids 0 to 19 of the tekken files that do not name their control tokens (v3 and v7)."""

CONTROL_NAMES = frozenset(
    (
        *MISTRAL_CONTROL_NAMES,
        *("[ARGS]", "[CALL_ID]", "[THINK]", "[/THINK]", "[MODEL_SETTINGS]", "[/MODEL_SETTINGS]"),
        *("▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"),
    )
)
"""Names that are control tokens whatever a file declares them to be."""


class Tokenizer(ABC):
    """A vocabulary with its way of splitting text.

    `pieces[i]` are the bytes token i stands for (empty for control tokens); `control` names the control tokens by
    id. `adds_space`: the engine puts a space before every text it encodes (sentencepiece), which decoding takes
    off again. `prefix_ids` and `suffix_ids` are what the checkpoint puts around every text that is read from its
    beginning: the beginning of sequence and nothing, unless it says otherwise. `chat` is None where the chat format is
    not known; `chat_reason` then says why, and `foreign_template` is the template that other programs are to have.
    """

    def __init__(
        self,
        pieces: Sequence[bytes],
        control: Mapping[int, str],
        *,
        bos_id: int,
        eos_id: int,
        adds_space: bool,
    ) -> None:
        self.vocab_size = len(pieces)
        self.bos_id = bos_id
        self.eos_id = eos_id
        self.stop_ids = frozenset((eos_id,))
        self.adds_space = adds_space
        self.prefix_ids: tuple[int, ...] = (bos_id,)
        self.suffix_ids: tuple[int, ...] = ()
        self.chat: ChatFormat | None = None
        self.chat_reason = "no chat format was recognised"
        self.foreign_template: str | None = None
        self._pieces = pieces
        self._control = dict(control)
        self._control_ids = {name: token_id for token_id, name in self._control.items()}
        for role, token_id in (("bos", bos_id), ("eos", eos_id)):
            if not 0 <= token_id < self.vocab_size:
                raise TokenizerError(f"{role} token id {token_id} is outside the vocabulary of {self.vocab_size}")

    @abstractmethod
    def _encode_text(self, text: str) -> list[int]:
        """Token ids of non-empty valid Unicode text."""

    @abstractmethod
    def gguf_metadata(self) -> dict[str, object]:
        """The `tokenizer.*` keys of a GGUF file, complete enough for llama.cpp to run this vocabulary.

        Raises TokenizerError when llama.cpp has no such kind of vocabulary.
        """

    @abstractmethod
    def save(self, folder: Path) -> list[Path]:
        """Write the files that `load_tokenizer`, transformers and mistral-common read; returns their paths."""

    def encode(self, text: str, *, bos: bool = False, eos: bool = False) -> list[int]:
        """Token ids of `text`. Nothing in the text is markup: `encode("</s>")` spells the four characters.

        Raises TokenizerError for text that is not valid Unicode (lone surrogates) or longer than 2^28 characters.
        """
        if not isinstance(text, str):
            raise TokenizerError(f"text must be a str, not {type(text).__name__}")
        if len(text) > MAX_TEXT_CHARS:
            raise TokenizerError(f"a text of {len(text):,} characters is too long; split it at {MAX_TEXT_CHARS:,}")
        token_ids = self._encode_text(_valid_unicode(text)) if text else []
        if not self._control.keys().isdisjoint(token_ids):
            raise TokenizerError("the text holds characters that this vocabulary cannot spell")
        if bos:
            token_ids.insert(0, self.bos_id)
        if eos:
            token_ids.append(self.eos_id)
        return token_ids

    def encode_prompt(self, text: str) -> list[int]:
        """Token ids of a text that is read from its beginning, with the special tokens the checkpoint puts around it.

        Raises TokenizerError as `encode` does.
        """
        return [*self.prefix_ids, *self.encode(text), *self.suffix_ids]

    def decode(self, token_ids: Iterable[int], *, keep_control: bool = False, continuation: bool = False) -> str:
        """Text of `token_ids`; bytes that are not UTF-8 become U+FFFD.

        Control tokens are left out, or spelled by name with `keep_control`. The space that sentencepiece puts before
        a text is taken off, unless the ids continue earlier text (`continuation`). Raises TokenizerError for a
        negative id; ids beyond the vocabulary (padding rows of an embedding) stand for nothing.
        """
        parts: list[bytes] = []
        at_start = self.adds_space and not continuation
        for token_id in token_ids:
            piece = self.token_bytes(token_id)
            if at_start and piece:
                piece = piece.removeprefix(b" ")
                at_start = False
            if keep_control and token_id in self._control:
                piece = self._control[token_id].encode()
            parts.append(piece)
        return b"".join(parts).decode("utf-8", errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        """Bytes that `token_id` adds to a text; empty for control tokens. Raises TokenizerError for a negative id."""
        if token_id < 0:
            raise TokenizerError(f"token id {token_id} is negative")
        return self._pieces[token_id] if token_id < self.vocab_size else b""

    @cached_property
    def max_token_bytes(self) -> int:
        """Of the longest token: a text of more bytes than so many times n is more than n tokens. No tokenizer here
        drops anything of a text but the space that sentencepiece has put before it."""
        return max(map(len, self._pieces))

    def is_control(self, token_id: int) -> bool:
        return token_id in self._control

    def control_name(self, token_id: int) -> str | None:
        """`[INST]`, `</s>` and the like; None for text tokens."""
        return self._control.get(token_id)

    def control_id(self, name: str) -> int:
        """Id of a control token. Raises TokenizerError when the vocabulary has none of that name."""
        token_id = self._control_ids.get(name)
        if token_id is None:
            raise TokenizerError(f"this vocabulary has no control token {name}")
        return token_id

    @property
    def control_names(self) -> frozenset[str]:
        return frozenset(self._control_ids)

    def require_chat(self) -> ChatFormat:
        """The chat format. Raises TokenizerError saying why there is none."""
        if self.chat is None:
            raise TokenizerError(f"this model cannot chat: {self.chat_reason}; use plain generation")
        return self.chat


def _valid_unicode(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TokenizerError(
            f"text is not valid Unicode: character {error.start} is the lone surrogate "
            f"U+{ord(text[error.start]):04X}; decode it with errors='replace' first"
        ) from None
    return text
