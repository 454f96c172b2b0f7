"""AbsentTokenizer: of a checkpoint without tokenizer files. Token ids work as ever, and no text can be made of them."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

from tramontane.errors import TokenizerError
from tramontane.tokenizer.base import Tokenizer

_REASON = (
    "this model has no tokenizer, so it takes token ids only; put tokenizer.json, tokenizer.model or tekken.json "
    "beside its weights"
)


class AbsentTokenizer(Tokenizer):
    """Every method that needs a vocabulary raises TokenizerError; ids stand for no text."""

    def __init__(self, vocab_size: int) -> None:  # what the other vocabularies hold is not there
        self.vocab_size = vocab_size
        self.stop_ids = frozenset()
        self.prefix_ids = self.suffix_ids = ()
        self.adds_space = False
        self.chat = None
        self.chat_reason = "it has no tokenizer"
        self._pieces = [b""] * vocab_size
        self._control, self._control_ids = {}, {}

    @property
    def bos_id(self) -> int:  # type: ignore[override]
        self._refuse()

    @property
    def eos_id(self) -> int:  # type: ignore[override]
        self._refuse()

    def encode(self, text: str, *, bos: bool = False, eos: bool = False) -> list[int]:
        self._refuse()

    def _encode_text(self, text: str) -> list[int]:
        self._refuse()

    def gguf_metadata(self) -> dict[str, object]:
        self._refuse()

    def save(self, folder: Path) -> list[Path]:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise TokenizerError(_REASON)
