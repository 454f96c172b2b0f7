"""The extras of an installation: one table of who brings what, and one line for whoever lacks one."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.test_project import ROOT, declared, imported, normal
from tramontane.documents.child import reply_to
from tramontane.documents.sandbox import limits_for
from tramontane.extras import DISTRIBUTION, EXTRA_OF, install_hint, missing_extra

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ALWAYS_THERE = ("pydantic", "pydantic_core", "httpx", "fsspec")  # dependencies of dependencies
BLOCKED = sorted(set(EXTRA_OF) - set(ALWAYS_THERE))


def distribution_of(module: str) -> str:
    names = {"docx": "python-docx", "multipart": "python-multipart", "python_multipart": "python-multipart"}
    return normal(names.get(module, module))


def run_without_extras(folder: Path, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    code = (
        f"import sys\nfor name in {BLOCKED!r}:\n    sys.modules[name] = None\n"
        "from tramontane.cli.main import run\nsys.exit(run(sys.argv[1:]))"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        check=False, capture_output=True, text=True, cwd=folder, env={"TRAMONTANE_HOME": str(folder), "PATH": ""},
    )  # fmt: skip


def test_the_distribution_is_named_once() -> None:
    assert PROJECT["name"] == DISTRIBUTION
    assert any(line.startswith(f"{DISTRIBUTION}[") for line in PROJECT["optional-dependencies"]["dev"])


def test_the_table_says_what_pyproject_says() -> None:
    for module, extra in EXTRA_OF.items():
        assert distribution_of(module) in declared(extra), module
    always = declared()
    for path, module in imported(ROOT / "src"):
        extras = [e for e in PROJECT["optional-dependencies"] if e != "dev" and distribution_of(module) in declared(e)]
        if extras and distribution_of(module) not in always:
            assert EXTRA_OF.get(module) in extras, f"{path}: {module}"


def test_no_page_and_no_message_names_another_distribution() -> None:
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("src/**/*.py")]:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\binstall\b[^\n]*['\" ]tramontane(\[|['\"])", text), path
        if path.suffix == ".py" and path.name != "extras.py":
            words = [node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)]
            assert not [word for word in words if isinstance(word, str) and DISTRIBUTION in word], path


@pytest.mark.parametrize("arguments", [["serve"], ["keys", "list"], ["usage"]])
def test_a_verb_without_its_extra_ends_in_one_line_with_the_remedy(tmp_path: Path, arguments: list[str]) -> None:
    done = run_without_extras(tmp_path, arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"error: [^\n]*\n", done.stderr)
    assert done.stderr.endswith(f"{install_hint('serve')}\n")


def test_a_document_without_its_reader_says_which_extra_to_add(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pypdf", None)
    assert reply_to("pdf", b"%PDF-1.4", limits_for(8)).decode().endswith(install_hint("documents"))


def test_help_needs_no_extra(tmp_path: Path) -> None:
    assert run_without_extras(tmp_path, ["--help"]).returncode == 0


def test_an_import_that_failed_for_another_reason_has_no_such_line() -> None:
    assert missing_extra(ModuleNotFoundError("no", name="tramontane.nothing")) is None
    assert missing_extra(ImportError("no name")) is None
    assert missing_extra(ModuleNotFoundError("no", name="sqlalchemy.orm")) == (
        f"this needs the package sqlalchemy; {install_hint('serve')}"
    )
