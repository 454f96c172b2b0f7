"""What an installation consists of: pinned with hashes, above known flaws, and audited against what it is given."""

from __future__ import annotations

import json
import re
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from requirements.audit import FOLDER, Package, flaws, is_affected, locked, main, normal, read_advisories

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
KNOWN = list(read_advisories(FOLDER / "known_flaws.json"))
LOCKS = sorted(FOLDER.glob("*.lock"))


def pins(*names: str) -> dict[str, Version]:
    return {p.name: Version(p.version) for name in names for p in locked(FOLDER / f"{name}.lock")}


def asked(lines: list[str]) -> list[Requirement]:
    """Without our own name, by which one extra stands for others."""
    return [r for r in map(Requirement, lines) if normal(r.name) != normal(PROJECT["name"])]


def advisory(name: str, events: list[dict[str, str]], **fields: Any) -> dict[str, Any]:
    affected = {"package": {"ecosystem": "PyPI", "name": name}, "ranges": [{"type": "ECOSYSTEM", "events": events}]}
    return {"id": "TEST-1", "summary": "a flaw", "affected": [affected]} | fields


def test_every_extra_has_a_lock_that_holds_what_it_asks_for() -> None:
    assert {path.stem for path in LOCKS} == {"torch", "run", "build", *EXTRAS}
    for name in ("run", *EXTRAS):
        found = pins("torch", "run", name)
        for requirement in asked(PROJECT["dependencies"] if name == "run" else EXTRAS[name]):
            assert requirement.specifier.contains(found[normal(requirement.name)]), f"make lock: {name}: {requirement}"


def test_one_version_of_each_package_is_locked_and_all_are_hashed() -> None:
    versions: dict[str, set[str]] = {}
    for path in LOCKS:
        text = path.read_text(encoding="utf-8")
        assert "://" not in text, path
        for entry in re.split(r"\n(?=[A-Za-z0-9])", text)[1:]:
            assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry[:80]
        for package in locked(path):
            versions.setdefault(package.name, set()).add(package.version)
    marked = {name for name, found in versions.items() if len(found) > 1}
    assert not marked - {"numpy"}, marked  # of which each Python has its own newest


def test_the_constraints_are_those_of_the_locks() -> None:
    found = pins(*(path.stem for path in LOCKS))
    for requirement in map(Requirement, re.findall(r"^[\w-]+==\S+", (ROOT / "constraints.txt").read_text(), re.M)):
        assert requirement.specifier.contains(found[normal(requirement.name)]), requirement


def test_no_lowest_version_and_no_locked_one_has_a_known_flaw() -> None:
    lowest = [
        Package(normal(each.name), specifier.version, "pyproject.toml")
        for each in asked([*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)])
        for specifier in each.specifier
        if specifier.operator == ">="
    ]
    assert len(lowest) > 40
    assert list(flaws([*lowest, *(package for path in LOCKS for package in locked(path))], KNOWN)) == []
    assert list(flaws([Package("starlette", "0.49.0", "test")], KNOWN)) != []


@pytest.mark.parametrize(
    ("version", "events", "expected"),
    [
        ("1.0", [{"introduced": "0"}, {"fixed": "1.1"}], True),
        ("1.1", [{"introduced": "0"}, {"fixed": "1.1"}], False),
        ("1.10", [{"introduced": "0"}, {"fixed": "1.9"}], False),
        ("2.13.0+cpu", [{"introduced": "2.13.0"}], True),
        ("1.0", [{"introduced": "0"}, {"last_affected": "1.0"}], True),
        ("1.0.1", [{"introduced": "0"}, {"last_affected": "1.0"}], False),
        ("2.5", [{"introduced": "0"}, {"fixed": "1.5"}, {"introduced": "2.0"}, {"fixed": "2.6"}], True),
        ("1.7", [{"introduced": "2.0"}, {"fixed": "2.6"}, {"introduced": "0"}, {"fixed": "1.5"}], False),
        ("1.1rc1", [{"introduced": "0"}, {"fixed": "1.1"}], True),
        ("1.0", [], False),
    ],
)
def test_ranges_are_read_as_the_schema_has_them(version: str, events: list[dict[str, str]], expected: bool) -> None:
    assert is_affected(version, advisory("x", events)["affected"][0]) is expected


def test_what_is_installed_and_locked_is_audited(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hit, clean = tmp_path / "hit", tmp_path / "clean.json"
    hit.mkdir()
    (hit / "a.json").write_text(json.dumps(advisory("Python_Multipart", [{"introduced": "0"}], aliases=["CVE-1"])))
    clean.write_text(json.dumps([advisory("python-multipart", [{"introduced": "0"}, {"fixed": "0.0.1"}])]))
    assert main([str(clean)]) == 0
    assert main([str(clean), str(hit)]) == 1
    shown = capsys.readouterr().out
    assert re.search(r"^python-multipart \S+ \(installed\): TEST-1, CVE-1: a flaw: not fixed$", shown, re.M)
    assert "(serve.lock)" in shown
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.write(hit / "a.json", "PyPI/a.json")
    assert main([str(tmp_path / "all.zip")]) == 1


def test_withdrawn_advisories_and_those_of_others_are_passed_over() -> None:
    package = [Package("x", "1.0", "test")]
    assert list(flaws(package, [advisory("x", [{"introduced": "0"}], withdrawn="2026-01-01T00:00:00Z")])) == []
    foreign = advisory("x", [{"introduced": "0"}])
    foreign["affected"][0]["package"]["ecosystem"] = "npm"
    assert list(flaws(package, [foreign])) == []


@pytest.mark.parametrize("text", ["{", "{}", "[1]"])
def test_an_audit_of_nothing_is_no_audit(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.json").write_text(text)
    assert main([str(tmp_path / "x.json")]) == 2
    assert main([str(tmp_path / "missing.json")]) == 2
    assert main([]) == 2
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / "empty")]) == 2
    assert "nothing was audited" in capsys.readouterr().err
