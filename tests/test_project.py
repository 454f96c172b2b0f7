"""The project's own papers agree with each other."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import tramontane
from tramontane.extras import DISTRIBUTION

ROOT = Path(__file__).resolve().parents[1]
OURS = ("tramontane", "tests", "benchmarks", "requirements")


def test_changelog_starts_with_this_version() -> None:
    versions = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert versions[0] == tramontane.__version__
    assert len(set(versions)) == len(versions)


def test_every_relative_link_of_the_documentation_leads_somewhere() -> None:
    broken = []
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]:
        links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text(encoding="utf-8"))
        broken += [f"{page.name}: {link}" for link in links if not (page.parent / link).exists()]
    assert not broken, broken


def test_every_test_and_benchmark_of_the_documentation_exists() -> None:
    missing = []
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]:
        text = page.read_text(encoding="utf-8")
        places = re.findall(r"\b((?:tests|benchmarks)/(?:[a-z_0-9.]+/)*[a-z_0-9.]*[a-z_0-9])\b", text)
        modules = [name.replace(".", "/") for name in re.findall(r"python -m ((?:tests|benchmarks)(?:\.\w+)+)", text)]
        missing += [f"{page.name}: {place}" for place in places if not (ROOT / place).exists()]
        missing += [
            f"{page.name}: {module}"
            for module in modules
            if not (ROOT / module).with_suffix(".py").exists() and not (ROOT / module / "__main__.py").exists()
        ]
    assert not missing, missing


def test_every_make_target_of_the_documentation_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    named = set()
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]:
        named |= set(re.findall(r"`make ([a-z]+(?:-[a-z]+)*)", page.read_text(encoding="utf-8")))
    assert named <= targets


def declared(*extras: str) -> set[str]:
    """Names of the distributions that an installation with these extras asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    return {normal(re.split(r"[\[<>=!~; ]", line)[0]) for line in wanted}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported(folder: Path) -> Iterator[tuple[Path, str]]:
    """(file, module) of every absolute import of something neither ours nor Python's."""
    for path in sorted(folder.rglob("*.py")):
        if path.parent == ROOT / "tests" / "clients" / "python":
            continue  # scripts for an environment of their own
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            for module in {name.split(".")[0] for name in names}:
                if module not in sys.stdlib_module_names and module not in OURS:
                    yield path, module


# which `make quick` does without
NOT_ALWAYS_THERE = {"llama_cpp": ["llama-cpp-python"], "atheris": ["atheris"], "wandb": ["wandb"]}


def test_everything_imported_is_declared() -> None:
    distributions = {**NOT_ALWAYS_THERE, **packages_distributions()}
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    developers = ("dev", "judge", "fuzz")
    users = declared(*(extra for extra in extras if extra not in developers))
    missing = set()
    for folder, known in (
        ("src", users),
        ("tests", users | declared(*developers)),
        ("benchmarks", users | declared(*developers)),
    ):
        for path, module in imported(ROOT / folder):
            if not known & {normal(name) for name in distributions.get(module, [module])}:
                missing.add(f"{path.relative_to(ROOT)}: {module}")
    assert not missing, sorted(missing)


# Declared, but imported by others or run as programs; and why.
USED_OTHERWISE = {
    "uvloop": "uvicorn's loop",
    "fastapi-offline": "whose files are served, without its code",
    "httpx": "what documents are fetched with",
    "psycopg": "SQLAlchemy's driver",
    "lxml-html-clean": "trafilatura's",
    "ruff": "a program",
    "mypy": "a program",
    "pytest-xdist": "a plugin of pytest",
}


def test_nothing_is_declared_that_is_not_imported() -> None:
    distributions = {**NOT_ALWAYS_THERE, **packages_distributions()}
    used = {
        normal(name)
        for folder in ("src", "tests", "benchmarks", "requirements")
        for _, module in imported(ROOT / folder)
        for name in distributions.get(module, [module])
    }
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    unused = declared(*extras) - used - {DISTRIBUTION} - USED_OTHERWISE.keys()
    assert not unused, sorted(unused)
