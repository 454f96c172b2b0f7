"""What a chat request asks of the form of its answer, as logits processors."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping

from llguidance.gbnf_to_lark import any_to_lark

from tramontane.engine.sampling import LogitsProcessor
from tramontane.server.errors import ApiError
from tramontane.server.models import ServedModel
from tramontane.server.notes import Notes
from tramontane.server.schema.chat import AllowedToolsChoice, ChatRequest, NamedTool, ResponseFormat, Tool
from tramontane.server.structured.compiler import schema_text
from tramontane.server.structured.processor import ForbiddenTokens
from tramontane.server.structured.tool_grammar import control, space, tool_call_rules
from tramontane.tokenizer import Tokenizer

MAX_REGEX_CHARS = 16 * 1024
MAX_BRACKETS = 20  # depth of brackets in a Lark grammar, whose parser is recursive


async def constraints(
    request: ChatRequest, model: ServedModel, prefix: str, notes: Notes
) -> tuple[LogitsProcessor, ...]:
    """Forced tool calls and formats hold from the first token; calls that the model may make, from the token that
    opens them. `notes` gets what of a schema is not checked. Raises ApiError 400 for a format that cannot be
    compiled."""
    tokenizer = model.llm.tokenizer
    tools, choice = _chosen_tools(request)
    body, side = "", None
    if (wanted := request.response_format) is not None:
        body, side = await asyncio.to_thread(_body, wanted, tokenizer, notes)
    has_calls = "[TOOL_CALLS]" in tokenizer.control_names
    if not tools:
        banned = [tokenizer.control_id("[TOOL_CALLS]")] if request.functions and has_calls else []
        if not body:
            return (ForbiddenTokens(banned),) if banned else ()
        return (await model.grammars.compile(_grammar(tokenizer, "body", body, side), prefix=prefix),)
    parallel = request.parallel_tool_calls is not False
    calls = await asyncio.to_thread(tool_call_rules, tokenizer, tools, parallel=parallel, notes=notes)
    if choice == "forced":
        return (await model.grammars.compile(_grammar(tokenizer, "calls", calls)),)
    if body:
        grammar = _grammar(tokenizer, "(body | calls)", f"{body}\n{calls}", side)
        return (await model.grammars.compile(grammar, prefix=prefix),)
    trigger = tokenizer.control_id("[TOOL_CALLS]")
    return (await model.grammars.compile(f"%llguidance {{}}\nstart: calls\n{calls}", trigger=trigger),)


def _chosen_tools(request: ChatRequest) -> tuple[Mapping[int, Tool], str]:
    """The tools that may be called, by their place in the request, and whether one must be."""
    tools, choice = request.functions, request.tool_choice or "auto"
    if choice == "none":
        return {}, "none"
    if isinstance(choice, AllowedToolsChoice):
        tools = dict(_named(named, tools) for named in choice.allowed_tools.tools)
        choice = choice.allowed_tools.mode
    if isinstance(choice, NamedTool):
        return dict([_named(choice, tools)]), "forced"
    return tools, "forced" if choice in ("any", "required") else "auto"


def _named(choice: NamedTool, tools: Mapping[int, Tool]) -> tuple[int, Tool]:
    for place, tool in tools.items():
        if tool.function.name == choice.function.name:
            return place, tool
    raise ApiError(400, f"tool_choice names {choice.function.name!r}, which is not in tools", param="tool_choice")


def _grammar(tokenizer: Tokenizer, start: str, rules: str, side: str | None = None) -> str:
    """A whole answer: reasoning first, where the model's format has it. `side`: a grammar of the caller's, which the
    rules know as `@side`, so that its names cannot clash with ours."""
    thinking = ""
    if {"[THINK]", "[/THINK]"} <= tokenizer.control_names:
        thinking = f"({control(tokenizer, '[THINK]')} THOUGHT {control(tokenizer, '[/THINK]')})?"
        rules += "\nTHOUGHT: /(.|\\n)*/"
    grammar = f"%llguidance {{}}\nstart: {thinking} {start}\n{rules}"
    if side is None:
        return grammar
    return json.dumps({"grammars": [{"name": "main", "lark_grammar": grammar}, {"name": "side", "lark_grammar": side}]})


def _body(wanted: ResponseFormat, tokenizer: Tokenizer, notes: Notes) -> tuple[str, str | None]:
    """Lark rules in which `body` is the text of the answer (none for plain text), and the grammar they name `@side`."""
    start = f"body: {space(tokenizer)}"
    if wanted.json_schema is not None:
        schema, place, strict = (
            wanted.json_schema.schema_,
            "response_format.json_schema.schema",
            bool(wanted.json_schema.strict),
        )
        return f"{start} content\ncontent: %json {schema_text(schema, strict=strict, place=place, notes=notes)}", None
    if wanted.regex is not None:
        return f"{start} PATTERN\nPATTERN: /{_regex(wanted.regex)}/", None
    if wanted.grammar is not None:
        return f"{start} @side", _lark(wanted.grammar)
    if wanted.type == "json_object":
        any_object = schema_text({"type": "object"}, strict=True, place="response_format")
        return f"{start} content\ncontent: %json {any_object}", None
    return "", None


def _regex(regex: str) -> str:
    """A regular expression between the slashes of Lark."""
    if len(regex) > MAX_REGEX_CHARS:
        raise ApiError(400, f"the regex has {len(regex):,} characters; at most {MAX_REGEX_CHARS:,} are taken")
    slashes_escaped = re.sub(r"(\\.)|/", lambda m: m[1] or r"\/", regex, flags=re.S)
    return slashes_escaped.replace("\n", r"\n").replace("\r", r"\r")


def _lark(grammar: str) -> str:
    """Lark as it is, GBNF translated. Raises ApiError 400 for one nested too deeply or that cannot be read."""
    depth = deepest = 0
    for character in grammar:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    if deepest > MAX_BRACKETS:
        raise ApiError(400, f"the grammar nests brackets deeper than {MAX_BRACKETS} levels", param="response_format")
    try:
        return str(any_to_lark(grammar))
    except Exception as error:  # the translator raises whatever it stumbles over
        raise ApiError(400, f"the grammar cannot be read: {error}", param="response_format") from None
