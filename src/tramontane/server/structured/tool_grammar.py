"""The grammar of tool calls, as each version of Mistral's chat formats writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping

from tramontane.server.errors import ApiError
from tramontane.server.notes import Notes
from tramontane.server.schema.chat import Tool
from tramontane.server.structured.compiler import schema_text
from tramontane.tokenizer import Tokenizer
from tramontane.tokenizer.chat import MistralChat


def tool_call_rules(tokenizer: Tokenizer, tools: Mapping[int, Tool], *, parallel: bool, notes: Notes) -> str:
    """Lark rules of `tools`, by their place in the request; `calls` is one call or, if `parallel`, any number of them,
    the opening control token included.

    Arguments obey their schema: of `strict` functions in full, of others as far as the grammar can check it. They have
    no keys but those of the schema, unless it says so.
    """
    chat = tokenizer.chat
    if not isinstance(chat, MistralChat) or chat.features.tools_before is None:
        raise ApiError(400, "this model's chat format knows no tools", param="tools")
    form = chat.features.call_form
    opening = control(tokenizer, "[TOOL_CALLS]")
    rules = []
    for place, tool in tools.items():
        arguments = f"%json {_arguments_schema(tool, place, notes)}"
        name = tool.function.name
        if form in ("list", "list_with_id"):
            call_id = '(", \\"id\\": \\"" /[a-zA-Z0-9]{9}/ "\\"")?' if form == "list_with_id" else ""
            before = json.dumps(f'{{"name": "{name}", "arguments": ')
            rules.append(f'call_{place}: {before} arguments_{place} {call_id} "}}"')
        elif form == "name_id_args":
            middle = f"{control(tokenizer, '[CALL_ID]')} /[a-zA-Z0-9]{{9}}/ {control(tokenizer, '[ARGS]')}"
            rules.append(f"call_{place}: {opening} {_text(tokenizer, name)} {middle} arguments_{place}")
        else:
            middle = control(tokenizer, "[ARGS]")
            rules.append(f"call_{place}: {opening} {_text(tokenizer, name)} {middle} arguments_{place}")
        rules.append(f"arguments_{place}: {arguments}")
    rules.append("call: " + " | ".join(f"call_{place}" for place in tools))
    if form in ("list", "list_with_id"):
        more = '(", " call)*' if parallel else ""
        rules.append(f'calls: {opening} {space(tokenizer)} "[" call {more} "]"')
    else:
        rules.append("calls: call+" if parallel else "calls: call")
    return "\n".join(rules)


def control(tokenizer: Tokenizer, name: str) -> str:
    """A control token in a Lark rule, by its id: no text can be mistaken for it."""
    return f"<[{tokenizer.control_id(name)}]>"


def space(tokenizer: Tokenizer) -> str:
    """The space that sentencepiece models begin a text with, and that decoding takes off."""
    return '" "?' if tokenizer.adds_space else ""


def _text(tokenizer: Tokenizer, text: str) -> str:
    return f"{space(tokenizer)} {json.dumps(text)}"


def _arguments_schema(tool: Tool, place: int, notes: Notes) -> str:
    schema = dict(tool.function.parameters or {"properties": {}})  # none given: a function without arguments
    if schema.setdefault("type", "object") not in ("object", ["object"]):
        raise ApiError(400, f"tools[{place}].function.parameters must describe an object", param="tools")
    source = f"tools[{place}].function.parameters"
    return schema_text(schema, strict=bool(tool.function.strict), place=source, closed=True, notes=notes)
