"""Formats that mean harm: they end with one line, in bounded time, and take nothing down with them."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient

from tests.server.in_process import HELLO
from tests.tokenizer.vocabularies import ours
from tramontane.errors import RequestError
from tramontane.server.structured.compiler import GrammarCompiler
from tramontane.server.structured.format_error import FormatError
from tramontane.server.structured.mask_threads import BURST_S, NUM_PROBED, SHARE_S, SWIFT_S, GrammarUse, MaskThreads
from tramontane.server.structured.schema_text import MAX_SCHEMA_CHARS, require_small

AMBIGUOUS = 'start: e\ne: e e e | e e | /[a-z ,.]/ | ""'
CHAIN = "\n".join(["start: a0", *(f'a{n}: a{n + 1} | "x"' for n in range(8000)), 'a8000: "y"'])


def ask(client: TestClient, response_format: dict[str, Any], **fields: Any) -> Any:
    body = {"model": "chat", "messages": HELLO, "max_tokens": 64, "temperature": 1.0, "seed": 1}
    return client.post("/v1/chat/completions", json={**body, "response_format": response_format, **fields})


def grammar(text: str) -> dict[str, Any]:
    return {"type": "grammar", "grammar": text}


def schema(wanted: Any, **options: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "a", "schema": wanted, **options}}


def test_a_format_beyond_its_budget_is_refused_by_name(app_client: TestClient) -> None:
    answer = ask(app_client, grammar(AMBIGUOUS), n=16)
    assert answer.status_code == 400
    assert answer.json()["code"] == "format_too_complex"
    assert "too complex" in answer.json()["message"]
    with app_client.stream(
        "POST",
        "/v1/chat/completions",
        json={"model": "chat", "messages": HELLO, "n": 16, "stream": True, "response_format": grammar(AMBIGUOUS)},
    ) as stream:
        events = [line for line in stream.iter_lines() if line]
    assert events[-1] == "data: [DONE]"
    assert "format_too_complex" in events[-2]


@pytest.mark.parametrize("n", [1, 63])
def test_what_grows_beyond_the_tables_is_the_requests_fault(app_client: TestClient, n: int) -> None:
    answer = ask(app_client, {"type": "regex", "regex": "(.{0,1000}){0,15}z"}, n=n)
    assert answer.status_code in (200, 400)
    assert answer.status_code == 200 or "complex" in answer.json()["message"]


def test_a_grammar_that_overflows_the_librarys_stack_ends_its_own_request(app_client: TestClient) -> None:
    answer = ask(app_client, grammar(CHAIN))
    assert answer.status_code == 400
    assert "too complex to be compiled" in answer.json()["message"]
    assert ask(app_client, {"type": "json_object"}, max_tokens=2).status_code == 200


@pytest.mark.parametrize(
    "response_format",
    [
        schema({"enum": ["x" * 100] * 20_000}),
        schema({"properties": {f"p{n}": {"type": "integer"} for n in range(200_000)}}),
        schema({"description": "x" * 2_000_000}),
        schema({"allOf": [{"anyOf": [{}] * 1000}] * 1000}),
        grammar("root ::= a\n" + "\n".join(f'a{n} ::= "x"' for n in range(100_000))),
        {"type": "regex", "regex": "a" * 2_000_000},
    ],
)
def test_what_is_too_large_is_refused_before_it_is_walked(
    app_client: TestClient, response_format: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GrammarCompiler, "follow", None)
    answer = ask(app_client, response_format)
    assert answer.status_code in (400, 413), answer.text
    assert answer.status_code == 413 or "are taken" in answer.json()["message"]


def test_measuring_stops_where_it_is_too_much() -> None:
    class Counting(list[Any]):
        num_read = 0

        def __iter__(self) -> Iterator[Any]:
            for item in super().__iter__():
                Counting.num_read += 1
                yield item

    with pytest.raises(FormatError, match="too many characters"):
        require_small([Counting([0]) for _ in range(MAX_SCHEMA_CHARS)], "schema")
    assert Counting.num_read <= MAX_SCHEMA_CHARS // 2
    nested: Any = 0
    for _ in range(10_000):
        nested = [nested]
    with pytest.raises(FormatError, match="nested deeper"):
        require_small(nested, "schema")


def test_schemas_within_a_grammar_are_held_to_the_same(app_client: TestClient) -> None:
    answer = ask(app_client, grammar('start: x\nx: %json {"type": "integer", "multipleOf": 123457}'))
    assert answer.status_code == 400
    assert "123457" in answer.json()["message"]
    sound = ask(app_client, grammar('start: x\nx: %json {"type": "integer", "multipleOf": 7, "minimum": 0}'))
    assert sound.status_code == 200
    assert int(sound.json()["choices"][0]["message"]["content"]) % 7 == 0


def test_answers_that_have_said_the_same_share_one_mask() -> None:
    tokenizer = ours("v7-small")
    compiler = GrammarCompiler(tokenizer, tokenizer.vocab_size)
    prototype = asyncio.run(compiler.compile('start: "{" /[a-z]+/ "}"'))
    brace = tokenizer.encode("{")[-1:]
    for processor in [prototype.clone() for _ in range(5)]:
        assert processor.prepare([], ()) is None
        future = processor.prepare(brace, ())
        if future is not None:
            future.result()
        processor(brace, torch.zeros(tokenizer.vocab_size))
    assert prototype._shared.use.num_masks == 1


def test_the_budget_is_the_requests_and_its_end_is_every_answers() -> None:
    use = GrammarUse()
    for _ in range(49):
        use.charge(BURST_S / 50 + SHARE_S)
    with pytest.raises(RequestError, match="too complex"):
        use.charge(BURST_S / 20)  # more than so many masks add to the budget
    assert use.fault is not None


def test_swift_masks_are_made_where_they_are_needed_until_one_is_slow() -> None:
    use = GrammarUse()
    for _ in range(NUM_PROBED):
        assert not use.is_swift
        use.charge(SWIFT_S / 2)
    assert use.is_swift
    use.charge(0.05)
    num_handed_over = 0
    while not use.is_swift:
        use.charge(SWIFT_S / 2)
        num_handed_over += 1
    assert 400 < num_handed_over < 600


def test_a_slow_request_never_holds_every_thread() -> None:
    threads = MaskThreads(2)
    slow, quick = [GrammarUse() for _ in range(4)], GrammarUse()
    for use in slow:
        use.mean_s = 0.05
    order: list[str] = []

    def work(name: str, seconds: float) -> None:
        time.sleep(seconds)
        order.append(name)

    futures = [threads.submit(use, lambda: work("slow", 0.2)) for use in slow for _ in range(3)]
    time.sleep(0.05)
    threads.submit(quick, lambda: work("quick", 0)).result()
    assert order.count("slow") <= 3
    for future in futures:
        future.cancel()


def hostile(random_: random.Random) -> dict[str, Any]:
    """A format of a kind that has cost much somewhere: counted repeats, ambiguity, wide choices, large bounds."""
    count = random_.choice([2, 30, 400, 5000])
    letters = "".join(random_.sample("abcxyz .", 3))
    match random_.randrange(9):
        case 0:
            return {
                "type": "regex",
                "regex": f"(({letters}|[{letters}]{{0,{count}}}){{0,{count}}}){{1,{count % 37 + 1}}}",
            }
        case 1:
            arms = [" ".join(["e"] * random_.randint(1, 4)) for _ in range(random_.randint(1, 3))]
            return grammar(f'start: e\ne: {" | ".join(arms)} | /[{letters}]/ | ""')
        case 2:
            return schema({"enum": [f"{letters}{n * 7919:x}" for n in range(count)]})
        case 3:
            return schema({"anyOf": [{"properties": {f"{letters}{n}": {"const": n}}} for n in range(min(count, 900))]})
        case 4:
            step = random_.choice([3, 9973, 123457, 0.001, 1e-9])
            return schema({"type": "number", "multipleOf": step, "minimum": -count, "maximum": count * 1e12})
        case 5:
            return schema({"type": "array", "minItems": count, "maxItems": count * 50, "uniqueItems": True,
                           "items": {"type": "string", "minLength": count, "pattern": f"^[{letters}]*$"}})  # fmt: skip
        case 6:
            return grammar(f'root ::= ([{letters}]{{0,{min(count, 400)}}} "x"?){{0,{min(count, 400)}}} | root root')
        case 7:
            return grammar("\n".join(["start: a0", *(f'a{n}: a{n + 1}? a{n + 1}?' for n in range(count)),
                                      f'a{count}: "{letters}"?']))  # fmt: skip
        case _:
            return schema({"$defs": {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(count % 90)}
                           | {f"d{count % 90}": {"type": "integer"}}, "$ref": "#/$defs/d0"})  # fmt: skip


def test_formats_of_every_hostile_kind_end_soundly_and_in_bounded_time(app_client: TestClient) -> None:
    random_ = random.Random(7)
    spent = time.process_time()
    for _ in range(40):
        answer = ask(app_client, hostile(random_), max_tokens=12, n=2)
        assert answer.status_code in (200, 400), answer.text
        assert answer.status_code == 200 or "\n" not in answer.json()["message"]
    assert time.process_time() - spent < 120
