"""What one tenant's flood costs the others: a real server with keys, a tenant who asks for a hundred times as much, and
another whose short requests are timed alone and beside it. Both sides share the machine's cores.

    python -m benchmarks.fairness [--case NAME ...] [--probes 200] [--threads 1] [--seconds 40] [--interval 0.1]

Cases: streams (100 x 300 tokens), crowd (1,100 x 300), prompts (of the whole context), answers (n=63), embeddings (of
2,000 texts), models (GET /v1/models beside 12 chats of 2 MiB), tenants (ten of them, 1 to 100 streams: Jain's index of
what each got beside its max-min share).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from tests.server.live import LiveServer, start_server

from benchmarks._http_streams import WORDS, quantile
from benchmarks._results import record
from tramontane.server.keys import KeyOptions, create_key
from tramontane.server.store.database import open_database

PROMPT_TOKENS = 30
GREEDY_STREAMS = (1, 2, 4, 8, 16, 25, 40, 60, 80, 100)


class Tenant:
    """A key, and what came of the requests made with it."""

    def __init__(self, url: str, token: str) -> None:
        host, port = url.removeprefix("http://").split(":")
        self.address = host, int(port)
        self.token = token
        self.num_tokens = 0
        self.statuses: dict[int, int] = {}

    async def ask(self, path: str, body: dict[str, Any] | None, *, read: bool = True) -> float:
        """Seconds to the first event, or to the answer where it is not a stream."""
        started = time.perf_counter()
        first: float | None = None
        reader, writer = await asyncio.open_connection(*self.address)
        content = b"" if body is None else json.dumps(body).encode()
        head = [
            f"{'GET' if body is None else 'POST'} {path} HTTP/1.1",
            f"Host: {self.address[0]}:{self.address[1]}",
            f"Authorization: Bearer {self.token}",
            "Content-Type: application/json",
            f"Content-Length: {len(content)}",
            "Connection: close",
        ]
        writer.write("\r\n".join([*head, "", ""]).encode() + content)
        try:
            answer = await reader.readuntil(b"\r\n\r\n")
            status = int(answer.split(b" ", 2)[1])
            self.statuses[status] = self.statuses.get(status, 0) + 1
            while read and (data := await reader.read(65536)):
                events = data.count(b'"delta":{"content"') + data.count(b'"text":"')
                if first is None and (events or b"data: " not in data):
                    first = time.perf_counter() - started
                self.num_tokens += events
        finally:
            writer.close()
        return first if first is not None else time.perf_counter() - started


def completion(tokens: int, prompt_tokens: int = PROMPT_TOKENS, **more: Any) -> dict[str, Any]:
    prompt = [random.randrange(300, 8000) for _ in range(prompt_tokens)]
    return {"model": "default", "prompt": prompt, "max_tokens": tokens, "min_tokens": tokens, "temperature": 0.7,
            "stream": True, **more}  # fmt: skip


async def repeat(work: Callable[[], Awaitable[object]]) -> None:
    while True:
        try:
            await work()
        except (OSError, asyncio.IncompleteReadError):
            await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def beside(*work: Callable[[], Awaitable[object]]) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(repeat(each)) for each in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def probe(ask: Callable[[], Awaitable[float]], count: int, interval: float) -> list[float]:
    times = []
    for _ in range(count):
        times.append(await ask())
        await asyncio.sleep(interval * random.uniform(0.5, 1.5))
    return times


def floods(alice: Tenant, context: int) -> dict[str, list[Callable[[], Awaitable[object]]]]:
    words = " ".join(random.choices(WORDS, k=12))
    texts = [f"{number} {words}" for number in range(2000)]

    def backed_off(
        body: Callable[[], dict[str, Any]], path: str = "/v1/completions"
    ) -> Callable[[], Awaitable[object]]:
        async def ask() -> None:
            refused = alice.statuses.get(429, 0)
            await alice.ask(path, body())
            if alice.statuses.get(429, 0) > refused:
                await asyncio.sleep(1)

        return ask

    return {
        "streams": [backed_off(lambda: completion(300))] * 100,
        "crowd": [backed_off(lambda: completion(300))] * 1100,
        "prompts": [backed_off(lambda: completion(10, context - 20))] * 8,
        "answers": [backed_off(lambda: completion(300, n=63))] * 4,
        "embeddings": [backed_off(lambda: {"model": "default", "input": texts}, "/v1/embeddings")] * 4,
    }


async def first_tokens(
    alice: Tenant, bob: Tenant, case: str, context: int, wanted: argparse.Namespace
) -> dict[str, Any]:
    async def ask() -> float:
        return await bob.ask("/v1/completions", completion(3))

    row: dict[str, Any] = {"case": case}
    solo = await probe(ask, wanted.probes, wanted.interval)
    async with beside(*floods(alice, context)[case]):
        await asyncio.sleep(3)
        before, started = alice.num_tokens, time.perf_counter()
        crowded = await probe(ask, wanted.probes, wanted.interval)
        row["alice_tokens_per_s"] = (alice.num_tokens - before) / (time.perf_counter() - started)
    again = await probe(ask, wanted.probes, wanted.interval)
    alone = solo + again  # before and after, since the machine may have others on it
    return row | {
        "solo_p50_ms": 1e3 * quantile(alone, 0.5),
        "solo_p99_ms": 1e3 * quantile(alone, 0.99),
        "beside_p50_ms": 1e3 * quantile(crowded, 0.5),
        "beside_p99_ms": 1e3 * quantile(crowded, 0.99),
        "longest_s": max(crowded),
        "ratio_p50": quantile(crowded, 0.5) / quantile(alone, 0.5),
        "ratio_p99": quantile(crowded, 0.99) / quantile(alone, 0.99),
        "statuses": str(alice.statuses),
    }


async def model_lists(alice: Tenant, bob: Tenant, wanted: argparse.Namespace) -> dict[str, Any]:
    text = " ".join(random.choices(WORDS, k=400_000))[: 2 * 2**20]
    chat = {"model": "default", "messages": [{"role": "user", "content": text}], "max_tokens": 1}

    async def ask() -> float:
        return await bob.ask("/v1/models", None)

    alone = await probe(ask, wanted.probes, wanted.interval)
    async with beside(*[lambda: alice.ask("/v1/chat/completions", chat)] * 12):
        await asyncio.sleep(2)
        crowded = await probe(ask, wanted.probes, wanted.interval)
    return {
        "case": "models",
        "solo_p50_ms": 1e3 * quantile(alone, 0.5),
        "solo_p99_ms": 1e3 * quantile(alone, 0.99),
        "beside_p50_ms": 1e3 * quantile(crowded, 0.5),
        "beside_p99_ms": 1e3 * quantile(crowded, 0.99),
        "longest_s": max(crowded),
    }


async def tenants(those: list[Tenant], wanted: argparse.Namespace) -> dict[str, Any]:
    sizes = [(300, 30), (50, 400), (100, 100)]

    def stream(tenant: Tenant, place: int) -> Callable[[], Awaitable[object]]:
        tokens, prompt_tokens = sizes[place % len(sizes)]
        return lambda: tenant.ask("/v1/completions", completion(tokens, prompt_tokens))

    work = [
        stream(tenant, place)
        for place, (tenant, count) in enumerate(zip(those, GREEDY_STREAMS, strict=True))
        for _ in range(count)
    ]
    async with beside(*work):
        await asyncio.sleep(5)
        before = [tenant.num_tokens for tenant in those]
        await asyncio.sleep(wanted.seconds)
        got = [tenant.num_tokens - earlier for tenant, earlier in zip(those, before, strict=True)]
    prompt_share = [sizes[place % len(sizes)][1] / sizes[place % len(sizes)][0] for place in range(len(those))]
    served = [tokens * (2 + share) for tokens, share in zip(got, prompt_share, strict=True)]
    # a tenant whose every stream gets a token a step may want less than its share: then that is its fair share
    most = sorted(served)[len(served) // 2]
    fair = [min(most, each) if count <= 4 else most for each, count in zip(served, GREEDY_STREAMS, strict=True)]
    return {
        "case": "tenants",
        "answer_tokens": str(got),
        "served": str([round(each) for each in served]),
        "jain_of_shares": jain([a / b for a, b in zip(served, fair, strict=True)]),
        "jain_of_service": jain(served),
        "jain_of_the_greedy": jain(served[3:]),
        "tokens_per_s": sum(got) / wanted.seconds,
    }


def jain(values: list[float]) -> float:
    return sum(values) ** 2 / (len(values) * sum(value**2 for value in values))


def make_tenants(live: LiveServer, home: Path, count: int) -> list[Tenant]:
    database = open_database(f"sqlite:///{(home / 'server' / 'state.db').absolute()}")
    try:
        made = [create_key(database, KeyOptions(name=f"tenant {n}")) for n in range(count)]
    finally:
        database.close()
    return [Tenant(live.url, token) for _, token in made]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cases = ("streams", "crowd", "prompts", "answers", "embeddings", "models", "tenants")
    parser.add_argument("--case", action="append", choices=cases)
    parser.add_argument("--probes", type=int, default=200)
    parser.add_argument("--interval", type=float, default=0.1)
    parser.add_argument("--seconds", type=float, default=40)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--context", type=int, default=4096, help="tokens of the long prompts")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        live = start_server(home, ["default", "--threads", wanted.threads])
        try:
            those = make_tenants(live, home, 10)
            time.sleep(1.5)  # until the server knows of the keys
            for case in wanted.case or cases:
                if case == "tenants":
                    row = asyncio.run(tenants(those, wanted))
                elif case == "models":
                    row = asyncio.run(model_lists(those[0], those[1], wanted))
                else:
                    row = asyncio.run(first_tokens(those[0], those[1], case, wanted.context, wanted))
                record("fairness", [row])
        finally:
            live.stop()


if __name__ == "__main__":
    main()
