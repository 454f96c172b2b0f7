"""The chat format of Llama 2 and the fill-in-the-middle prompt of Code Llama, after Meta's reference code.

The marks of this format are plain text, so a message that contains one could pass for markup; like the reference,
it is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tramontane.errors import TokenizerError
from tramontane.tokenizer.chat import Turn, encode_infilling
from tramontane.tokenizer.messages import AssistantMessage, Message, Messages, Thinking, Tools, read_messages
from tramontane.tokenizer.parse import parse_answer

if TYPE_CHECKING:
    from tramontane.tokenizer.base import Tokenizer

_MARKS = ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>")


class LlamaChat:
    """`<s>[INST] <<SYS>>…<</SYS>> question [/INST] answer </s>`, one such stretch per question and answer."""

    name = "llama2"

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def encode_chat(self, messages: Messages, *, tools: Tools | None = None) -> list[int]:
        read = read_messages(messages)
        texts = self._texts(read, tools)
        if len(texts) % 2 == 0 and not read[-1].prefix:
            raise TokenizerError("the last message is the assistant's: nothing is left to answer; add a user message")
        token_ids: list[int] = []
        for place in range(0, len(texts), 2):
            token_ids += self._pair(texts[place : place + 2], is_open=place + 2 >= len(texts))
        return token_ids

    def encode_turns(self, messages: Messages, *, tools: Tools | None = None) -> list[Turn]:
        read = read_messages(messages)
        texts = self._texts(read, tools)
        if len(texts) % 2 or read[-1].prefix:
            raise TokenizerError("a conversation to learn from must end with a whole message of the assistant")
        turns: list[Turn] = []
        for place in range(0, len(texts), 2):
            question = self._pair(texts[place : place + 1], is_open=True)
            both = self._pair(texts[place : place + 2], is_open=False)
            # One text per pair, as the model was trained: the turn of the answer starts where the ids part.
            start = next((i for i, (a, b) in enumerate(zip(question, both, strict=False)) if a != b), len(question))
            turns += [Turn("user", tuple(both[:start])), Turn("assistant", tuple(both[start:]))]
        return turns

    def encode_fim(self, prompt: str, suffix: str | None) -> list[int]:
        if "▁<PRE>" not in self._tokenizer.control_names:
            raise TokenizerError("this model cannot fill in the middle; use plain generation, or a Code Llama model")
        pre, suf, mid = (self._tokenizer.control_id(f"▁<{name}>") for name in ("PRE", "SUF", "MID"))
        suffix_ids = encode_infilling(self._tokenizer, suffix) if suffix else []
        return [*self._tokenizer.prefix_ids, pre, *self._tokenizer.encode(prompt), suf, *suffix_ids, mid]

    def parse(self, token_ids: Sequence[int], *, final: bool = True) -> AssistantMessage:
        return parse_answer(self._tokenizer, token_ids, final=final)

    def _pair(self, texts: Sequence[str], *, is_open: bool) -> list[int]:
        text = f"[INST] {texts[0]} [/INST]"
        if len(texts) == 2:
            text += f" {texts[1]}" if is_open else f" {texts[1]} "
        return self._tokenizer.encode(text, bos=True, eos=not is_open)

    def _texts(self, messages: list[Message], tools: Tools | None) -> list[str]:
        """Questions and answers in turn, the system prompt inside the first question."""
        if tools:
            raise TokenizerError("models of format llama2 know no tools")
        system = None
        if messages and messages[0].role == "system":
            system, messages = _text(messages[0], 0), messages[1:]
        texts = []
        for place, message in enumerate(messages):
            expected = ("user", "assistant")[place % 2]
            if message.role != expected:
                raise TokenizerError(f"models of format llama2 expect role {expected} here, not {message.role}")
            texts.append(_text(message, place))
        if not texts:
            raise TokenizerError("a conversation needs at least one user message")
        if system is not None:
            texts[0] = f"<<SYS>>\n{system}\n<</SYS>>\n\n{texts[0]}"
        return [text.strip() for text in texts]


def _text(message: Message, place: int) -> str:
    if message.tool_calls or any(isinstance(chunk, Thinking) for chunk in message.chunks):
        raise TokenizerError("models of format llama2 know no tools and no thinking")
    if message.prefix and message.role != "assistant":
        raise TokenizerError(f"messages[{place}].prefix is only possible in an assistant message")
    text = "\n\n".join(chunk for chunk in message.chunks if isinstance(chunk, str))
    for mark in _MARKS:
        if mark in text:
            raise TokenizerError(f"the text holds {mark}, which is markup in format llama2; write it another way")
    return text
