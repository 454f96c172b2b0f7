"""What no line of ours may do: run what comes from outside, or guard against users with what `python -O` removes."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "tramontane"
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_METHODS = {("os", "system"), ("os", "popen"), ("torch", "load"), ("yaml", "load"), ("pickle", "loads")}
RENAMES = {"rename", "renames", "move"}
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "jinja2"}


def offences(source: str) -> list[tuple[int, str]]:
    """(line, what) of everything forbidden."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assert):
            found.append((node.lineno, "assert: gone under python -O; raise a typed error"))
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [(node.lineno, f"import of {n}") for n in names if n.split(".")[0] in FORBIDDEN_MODULES]
        elif isinstance(node, ast.Call):
            function = node.func
            if isinstance(function, ast.Name) and function.id in FORBIDDEN_CALLS:
                found.append((node.lineno, f"{function.id}()"))
            owner = getattr(getattr(function, "value", None), "id", None)
            method = getattr(function, "attr", None)
            if (owner, method) in FORBIDDEN_METHODS:
                found.append((node.lineno, f"{owner}.{method}()"))
            if any(k.arg == "shell" and getattr(k.value, "value", True) is not False for k in node.keywords):
                found.append((node.lineno, "a shell"))
    return found


def renames(source: str) -> list[tuple[int, str]]:
    """(line, what) of every renaming, fsync and temporary file that outlives its writer. A `replace`
    of one argument is a path's: strings' has two, `dataclasses.replace` is a name of its own."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module in ("os", "shutil"):
            found += [
                (node.lineno, f"import of {n.name}") for n in node.names if n.name in {*RENAMES, "replace", "fsync"}
            ]
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        owner, method = getattr(node.func.value, "id", None), node.func.attr
        is_path_replace = method == "replace" and (owner == "os" or (len(node.args) == 1 and not node.keywords))
        if is_path_replace or method in RENAMES or (owner, method) in {("os", "fsync"), ("tempfile", "mkstemp")}:
            found.append((node.lineno, f"{owner}.{method}()"))
    return found


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_nothing_from_outside_is_run(path: Path) -> None:
    assert offences(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "assert x", "import pickle", "from pickle import loads", "import jinja2.sandbox", "eval(x)", "exec(x)",
        "def f():\n    import marshal", "torch.load(f)", "os.system(x)", "subprocess.run(x, shell=True)",
        "subprocess.run(x, shell=y)",
    ],
)  # fmt: skip
def test_each_offence_is_found(source: str) -> None:
    assert len(offences(source)) == 1


@pytest.mark.parametrize("source", ["model.eval()", "re.compile(x)", "json.load(f)", "subprocess.run(x, shell=False)"])
def test_what_only_looks_alike_is_let_through(source: str) -> None:
    assert offences(source) == []


def test_one_module_alone_makes_what_is_written_durable() -> None:
    found = {str(path.relative_to(SOURCE)): renames(path.read_text(encoding="utf-8")) for path in SOURCE.rglob("*.py")}
    assert found.pop("durable.py")
    assert {path: lines for path, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "source",
    [
        "os.replace(a, b)", "os.rename(a, b)", "part.replace(target)", "part.rename(target)", "shutil.move(a, b)",
        "from os import replace", "os.fsync(f.fileno())", "tempfile.mkstemp()",
    ],
)  # fmt: skip
def test_each_renaming_is_found(source: str) -> None:
    assert len(renames(source)) == 1


@pytest.mark.parametrize("source", ["text.replace('a', 'b')", "dataclasses.replace(config, dim=8)", "replace(x, y=1)"])
def test_what_renames_nothing_is_let_through(source: str) -> None:
    assert renames(source) == []
