"""What a chat request asks of the form of its answer, as logits processors."""

from __future__ import annotations

from collections.abc import Mapping

from tramontane.engine.sampling import LogitsProcessor
from tramontane.server.errors import ApiError
from tramontane.server.models import ServedModel
from tramontane.server.notes import Notes
from tramontane.server.schema.chat import AllowedToolsChoice, ChatRequest, NamedTool, ResponseFormat, Tool
from tramontane.server.structured.format_error import FormatError
from tramontane.server.structured.processor import ForbiddenTokens
from tramontane.server.structured.schema_text import require_small
from tramontane.server.structured.tool_grammar import ToolRule, ToolRules
from tramontane.server.structured.translation import MAX_GRAMMAR_CHARS, Job
from tramontane.server.structured.words import Words
from tramontane.tokenizer import Tokenizer
from tramontane.tokenizer.chat import MistralChat

SCHEMA_PLACE = "response_format.json_schema.schema"


async def constraints(
    request: ChatRequest, model: ServedModel, prefix: str, notes: Notes, owner: str
) -> tuple[LogitsProcessor, ...]:
    """Forced tool calls and formats hold from the first token; calls that the model may make, from the token that
    opens them. `notes` gets what of a schema is not checked; `owner` is whose turn the work takes. Raises ApiError 400
    for a format that cannot be compiled."""
    tokenizer = model.llm.tokenizer
    tools, choice = _chosen_tools(request)
    wanted = request.response_format or ResponseFormat()
    if not tools and wanted.type == "text":
        banned = request.functions and "[TOOL_CALLS]" in tokenizer.control_names
        return (ForbiddenTokens([tokenizer.control_id("[TOOL_CALLS]")]),) if banned else ()
    try:
        job = _job(
            tokenizer, wanted, tools, must_call=choice == "forced", is_parallel=request.parallel_tool_calls is not False
        )
        if job.tools is None or job.must_call or job.has_body:
            return (await model.grammars.follow(job, notes, owner, prefix="" if job.must_call else prefix),)
        return (await model.grammars.follow(job, notes, owner, trigger=tokenizer.control_id("[TOOL_CALLS]")),)
    except FormatError as error:
        raise ApiError(400, str(error), param=error.param) from None


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


def _job(
    tokenizer: Tokenizer, wanted: ResponseFormat, tools: Mapping[int, Tool], *, must_call: bool, is_parallel: bool
) -> Job:
    """Measured before anything walks it. Raises FormatError for what is too large."""
    schema, place, is_strict = None, "response_format", False
    if wanted.json_schema is not None:
        schema, place, is_strict = wanted.json_schema.schema_, SCHEMA_PLACE, bool(wanted.json_schema.strict)
        require_small(schema, place)
    elif wanted.type == "json_object":
        schema, is_strict = {"type": "object"}, True
    for name, text in (("regex", wanted.regex), ("grammar", wanted.grammar)):
        if text is not None and len(text) > MAX_GRAMMAR_CHARS:
            raise FormatError(f"the {name} has {len(text):,} characters; at most {MAX_GRAMMAR_CHARS:,} are taken")
    left = MAX_GRAMMAR_CHARS
    rules = {}
    for number, tool in tools.items():
        function = tool.function
        left -= require_small(function.parameters, f"tools[{number}].function.parameters")
        if left < 0:
            raise FormatError(
                f"the tools' parameters have more than {MAX_GRAMMAR_CHARS:,} characters together", "tools"
            )
        rules[number] = ToolRule(function.name, function.parameters, bool(function.strict))
    return Job(
        words=words(tokenizer),
        schema=schema,
        schema_place=place,
        is_strict=is_strict,
        regex=wanted.regex,
        grammar=wanted.grammar,
        tools=ToolRules(rules, is_parallel) if rules else None,
        must_call=must_call,
    )


def words(tokenizer: Tokenizer) -> Words:
    chat = tokenizer.chat
    form = None
    if isinstance(chat, MistralChat) and chat.features.tools_before is not None:
        form = chat.features.call_form
    controls = {name: tokenizer.control_id(name) for name in tokenizer.control_names}
    return Words(tokenizer.adds_space, controls, form)
