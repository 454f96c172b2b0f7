"""The chat of a terminal: prompt_toolkit reads, answers stream, Ctrl-C stops the answer and not the program."""

from __future__ import annotations

import shlex
import signal
import sys
import time
from contextlib import closing
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Self

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import WordCompleter
from prompt_toolkit.history import FileHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.styles import Style

from tramontane import runtime
from tramontane.cli.context_window import ContextWindow
from tramontane.cli.conversation import COMMANDS, KEYS, Conversation
from tramontane.cli.terminal import printable, require_sound, write_answer, write_stats
from tramontane.errors import TramontaneError

if TYPE_CHECKING:
    from tramontane.engine.sampling import SamplingParams
    from tramontane.llm import LLM


class TerminalChat:
    """One conversation at the terminal; `run` returns when the user leaves."""

    def __init__(self, llm: LLM, params: SamplingParams, conversation: Conversation, *, stats: bool = False) -> None:
        self.llm = llm
        self.params = params
        self.conversation = conversation
        self.stats = stats
        self.window = ContextWindow(llm.max_seq_len, llm.count_chat_tokens, params.max_tokens)
        self.num_tokens = 0  # of the conversation as it was last read, its answer included

    def run(self) -> None:
        session = prompt_session()
        print("/help lists the commands, /quit leaves.")
        while True:
            try:
                text = session.prompt("> ", bottom_toolbar=lambda: self.meter if self.num_tokens else None)
            except EOFError:
                return
            if not text.strip():
                continue
            try:
                if not self.take(text):
                    return
            except TramontaneError as error:
                print(printable(f"error: {error}"), file=sys.stderr)
            except OSError as error:
                print(printable(f"error: {error.filename}: {error.strerror}"), file=sys.stderr)

    @property
    def meter(self) -> str:
        """How full the context is, in a line."""
        size = self.window.size
        left_out = self.window.num_left_out
        gone = f"; the {left_out} oldest messages are no longer read" if left_out else ""
        return f"{self.num_tokens:,} of {size:,} tokens ({self.num_tokens / size:.0%}){gone}"

    def take(self, text: str) -> bool:
        """Obey a command or answer a message; False ends the chat."""
        if text.startswith("/"):
            name, _, rest = text.strip().partition(" ")
            return self.obey(name, rest.strip())
        self.conversation.ask(text.strip())
        self.answer()
        return True

    def obey(self, name: str, rest: str) -> bool:
        match name:
            case "/quit" | "/exit":
                return False
            case "/help":
                width = max(map(len, COMMANDS))
                print("\n".join(f"{command:<{width}}  {meaning}" for command, meaning in COMMANDS.items()))
                print(KEYS)
            case "/system" | "/reset":
                self.conversation.start((rest or None) if name == "/system" else self.conversation.system)
                self.num_tokens = self.window.num_left_out = 0
                print("New conversation.")
            case "/tokens":
                print(self.meter)
            case "/retry":
                if self.conversation.take_back():
                    self.answer()
                else:
                    print("There is no answer to take back.")
            case "/stats":
                self.stats = not self.stats
                print(f"Statistics are {'on' if self.stats else 'off'}.")
            case "/save" | "/load" if not rest:
                print(f"{name} needs a file name.")
            case "/save":
                self.conversation.save(path := file_named(rest))
                print(f"Saved {len(self.conversation.messages)} messages to {path}.")
            case "/load":
                self.conversation.load(path := file_named(rest))
                self.num_tokens = self.window.num_left_out = 0
                print(f"Loaded {len(self.conversation.messages)} messages from {path}.")
            case _:
                print(printable(f"{name} is not a command; /help lists them."))
        return True

    def answer(self) -> None:
        """Stream the answer to the last message and keep it, cut short by Ctrl-C or whole.

        On an error the message is forgotten, so that the conversation stays one that can go on.
        """
        started, num_tokens, text = time.perf_counter(), 0, ""
        num_left_out = self.window.num_left_out
        try:
            messages, self.num_tokens = self.window.fit(self.conversation.messages)
            if self.window.num_left_out > num_left_out:
                print(f"(The {self.window.num_left_out} oldest messages are no longer read: the context is full.)")
            deltas = self.llm.stream_deltas(messages, self.params)
            with StopOnInterrupt() as interrupt, closing(deltas):
                for delta in deltas:
                    write_answer(delta.thinking, dim=True)
                    write_answer(delta.text)
                    text += delta.text
                    num_tokens += len(delta.token_ids)
                    if interrupt.stopped:
                        break
                    require_sound(delta.finish_reason)
        except TramontaneError:
            self.conversation.messages.pop()
            raise
        self.conversation.reply(text)
        self.num_tokens += num_tokens
        print(" [stopped]" if interrupt.stopped else "")
        if self.stats:
            write_stats(num_tokens, time.perf_counter() - started)


class StopOnInterrupt:
    """While entered, the first Ctrl-C only sets `stopped`, so that a step of the engine is never torn in the middle;
    a second one raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self.stopped = False

    def __enter__(self) -> Self:
        self.before = signal.signal(signal.SIGINT, self.stop)
        return self

    def __exit__(self, *_error: object) -> None:
        signal.signal(signal.SIGINT, self.before)

    def stop(self, _signal: int, _frame: FrameType | None) -> None:
        if self.stopped:
            raise KeyboardInterrupt
        self.stopped = True


def file_named(text: str) -> Path:
    """The path a user typed after a command, quoted or not, `~` included."""
    try:
        words = shlex.split(text)
    except ValueError:
        words = [text]
    return Path(words[0] if len(words) == 1 else text).expanduser()


def prompt_session() -> PromptSession[str]:
    """Line editor: Enter sends, Alt-Enter starts a new line, Ctrl-C clears; history is kept in `TRAMONTANE_HOME`."""
    keys = KeyBindings()

    @keys.add("enter")
    @keys.add("c-j")  # Enter as it arrives when it was typed while the answer was still coming
    def send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("c-c")
    def clear(event: KeyPressEvent) -> None:
        event.current_buffer.reset()  # and not a new prompt, which would lose what is typed before it stands

    def continuation(_width: int, _line: int, _wrapped: int) -> Any:
        return ". "

    history = runtime.home() / "chat_history"
    history.parent.mkdir(parents=True, exist_ok=True)
    history.touch(mode=0o600)
    return PromptSession(
        multiline=True,
        key_bindings=keys,
        prompt_continuation=continuation,
        history=FileHistory(str(history)),
        style=Style.from_dict({"bottom-toolbar": "noreverse fg:ansibrightblack"}),
        completer=WordCompleter([command.split()[0] for command in COMMANDS], sentence=True),
        complete_while_typing=False,
    )
