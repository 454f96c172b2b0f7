"""JSON schemas as a grammar can hold them: what it cannot hold is left out and named, what would never end gets an end.

A grammar writes an answer from left to right, so it can say more than a check afterwards and less: it knows no
look-around, no word boundaries and no back-references, and llguidance reads numbers as doubles.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cache, lru_cache
from typing import Any

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from tramontane.server.notes import Notes
from tramontane.server.structured.format_error import FormatError, said

# They bound tables and rows, not time: a mask within them takes 20 us of most grammars and over a second of some, which
# is why `mask_threads` counts. A row's items squared are what following one byte may cost.
LIMITS = LLParserLimits(
    step_lexer_fuel=100_000, max_lexer_states=20_000, max_grammar_size=200_000, verbose_errors=False
)

MAX_EXACT = 2**53
"""Integers beyond it that a double holds are kept, others left out: they would be rounded."""

DIGIT_BOUND = 9 * 10**18
"""Numbers without a bound get it on both sides: it holds nearly every 64-bit integer. The largest that llguidance
takes, which also is a double."""

STEP = 1e-9
"""Numbers without `multipleOf` get it, so that their digits end."""

MAX_STEP = 10_000  # digits of a multipleOf; the work per token grows with it
MAX_STEPS = 100_000  # all that differ together: what a schema takes to compile grows with that, to 0.2 s
MAX_LENGTH = 2**16  # of a string or array
BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
LENGTHS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
UNCHECKED = (
    *("not", "if", "then", "else", "uniqueItems", "propertyNames", "contains", "minContains", "maxContains"),
    *("dependencies", "dependentRequired", "dependentSchemas", "$dynamicRef", "$recursiveRef", "contentMediaType"),
)
UNEVALUATED = ("unevaluatedProperties", "unevaluatedItems")
MAX_CHOICES = 64
"""`oneOf` that are compiled to see whether their branches exclude each other; the rest is taken to hold `anyOf`."""

_NAMED_SCHEMAS = ("properties", "patternProperties", "$defs", "definitions")
_LISTED_SCHEMAS = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_SCHEMAS = ("items", "additionalItems", "additionalProperties")
_BRANCHES = ("allOf", "anyOf", "oneOf")
_COMBINING = (*_BRANCHES, "$ref")


def checkable(
    schema: Mapping[str, Any], *, strict: bool, place: str, closed: bool, notes: Notes | None
) -> dict[str, Any]:
    """`schema` without what a grammar cannot hold, which `notes` names by its place, and with bounds where answers
    would not end. With `closed`, objects that list their properties and say nothing of others take no others. Raises
    FormatError naming the place of what a `strict` schema cannot be held to."""
    named = {name: schema[name] for name in ("$defs", "definitions") if name in schema}
    work = _Work(strict, notes, closed, named, frozenset(_parts_of_wholes(schema)))
    return work.copy(schema, place, may_close=True)


@dataclass(slots=True)
class _Work:
    strict: bool
    notes: Notes | None
    closed: bool
    named: Mapping[str, Any]  # schemas that references lead to
    parts: frozenset[str]  # references to objects that others add properties to
    num_choices: int = 0  # `oneOf` that were looked at
    steps: set[int] = field(default_factory=set)  # digits of each `multipleOf`

    def copy(self, schema: Mapping[str, Any], place: str, *, may_close: bool) -> dict[str, Any]:
        schema = _in_todays_words(schema)
        kept = dict(schema)
        for name in [*_left_out(schema), *self._steps_too_many(schema)]:
            self.leave_out(f"{place}.{name}", kept[name])
            del kept[name]
        self._copy_patterns(kept, place)
        values = _number_values(schema)
        if values and "const" not in kept and "enum" not in kept and "type" not in kept:
            kept["type"] = "integer" if all(isinstance(value, int) for value in values) else "number"
        _bound_numbers(kept, schema)
        # branches share the properties of what they stand in: none of them knows all
        alone = "properties" not in schema and "$ref" not in schema
        for name in _NAMED_SCHEMAS:
            if isinstance(kept.get(name), Mapping):
                kept[name] = {
                    key: self.inside(value, f"{place}.{name}.{key}", may_close=f"#/{name}/{key}" not in self.parts)
                    for key, value in kept[name].items()
                }
        for name in _LISTED_SCHEMAS:
            if isinstance(kept.get(name), list):
                own = alone and not (name == "allOf" and len(kept[name]) > 1) and may_close
                kept[name] = [
                    self.inside(value, f"{place}.{name}.{number}", may_close=own or name in ("prefixItems", "items"))
                    for number, value in enumerate(kept[name])
                ]
        for name in _SCHEMAS:
            if isinstance(kept.get(name), Mapping):
                kept[name] = self.inside(kept[name], f"{place}.{name}", may_close=True)
        if isinstance(kept.get("oneOf"), list) and not self._excludes(kept):
            self.leave_out(f"{place}.oneOf", kept["oneOf"])
            branches = {"anyOf": kept.pop("oneOf")}
            kept |= branches if "anyOf" not in kept else {"allOf": [*kept.get("allOf", ()), branches]}
        if self.closed and may_close and _is_closable(kept):
            kept["additionalProperties"] = False
        return kept

    def _excludes(self, schema: Mapping[str, Any]) -> bool:
        """Whether no answer can fit two branches of `oneOf`, as far as llguidance sees: it would take `anyOf`."""
        self.num_choices += 1
        if self.num_choices > MAX_CHOICES:
            return False
        text = json.dumps({**self.named, **schema, "x-guidance": {"lenient": True}})
        warnings = LLMatcher.validate_grammar_with_warnings(_holding(text), byte_vocabulary(), limits=LIMITS)[1]
        return not any("oneOf" in warning for warning in warnings)

    def _steps_too_many(self, schema: Mapping[str, Any]) -> Iterator[str]:
        value: Any = schema.get("multipleOf")
        if _is_number(value) and _is_small_step(value):
            steps = self.steps | {_step_digits(value)}
            if sum(steps) > MAX_STEPS:
                yield "multipleOf"
            else:
                self.steps = steps

    def inside(self, schema: Any, place: str, *, may_close: bool) -> Any:
        return self.copy(schema, place, may_close=may_close) if isinstance(schema, Mapping) else schema

    def leave_out(self, name: str, value: Any) -> None:
        if self.strict:
            held = said(json.dumps(value, ensure_ascii=False))
            raise FormatError(f"{name}: a grammar cannot hold {held}; leave it out, or strict", name)
        if self.notes is not None:
            self.notes.ignored.add(name)

    def _copy_patterns(self, kept: dict[str, Any], place: str) -> None:
        patterns = kept.get("patternProperties")
        if not isinstance(patterns, Mapping):
            return
        unknown = [pattern for pattern in patterns if not is_held("pattern", pattern)]
        for pattern in unknown:
            self.leave_out(f"{place}.patternProperties.{pattern}", pattern)
        if unknown:
            kept["patternProperties"] = {key: value for key, value in patterns.items() if key not in unknown}
            if kept.get("additionalProperties") is False:  # would now forbid what the pattern allows
                del kept["additionalProperties"]


def _in_todays_words(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """What older drafts and OpenAPI 3.0 write otherwise, and lengths that a client has written as 4.0."""
    kept = dict(schema)
    for name, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if isinstance(kept.get(name), bool):
            is_exclusive = kept.pop(name)
            if is_exclusive and bound in kept:
                kept[name] = kept.pop(bound)
    for name in LENGTHS:
        if isinstance(value := kept.get(name), float) and value.is_integer():
            kept[name] = int(value)
    for name in UNEVALUATED:
        if kept.get(name) is True:
            del kept[name]
    combined = (*_COMBINING, "if", "dependentSchemas", "additionalProperties")
    if kept.get("unevaluatedProperties") is False and not any(name in kept for name in combined):
        kept["additionalProperties"] = kept.pop("unevaluatedProperties")
    return kept


def _left_out(schema: Mapping[str, Any]) -> Iterator[str]:
    """Keywords that a grammar cannot hold."""
    for name, value in schema.items():
        match name:
            case "pattern":
                is_kept = not isinstance(value, str) or is_held("pattern", value)
            case "format":
                is_kept = not isinstance(value, str) or not _takes(schema, "string") or is_held("format", value)
            case "const":
                is_kept = _is_exact(value)
            case "enum":
                is_kept = not isinstance(value, list) or all(map(_is_exact, value))
            case "multipleOf":
                is_kept = not _is_number(value) or _is_small_step(value)
            case "minProperties" | "maxProperties":
                is_kept = _is_small(value) and _lists_required_alone(schema)
            case _ if name in UNEVALUATED:
                is_kept = value is None
            case _ if name in BOUNDS:
                is_kept = not _is_number(value) or (abs(value) <= DIGIT_BOUND and _is_double(value))
            case _ if name in LENGTHS:
                is_kept = _is_small(value)
            case _:
                is_kept = name not in UNCHECKED or value in (False, None)
        if not is_kept:
            yield name


@lru_cache(4096)
def is_held(keyword: str, value: str) -> bool:
    """Whether a grammar can hold a string to `pattern` or `format`."""
    return not LLMatcher.validate_grammar(_holding(json.dumps({"type": "string", keyword: value})), byte_vocabulary())


def _holding(schema: str) -> str:
    """The grammar of answers of a schema alone."""
    return f"%llguidance {{}}\nstart: content\ncontent: %json {schema}"


@cache
def byte_vocabulary() -> LLTokenizer:
    """Of the 256 bytes, for questions that no model's vocabulary matters to."""
    return LLTokenizer("byte")


def _takes(schema: Mapping[str, Any], kind: str) -> bool:
    given = schema.get("type", kind)
    return given == kind or (isinstance(given, list) and kind in given)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_small(length: Any) -> bool:
    return not _is_number(length) or length <= MAX_LENGTH


def _lists_required_alone(schema: Mapping[str, Any]) -> bool:
    """Of an object's properties, those it must have: how many come besides is then a matter of counting."""
    properties, required = schema.get("properties"), schema.get("required")
    return not isinstance(properties, Mapping) or set(properties) <= set(required if isinstance(required, list) else ())


def _is_double(value: int | float) -> bool:
    return isinstance(value, float) or abs(value) <= MAX_EXACT or int(float(value)) == value


def _is_exact(value: Any) -> bool:
    """Whether every integer in a constant comes out as it went in."""
    if isinstance(value, Mapping):
        return all(map(_is_exact, value.values()))
    if isinstance(value, list):
        return all(map(_is_exact, value))
    return not isinstance(value, int) or abs(value) <= MAX_EXACT


def _is_small_step(value: int | float) -> bool:
    step = Decimal(str(value)).normalize()
    exponent = step.as_tuple().exponent
    is_small = step > 0 and isinstance(exponent, int) and exponent >= -9 and _step_digits(value) <= MAX_STEP
    return is_small and _is_found(value, _step_digits(value))


def _is_found(value: int | float, digits: int) -> bool:
    """Whether llguidance finds these digits: it takes the value times 10 until that is whole, and rounds each time."""
    found = float(value)
    while not found.is_integer():
        found *= 10
    return found == digits


def _step_digits(value: int | float) -> int:
    """A step without its point: of 0.25 it is 25."""
    step = Decimal(str(value)).normalize()
    return int(step.scaleb(max(0, -int(step.as_tuple().exponent))))


def _number_values(schema: Mapping[str, Any]) -> list[int | float]:
    """The values of `enum` or `const`, where all are numbers."""
    values = schema.get("enum", [schema["const"]] if "const" in schema else [])
    return values if isinstance(values, list) and all(map(_is_number, values)) else []


def _bound_numbers(kept: dict[str, Any], given: Mapping[str, Any]) -> None:
    """Numbers end: they get the bounds and the step that they lack."""
    kinds = kept.get("type")
    kinds = kinds if isinstance(kinds, list) else [kinds]
    if (
        not {"integer", "number"} & {kind for kind in kinds if isinstance(kind, str)}
        or "enum" in kept
        or "const" in kept
    ):
        return
    bounds = [given[name] for name in BOUNDS if _is_number(given.get(name))]
    if any(abs(bound) > DIGIT_BOUND for bound in bounds):
        lower = [given[n] for n in ("minimum", "exclusiveMinimum") if _is_number(given.get(n))]
        upper = [given[n] for n in ("maximum", "exclusiveMaximum") if _is_number(given.get(n))]
        if max(lower, default=0) > DIGIT_BOUND or min(upper, default=0) < -DIGIT_BOUND:
            return  # everything asked for lies beyond
    if "minimum" not in kept and "exclusiveMinimum" not in kept:
        kept["minimum"] = -DIGIT_BOUND
    if "maximum" not in kept and "exclusiveMaximum" not in kept:
        kept["maximum"] = DIGIT_BOUND
    is_fine = any(0 < abs(bound) < 1000 * STEP for bound in bounds) or _is_narrow(bounds)
    if "number" in kinds and "multipleOf" not in given and not is_fine:
        kept["multipleOf"] = STEP


def _is_narrow(bounds: list[int | float]) -> bool:
    return len(bounds) > 1 and max(bounds) - min(bounds) < 1000 * STEP


def _is_closable(schema: Mapping[str, Any]) -> bool:
    """An object that lists its properties, all it requires among them, and is put together from nothing else; branches
    may say more of those properties, such as which go together."""
    properties = schema.get("properties")
    if not isinstance(properties, Mapping) or "additionalProperties" in schema or "patternProperties" in schema:
        return False
    if "$ref" in schema:
        return False
    branches = [branch for name in _BRANCHES for branch in (schema.get(name) or ())]
    if not all(_says_more_of(properties, branch) for branch in branches):
        return False
    required = schema.get("required")
    least = schema.get("minProperties")
    has_all = (
        all(name in properties for name in required if isinstance(name, str)) if isinstance(required, list) else True
    )
    return has_all and not (isinstance(least, int) and least > len(properties))


def _says_more_of(properties: Mapping[str, Any], branch: Any) -> bool:
    if not isinstance(branch, Mapping) or any(name in branch for name in (*_COMBINING, "additionalProperties")):
        return False
    own, required = branch.get("properties", {}), branch.get("required", [])
    return isinstance(own, Mapping) and isinstance(required, list) and {*own, *required} <= {*properties}


def _parts_of_wholes(schema: Any) -> Iterator[str]:
    """References to schemas whose objects take properties from elsewhere too."""
    if isinstance(schema, list):
        for entry in schema:
            yield from _parts_of_wholes(entry)
    elif isinstance(schema, Mapping):
        every = schema.get("allOf")
        is_whole = "properties" in schema or (isinstance(every, list) and len(every) > 1)
        for name in _BRANCHES:
            branches = schema.get(name)
            if is_whole and isinstance(branches, list):
                yield from (b["$ref"] for b in branches if isinstance(b, Mapping) and isinstance(b.get("$ref"), str))
        if "properties" in schema and isinstance(schema.get("$ref"), str):
            yield schema["$ref"]
        for value in schema.values():
            yield from _parts_of_wholes(value)
