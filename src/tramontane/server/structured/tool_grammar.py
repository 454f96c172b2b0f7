"""The grammar of tool calls, as each version of Mistral's chat formats writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tramontane.server.notes import Notes
from tramontane.server.structured.format_error import FormatError
from tramontane.server.structured.schema_text import schema_text
from tramontane.server.structured.words import Words


@dataclass(frozen=True, slots=True)
class ToolRule:
    """A tool that may be called; `parameters` is the schema of its arguments, None where it takes none."""

    name: str
    parameters: dict[str, Any] | None
    is_strict: bool


@dataclass(frozen=True, slots=True)
class ToolRules:
    tools: Mapping[int, ToolRule]  # by their place in the request
    is_parallel: bool  # several calls may be made


def tool_call_rules(words: Words, rules_of: ToolRules, notes: Notes) -> str:
    """Lark rules of tools; `calls` is one call or, where several may be made, any number of them,
    the opening control token included.

    Arguments obey their schema: of `strict` functions in full, of others as far as the grammar can check it. They have
    no keys but those of the schema, unless it says so.
    """
    form, tools = words.call_form, rules_of.tools
    if form is None:
        raise FormatError("this model's chat format knows no tools", "tools")
    opening = words.control("[TOOL_CALLS]")
    rules = []
    for place, tool in tools.items():
        arguments = f"%json {_arguments_schema(tool, place, notes)}"
        name = tool.name
        if form in ("list", "list_with_id"):
            call_id = '(", \\"id\\": \\"" /[a-zA-Z0-9]{9}/ "\\"")?' if form == "list_with_id" else ""
            before = json.dumps(f'{{"name": "{name}", "arguments": ')
            rules.append(f'call_{place}: {before} arguments_{place} {call_id} "}}"')
        elif form == "name_id_args":
            middle = f"{words.control('[CALL_ID]')} /[a-zA-Z0-9]{{9}}/ {words.control('[ARGS]')}"
            rules.append(f"call_{place}: {opening} {_text(words, name)} {middle} arguments_{place}")
        else:
            middle = words.control("[ARGS]")
            rules.append(f"call_{place}: {opening} {_text(words, name)} {middle} arguments_{place}")
        rules.append(f"arguments_{place}: {arguments}")
    rules.append("call: " + " | ".join(f"call_{place}" for place in tools))
    if form in ("list", "list_with_id"):
        more = '(", " call)*' if rules_of.is_parallel else ""
        rules.append(f'calls: {opening} {words.space} "[" call {more} "]"')
    else:
        rules.append("calls: call+" if rules_of.is_parallel else "calls: call")
    return "\n".join(rules)


def _text(words: Words, text: str) -> str:
    return f"{words.space} {json.dumps(text)}"


def _arguments_schema(tool: ToolRule, place: int, notes: Notes) -> str:
    schema = dict(tool.parameters or {"properties": {}})  # none given: a function without arguments
    source = f"tools[{place}].function.parameters"
    if schema.setdefault("type", "object") not in ("object", ["object"]):
        raise FormatError(f"{source} must describe an object", "tools")
    return schema_text(schema, strict=tool.is_strict, place=source, closed=True, notes=notes)
