"""What a request asks of the form of its answer, as one grammar. Runs in a child process: see `workshop`."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from llguidance import LLMatcher
from llguidance.gbnf_to_lark import any_to_lark

from tramontane.server.notes import Notes
from tramontane.server.structured.format_error import FormatError
from tramontane.server.structured.json_schema import LIMITS, byte_vocabulary
from tramontane.server.structured.schema_text import schema_text
from tramontane.server.structured.tool_grammar import ToolRules, tool_call_rules
from tramontane.server.structured.words import Words

MAX_GRAMMAR_CHARS = 256 * 1024
MAX_REGEX_CHARS = 16 * 1024
MAX_BRACKETS = 20  # depth of brackets in a Lark grammar, whose parser is recursive
_AT_LINE = re.compile(r"at (\d+)\(\d+\): ")
_ARGUMENTS = re.compile(r"arguments_(\d+): ")  # a tool's rule: see tool_grammar
_CONTROL = re.compile(r"<\[[^\]\n]*\]>")
_JSON_RULE = re.compile(r"%json\s*(?=\{)")


@dataclass(frozen=True, slots=True)
class Job:
    """The fields of a request that say what its answer must be like. `schema`, `regex` and `grammar`: one at most."""

    words: Words
    schema: dict[str, Any] | None = None
    schema_place: str = "response_format"
    is_strict: bool = False
    regex: str | None = None
    grammar: str | None = None
    tools: ToolRules | None = None
    must_call: bool = False

    @property
    def has_body(self) -> bool:
        return self.schema is not None or self.regex is not None or self.grammar is not None


def translate(job: Job, notes: Notes) -> str:
    """The grammar of a whole answer or, with tools that need not be called and no format, of calls from the token on
    that opens them. It was compiled once. Raises FormatError."""
    rules, side, start = [], None, []
    if job.has_body and not job.must_call:
        body, side = _body(job, notes)
        rules.append(body)
        start.append("body")
    if job.tools is not None:
        rules.append(tool_call_rules(job.words, job.tools, notes))
        start.append("calls")
    free_before_calls = start == ["calls"] and not job.must_call
    grammar = _grammar(job.words, f"({' | '.join(start)})", rules, side, thinks=not free_before_calls)
    if len(grammar) > MAX_GRAMMAR_CHARS:
        raise FormatError(f"the grammar has {len(grammar):,} characters; at most {MAX_GRAMMAR_CHARS:,} are taken")
    tried = _CONTROL.sub(f"<[{byte_vocabulary().eos_token}]>", grammar)  # there are no others here
    if problem := fault(tried, LLMatcher(byte_vocabulary(), tried, log_level=0, limits=LIMITS)):
        raise FormatError(problem)
    return grammar


def fault(grammar: str, matcher: LLMatcher) -> str | None:
    """What keeps a grammar from being compiled: of several tools, the one whose line of it llguidance names."""
    if not matcher.is_error():
        matcher.compute_bitmask()  # what is wrong with the beginning shows here
    if not matcher.is_error():
        return None
    message = _one_line(matcher.get_error())
    lines, source = grammar.splitlines(), "the format asked for"
    if found := _AT_LINE.match(message):
        line = lines[int(found[1]) - 1] if 0 < int(found[1]) <= len(lines) else ""
        if tool := _ARGUMENTS.match(line):
            source, message = f"tools[{tool[1]}].function.parameters", message[found.end() :]
    return f"{source} cannot be compiled: {message}"


def _one_line(message: str) -> str:
    """Without the backtrace and the quoted source that may follow."""
    if message.startswith("panic"):
        return "it is beyond what the grammar library can do"
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return (lines[-1] if lines and lines[-1].startswith("error:") else lines[0] if lines else "")[:300]


def _grammar(words: Words, start: str, rules: list[str], side: str | None, *, thinks: bool) -> str:
    """Reasoning first, where the model's format has it. `side`: a grammar of the caller's, which the rules know as
    `@side`, so that its names cannot clash with ours."""
    thinking = ""
    if thinks and {"[THINK]", "[/THINK]"} <= words.controls.keys():
        thinking = f"({words.control('[THINK]')} THOUGHT {words.control('[/THINK]')})?"
        rules = [*rules, "THOUGHT: /(.|\\n)*/"]
    grammar = "\n".join(["%llguidance {}", f"start: {thinking} {start}", *rules])
    if side is None:
        return grammar
    return json.dumps({"grammars": [{"name": "main", "lark_grammar": grammar}, {"name": "side", "lark_grammar": side}]})


def _body(job: Job, notes: Notes) -> tuple[str, str | None]:
    """Lark rules in which `body` is the text of the answer, and the grammar they name `@side`."""
    start = f"body: {job.words.space}"
    if job.regex is not None:
        return f"{start} PATTERN\nPATTERN: /{_regex(job.regex)}/", None
    if job.grammar is not None:
        return f"{start} @side", _lark(job.grammar)
    text = schema_text(job.schema or {}, strict=job.is_strict, place=job.schema_place, notes=notes)
    return f"{start} content\ncontent: %json {text}", None


def _regex(regex: str) -> str:
    """A regular expression between the slashes of Lark."""
    if len(regex) > MAX_REGEX_CHARS:
        raise FormatError(f"the regex has {len(regex):,} characters; at most {MAX_REGEX_CHARS:,} are taken")
    slashes_escaped = re.sub(r"(\\.)|/", lambda m: m[1] or r"\/", regex, flags=re.S)
    return slashes_escaped.replace("\n", r"\n").replace("\r", r"\r")


def _lark(grammar: str) -> str:
    """Lark as it is but for its schemas, GBNF translated. Raises FormatError for one nested too deeply or that
    cannot be read."""
    if len(grammar) > MAX_GRAMMAR_CHARS:
        raise FormatError(f"the grammar has {len(grammar):,} characters; at most {MAX_GRAMMAR_CHARS:,} are taken")
    depth = deepest = 0
    for character in grammar:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    if deepest > MAX_BRACKETS:
        raise FormatError(f"the grammar nests brackets deeper than {MAX_BRACKETS} levels")
    try:
        return _with_checked_schemas(str(any_to_lark(grammar)))
    except FormatError:
        raise
    except Exception as error:  # the translator raises whatever it stumbles over
        raise FormatError(f"the grammar cannot be read: {error}") from None


def _with_checked_schemas(lark: str) -> str:
    """Schemas within a grammar are held to what those of a json_schema are."""
    pieces, position = [], 0
    for rule in _JSON_RULE.finditer(lark):
        if rule.start() < position:
            continue  # within a schema
        schema, end = json.JSONDecoder().raw_decode(lark, rule.end())
        pieces += [lark[position : rule.end()], schema_text(schema, strict=True, place="%json", closed=False)]
        position = end
    return "".join([*pieces, lark[position:]])
