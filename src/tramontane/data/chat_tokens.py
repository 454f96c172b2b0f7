"""Checked samples as token ids with loss masks: the assistant's turns, end of sequence included, are learned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tramontane.data.chat_samples import ChatSample, ClassifierSample, PreferencePair
from tramontane.errors import DataError, TokenizerError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tramontane.tokenizer.base import Tokenizer


@dataclass(frozen=True, slots=True)
class EncodedSample:
    """`token_ids` (n,) of one sample and `mask` (n,): True where the token is to be predicted."""

    token_ids: NDArray[np.int64]
    mask: NDArray[np.bool_]


class SampleEncoder:
    """Encodes samples in one tokenizer's chat format."""

    def __init__(self, tokenizer: Tokenizer, max_len: int | None = None) -> None:
        """`max_len` (tokens) refuses longer samples. Raises TokenizerError for a tokenizer without chat format."""
        self._tokenizer, self._max_len = tokenizer, max_len
        self._chat = tokenizer.require_chat()

    def chat(self, sample: ChatSample) -> EncodedSample:
        """Raises DataError for a sample longer than `max_len` or one that the chat format cannot write."""
        try:
            turns = self._chat.encode_turns(sample.messages, tools=sample.tools or None)
        except TokenizerError as error:
            raise DataError(str(error)) from None
        answers = iter(sample.is_learned)
        token_ids: list[int] = []
        mask: list[bool] = []
        for turn in turns:
            is_learned = turn.role == "assistant" and next(answers)
            token_ids += turn.token_ids
            mask += [is_learned] * len(turn.token_ids)
        self._check_len(len(token_ids))
        return EncodedSample(np.array(token_ids, np.int64), np.array(mask, np.bool_))

    def preference(self, pair: PreferencePair) -> tuple[EncodedSample, EncodedSample]:
        """(chosen, rejected); both begin with the same tokens, and only the answers are masked in."""
        return self.chat(pair.chosen), self.chat(pair.rejected)

    def classifier(self, sample: ClassifierSample) -> NDArray[np.int64]:
        """(n,) token ids whose last position the classifier head reads. Raises DataError as `chat` does."""
        try:
            if sample.text is not None:
                token_ids = self._tokenizer.encode(sample.text, bos=True)
            else:
                token_ids = self._chat.encode_chat(sample.messages)
        except TokenizerError as error:
            raise DataError(str(error)) from None
        self._check_len(len(token_ids))
        return np.array(token_ids, np.int64)

    def _check_len(self, sample_len: int) -> None:
        if self._max_len is not None and sample_len > self._max_len:
            raise DataError(f"{sample_len} tokens long, more than {self._max_len}; shorten it or allow longer ones")
