"""What a stranger could learn from a clock: whether another key's prompt is cached, how much of a key is right.

Prompts: a key of one owner sends a prompt; a key of another then sends the same one and a new one of as many words, in
random order, and the time to the first token of each is taken over HTTP. The area under the curve (AUC) of a guess by
that time is 0.5 where nothing shows. Beside it the control, a tenth as many pairs more: the same for the owner's own
second sending, which the cache does help. Keys: wrong ones that begin with the right secret's first letters, in random
order; the correlation of the time of a look-up with the number of right letters.

    python -m benchmarks.timing_leaks [--pairs 10000] [--keys 100000]
"""

from __future__ import annotations

import argparse
import random
import string
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from tests.server.live import start_server

from benchmarks._results import record, spread
from tramontane.hub import resolve_model
from tramontane.server.keys import KeyOptions, create_key, find_key
from tramontane.server.store.database import open_database

PROMPT_WORDS = 40
CONTROL_SHARE = 0.1
WORDS = [a + b + c for a in "bdklmnprst" for b in "aeiou" for c in "dlmnrst"]
LETTERS = string.ascii_letters + string.digits + "_-"


def area_under_curve(lower: np.ndarray[Any, Any], higher: np.ndarray[Any, Any]) -> float:
    """The chance that one of `lower` is below one of `higher` (Mann-Whitney's U over all pairs), ties counting half."""
    ordered = np.sort(higher)
    below = len(ordered) - np.searchsorted(ordered, lower, side="right")
    ties = len(ordered) - np.searchsorted(ordered, lower, side="left") - below
    return float((below + ties / 2).mean() / len(ordered))


def first_token_ms(client: httpx.Client, prompt: str) -> float:
    started = time.perf_counter()
    answer = client.post("/v1/completions", json={"model": "default", "prompt": prompt, "max_tokens": 1})
    elapsed = time.perf_counter() - started
    answer.raise_for_status()
    return elapsed * 1e3


def probe(num_pairs: int) -> dict[str, Any]:
    draw = random.Random(11)

    def new_prompt() -> str:
        return " ".join(draw.choices(WORDS, k=PROMPT_WORDS))

    with tempfile.TemporaryDirectory() as home:
        database = open_database(f"sqlite:///{home}/server/state.db")
        tokens = [create_key(database, KeyOptions(name))[1] for name in ("victim", "stranger")]
        live = start_server(Path(home), [f"default={resolve_model('default')}", "--threads", 1])
        victim, stranger = (
            httpx.Client(base_url=live.url, timeout=600, headers={"authorization": f"Bearer {token}"})
            for token in tokens
        )
        times: dict[str, list[float]] = {"cached for another": [], "new": [], "cached": [], "new beside cached": []}
        try:
            num_controls = round(num_pairs * CONTROL_SHARE)
            for number in range(num_controls + num_pairs):
                is_control = number < num_controls
                known, other = new_prompt(), new_prompt()
                first_token_ms(victim, known)
                prober, names = (
                    (victim, ("cached", "new beside cached"))
                    if is_control
                    else (stranger, ("cached for another", "new"))
                )
                probes = [(names[0], known), (names[1], other)]
                draw.shuffle(probes)
                for name, prompt in probes:
                    times[name].append(first_token_ms(prober, prompt))
        finally:
            victim.close()
            stranger.close()
            live.stop()
            database.close()
    found = {name: np.array(values) for name, values in times.items()}
    return {
        "what": "prompts",
        "pairs": len(found["new"]),
        "auc": area_under_curve(found["cached for another"], found["new"]),
        "control_pairs": len(found["cached"]),
        "control_auc": area_under_curve(found["cached"], found["new beside cached"]),
        "first_token_ms": {name: spread(list(values)) for name, values in found.items()},
    }


def guess_secret(draw: random.Random, secret: str, num_right: int) -> str:
    """One of which so many letters are right, and the next is not."""
    wrong = draw.choice(LETTERS.replace(secret[num_right], ""))
    return secret[:num_right] + wrong + "".join(draw.choices(LETTERS, k=len(secret) - num_right - 1))


def guess_keys(num_keys: int) -> dict[str, Any]:
    draw = random.Random(12)
    with tempfile.TemporaryDirectory() as home:
        database = open_database(f"sqlite:///{home}/state.db")
        key, token = create_key(database, KeyOptions("victim"))
        start = f"tm_{key.id}_"
        secret = token.removeprefix(start)
        lengths, times = np.array([draw.randrange(len(secret)) for _ in range(num_keys)]), np.empty(num_keys)
        # all of them beforehand: how long one takes to make depends on how much of it is right, and leaves its traces
        guesses = [start + guess_secret(draw, secret, int(num_right)) for num_right in lengths]
        for number, guess in enumerate(guesses):
            started = time.perf_counter()
            found = find_key(database, guess)
            times[number] = time.perf_counter() - started
            if found is not None:
                raise AssertionError("a wrong key was taken for the right one")
        database.close()
    ranks = times.argsort().argsort()  # of ranks, so that a few interruptions of the machine do not hide the rest
    return {
        "what": "keys",
        "keys": num_keys,
        "correlation": float(np.corrcoef(lengths, times)[0, 1]),
        "rank_correlation": float(np.corrcoef(lengths, ranks)[0, 1]),
        "look_up_us": spread(list(times * 1e6)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10_000)
    parser.add_argument("--keys", type=int, default=100_000)
    options = parser.parse_args()
    record("timing_leaks", [guess_keys(options.keys), probe(options.pairs)])


if __name__ == "__main__":
    main()
