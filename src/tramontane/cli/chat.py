"""`tramontane chat`: talk to a model in the terminal, or put one message to it from a pipe."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer

from tramontane.cli.conversation import Conversation
from tramontane.cli.options import Json, ModelOptions, SamplingOptions
from tramontane.cli.terminal import completion_json, print_json, read_text, write_stats, write_stream
from tramontane.errors import RequestError


def chat(
    *,
    system: Annotated[str | None, typer.Option("--system", "-s", help="System prompt.")] = None,
    stats: Annotated[bool, typer.Option("--stats", help="Print tokens and speed after each answer.")] = False,
    model: ModelOptions,
    sampling: SamplingOptions,
    as_json: Json = False,
) -> None:
    """Talk to a model.

    In a terminal: history, multi-line editing, /help for the commands; Ctrl-C stops the answer, not the program. From
    a pipe: all of stdin is one message, and the answer is printed.
    """
    sampling.params()  # an impossible value is refused before the model is loaded
    conversation = Conversation(system)
    if sys.stdin.isatty() and not as_json:
        from tramontane.cli.terminal_chat import TerminalChat

        llm = model.load()
        llm.tokenizer.require_chat()
        TerminalChat(llm, sampling.params(llm.checkpoint.sampling), conversation, stats=stats).run()
        return
    message = read_text("-").strip()
    if not message:
        raise RequestError("stdin holds no message")
    conversation.ask(message)
    llm = model.load()
    params = sampling.params(llm.checkpoint.sampling)
    started = time.perf_counter()
    if as_json:
        completion = llm.chat(conversation.messages, params)
        num_tokens = len(completion.token_ids)
        print_json(completion_json(completion, completion.choices[0]))
    else:
        num_tokens = write_stream(llm.stream_deltas(conversation.messages, params))
    if stats:
        write_stats(num_tokens, time.perf_counter() - started)
