"""One CUDA GPU tried and measured in at most 8 minutes, with nothing but this repository, torch and numpy.

The tests marked `gpu`; the torch path beside the CPU's float32: scores, answers, adapters, gradients; decode, prefill
and training beside the card's own copy bandwidth and rate of products. Each part has its time, and what it found by
then counts. Exit codes: 0 all passed; 1 something did not, named at the end; 2 there is no GPU to check.

    python -m benchmarks.gpu_check [--device cpu: a rehearsal of the same in small, nothing recorded]
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
Row = dict[str, Any]


class OverBudget(Exception):  # noqa: N818 - no error: the part's time is over
    pass


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    options = parser.parse_args(arguments)
    sys.path.insert(0, str(ROOT / "src"))
    if absent := [name for name in ("torch", "numpy") if importlib.util.find_spec(name) is None]:
        print(f"gpu-check needs {' and '.join(absent)}; use the Python of an installation of PyTorch", file=sys.stderr)
        return 2
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        print(f"no CUDA device is seen by torch {torch.__version__}; nothing was checked", file=sys.stderr)
        return 2
    return check(torch.device(options.device))


def check(device: Any) -> int:
    import torch

    from benchmarks import _gpu_parity, _gpu_speed
    from benchmarks._results import record

    is_cuda = device.type == "cuda"
    shape = "mistral-7b-8-layers" if is_cuda else "tiny"
    classes = None if is_cuda else ("windows in turns", "a mixture")  # a rehearsal
    name = torch.cuda.get_device_name(device) if is_cuda else "cpu"
    print(f"{name}, torch {torch.__version__}", flush=True)
    ceilings = _gpu_speed.Ceilings(device, is_large=is_cuda)
    parts: list[tuple[str, float, Callable[[], Iterator[Row]]]] = [
        ("ceilings", 20, ceilings.rows),
        ("tests marked gpu", 60, marked_tests),
        ("inference beside the CPU", 120, lambda: _gpu_parity.inference(device, classes)),
        ("gradients beside the CPU", 60, lambda: _gpu_parity.gradients(device, classes)),
        ("speed of inference", 120, lambda: _gpu_speed.inference(ceilings, shape)),
        ("speed of training", 60, lambda: _gpu_speed.training(ceilings, shape)),
    ]
    rows: list[Row] = []
    failures: list[str] = []
    for part, budget_s, run in parts:
        started = time.monotonic()
        found, failed = within(budget_s if is_cuda else 10 * budget_s, run)
        failed += [f"{row['what']}: {shown(row)}" for row in found if not row.get("passed", True)]
        print(f"{part}: {len(found)} rows, {len(failed)} failures, {time.monotonic() - started:.0f} s", flush=True)
        failures += [f"{part}: {words}" for words in failed]
        rows += [{"device": name, "part": part, **row} for row in found]
        if is_cuda:
            torch.cuda.empty_cache()
    if is_cuda:
        record("gpu_check", rows)
    else:
        for row in rows:
            print(f"{row['part']}: {row['what']}: {shown(row)}")
    for words in failures:
        print(f"FAILED {words}")
    return 1 if failures else 0


def within(budget_s: float, run: Callable[[], Iterator[Row]]) -> tuple[list[Row], list[str]]:
    """(rows, failures) of a part, which is ended when its time is over."""
    rows: list[Row] = []

    def stop(number: int, frame: FrameType | None) -> None:
        raise OverBudget

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, budget_s)
    try:
        for row in run():
            rows.append(row)  # noqa: PERF402 - those before an error count
    except OverBudget:
        return rows, [f"not done in its {budget_s:g} s"]
    except Exception as error:  # whatever it is, the other parts still run
        return rows, [f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return rows, []


def marked_tests() -> Iterator[Row]:
    """The tests marked `gpu`, in a process of their own; only the files that have some are imported."""
    files = [p for p in sorted(ROOT.glob("tests/**/test_*.py")) if "pytest.mark.gpu" in p.read_text(encoding="utf-8")]
    if importlib.util.find_spec("pytest") is None:
        yield {"what": "tests marked gpu", "note": f"not run, for want of pytest: {', '.join(p.name for p in files)}"}
        return
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", *map(str, files)]
    paths = os.pathsep.join([str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, check=False
    )
    last = (done.stdout.strip().splitlines() or [done.stderr.strip()[-200:]])[-1]
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.M)
    yield {"what": "tests marked gpu", "note": last, "failed": failed, "passed": done.returncode == 0}


def shown(row: Row) -> str:
    values = {key: value for key, value in row.items() if key not in ("what", "part", "device", "passed")}
    return ", ".join(
        f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in values.items()
    )


if __name__ == "__main__":
    sys.exit(main())
