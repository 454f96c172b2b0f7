"""What must come from the system is listed once, asked for in one line, and no hidden hole in what was tested."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests import system

PROGRAMS = {
    "chromium": "chromium",
    "postgresql": "initdb",
    "nginx-light": "nginx",
    "systemd": "systemd-analyze",
    "openssl": "openssl",
    "curl": "curl",
    "g++-aarch64-linux-gnu": "aarch64-linux-gnu-g++",
    "qemu-user": "qemu-aarch64",
}


def missing(group: str, path: Path) -> list[str]:
    bash = shutil.which("bash") or "bash"
    done = subprocess.run(
        [bash, system.ROOT / ".ci" / "missing", group],
        env={"PATH": str(path)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


def pretend(folder: Path, *programs: str) -> None:
    for name in programs:
        words = "echo Linux x86_64" if name == "uname" else "true"
        (folder / name).write_text(f"#!/bin/sh\n{words}\n", "utf-8")
        (folder / name).chmod(0o755)


def test_a_bare_machine_lacks_everything(tmp_path: Path) -> None:
    pretend(tmp_path, "uname")
    assert missing("build", tmp_path) == ["make", "git", "g++", "python3", "python3-venv", "python3-dev"]
    found = missing("test", tmp_path)
    if Path("/usr/lib/postgresql").exists():  # which Debian keeps from the PATH
        found.insert(1, "postgresql")
    assert found == list(PROGRAMS)


def test_what_is_there_is_not_missing(tmp_path: Path) -> None:
    pretend(tmp_path, "uname", "python3", "make", "git", "c++", *PROGRAMS.values())
    assert missing("build", tmp_path) == []
    assert missing("test", tmp_path) == []


@pytest.mark.parametrize(("value", "outcome"), [("", pytest.skip.Exception), ("1", pytest.fail.Exception)])
def test_a_missing_program_skips_a_test_and_fails_it_in_ci(
    value: str, outcome: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system, "missing_packages", lambda: ("qemu-user",))
    monkeypatch.setenv("CI", value)
    system.require("chromium")
    with pytest.raises(outcome, match="apt-get install --no-install-recommends qemu-user"):
        system.require("qemu-user")


def test_no_package_is_named_anywhere_else() -> None:
    for name in ("Makefile", ".ci/run"):
        text = (system.ROOT / name).read_text(encoding="utf-8")
        assert ".ci/missing" in text
        assert not re.search("|".join(map(re.escape, PROGRAMS)), text)
