"""The command as a whole: exit codes, one-line errors, pipes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import tramontane
from tramontane.cli import main
from tramontane.errors import CheckpointError, ConfigError


def tramontane_command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tramontane.cli", *arguments],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **environment},
        check=False,
    )


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["--version"]) == 0
    assert capsys.readouterr().out == f"tramontane {tramontane.__version__}\n"


def test_no_verb_prints_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run([]) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {verb} " in out for verb in main.VERBS)


WORDS = [f"{verb} {second}".split() for verb in main.VERBS for second in main.GROUPS.get(verb, ("",))]


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_every_verb_explains_itself(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run([*words, "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"Usage: tramontane {' '.join(words)} ")
    assert ("--json" in out) == (words != ["serve"])  # a server has no one result


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "No such command 'nonsense' (see tramontane --help)"),
        (["generate", "--nonsense"], "No such option: --nonsense"),
        (["summarize"], "Missing argument 'source' (see tramontane summarize --help)"),
        (["generate", "x", "-t", "warm"], "Invalid value for '--temperature'"),
        (["generate", "x", "--top-k"], "requires an argument"),
        (["generate", "x", "y"], "unexpected extra argument"),
        (["fim", "no mark here"], "does not hold the mark '<FILL>'"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err


@pytest.mark.parametrize(
    "flag",
    [
        ["-t", "-1"], ["-t", "nan"], ["-t", "inf"], ["--top-p", "0"], ["--top-p", "1.5"], ["--top-k", "0"],
        ["--min-p", "-0.1"], ["--repetition-penalty", "0"], ["--presence-penalty", "3"], ["--frequency-penalty", "-3"],
        ["--seed", "-1"], ["--max-tokens", "-1"], ["-n", "0"], ["--stop", ""],
    ],
)  # fmt: skip
def test_an_impossible_sampling_value_is_refused_before_a_model_is_loaded(
    flag: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tramontane.cli.options.ModelOptions.load", lambda self: pytest.fail("loaded a model"))
    assert main.run(["generate", "x", *flag]) == 2
    error = capsys.readouterr().err
    assert flag[0].strip("-").replace("-", "_").replace("t", "temperature", flag[0] == "-t") in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("kind", [ConfigError, CheckpointError])
def test_our_errors_are_one_line_unless_debugging(
    kind: type[Exception], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: object) -> None:
        raise kind("evil\x1b[2Jname\nis no model")

    monkeypatch.setattr("tramontane.cli.options.ModelOptions.load", fail)
    assert main.run(["generate", "x"]) == 2
    assert capsys.readouterr().err == "error: evil [2Jname is no model\n"
    monkeypatch.setenv("TRAMONTANE_DEBUG", "1")
    with pytest.raises(kind):
        main.run(["generate", "x"])


def test_a_bug_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("tramontane.cli.options.ModelOptions.load", fail)
    with pytest.raises(ZeroDivisionError):
        main.run(["generate", "x"])


def test_interruption_ends_with_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(self: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tramontane.cli.options.ModelOptions.load", interrupt)
    assert main.run(["generate", "x"]) == 130
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("arguments", [["summarize", "{missing}"], ["ask", "{missing}", "What?"]])
def test_a_missing_file_is_named(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tramontane.cli.options.ModelOptions.load", lambda self: pytest.fail("loaded a model"))
    missing = str(tmp_path / "none.pdf")
    assert main.run([a.format(missing=missing) for a in arguments]) == 2
    assert capsys.readouterr().err == f"error: {missing}: no such file\n"


@pytest.mark.parametrize("arguments", [["--version"], ["generate", "--help"]])
def test_a_reader_that_went_away_is_no_error(arguments: list[str]) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [sys.executable, "-m", "tramontane.cli", *arguments]
    done = subprocess.run(command, stdout=write_end, stderr=subprocess.PIPE, check=False)
    os.close(write_end)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["eval", "--tasks", "list"]])
def test_a_full_disk_under_stdout_is_one_line(arguments: list[str]) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "tramontane.cli", *arguments]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: No space left on device (standard output, or a file that was being written)\n"


@pytest.mark.parametrize(
    ("closed", "code", "error"),
    [(">&-", 2, "error: standard output is closed; send it to a file, or to /dev/null\n"), ("<&- 2>&-", 0, "")],
)
def test_closed_streams_end_without_a_trace(closed: str, code: int, error: str) -> None:
    command = f'"{sys.executable}" -m tramontane.cli --version {closed}'
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, error)


def test_the_process_exits_with_the_code() -> None:
    done = tramontane_command("nonsense")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: No such command")
