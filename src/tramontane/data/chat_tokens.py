"""Checked samples as token ids with loss masks: the assistant's turns, end of sequence included, are learned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from tramontane.data.chat_samples import ChatSample, ClassifierSample, PreferencePair
from tramontane.errors import DataError, TokenizerError
from tramontane.tokenizer.chat import MistralChat, Turn
from tramontane.tokenizer.messages import Message

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
        """`max_len` (tokens) refuses longer samples. A tokenizer without chat format encodes texts alone."""
        self._tokenizer, self._max_len = tokenizer, max_len

    @property
    def thinks(self) -> bool:
        """Whether the chat format can write reasoning."""
        chat = self._tokenizer.chat
        return isinstance(chat, MistralChat) and chat.features.thinks

    def chat(self, sample: ChatSample) -> EncodedSample:
        """The whole conversation. Of its answers those are learned that follow the definitions of the tools, if it has
        any; ids of calls are seen and not learned. Raises DataError for a sample longer than `max_len` or one that
        the chat format cannot write."""
        return self._encoded(sample, self._turns(sample))

    def documents(self, sample: ChatSample) -> list[EncodedSample]:
        """The conversation so that all its answers are learned where they would be given. Formats that write the tools
        before the last question hide them from earlier answers: then each question, with what leads to it and what
        answers it, is a document of its own, as serving renders it. Raises DataError as `chat` does."""
        turns = self._turns(sample)
        is_hidden = _hides_tools(sample, turns)
        found = [self.chat(part) for part in _by_question(sample)] if is_hidden else [self._encoded(sample, turns)]
        learned = [document for document in found if document.mask.any()]
        if not learned:
            raise DataError("nothing of it can be learned in this chat format: no answer follows what it needs to know")
        return learned

    def text(self, text: str, piece_len: int | None = None) -> list[EncodedSample]:
        """A text, learned whole, in pieces of at most `piece_len` tokens, each begun as texts are; the last has the
        end. Raises DataError for one that cannot be spelled."""
        try:
            token_ids = self._tokenizer.encode(text, eos=True)
        except TokenizerError as error:
            raise DataError(str(error)) from None
        begin = self._tokenizer.prefix_ids
        room = len(token_ids) if piece_len is None else max(1, piece_len - len(begin))
        pieces = [[*begin, *token_ids[start : start + room]] for start in range(0, len(token_ids), room)]
        return [EncodedSample(np.array(piece, np.int64), np.ones(len(piece), np.bool_)) for piece in pieces]

    def _turns(self, sample: ChatSample) -> list[Turn]:
        try:
            return self._tokenizer.require_chat().encode_turns(sample.messages, tools=sample.tools or None)
        except TokenizerError as error:
            raise DataError(str(error)) from None

    def _encoded(self, sample: ChatSample, turns: Sequence[Turn]) -> EncodedSample:
        answers = iter(_learned_turns(sample))
        shown = not any(turn.shows_tools for turn in turns)
        token_ids: list[int] = []
        mask: list[bool] = []
        for turn in turns:
            shown = shown or turn.shows_tools
            is_learned = turn.role == "assistant" and next(answers) and shown
            token_ids += turn.token_ids
            mask += [is_learned and place not in turn.call_id_places for place in range(len(turn.token_ids))]
        self._check_len(len(token_ids))
        return EncodedSample(np.array(token_ids, np.int64), np.array(mask, np.bool_))

    def preference(self, pair: PreferencePair) -> tuple[EncodedSample, EncodedSample]:
        """(chosen, rejected); both begin with the same tokens, and only the answers are masked in."""
        return self.chat(pair.chosen), self.chat(pair.rejected)

    def classifier(self, sample: ClassifierSample) -> NDArray[np.int64]:
        """(n,) token ids whose last position the classifier head reads. Raises DataError as `chat` does."""
        try:
            if sample.text is not None:
                token_ids = self._tokenizer.encode_prompt(sample.text)
            else:
                token_ids = self._tokenizer.require_chat().encode_chat(sample.messages)
        except TokenizerError as error:
            raise DataError(str(error)) from None
        self._check_len(len(token_ids))
        return np.array(token_ids, np.int64)

    def _check_len(self, sample_len: int) -> None:
        if self._max_len is not None and sample_len > self._max_len:
            raise DataError(f"{sample_len} tokens long, more than {self._max_len}; raise --max-len (over HTTP seq_len)")


def _learned_turns(sample: ChatSample) -> list[bool]:
    """By turn of the assistant, which is one or several of its messages in a row, whether it is learned."""
    flags = iter(sample.is_learned)
    groups = groupby(sample.messages, key=lambda message: message.role)
    return [False not in [next(flags) for _ in group] for role, group in groups if role == "assistant"]


def _hides_tools(sample: ChatSample, turns: Sequence[Turn]) -> bool:
    """Whether an answer to a question is to be learned that stands before the tools."""
    answers = iter(_learned_turns(sample))
    asked = False
    for turn in turns:
        if turn.shows_tools:
            return False
        if turn.role == "assistant" and next(answers) and asked and sample.tools:
            return True
        asked = asked or turn.role == "user"
    return False


def _by_question(sample: ChatSample) -> Iterator[ChatSample]:
    """The conversation up to each last answer before a new question, where something since the question before is
    learned."""
    flags: list[bool] = []
    learned = iter(sample.is_learned)
    end = num_given = 0
    asked = False
    for place, message in enumerate((*sample.messages, Message("user"))):
        if message.role == "assistant":
            flags.append(next(learned))
            end = place + 1
        elif message.role == "user":
            if asked and any(flags[num_given:]):
                yield ChatSample(sample.messages[:end], sample.tools, tuple(flags))
            num_given, asked = len(flags), True
