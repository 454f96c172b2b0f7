"""Creates that are retried while the processes that handle them die: how many objects there are, and what a key costs.

Each try runs the server's own code and ends, six times of ten, at a random one of its steps as a killed process would;
the rest get an answer. Every key must have one object, and every answer must name it. Beside that, the time of a create
with a key, and of a repeated answer.

    python -m benchmarks.idempotency [--tries 100000] [--per-key 5] [--database-url URL] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from sqlalchemy import func, select
from tests.server.idempotency.crashing import Server, retry

from benchmarks._results import record, spread
from tramontane.server.idempotency import once
from tramontane.server.store.contents import ContentStore
from tramontane.server.store.database import Database, open_database
from tramontane.server.store.tables import File

CONTENT = b"What the north wind carries.\n"


async def crash(database: Database, contents: ContentStore, num_tries: int, per_key: int) -> dict[str, Any]:
    draw = random.Random(13)
    answers: Counter[int] = Counter()
    num_keys, num_answers = num_tries // per_key, 0
    started = time.perf_counter()
    for number in range(num_keys):
        ids = await retry(database, contents, f"key {number}", CONTENT, draw, per_key)
        ids.append((await Server(database, contents).create(f"key {number}", CONTENT))[1]["id"])
        answers[len(set(ids))] += 1
        num_answers += len(ids)
    with database.read() as session:
        num_objects = session.scalar(select(func.count()).select_from(File))
    return {
        "what": "crashes",
        "tries": num_keys * (per_key + 1),
        "deaths": num_keys * (per_key + 1) - num_answers,
        "keys": num_keys,
        "objects": num_objects,
        "keys_of_several_answers": sum(count for several, count in answers.items() if several != 1),
        "seconds": time.perf_counter() - started,
    }


async def cost(database: Database, contents: ContentStore, rounds: int) -> dict[str, Any]:
    server = Server(database, contents)
    times: dict[str, list[float]] = {"with a key": [], "repeated": []}
    for number in range(rounds):
        for name in times:
            started = time.perf_counter()
            await server.create(f"cost {number}", CONTENT)
            times[name].append((time.perf_counter() - started) * 1e3)
    return {"what": "cost", "create_ms": {name: spread(values) for name, values in times.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=100_000)
    parser.add_argument("--per-key", type=int, default=5)
    parser.add_argument("--database-url")
    parser.add_argument("--folder", type=Path, help="where files and SQLite's database lie (default: a temporary one)")
    options = parser.parse_args()
    once.GIVE_UP_S, once.POLL_S = 0.0, 0.0  # who has died is known here
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        database = open_database(options.database_url or f"sqlite:///{folder}/state.db")
        contents = ContentStore(Path(folder))
        rows = [
            asyncio.run(crash(database, contents, options.tries, options.per_key)),
            asyncio.run(cost(database, contents, 200)),
        ]
        database.close()
    record("idempotency", rows)


if __name__ == "__main__":
    main()
