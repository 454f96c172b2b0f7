"""A hub whose answers fail as a seed has it: cut, damaged, too long, empty, refused, lying about ranges, or listing
what is not so; pulled again and again. A model that a name leads to has exactly the hub's files, whatever came before;
a pull that fails says so in one line of ours; and once the hub is well, the pull ends."""

from __future__ import annotations

import atexit
import os
import random
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

from tests.hub.conftest import config_json
from tests.hub.fake_hub import REPOSITORY, Answer, FakeHub, Fault, Request, answer_with, cut, flip_bit, no_fault, serve
from tests.hub.pulling import fetch
from tramontane.errors import CheckpointError, TramontaneError
from tramontane.hub import resolve_model
from tramontane.hub.store import RECORD

STATUSES = (204, 206, 301, 400, 401, 403, 404, 408, 416, 429, 451, 500, 502, 503, 504)


def run(seed: int) -> None:
    """Raises AssertionError for a promise that was broken."""
    rng = random.Random(seed)
    hub = _hub()
    hub.files = {"config.json": config_json(rng.randint(1, 40))} | {
        name: rng.randbytes(size)
        for name, size in (
            ("tokenizer.json", rng.randint(1, 9000)),
            ("model.safetensors", rng.randint(1, 60_000)),
            ("README.md", rng.randint(0, 50)),
        )
    }
    with tempfile.TemporaryDirectory() as home:
        before = os.environ.get("TRAMONTANE_HOME")
        os.environ["TRAMONTANE_HOME"] = home
        try:
            for _ in range(rng.randint(1, 4)):
                hub.faults = {name: faults(rng, hub.files[name]) for name in hub.files if rng.random() < 0.5}
                if rng.random() < 0.3:
                    hub.change_listing = lie_of(rng)
                pull_once(hub)
                hub.faults, hub.change_listing = {}, lambda listing: None
                if rng.random() < 0.2:
                    meddle(rng, Path(home))
            fetch()
            assert found() == hub.files
        finally:
            hub.faults, hub.change_listing = {}, lambda listing: None
            os.environ.pop("TRAMONTANE_HOME")
            if before is not None:
                os.environ["TRAMONTANE_HOME"] = before


def pull_once(hub: FakeHub) -> None:
    failure = None
    try:
        fetch()
    except TramontaneError as error:
        failure = str(error)
    assert "\n" not in (failure or "")
    there = found()  # fewer files than there are, where the listing has named fewer
    assert failure or there
    assert all(hub.files[name] == content for name, content in (there or {}).items())


def found() -> dict[str, bytes] | None:
    """What the name leads to."""
    try:
        folder = resolve_model(REPOSITORY)
    except CheckpointError:
        return None
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != RECORD}


def faults(rng: random.Random, content: bytes) -> list[Fault]:
    return [fault(rng, content) for _ in range(rng.randint(1, 6))]


def fault(rng: random.Random, content: bytes) -> Fault:
    place = rng.randrange(max(1, len(content)))

    def reversed_body(answer: Answer, request: Request) -> Answer:
        return Answer(answer.status, answer.headers, answer.body[::-1])

    def promises_more(answer: Answer, request: Request) -> Answer:
        return Answer(answer.status, {"Content-Length": "999999999"}, answer.body, cut_at=len(answer.body))

    kinds: tuple[Fault, ...] = (
        cut(place),
        cut(0),
        flip_bit(place) if content else cut(0),
        answer_with(rng.choice(STATUSES), body=rng.randbytes(rng.randint(0, 99))),
        answer_with(200, body=content + rng.randbytes(rng.choice((1, 100_000)))),
        answer_with(200, body=content[:place]),
        answer_with(200, body=content),  # whatever range was asked for
        answer_with(206, {"Content-Range": f"bytes {place}-{len(content) - 1}/{len(content)}"}, content[place:]),
        answer_with(206, {"Content-Range": "bytes 0-0/1"}, content),
        answer_with(206, {"Content-Range": "nonsense"}, content[::-1]),
        reversed_body,
        promises_more,
        no_fault,
    )
    return rng.choice(kinds)


def lie_of(rng: random.Random) -> Callable[[dict[str, Any]], None]:
    """The listing says something of one file that is not so, or is itself none."""

    def change(listing: dict[str, Any]) -> None:
        file = rng.choice(listing["siblings"])
        what = rng.choice(("size", "blobId", "rfilename", "gone", "twice", "sha"))
        if what == "size":
            file["size"] += rng.choice((-1, 1, 10**15))
        elif what == "gone":
            listing.pop("siblings")
        elif what == "twice":
            listing["siblings"].append(dict(file))
        elif what == "sha":
            listing["sha"] = "../" * 9 + "etc"
        else:
            file[what] = rng.choice(("", "x" * 40, "../../outside", "a/../b", None, 7))

    return change


def meddle(rng: random.Random, home: Path) -> None:
    """What an earlier pull has left unfinished is changed, or gone."""
    for part in [path for path in home.rglob("*.part") if path.is_file()]:
        if rng.random() < 0.5:
            part.unlink()
        elif size := part.stat().st_size:
            with part.open("r+b") as file:
                file.seek(rng.randrange(size))
                file.write(b"x")


@cache
def _hub() -> FakeHub:
    """One for all seeds of a process, until that ends."""
    stack = ExitStack()
    atexit.register(stack.close)
    running = stack.enter_context(serve(FakeHub({})))
    os.environ["HF_ENDPOINT"] = running.address
    return running
