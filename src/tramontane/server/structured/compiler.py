"""GrammarCompiler: grammars of llguidance for one vocabulary, with limits on what a caller may have compiled."""

from __future__ import annotations

import asyncio
import json
import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from tramontane.errors import TokenizerError
from tramontane.server.errors import ApiError
from tramontane.server.notes import Notes
from tramontane.server.structured.json_schema import LIMITS, checkable
from tramontane.server.structured.processor import GrammarProcessor
from tramontane.tokenizer import Tokenizer
from tramontane.tokenizer.chat import encode_infilling

MAX_GRAMMAR_CHARS = 256 * 1024
MAX_SCHEMA_CHARS = 128 * 1024
MAX_DEPTH = 64  # of a schema; llguidance's own parsers give up at about 100
_AT_LINE = re.compile(r"at (\d+)\(\d+\): ")
_ARGUMENTS = re.compile(r"arguments_(\d+): ")  # a tool's rule: see tool_grammar
MAX_CACHED = 64
MAX_CACHED_CHARS = 16 * 1024


class GrammarCompiler:
    """Compiled grammars are kept for reuse, so many at most; a processor of one starts from a copy."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        """`vocab_size` is the model's: the length of its rows of scores."""
        self.tokenizer = tokenizer
        self.vocab_size = vocab_size
        self._ll_tokenizer: LLTokenizer | None = None
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()

    async def compile(self, grammar: str, *, trigger: int | None = None, prefix: str = "") -> GrammarProcessor:
        """A processor that holds an answer to `grammar` from its first token on, or from the token `trigger` on.
        `prefix` is text of the answer that is there already. Raises ApiError 400 for what cannot be compiled."""
        if len(grammar) > MAX_GRAMMAR_CHARS:
            raise ApiError(400, f"the grammar has {len(grammar):,} characters; at most {MAX_GRAMMAR_CHARS:,} are taken")
        matcher = self._compiled.get(grammar)
        if matcher is None:
            matcher = await asyncio.to_thread(self._build, grammar)
            if len(grammar) <= MAX_CACHED_CHARS:
                self._compiled[grammar] = matcher
                if len(self._compiled) > MAX_CACHED:
                    self._compiled.popitem(last=False)
        else:
            self._compiled.move_to_end(grammar)
        matcher = matcher.deep_copy()
        if prefix and not matcher.consume_tokens(encode_infilling(self.tokenizer, prefix)):
            raise ApiError(400, "the assistant's prefix does not begin an answer of the format asked for")
        return GrammarProcessor(matcher, self.vocab_size, trigger)

    def _build(self, grammar: str) -> LLMatcher:
        if self._ll_tokenizer is None:
            self._ll_tokenizer = _ll_tokenizer(self.tokenizer, self.vocab_size)
        matcher = LLMatcher(self._ll_tokenizer, grammar, log_level=0, limits=LIMITS)
        if not matcher.is_error():
            matcher.compute_bitmask()  # what is wrong with the beginning shows here
        if matcher.is_error():
            raise ApiError(400, _fault(grammar, _one_line(matcher.get_error())))
        return matcher.deep_copy()


def schema_text(
    schema: Mapping[str, Any], *, strict: bool, place: str, closed: bool | None = None, notes: Notes | None = None
) -> str:
    """A JSON schema as llguidance's `%json` takes it. With `strict`, what a grammar cannot hold is an error; without,
    it is left out of the check and named in `notes`. `closed` (by default what is not strict): objects that say nothing
    of further properties take none. Raises ApiError 400 for a schema that is too large or too deep."""
    if _depth(schema) > MAX_DEPTH:
        raise ApiError(400, f"{place} is nested deeper than {MAX_DEPTH} levels", param=place)
    _text(schema, place)  # what is too long is not worked on
    # between two tokens of JSON a space, or a line break and indentation: weak models fill answers with spaces if let
    closed = not strict if closed is None else closed
    schema = checkable(schema, strict=strict, place=place, closed=closed, notes=notes)
    options = {"whitespace_pattern": r"[ ]?|\n[ ]{0,20}", "lenient": not strict}
    return _text({**schema, "x-guidance": options}, place)


def _text(schema: Mapping[str, Any], place: str) -> str:
    text = json.dumps(schema, ensure_ascii=False)
    if len(text) > MAX_SCHEMA_CHARS:
        raise ApiError(
            400, f"{place} has {len(text):,} characters; at most {MAX_SCHEMA_CHARS:,} are taken", param=place
        )
    return text


def _depth(value: Any) -> int:
    """Levels of nesting, without recursion."""
    deepest, pending = 0, [(value, 1)]
    while pending:
        current, level = pending.pop()
        deepest = max(deepest, level)
        children = current.values() if isinstance(current, Mapping) else current if isinstance(current, list) else ()
        pending += [(child, level + 1) for child in children if isinstance(child, Mapping | list)]
    return deepest


def _fault(grammar: str, message: str) -> str:
    """What cannot be compiled: of several tools, the one whose line of the grammar llguidance names."""
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


def _ll_tokenizer(tokenizer: Tokenizer, vocab_size: int) -> LLTokenizer:
    return LLTokenizer(
        TokenizerWrapper(_Vocabulary(tokenizer)), n_vocab=vocab_size, eos_token=sorted(tokenizer.stop_ids)
    )


class _Vocabulary:
    """A Tokenizer as llguidance wants to see one."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id = tokenizer.eos_id
        self.bos_token_id = tokenizer.bos_id
        ids = range(tokenizer.vocab_size)
        self.special_token_ids = [token_id for token_id in ids if tokenizer.is_control(token_id)]
        self.tokens = [(tokenizer.control_name(i) or "").encode() or tokenizer.token_bytes(i) for i in ids]

    def __call__(self, text: str) -> list[int]:
        """Ids that spell exactly `text`: without the space that sentencepiece would put first."""
        if not isinstance(text, str):
            raise TypeError("text only")  # llguidance asks whether bytes are taken
        try:
            return encode_infilling(self._tokenizer, text)
        except TokenizerError:
            return []
