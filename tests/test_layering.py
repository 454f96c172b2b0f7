"""Every import inside the package obeys the table of docs/architecture.md, lazy and type-only imports included."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "tramontane"


@dataclass(frozen=True)
class Rules:
    """`level[p]` of each package, and `allowed[p]`: the packages p may import."""

    level: dict[str, int]
    allowed: dict[str, frozenset[str]]


def read_rules(text: str) -> Rules:
    """The layer table of a Markdown page: rows `| L<n> | packages | may import | never imports |`."""
    rows = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in re.findall(r"^\|\s*L\d.*$", text, re.M)]
    level: dict[str, int] = {}
    same_level: dict[str, set[str]] = {}
    for number, packages, _, _ in rows:
        for name, friends in re.findall(r"`(\w+)`(?: \(may use ([^)]*)\))?", packages):
            level[name] = int(number[1:])
            same_level[name] = set(re.findall(r"`(\w+)`", friends))
    allowed: dict[str, frozenset[str]] = {}
    for number, _, may, never in rows:
        low_names = set(re.findall(r"`(\w+)`", may)) if int(number[1:]) else set()
        for first, last, below in re.findall(r"\bL(\d)(?:-L(\d))?( and below)?", may):
            low, high = (0, int(first)) if below else (int(first), int(last or first))
            low_names |= {name for name, at in level.items() if low <= at <= high}
        for name in (name for name, at in level.items() if at == int(number[1:])):
            banned: set[str] = set()
            for clause in never.split(";"):
                subject = re.match(r"\s*`(\w+)`:(.*)", clause)
                if subject is None or subject[1] == name:
                    banned |= set(re.findall(r"`(\w+)`", subject[2] if subject else clause))
            allowed[name] = frozenset((low_names - banned) | same_level[name])
    return Rules(level, allowed)


def imported_names(source: str, module: str) -> list[tuple[int, str]]:
    """(line, dotted name) of every import statement and literal `import_module` call, at any depth."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = module.split(".")[: -node.level]
                base = ".".join([*parent, base] if base else parent)
            found += [(node.lineno, f"{base}.{alias.name}") for alias in node.names]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                found.append((node.lineno, node.args[0].value))
    return found


def violations(source: str, module: str, rules: Rules) -> list[str]:
    """Lines of `source` (the text of module `tramontane.<package>...`) that import what its package may not."""
    package = module.split(".")[1]
    if package not in rules.level:
        return [f"{module}: package {package!r} is not in the table of docs/architecture.md"]
    broken = []
    for line, name in imported_names(source, module):
        parts = name.split(".")
        if parts[0] != "tramontane" or parts[1:] in ([], ["__version__"]):
            continue
        target = parts[1]
        if target != package and target not in rules.allowed[package]:
            broken.append(f"{module}:{line}: {package} must not import {target}")
    return broken


RULES = read_rules((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"))


def test_table_was_read_as_meant() -> None:
    assert RULES.level["errors"] == 0
    assert RULES.level["cli"] == max(RULES.level.values())
    assert RULES.allowed["errors"] == frozenset()
    lowest = {"bounded_json", "durable", "errors", "extras", "fair_queue", "runtime", "tasks"}
    assert RULES.allowed["formats"] == {*lowest, "config"}
    assert RULES.allowed["ops"] == lowest
    assert RULES.allowed["model"] == {*lowest, "config", "ops"}
    assert not {"tokenizer", "formats", "llm"} & RULES.allowed["engine"]
    assert {"loading", "model", "ops"} <= RULES.allowed["training"]
    assert "engine" not in RULES.allowed["training"]
    assert {"llm", "documents", "engine"} <= RULES.allowed["cli"]


def test_every_package_is_in_the_table_and_the_table_has_no_other() -> None:
    packages = {path.stem for path in SOURCE.iterdir() if path.suffix == ".py" and path.stem != "__init__"}
    packages |= {path.name for path in SOURCE.iterdir() if (path / "__init__.py").exists()}
    assert packages == set(RULES.level)


def test_no_module_imports_what_its_layer_may_not() -> None:
    broken = []
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        if len(parts) > 2 or path.stem != "__init__":  # the top __init__ is the front door: it names everything
            broken += violations(path.read_text(encoding="utf-8"), ".".join(parts), RULES)
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize(
    "source",
    [
        "from tramontane.tokenizer import load_tokenizer",
        "import tramontane.formats.gguf",
        "def f():\n    from tramontane.formats import open_tensors",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from tramontane.llm import LLM",
        "from tramontane import cli",
        "from tramontane import LLM",
        "from ..tokenizer import chat",
        "from .. import tokenizer",
        "import importlib\nimportlib.import_module('tramontane.server')",
    ],
)
def test_a_violation_is_caught_in_every_disguise(source: str) -> None:
    assert len(violations(source, "tramontane.engine.scheduler", RULES)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "import torch",
        "from tramontane.model.transformer import Transformer",
        "from .pages import Pages",
        "import tramontane",
    ],
)
def test_what_is_allowed_is_let_through(source: str) -> None:
    assert violations(source, "tramontane.engine.scheduler", RULES) == []


def test_an_unknown_package_is_reported() -> None:
    assert violations("", "tramontane.misc.things", RULES)
