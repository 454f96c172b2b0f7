"""Coverage-guided fuzzing of every target, by Atheris:

    python -m tests.fuzz                    all of them: $FUZZ_SECONDS each (20), $FUZZ_JOBS at a time, from $FUZZ_SEED
    python -m tests.fuzz TARGET             one, likewise
    python -m tests.fuzz TARGET FILE...     what a run has found, once more, without Atheris

Inputs that end a target are kept in build/fuzz/found/TARGET. A fault that is mended leaves its input, shortened, in
tests/fuzz/corpus/TARGET, where every run begins and which tests/fuzz/test_corpus.py replays.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CORPUS = Path(__file__).parent / "corpus"
BUILD = ROOT / "build" / "fuzz"
MAX_INPUT_BYTES = 1 << 16
MAX_INPUT_S = 20  # of an input of 64 KiB, on a machine that is busy
MAX_MIB = 3072  # of the process, with the libraries that it imports


def main(arguments: list[str]) -> int:
    if len(arguments) > 1:
        return replay(arguments[0], [Path(name) for name in arguments[1:]])
    if arguments and os.environ.get("FUZZ_CHILD"):
        fuzz(arguments[0])
        return 0
    from tests.fuzz.targets import TARGETS

    names = arguments or sorted(TARGETS)
    if unknown := set(names) - set(TARGETS):
        print(f"unknown target {min(unknown)}; use one of {', '.join(sorted(TARGETS))}", file=sys.stderr)
        return 2
    with ThreadPoolExecutor(int(os.environ.get("FUZZ_JOBS", "2"))) as pool:
        codes = list(pool.map(run, names))
    return int(any(codes))


def replay(name: str, paths: list[Path]) -> int:
    """What a target raises is shown with its trace."""
    from tests.fuzz.targets import TARGETS

    for path in paths:
        TARGETS[name](path.read_bytes())
        print(f"{path}: in order")
    return 0


def run(name: str) -> int:
    """One target in a process of its own. Prints a line; where an input ended it, also how to see that again."""
    found, grown, log = BUILD / "found" / name, BUILD / "corpus" / name, BUILD / f"{name}.log"
    for folder in (found, grown):
        folder.mkdir(parents=True, exist_ok=True)
    seconds, seed = int(os.environ.get("FUZZ_SECONDS", "20")), int(os.environ.get("FUZZ_SEED", "1"))
    environment = {**os.environ, "FUZZ_CHILD": "1", "FUZZ_SECONDS": str(seconds), "FUZZ_SEED": str(seed)}
    known = set(found.iterdir())
    with log.open("wb") as output:
        command = [sys.executable, "-m", "tests.fuzz", name]
        code = subprocess.run(command, cwd=ROOT, env=environment, stdout=output, stderr=output, check=False).returncode
    lines = log.read_text(errors="replace").splitlines()
    done = next((line for line in reversed(lines) if line.startswith("Done ")), "ended early")
    new = sorted(set(found.iterdir()) - known)
    print(f"{name}: {done}" if code == 0 else f"{name}: FAILED, see {log}", flush=True)
    for path in new:
        print(f"  {sys.executable} -m tests.fuzz {name} {path}", flush=True)
    return code


def fuzz(name: str) -> None:
    """Never returns: libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=["tramontane"]):
        from tests.fuzz.targets import CHOOSING, JSON_TARGETS, TARGETS
    from tests.fuzz.json_mutator import mutate_json

    target = TARGETS[name]

    def mutate(data: bytes, max_bytes: int, seed: int) -> bytes:
        start = data.find(b"\n") + 1 if name in CHOOSING else 0
        changed = mutate_json(data[start:], max_bytes - start, seed) if seed % 2 else None
        return atheris.Mutate(data, max_bytes) if changed is None else data[:start] + changed

    flags = [
        f"-max_total_time={os.environ['FUZZ_SECONDS']}", f"-seed={os.environ['FUZZ_SEED']}", f"-timeout={MAX_INPUT_S}",
        f"-rss_limit_mb={MAX_MIB}", f"-max_len={MAX_INPUT_BYTES}", f"-artifact_prefix={BUILD / 'found' / name}/",
        "-print_final_stats=1", str(BUILD / "corpus" / name), str(CORPUS / name),
    ]  # fmt: skip
    if name in JSON_TARGETS:
        atheris.Setup([name, *flags], target, custom_mutator=mutate)
    else:
        atheris.Setup([name, *flags], target)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
