"""What an import costs and does: the front door stays light, and importing us touches neither network nor processes."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import tramontane
from tramontane.cli.main import VERBS

HEAVY = ("torch", "numpy", "transformers", "mistral_common", "tokenizers", "gguf", "huggingface_hub", "safetensors")


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def heavy_modules_after(code: str) -> list[str]:
    report = f"import json, sys; print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    loaded: list[str] = json.loads(run(f"{code}\n{report}").splitlines()[-1])
    return loaded


def test_import_tramontane_loads_nothing_heavy() -> None:
    assert heavy_modules_after("import tramontane") == []


def test_help_loads_nothing_heavy() -> None:
    lines = [[], *([verb] for verb in VERBS)]
    code = f"from tramontane.cli.main import run\nassert [run([*a, '--help']) for a in {lines}] == [0] * {len(lines)}"
    assert heavy_modules_after(code) == []


def test_a_call_imports_only_its_own_verb() -> None:
    code = "import sys; from tramontane.cli.main import run; run(['ask', '--help'])"
    loaded = run(f"{code}; print([n for n in sys.modules if n.startswith('tramontane.cli.')])").splitlines()[-1]
    assert "tramontane.cli.ask" in loaded
    assert "tramontane.cli.chat" not in loaded


def test_public_names_resolve() -> None:
    for name in tramontane.__all__:
        assert getattr(tramontane, name) is not None
    with pytest.raises(AttributeError, match="nothing_of_ours"):
        _ = tramontane.nothing_of_ours


def test_importing_every_module_opens_no_socket_and_starts_no_process() -> None:
    package = Path(tramontane.__file__).parent
    names = [module.name for module in pkgutil.walk_packages([str(package)], "tramontane.")]
    assert len(names) > 10
    code = f"""
import sys
for name in ("torch", "numpy"):  # their own start-up is theirs
    __import__(name)
events = []
def watch(event, arguments):
    watched = ("socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork")
    if event.startswith(watched):
        events.append(event)
sys.addaudithook(watch)
for name in {names!r}:
    if not name.endswith("__main__"):
        __import__(name)
print(events)
"""
    assert run(code).splitlines()[-1] == "[]"


def test_training_needs_no_compiled_kernels_and_no_tokenizer_library() -> None:
    """A rented GPU machine may have little more than torch."""
    absent = ("tramontane.ops._cpu", "mistral_common", "tiktoken", "sentencepiece", "typer", "huggingface_hub")
    run(f"import sys\nfor name in {absent}:\n    sys.modules[name] = None\nimport tramontane.training.run")
