"""What other tenants feel of one who asks too much: a keyed server of the embedded model, a tenant that streams, asks
for /health and lists the models, and beside it each case of `_availability_cases`, by another tenant, again and again.

    python -m benchmarks.availability [CASE ...] [--seconds 3] [--threads 1] [--pause 0.1] [--fields COUNT]

Each case stands beside the same seconds without it, measured just before. `gaps` are those between the victim's tokens.
CPU seconds and memory are the server's; its peak is that of the case alone. With `--fields`, the cases are that many
bodies that are huge in one field, drawn from all fields of all routes.
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from tests.server.hostile_bodies import hostile_bodies, some
from tests.server.live import LiveServer, start_server

from benchmarks._availability_cases import CASES, Attack, Attacker, Case
from benchmarks._availability_probes import Probes
from benchmarks._http_streams import memory_bytes, quantile
from benchmarks._results import record
from tramontane.hub import resolve_model
from tramontane.server.keys import KeyOptions, create_key
from tramontane.server.store.database import open_database

MIB = 2**20
SETTLE_S = 0.5
SHARES = {"gaps": (0.5, 0.99, 1.0), "health": (0.5, 0.99, 1.0), "models": (0.99,), "documents": (0.5, 0.99)}


def cpu_seconds(pid: int) -> float:
    """Of a process and those of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def peak_bytes(pid: int) -> int:
    """The largest resident memory since `forget_peak`."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def waits(spans: dict[str, list[float]], prefix: str = "") -> dict[str, float]:
    """In ms."""
    row = {}
    for name, shares in SHARES.items():
        for share in shares:
            label = "max" if share == 1 else f"p{share * 100:.0f}"
            row[f"{prefix}{name}_{label}_ms"] = quantile(spans[name], share) * 1e3 if spans[name] else 0.0
    return row


def keyed_server(home: str, wanted: argparse.Namespace) -> tuple[str, Attacker, LiveServer]:
    """The victim's key, the other tenant, and the server."""
    database = open_database(f"sqlite:///{home}/server/state.db")
    victim, other = (create_key(database, KeyOptions(name))[1] for name in ("victim", "attacker"))
    database.close()
    live = start_server(Path(home), [f"default={resolve_model('default')}", "--threads", wanted.threads])
    return victim, Attacker(live.url, other), live


def measure(case: Case, wanted: argparse.Namespace) -> dict[str, Any]:
    """On a server of its own: a case may leave it unable to answer."""
    with tempfile.TemporaryDirectory() as home:
        victim, attacker, live = keyed_server(home, wanted)
        try:
            with Probes(live.url, victim) as probes:
                time.sleep(SETTLE_S)
                row = felt_during(case(attacker), live.process.pid, probes, wanted)
        except BaseException:
            live.process.kill()
            raise
        if row["is_stuck"]:
            live.process.kill()
        return {"case": case.__name__, **row, "exit_code": live.stop()}


def measure_fields(count: int, wanted: argparse.Namespace) -> list[dict[str, Any]]:
    """Bodies that are huge in one field, at their route's own limit and at 32 MiB: what of the server's time they take,
    and what the victim felt meanwhile."""
    rows = []
    with tempfile.TemporaryDirectory() as home:
        victim, attacker, live = keyed_server(home, wanted)
        try:
            schema = httpx.get(f"{live.url}/openapi.json", timeout=60).json()
            with Probes(live.url, victim) as probes:
                for body in some(hostile_bodies(schema, model="default"), count, seed=1):
                    for size in (MIB, 32 * MIB - 4096):
                        path = re.sub("{.*}", "x", body.path)
                        send = partial(attacker.send, path, body.grow(size), method=body.method)
                        row = felt_during(send, live.process.pid, probes, wanted)
                        rows.append({"case": body.name, "bytes": size, **row})
                        print(table_line(rows[-1]), flush=True)
                        if row["is_stuck"]:
                            raise RuntimeError(f"{body.name} of {size} bytes: the server answers nothing any more")
        finally:
            live.process.kill()
            live.process.wait()
    return rows


def felt_during(attack: Attack, pid: int, probes: Probes, wanted: argparse.Namespace) -> dict[str, Any]:
    probes.take()
    started = time.monotonic()
    time.sleep(wanted.seconds)
    solo = probes.take().within(started, time.monotonic())
    forget_peak(pid)
    cpu, rss, anonymous = cpu_seconds(pid), peak_bytes(pid), memory_bytes(pid)
    statuses: Counter[str] = Counter()
    started = time.monotonic()
    while time.monotonic() - started < wanted.seconds:
        statuses[attack()] += 1
        time.sleep(wanted.pause)
    ended = time.monotonic()
    cpu = cpu_seconds(pid) - cpu
    felt = probes.take()
    during = felt.within(started, ended)
    peak = peak_bytes(pid)
    time.sleep(SETTLE_S)
    row: dict[str, Any] = {
        "answers": " ".join(f"{count}x {status}" for status, count in sorted(statuses.items())),
        "seconds": ended - started,
        "cpu_s": cpu,
        **waits(during),
        **waits(solo, "solo_"),
        "peak_mib": (peak - rss) / MIB,
        "kept_mib": (memory_bytes(pid) - anonymous) / MIB,
        "failures": len(felt.failures),
        "is_stuck": felt.is_stuck,
    }
    shares = ("p50", "p99")
    return row | {f"times_solo_{share}": row[f"gaps_{share}_ms"] / row[f"solo_gaps_{share}_ms"] for share in shares}


COLUMNS = (
    ("case", "case", "{:26}"),
    ("answers", "answers", "{:24}"),
    ("CPU s", "cpu_s", "{:7.2f}"),
    ("gap p50", "gaps_p50_ms", "{:8.2f}"),
    ("p99", "gaps_p99_ms", "{:8.2f}"),
    ("max", "gaps_max_ms", "{:8.1f}"),
    ("solo p50", "solo_gaps_p50_ms", "{:8.2f}"),
    ("p99", "solo_gaps_p99_ms", "{:8.2f}"),
    ("max", "solo_gaps_max_ms", "{:8.1f}"),
    ("health p50", "health_p50_ms", "{:10.1f}"),
    ("p99", "health_p99_ms", "{:8.1f}"),
    ("max", "health_max_ms", "{:8.1f}"),
    ("models p99", "models_p99_ms", "{:10.1f}"),
    ("small document p50", "documents_p50_ms", "{:18.1f}"),
    ("solo", "solo_documents_p50_ms", "{:8.1f}"),
    ("peak MiB", "peak_mib", "{:8.0f}"),
    ("kept", "kept_mib", "{:6.0f}"),
)


def table_line(row: dict[str, Any]) -> str:
    return " ".join(shape.format(row[name]) for _, name, shape in COLUMNS)


def head_line() -> str:
    cells = []
    for title, _, shape in COLUMNS:
        width = int("".join(c for c in shape.partition(".")[0] if c.isdigit()))
        cells.append(title.ljust(width) if "f" not in shape else title.rjust(width))
    return " ".join(cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help="default: all")
    parser.add_argument(
        "--seconds", type=float, default=3.0, help="that a case is repeated for, and of the time before"
    )
    parser.add_argument("--pause", type=float, default=0.1, help="seconds between one time and the next")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--fields", type=int, default=0, metavar="COUNT", help="bodies huge in one field, instead")
    wanted = parser.parse_args()
    known = {case.__name__: case for case in CASES}
    if unknown := set(wanted.cases) - set(known):
        parser.error(f"no case {min(unknown)}; there are {', '.join(known)}")
    print(head_line())
    rows = measure_fields(wanted.fields, wanted) if wanted.fields else []
    for name in wanted.cases or (() if wanted.fields else known):
        rows.append(measure(known[name], wanted))
        print(table_line(rows[-1]), flush=True)
    record("availability", rows)


if __name__ == "__main__":
    main()
