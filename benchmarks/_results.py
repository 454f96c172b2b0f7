"""Rows of measurements: each with commit, machine, threads and date, appended to benchmarks/results/SUBJECT.jsonl."""

from __future__ import annotations

import datetime
import json
import os
import platform
import resource
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

FOLDER = Path(__file__).parent / "results"


def spread(values: Sequence[float]) -> dict[str, float]:
    """p20, p50 and p80 of some repetitions."""
    ordered = sorted(values)

    def at(share: float) -> float:
        return ordered[round(share * (len(ordered) - 1))]

    return {"p20": at(0.2), "p50": statistics.median(ordered), "p80": at(0.8)}


def peak_rss_bytes() -> int:
    """Largest resident memory this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def rss_bytes() -> int:
    """Resident memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def record(subject: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print the rows, the last line being JSON, and append them to the results."""
    stamp = {
        "commit": _git("rev-parse", "--short", "HEAD")
        + ("+" if _git("status", "--porcelain", "--", "../src", "../csrc") else ""),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": _machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    FOLDER.mkdir(exist_ok=True)
    with (FOLDER / f"{subject}.jsonl").open("a") as file:
        for row in rows:
            print("  ".join(f"{key}={_shown(value)}" for key, value in row.items()))
            file.write(json.dumps(stamp | row) + "\n")
    print(json.dumps({"subject": subject, "rows": list(rows)}))


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "/".join(_shown(part) for part in value.values())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _machine() -> str:
    flags = ""
    try:
        text = Path("/proc/cpuinfo").read_text()
        model = next(line.split(":")[1].strip() for line in text.splitlines() if line.startswith("model name"))
        flags = next(
            (
                isa
                for isa in ("amx_bf16", "avx512_bf16", "avx512_vnni", "avx512f", "avx2")
                if f" {isa} " in text.replace("\n", " ")
            ),
            "",
        )
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    forced = os.environ.get("TRAMONTANE_CPU")
    return f"{model} x{os.cpu_count()} {flags}".strip() + (f", TRAMONTANE_CPU={forced}" if forced else "")


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=Path(__file__).parent, check=False)
    return done.stdout.strip() or ""
