"""Programs of this folder, and the extension with sanitizers, built in build/ so that only what has changed is compiled
again."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NATIVE = Path(__file__).parent


def tool(name: str) -> str:
    beside_python = Path(sys.executable).parent / name
    found = str(beside_python) if beside_python.exists() else shutil.which(name)
    if found is None:
        pytest.fail(f"{name} is missing; `make install` brings it")
    return found


def build(target: str, folder_name: str, *options: str, source: Path = NATIVE) -> Path:
    """The folder build/`folder_name`'s `target`, a program or a library, of the CMake project in `source`."""
    folder, cmake = ROOT / "build" / folder_name, tool("cmake")
    cache = folder / "CMakeCache.txt"
    if cache.exists() and f"CMAKE_CACHEFILE_DIR:INTERNAL={folder}\n" not in cache.read_text():
        shutil.rmtree(folder)  # of a copied checkout
    for command in (
        [cmake, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}", "-S", str(source), "-B", str(folder), *options],
        [cmake, "--build", str(folder), "--target", target],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    built = [
        path
        for path in folder.glob(f"*{target}*")
        if path.is_file() and path.name.split(".")[0] in (target, f"lib{target}")
    ]
    assert len(built) == 1, built
    return built[0]


def build_extension(folder_name: str, *options: str) -> Path:
    """The native part as Python loads it, in a folder of its own: never the one that is installed."""
    asked = [sys.executable, "-m", "nanobind", "--cmake_dir"]
    nanobind = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    return build(
        "_cpu", folder_name, f"-DPython_EXECUTABLE={sys.executable}", f"-Dnanobind_DIR={nanobind}",
        *options, source=ROOT,
    )  # fmt: skip
