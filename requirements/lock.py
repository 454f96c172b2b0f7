"""What an installation consists of, to the byte: a file of versions and hashes for each extra, from one resolution.

`make lock` writes them anew with uv, for every system and Python that pyproject.toml names. torch and what it brings
for GPUs stand apart in torch.lock: who runs on the CPU takes the smaller build of the same version that PyTorch's own
index has.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent
TORCH = re.compile(r"(torch|triton|nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+)==")
HEADER = "# Written by `make lock`. {}\n"
USE = "pip install --no-deps --require-hashes -r requirements/{}.lock"


def compile_lock(source: str, *options: str) -> str:
    """Pinned requirements with hashes, as uv writes them. Raises CalledProcessError."""
    uv = Path(sys.executable).parent / "uv"
    command = [
        str(uv), "pip", "compile", "--universal", "--python-version", "3.11", "--generate-hashes", "--no-header",
        "--no-emit-index-url", "--no-annotate", "--quiet", "--no-config", *options, source,
    ]  # fmt: skip
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, input=BUILD).stdout


def entries(lock: str) -> Iterator[str]:
    """A requirement with the lines of its hashes."""
    for entry in re.split(r"\n(?=[A-Za-z0-9])", lock.strip()):
        yield f"{entry}\n"


def write(name: str, lock: list[str], *, beside: str | None = None) -> None:
    head = HEADER.format(USE.format(name)) + (f"-r {beside}.lock\n" if beside else "")
    (FOLDER / f"{name}.lock").write_text(head + "".join(lock), encoding="utf-8")
    print(f"{name}.lock: {len(lock)} packages" + (f" beside {beside}.lock" if beside else ""))


def main() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    whole = compile_lock("pyproject.toml", "--all-extras", "-c", "constraints.txt", *sys.argv[1:])
    pins = ROOT / "build" / "pins.txt"
    pins.parent.mkdir(exist_ok=True)
    pins.write_text(re.sub(r" \\\n\s+--hash=\S+", "", whole), encoding="utf-8")
    write("torch", [entry for entry in entries(whole) if TORCH.match(entry)])
    always = list(entries(compile_lock("pyproject.toml", "-c", str(pins))))
    write("run", [entry for entry in always if not TORCH.match(entry)])
    for extra in extras:
        lock = entries(compile_lock("pyproject.toml", "--extra", extra, "-c", str(pins)))
        write(extra, [entry for entry in lock if entry not in always and not TORCH.match(entry)], beside="run")
    write("build", list(entries(compile_lock("-", "-c", str(pins)))))


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
BUILD = "\n".join([*PROJECT["build-system"]["requires"], "cmake", "ninja"])

if __name__ == "__main__":
    main()
