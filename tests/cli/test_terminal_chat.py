"""The chat in a real pseudo-terminal: editing, commands, and Ctrl-C that stops the answer only."""

from __future__ import annotations

import json
import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.pseudo_terminal import PseudoTerminal
from tests.tiny_checkpoint import write_tiny_checkpoint
from tramontane.cli.conversation import COMMANDS

ROOT = Path(__file__).resolve().parents[2]


def start(home: Path, *arguments: str) -> PseudoTerminal:
    environment = {**os.environ, "TRAMONTANE_HOME": str(home), "TERM": "xterm", "PYTHONPATH": str(ROOT)}
    return PseudoTerminal(["-m", "tests.cli.scripted_chat", *arguments], environment)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[PseudoTerminal]:
    with start(tmp_path) as terminal:
        terminal.wait_for(">")
        yield terminal


def test_messages_are_answered_with_all_that_was_said(terminal: PseudoTerminal) -> None:
    terminal.send("Hello")
    terminal.wait_for("I heard: user='Hello'.")
    terminal.send("Again")
    answer = terminal.wait_for("'Again'.")
    assert "user='Hello' | assistant=" in answer
    terminal.wait_for("<closed>")
    assert terminal.output.count("<closed>") == 2
    terminal.send("/quit")
    assert terminal.exit_code() == 0


def test_ctrl_c_stops_the_answer_and_not_the_program(terminal: PseudoTerminal) -> None:
    terminal.send("count")
    terminal.wait_for("3 4 5 ")
    terminal.interrupt()
    terminal.wait_for("[stopped]")
    assert "<closed>" in terminal.output  # the engine was told, so that its memory comes back
    terminal.wait_for(">")
    terminal.send("And?")
    assert "assistant='0 1 2 3 4 5 " in terminal.wait_for("'And?'.")
    terminal.send("count")
    terminal.wait_for("3 4 ")
    terminal.interrupt()
    terminal.wait_for("[stopped]")
    terminal.send("/quit")
    assert terminal.exit_code() == 0


def test_what_is_typed_while_an_answer_comes_is_sent_after_it(terminal: PseudoTerminal) -> None:
    terminal.send("slow")
    terminal.wait_for("Wait … ")
    terminal.send("Next")
    terminal.wait_for("ready.")
    terminal.wait_for("user='Next'.")


def test_ctrl_c_stops_a_prompt_that_is_still_being_read(terminal: PseudoTerminal) -> None:
    terminal.send("prefill")
    terminal.wait_for("<reading>")
    terminal.interrupt()
    terminal.wait_for("<closed> [stopped]")
    terminal.send("/quit")
    assert terminal.exit_code() == 0


def test_a_second_ctrl_c_ends_a_program_that_is_stuck(terminal: PseudoTerminal) -> None:
    terminal.send("stuck")
    terminal.wait_for("<stuck>")
    terminal.interrupt()
    # a Ctrl-C more, while Python already takes itself apart, ends it by the signal; a shell calls both 130
    assert terminal.interrupt_until_over() in (130, -signal.SIGINT)
    assert "Traceback" not in terminal.output


def test_ctrl_c_while_editing_clears_the_line(terminal: PseudoTerminal) -> None:
    terminal.type("half a thought")
    terminal.wait_for("half a thought")
    terminal.interrupt()
    terminal.send("Whole.")
    assert "half" not in terminal.wait_for("user='Whole.'.").partition("I heard")[2]
    terminal.wait_for("\r\n>")
    terminal.type("\x04")  # Ctrl-D
    assert terminal.exit_code() == 0


def test_several_lines_history_and_pasting(terminal: PseudoTerminal) -> None:
    terminal.type("one\x1b\rtwo")  # Alt-Enter
    terminal.send("")
    terminal.wait_for(r"user='one\ntwo'.")
    terminal.send("/reset")
    terminal.wait_for("New conversation.")
    terminal.type("\x1b[200~pasted\nlines\x1b[201~")
    terminal.send("")
    terminal.wait_for(r"I heard: user='pasted\nlines'.")
    terminal.send("/reset")
    terminal.wait_for("New conversation.")
    terminal.type("\x1b[A\x1b[A\x1b[A")  # up: the command, then the two lines pasted
    terminal.send("")
    terminal.wait_for(r"I heard: user='pasted\nlines'.")


def test_history_outlives_the_program_and_is_private(tmp_path: Path) -> None:
    with start(tmp_path) as first:
        first.wait_for(">")
        first.send("remember this")
        first.wait_for("'remember this'.")
        first.send("/quit")
        first.exit_code()
    assert stat.S_IMODE((tmp_path / "chat_history").stat().st_mode) == 0o600
    with start(tmp_path) as second:
        second.wait_for(">")
        second.type("\x1b[A\x1b[A")
        second.send("")
        second.wait_for("user='remember this'.")


def test_help_names_every_command(terminal: PseudoTerminal) -> None:
    terminal.send("/help")
    text = terminal.wait_for("Ctrl-C stops an answer")
    assert all(command in text for command in COMMANDS)


def test_system_prompt_reset_and_retry(tmp_path: Path) -> None:
    with start(tmp_path, "--system", "Be kind.") as terminal:
        terminal.wait_for(">")
        terminal.send("/retry")
        terminal.wait_for("no answer to take back")
        terminal.send("One")
        terminal.wait_for("I heard: system='Be kind.' | user='One'.")
        terminal.send("/retry")
        terminal.wait_for("I heard: system='Be kind.' | user='One'.")
        terminal.send("/system Be brief.")
        terminal.wait_for("New conversation.")
        terminal.send("Two")
        terminal.wait_for("I heard: system='Be brief.' | user='Two'.")
        terminal.send("/reset")
        terminal.wait_for("New conversation.")
        terminal.send("Three")
        terminal.wait_for("I heard: system='Be brief.' | user='Three'.")
        terminal.send("/system")
        terminal.wait_for("New conversation.")
        terminal.send(" /not a command")
        terminal.wait_for("I heard: user='/not a command'.")


def test_save_and_load(terminal: PseudoTerminal, tmp_path: Path) -> None:
    path = tmp_path / "a talk.json"
    terminal.send("Hello")
    terminal.wait_for("'Hello'.")
    terminal.send(f"/save '{path}'")
    terminal.wait_for("Saved 2 messages")
    assert json.loads(path.read_text())["messages"][0] == {"role": "user", "content": "Hello"}
    terminal.send("/reset")
    terminal.wait_for("New conversation.")
    terminal.send(f"/load {path}")
    terminal.wait_for("Loaded 2 messages")
    terminal.send("More")
    assert "user='Hello' | assistant=" in terminal.wait_for("'More'.")


def test_mistakes_are_one_line_and_the_chat_goes_on(terminal: PseudoTerminal, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{}")
    for line, message in (
        ("/nonsense", "/nonsense is not a command; /help lists them."),
        ("/save", "/save needs a file name."),
        ("/load", "/load needs a file name."),
        (f"/load {tmp_path}/none", "none: No such file or directory"),
        (f"/load {tmp_path}/bad.json", "bad.json: not a saved conversation"),
        (f"/save {tmp_path}/no/such.json", f"{tmp_path}/no/such.json: No such file or directory"),
        ("long", "error: the prompt has 9000 tokens"),
    ):
        terminal.send(line)
        terminal.wait_for(message)
    terminal.send("Still there?")
    terminal.wait_for("I heard: user='Still there?'.")  # the message that was too long is forgotten
    assert "Traceback" not in terminal.output


def test_a_conversation_longer_than_the_context_goes_on(tmp_path: Path) -> None:
    with start(tmp_path, "--system", "Be kind.") as terminal:
        terminal.wait_for(">")
        for turn in range(4):  # each answer repeats all there is: they soon fill 4,000 tokens
            terminal.send(f"turn {turn} {'x' * 300}")
            terminal.wait_for("<closed>")
        terminal.send("turn 4")
        answer = terminal.wait_for("'turn 4'.")
        assert "oldest messages are no longer read: the context is full.)" in terminal.output
        heard = answer.rpartition("I heard: ")[2]
        assert heard.startswith("system='Be kind.' | user='turn ")
        assert "turn 0" not in heard.partition("|")[2].partition("|")[0]
        terminal.send("/tokens")
        terminal.wait_for("of 4,000 tokens (")
        terminal.wait_for("oldest messages are no longer read")
        terminal.send("/reset")
        terminal.wait_for("New conversation.")
        terminal.send("/tokens")
        terminal.wait_for("0 of 4,000 tokens (0%)")


def test_one_message_that_is_too_long_is_refused_in_words_and_forgotten(terminal: PseudoTerminal) -> None:
    terminal.send("x" * 4000)
    terminal.wait_for("have 4,000 tokens, and the model reads 4,000 at once, its answer included; shorten it")
    terminal.send("Still there?")
    terminal.wait_for("I heard: user='Still there?'.")


def test_statistics_and_thoughts(tmp_path: Path) -> None:
    with start(tmp_path, "--stats") as terminal:
        terminal.wait_for(">")
        terminal.send("think")
        assert "Hm.Done." in terminal.wait_for("tokens/s]")
        assert "[2 tokens in 0.0 s: " in terminal.output
        terminal.send("/stats")
        terminal.wait_for("Statistics are off.")
        terminal.send("next")
        assert "Hm." not in terminal.wait_for("'next'.").partition("I heard")[2]


def test_what_a_model_says_cannot_command_the_terminal(terminal: PseudoTerminal) -> None:
    terminal.send("Hello")
    terminal.wait_for("'Hello'.[2J")
    assert "'Hello'.\x1b[2J" not in terminal.raw


def test_a_real_model_talks_and_survives_interruptions(tmp_path: Path) -> None:
    """Every answer is ended by Ctrl-C, and the cache must come back. It is pressed at the first word: random weights
    soon say that they are done, and nothing is shown after that."""
    checkpoint = write_tiny_checkpoint(tmp_path / "tiny", max_seq_len=65536, sliding_windows=64)
    environment = {**os.environ, "TRAMONTANE_HOME": str(tmp_path), "TERM": "xterm"}
    arguments = [
        "-m",
        "tramontane.cli",
        "chat",
        "-m",
        str(checkpoint),
        "--ignore-eos",
        "--stats",
        "-t",
        "1",
        "--seed",
        "3",
    ]
    with PseudoTerminal(arguments, environment) as terminal:
        terminal.wait_for(">", timeout_s=60)
        for _ in range(3):
            terminal.send("Tell me about the wind.")
            terminal.wait_for("the wind.\r\r\n")  # as the prompt leaves it; the answer follows
            terminal.wait_for_more(1)
            terminal.interrupt()
            terminal.wait_for("[stopped]")
            terminal.wait_for("tokens/s]")
        terminal.send("/quit")
        assert terminal.exit_code() == 0
    assert "Traceback" not in terminal.output
