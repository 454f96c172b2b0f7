"""Ten tenants at mixed work (chat, streams that are left, files, batches, documents, fine-tuning) on one server that is
killed (SIGKILL) every few minutes and started again: what was acknowledged is there at the end, once; no tenant sees
anything of another's; equal questions have equal answers; no 5xx; and memory does not grow within a life of the server.

    python -m benchmarks.soak [--seconds 120] [--kill-every 30] [--tenants 10] [--workers 2] [--server OPTION]...

A growth of memory is that of RssAnon + VmSwap between the second fifth of a life and its last fifth, in lives of at
least two minutes; pages of the KV cache, which are reserved at the start and become resident at first use, are not in
it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import re
import socket
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from tests.server.live import LiveServer, start_server

from benchmarks._http_streams import memory_bytes, metric
from benchmarks._results import record
from benchmarks._tenants import MIX, Ledger, Tenant
from tramontane.server.keys import SCOPES, KeyOptions, create_key
from tramontane.server.store.database import open_database

SAMPLE_S = 2.0
LEAST_LIFE_S = 120.0
PAUSE_S = 0.3
"""Mean of a worker's pauses between two pieces of work."""


@dataclass
class Life:
    """One process of the server, from ready to killed."""

    began: float
    memory: list[tuple[float, float]] = field(default_factory=list)  # seconds since, bytes beside the KV pages
    ready_s: float = 0.0

    def growth(self) -> float | None:
        """Bytes, or None for a life too short to tell."""
        length = self.memory[-1][0] if self.memory else 0.0
        if length < LEAST_LIFE_S:
            return None
        early, late = (
            statistics.median(size for at, size in self.memory if low <= at / length <= high)
            for low, high in ((0.2, 0.4), (0.8, 1.0))
        )
        return late - early


class Soak:
    def __init__(self, home: Path, wanted: argparse.Namespace) -> None:
        self.home, self.wanted = home, wanted
        self.is_up = asyncio.Event()
        self.ledger = Ledger()
        self.lives: list[Life] = []
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        self.live = self.start()  # without a key yet, so before the first tenant

    def start(self) -> LiveServer:
        began = time.monotonic()
        if (log := self.home / "server.log").exists():
            log.rename(self.home / f"server-{len(self.lives)}.log")
        options = ["default", "--request-log", self.home / "requests.jsonl", *self.wanted.server]
        live = start_server(self.home, options, port=self.port)
        self.lives.append(Life(time.monotonic(), ready_s=time.monotonic() - began))
        self.is_up.set()
        return live

    def kill(self) -> None:
        self.is_up.clear()
        with self.live.process:
            self.live.process.kill()
            self.live.process.wait(30)

    async def run(self) -> dict[str, Any]:
        began = time.monotonic()
        admin = self.token(KeyOptions("admin", scopes=SCOPES))
        tenants = [self.tenant(f"tenant{number}") for number in range(self.wanted.tenants)]
        working = [self.work(tenant, tenants, began) for tenant in tenants for _ in range(self.wanted.workers)]
        tasks = [asyncio.create_task(work) for work in (*working, self.train(tenants[0], began))]
        watching = asyncio.create_task(self.watch(admin))
        killing = asyncio.create_task(self.kill_again_and_again())
        await asyncio.gather(*tasks)
        killing.cancel()
        await asyncio.gather(killing, return_exceptions=True)
        await asyncio.gather(*(tenant.settle() for tenant in tenants))
        watching.cancel()
        growths = [growth for life in self.lives if (growth := life.growth()) is not None]
        codes = [int(code) for code in re.findall(r'"status": (\d+)', self.requests_log())]
        return {
            "seconds": time.monotonic() - began,
            "tenants": len(tenants),
            "kills": len(self.lives) - 1,
            "ready_s_max": max(life.ready_s for life in self.lives),
            "requests_logged": len(codes),
            "logged_5xx": sum(code >= 500 for code in codes),
            **{name.replace(" ", "_"): count for name, count in sorted(self.ledger.done.items())},
            "cut_by_kills": self.ledger.num_cut,
            "refused": dict(self.ledger.refused),
            "memory_mib": self.lives[-1].memory[-1][1] / 2**20,
            "growth_mib_median": statistics.median(growths) / 2**20 if growths else None,
            "growth_mib_max": max(growths) / 2**20 if growths else None,
            "tracebacks_logged": self.log().count("Traceback"),
            "faults": len(self.ledger.faults),
        }

    def token(self, options: KeyOptions) -> str:
        """Of a new key."""
        database = open_database(f"sqlite:///{self.home / 'server' / 'state.db'}")
        try:
            return create_key(database, options)[1]
        finally:
            database.close()

    def tenant(self, name: str) -> Tenant:
        token = self.token(KeyOptions(name))
        client = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{self.port}", timeout=300, headers={"authorization": f"Bearer {token}"},
            limits=httpx.Limits(max_connections=None),
        )  # fmt: skip
        return Tenant(name, client, self.is_up, self.ledger)

    async def work(self, tenant: Tenant, tenants: list[Tenant], began: float) -> None:
        draw = random.Random()
        kinds, weights = zip(*MIX, strict=True)
        while time.monotonic() - began < self.wanted.seconds:
            [work] = draw.choices(kinds, weights)
            await work(tenant)
            if draw.random() < 0.03:
                await tenant.look_elsewhere(draw.choice([other for other in tenants if other is not tenant]))
            await asyncio.sleep(draw.expovariate(1 / PAUSE_S))

    async def train(self, tenant: Tenant, began: float) -> None:
        while time.monotonic() - began < self.wanted.seconds:
            await tenant.fine_tune()

    async def kill_again_and_again(self) -> None:
        while True:
            await asyncio.sleep(self.wanted.kill_every * random.uniform(0.8, 1.2))
            self.kill()
            self.live = await asyncio.to_thread(self.start)
            print(f"{time.strftime('%H:%M:%S')} kill {len(self.lives) - 1}, {self.ledger.done.total()} done, "
                  f"{len(self.ledger.faults)} faults", flush=True)  # fmt: skip

    async def watch(self, admin: str) -> None:
        while True:
            if self.is_up.is_set():
                life, pid = self.lives[-1], self.live.process.pid
                with contextlib.suppress(httpx.TransportError, FileNotFoundError):  # killed in this moment
                    of_pages = await asyncio.to_thread(metric, self.live.url, "engine_touched_bytes", admin)
                    life.memory.append((time.monotonic() - life.began, memory_bytes(pid) - of_pages))
            await asyncio.sleep(SAMPLE_S)

    def log(self) -> str:
        return "".join(path.read_text(encoding="utf-8") for path in self.home.glob("server*.log"))

    def requests_log(self) -> str:
        path = self.home / "requests.jsonl"
        return path.read_text(encoding="utf-8") if path.exists() else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--kill-every", type=float, default=30)
    parser.add_argument("--tenants", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2, help="requests at once, per tenant")
    parser.add_argument("--server", action="append", default=[], help="an option of tramontane serve")
    parser.add_argument("--home", type=Path, help="keep the server's state and logs in this folder")
    wanted = parser.parse_args()
    os.environ.pop("OMP_NUM_THREADS", None)
    with tempfile.TemporaryDirectory() as folder:
        home = wanted.home or Path(folder)
        soak = Soak(home, wanted)
        try:
            row = asyncio.run(soak.run())
        finally:
            code = soak.live.stop()
    for fault in soak.ledger.faults:
        print(fault)
    record("soak", [row | {"exit_code": code}])
    if soak.ledger.faults or code:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
