"""Answer: one growing answer, from the engine's token ids to text, reasoning and tool calls."""

from __future__ import annotations

from tramontane.engine.request import FinishReason, Output, TokenLogprobs
from tramontane.llm.completion import Choice, Delta
from tramontane.tokenizer import AssistantMessage, ChatFormat, Detokenizer, Tokenizer


class Answer:
    """`take` turns each Output into a Delta until `finish_reason` is set; `choice` is then the whole answer.

    In a chat, reasoning between [THINK] and [/THINK] is kept apart from the text, and what follows [TOOL_CALLS] is
    held back to the end, when it is parsed. Stop strings are looked for in the text alone.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop: tuple[str, ...],
        *,
        index: int,
        chat: ChatFormat | None = None,
        continuation: bool = True,
    ) -> None:
        self.index = index
        self.finish_reason: FinishReason | None = None
        self._tokenizer = tokenizer
        self._chat = chat
        self._text = Detokenizer(tokenizer, stop, continuation=continuation)
        self._thinking = Detokenizer(tokenizer)
        self._part: Detokenizer | None = self._text  # where the next token goes; None in a tool call
        self._calls_tools = False
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self._token_ids: list[int] = []
        self._logprobs: list[TokenLogprobs] = []
        self._error: str | None = None

    @property
    def stopped_by(self) -> str | None:
        """The stop string that ended the answer; the engine is to be told (`Engine.finish`)."""
        return self._text.stopped

    def take(self, output: Output) -> Delta:
        """What an engine Output adds."""
        text, thinking = "", ""
        for token_id in output.token_ids:
            if self._chat is not None and self._enter(self._tokenizer.control_name(token_id)):
                continue
            if self._part is self._text:
                text += self._text.push(token_id)
            elif self._part is self._thinking:
                thinking += self._thinking.push(token_id)
        self._token_ids += output.token_ids
        self._logprobs += output.logprobs or ()
        self._error = output.error
        self.finish_reason = output.finish_reason if self.stopped_by is None else "stop"
        if self.finish_reason is not None:
            text += self._text.finish()
            thinking += self._thinking.finish()
        self._texts.append(text)
        self._thoughts.append(thinking)
        if self.finish_reason is not None and self._calls_tools:
            text += self._text_around_calls()
        return Delta(self.index, text, thinking, output.token_ids, output.logprobs, self.finish_reason)

    def choice(self) -> Choice:
        """The whole answer. Raises ValueError before it has ended."""
        if self.finish_reason is None:
            raise ValueError("the answer has not ended")
        text = "".join(self._texts)
        message = None
        if self._chat is not None:
            calls = self._chat.parse(self._token_ids).tool_calls if self._calls_tools else ()
            message = AssistantMessage(text, "".join(self._thoughts) or None, calls)
        return Choice(
            index=self.index,
            text=text,
            token_ids=tuple(self._token_ids),
            finish_reason=self.finish_reason,
            stopped_by=self.stopped_by,
            logprobs=tuple(self._logprobs) if self._logprobs else None,
            message=message,
            error=self._error,
        )

    def _enter(self, control_name: str | None) -> bool:
        """Whether a control token opens another part of the answer; if so, go there."""
        if control_name == "[THINK]":
            self._part = self._thinking
        elif control_name == "[/THINK]":
            self._part = self._text
        elif control_name == "[TOOL_CALLS]":
            self._part, self._calls_tools = None, True
        else:
            return False
        return True

    def _text_around_calls(self) -> str:
        """Text after the calls, and calls that are malformed, which count as text."""
        if self._chat is None or self.stopped_by is not None:
            return ""
        shown = "".join(self._texts)
        content = self._chat.parse(self._token_ids).content
        rest = content.removeprefix(shown) if content.startswith(shown) else ""
        self._texts.append(rest)
        return rest
