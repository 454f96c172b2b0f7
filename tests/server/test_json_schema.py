"""What a grammar makes of a JSON schema: what it cannot hold is left out by name, and no answer can go on for ever."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.server.in_process import HELLO
from tests.tokenizer.vocabularies import ours
from tramontane.server.notes import Notes
from tramontane.server.structured.compiler import GrammarCompiler
from tramontane.server.structured.format_error import FormatError
from tramontane.server.structured.schema_text import schema_text
from tramontane.tokenizer.chat import encode_infilling

TOKENIZER = ours("v7-small")
COMPILER = GrammarCompiler(TOKENIZER, TOKENIZER.vocab_size)
BIG = 2**53 + 1  # the first integer that a double cannot hold


def takes(schema: dict[str, Any], text: str, *, closed: bool = True) -> bool:
    """Whether `text` is a whole answer to `schema`."""
    rules = schema_text(schema, strict=False, place="x", closed=closed)
    grammar = f"%llguidance {{}}\nstart: content\ncontent: %json {rules}"
    matcher = asyncio.run(COMPILER.compile(grammar))._matcher.deep_copy()
    token_ids = encode_infilling(TOKENIZER, text)
    return matcher.validate_tokens(token_ids) == len(token_ids) and matcher.consume_tokens(token_ids) and (
        matcher.is_accepting()
    )  # fmt: skip


@pytest.mark.parametrize(
    ("schema", "left_out", "good"),
    [
        ({"type": "string", "pattern": r"^(?=.*\d).{8,}$"}, "pattern", '"a"'),
        ({"type": "string", "pattern": r"\bfoo\b"}, "pattern", '"a"'),
        ({"type": "string", "pattern": r"^(\w)\1$"}, "pattern", '"ab"'),
        ({"type": "string", "pattern": "(", "maxLength": 2}, "pattern", '"a"'),
        ({"type": "string", "format": "regex"}, "format", '"a"'),
        ({"type": "string", "maxLength": 2**31}, "maxLength", '"a"'),
        ({"type": "integer", "maximum": BIG}, "maximum", str(BIG + 1)),
        ({"type": "integer", "minimum": -BIG}, "minimum", str(-BIG - 1)),
        ({"type": "integer", "exclusiveMaximum": 2**63 - 1}, "exclusiveMaximum", str(BIG)),
        ({"type": "integer", "multipleOf": BIG}, "multipleOf", "7"),
        ({"const": BIG}, "const", str(BIG)),
        ({"enum": [BIG, 1]}, "enum", str(BIG)),
        ({"type": "array", "uniqueItems": True}, "uniqueItems", "[1, 1]"),
        ({"not": {"type": "string"}}, "not", "1"),
        ({"dependencies": {"a": ["b"]}}, "dependencies", '{"a": 1}'),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf", "1"),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}], "oneOf": [{"minimum": 1}, {"maximum": 3}]},
         "oneOf", "2"),
        ({"type": "object", "properties": {"a": {}, "b": {}}, "maxProperties": 1}, "maxProperties", '{"a": 1}'),
        ({"allOf": [{"type": "object", "properties": {"a": {}}}, {"properties": {"b": {}}}],
          "unevaluatedProperties": False}, "unevaluatedProperties", '{"a": 1, "b": 2}'),
        ({"type": "array", "prefixItems": [{"type": "integer"}], "unevaluatedItems": False},
         "unevaluatedItems", "[1, 2]"),
        ({"type": "object", "patternProperties": {"(?=a)": {}}, "additionalProperties": False},
         "patternProperties.(?=a)", '{"a": 1}'),
    ],
)  # fmt: skip
def test_what_a_grammar_cannot_hold_is_left_out_and_named_or_refused(
    schema: dict[str, Any], left_out: str, good: str
) -> None:
    notes, place = Notes(), "tools[0].function.parameters"
    wanted = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    schema_text(wanted, strict=False, place=place, notes=notes)
    assert notes.ignored == {f"{place}.properties.a.{left_out}"}
    assert takes(schema, good)
    with pytest.raises(FormatError, match=r"^tools\[0\]\.function\.parameters\.properties\.a\.") as caught:
        schema_text(wanted, strict=True, place=place)
    assert caught.value.param.startswith(f"{place}.properties.a.")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("scale", [1, 1e-3])
def test_steps_are_bounded_in_all_and_equal_ones_count_once(scale: float) -> None:
    notes = Notes()
    steps = {f"a{n:03}": {"type": "number", "multipleOf": round((9900 + n) * scale, 3)} for n in range(99)}
    different = {"properties": steps}
    rules = schema_text(different, strict=False, place="x", notes=notes)
    assert 75 < len(notes.ignored) < 90
    started = time.process_time()
    COMPILER._build(f"%llguidance {{}}\nstart: content\ncontent: %json {rules}")
    assert time.process_time() - started < 1.5  # 0.2; without a bound it is 3
    with pytest.raises(FormatError, match=r"a0\d\d.multipleOf: a grammar cannot hold 9"):
        schema_text(different, strict=True, place="x")
    equal = {"properties": {f"a{n}": {"type": "integer", "multipleOf": 9973} for n in range(99)}}
    schema_text(equal, strict=True, place="x")


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "integer", "maximum": 2**53 - 1}, str(2**53 - 1), str(2**53)),
        ({"type": "integer", "minimum": 2**53 + 2}, str(2**53 + 2), str(2**53 + 1)),
        ({"type": "integer", "maximum": 10**18}, str(10**18), str(10**18 + 1)),
        ({"type": "integer"}, "1311500000000000000", "1" * 20),
        ({"type": "integer", "minimum": 0}, "9" * 18, "9" * 19),
        ({"type": ["integer", "null"]}, "null", "-" + "9" * 19),
        ({"type": "number"}, "-3.141592653", "3.1415926535"),
        ({"type": "number", "minimum": 0, "maximum": 1}, "0.333333333", "0.3333333333"),
        ({"type": "number", "multipleOf": 0.25}, "1.75", "1.8"),
        ({"type": "integer", "multipleOf": 5}, "15", "16"),
        ({"type": "string", "pattern": "^[a-c]{2}$"}, '"ab"', '"abc"'),
        ({"type": "string", "format": "date"}, '"2026-11-30"', '"today"'),
        ({"enum": [1, 2**53]}, str(2**53), "2"),
        ({"type": "integer", "format": "int64"}, "5", '"5"'),
        ({"type": "integer", "minimum": 5, "exclusiveMinimum": True, "maximum": 6}, "6", "5"),
        ({"type": "string", "maxLength": 2.0}, '"ab"', '"abc"'),
        ({"oneOf": [{"type": "integer", "minimum": 0}, {"type": "string"}]}, "1", "-1"),
        (
            {"oneOf": [{"type": "object", "properties": {"k": {"const": k}}, "required": ["k"]} for k in "ab"]},
            '{"k": "b"}',
            '{"k": "c"}',
        ),
        (
            {"type": "object", "properties": {"a": {"type": "integer"}}, "unevaluatedProperties": False},
            '{"a": 1}',
            '{"b": 1}',
        ),
        (
            {"type": "object", "maxProperties": 1, "additionalProperties": {"type": "integer"}},
            '{"a": 1}',
            '{"a": 1, "b": 1}',
        ),
    ],
)
def test_what_a_grammar_can_hold_is_held_and_numbers_end(schema: dict[str, Any], good: str, bad: str) -> None:
    notes = Notes()
    schema_text(schema, strict=False, place="x", notes=notes)
    assert not notes.ignored
    assert takes(schema, good)
    assert not takes(schema, bad)


def properties(*names: str, **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {name: {"type": "integer"} for name in names}, **more}


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        (properties("a"), '{"a": 1}', '{"a": 1, "b": 1}'),
        (properties("a"), "{}", '{"b": 1}'),
        (properties("a", additionalProperties=True), '{"a": 1, "b": 1}', '{"a": 1, "a": 1}'),
        (properties("a", required=["a", "b"]), '{"a": 1, "b": 1}', '{"a": 1}'),
        ({"type": "array", "items": properties("a")}, '[{"a": 1}]', '[{"b": 1}]'),
        ({"anyOf": [properties("a"), properties("b")]}, '{"b": 1}', '{"c": 1}'),
        ({"allOf": [properties("a"), properties("b", required=["b"])]}, '{"a": 1, "b": 1}', "{}"),
        ({"$defs": {"x": properties("a")}, "$ref": "#/$defs/x"}, '{"a": 1}', '{"c": 1}'),
        ({"$defs": {"x": properties("a", required=["a"]), "y": properties("b")},
          "allOf": [{"$ref": "#/$defs/x"}, {"$ref": "#/$defs/y"}]}, '{"a": 1, "b": 2}', "{}"),
        (properties("a", patternProperties={"^x": {"type": "integer"}}), '{"a": 1, "x1": 2}', '{"x1": "a"}'),
        ({"type": "object"}, '{"any": [1]}', "[1]"),
        (properties(), "{}", '{"b": 1}'),
        (properties("a", "b", anyOf=[{"required": ["a"]}, {"required": ["b"]}]), '{"b": 1}', '{"a": 1, "c": 1}'),
        (properties("a", "b", anyOf=[{"required": ["a"]}, {"required": ["b"]}]), '{"a": 1, "b": 2}', "{}"),
        (properties("a", anyOf=[properties("b"), properties("a", required=["a"])]), '{"a": 1, "b": 1}', "[]"),
    ],
)  # fmt: skip
def test_objects_that_list_their_properties_take_no_others(schema: dict[str, Any], good: str, bad: str) -> None:
    assert takes(schema, good)
    assert not takes(schema, bad)


def test_a_schema_that_is_too_long_is_refused_before_it_is_worked_on() -> None:
    choices = {"oneOf": [{"type": "integer"}, {"type": "number"}]}
    schema = {"type": "object", "properties": {f"{number:0100}": choices for number in range(1000)}}
    notes = Notes()
    with pytest.raises(FormatError, match="at most 131,072 are taken"):
        schema_text(schema, strict=False, place="x", notes=notes)
    assert not notes.ignored


def test_a_strict_schema_that_is_open_stays_open() -> None:
    assert takes(properties("a"), '{"a": 1, "b": 1}', closed=False)


def test_arguments_have_no_keys_but_those_declared_and_end(app_client: TestClient) -> None:
    """As agents send them: nothing said of further properties, an integer without a bound."""
    parameters = {"type": "object", "properties": {"day": {"type": "integer"}, "kind": {"enum": ["wind", "rain"]}},
                  "required": ["day"]}  # fmt: skip
    tools = [
        {"type": "function", "function": {"name": "forecast", "parameters": parameters}},
        {"type": "function", "function": {"name": "now"}},
    ]
    seen = set()
    for seed in range(12):
        body = {"model": "chat", "messages": HELLO, "tools": tools, "tool_choice": "required", "seed": seed,
                "parallel_tool_calls": False, "temperature": 1.5, "max_tokens": 300}  # fmt: skip
        choice = app_client.post("/v1/chat/completions", json=body).json()["choices"][0]
        assert choice["finish_reason"] == "tool_calls"
        [call] = choice["message"]["tool_calls"]
        arguments = json.loads(call["function"]["arguments"])
        assert set(arguments) <= ({"day", "kind"} if call["function"]["name"] == "forecast" else set())
        seen.add(call["function"]["name"])
    assert seen == {"forecast", "now"}


def test_a_pattern_in_one_of_many_tools_is_named_in_a_header(app_client: TestClient) -> None:
    bad = {"type": "object", "properties": {"a": {"type": "string", "pattern": "(?=x)"}}}
    tools: list[dict[str, Any]] = [
        {"type": "function", "function": {"name": "f", "parameters": {}}},
        {"type": "function", "function": {"name": "g", "parameters": bad}},
    ]
    body = {"model": "chat", "messages": HELLO, "tools": tools, "max_tokens": 2}
    answer = app_client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-ignored-fields"] == "tools[1].function.parameters.properties.a.pattern"
    tools[1]["function"]["parameters"] = {"type": "object", "properties": {"a_long_name_of_a_property": bad}}
    named = app_client.post("/v1/chat/completions", json=body).headers["x-ignored-fields"]
    assert named.startswith("tools[1].function.parameters.")
    assert named.endswith(".properties.a.pattern")
    tools[1]["function"] |= {"parameters": bad, "strict": True}
    answer = app_client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400
    message = answer.json()["message"]
    assert message.startswith('tools[1].function.parameters.properties.a.pattern: a grammar cannot hold "(?=x)"')
    never = {"type": "object", "properties": {"a": {"type": "integer", "minimum": 5, "maximum": 3}}, "required": ["a"]}
    tools[1]["function"] |= {"parameters": never, "strict": False}
    answer = app_client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400
    assert answer.json()["message"].startswith("tools[1].function.parameters cannot be compiled: ")
