"""GrammarCompiler: grammars of llguidance for one vocabulary, with limits on what a caller may have compiled."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from tramontane.errors import TokenizerError
from tramontane.server.fair_slots import FairSlots
from tramontane.server.notes import Notes
from tramontane.server.structured.format_error import FormatError
from tramontane.server.structured.json_schema import LIMITS
from tramontane.server.structured.mask_threads import MAX_MASK_S
from tramontane.server.structured.processor import GrammarProcessor, Mask
from tramontane.server.structured.translation import MAX_GRAMMAR_CHARS, Job, fault
from tramontane.server.structured.workshop import NUM_CHILDREN, WORKSHOP
from tramontane.tokenizer import Tokenizer
from tramontane.tokenizer.chat import encode_infilling

MAX_PREFIX_CHARS = 64 * 1024
MAX_PREFIX_S = 0.5  # processor time to follow it
MAX_CACHED = 32
MAX_CACHED_S = 0.25
"""Grammars are kept for reuse as long as compiling all of them took no longer: their tables grow with that, to some
100 MB for each second."""

Result = TypeVar("Result")

_THREADS = ThreadPoolExecutor(NUM_CHILDREN, thread_name_prefix="tramontane-grammars")


class _Compiled(NamedTuple):
    matcher: LLMatcher  # never used itself, only copied
    first_mask: Mask
    seconds: float


class GrammarCompiler:
    """Compiled grammars are kept for reuse, so many at most; a processor of one starts from a copy."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        """`vocab_size` is the model's: the length of its rows of scores."""
        self.tokenizer = tokenizer
        self.vocab_size = vocab_size
        self._ll_tokenizer: LLTokenizer | None = None
        self._compiled: OrderedDict[str, _Compiled] = OrderedDict()
        self._slots = FairSlots(NUM_CHILDREN, per_owner=1)

    async def follow(
        self, job: Job, notes: Notes, owner: str, *, trigger: int | None = None, prefix: str = ""
    ) -> GrammarProcessor:
        """What `job` asks for, proved in a child process to be within bounds, then as `compile`; owners take turns.
        Raises FormatError."""
        async with self._slots.slot(owner):
            grammar = await _in_thread(lambda: WORKSHOP.translate(job, notes))
            return await self.compile(grammar, trigger=trigger, prefix=prefix)

    async def compile(self, grammar: str, *, trigger: int | None = None, prefix: str = "") -> GrammarProcessor:
        """A processor that holds an answer to `grammar` from its first token on, or from the token `trigger` on.
        `prefix` is text of the answer that is there already. Raises FormatError for what cannot be compiled."""
        if len(grammar) > MAX_GRAMMAR_CHARS:
            raise FormatError(f"the grammar has {len(grammar):,} characters; at most {MAX_GRAMMAR_CHARS:,} are taken")
        compiled = self._compiled.get(grammar)
        if compiled is None:
            compiled = await _in_thread(lambda: self._build(grammar))
            self._keep(grammar, compiled)
        else:
            self._compiled.move_to_end(grammar)
        matcher = compiled.matcher.deep_copy()
        if not prefix:
            return GrammarProcessor(matcher, self.vocab_size, trigger, compiled.first_mask)
        await _in_thread(lambda: self._begin(matcher, prefix))
        return GrammarProcessor(matcher, self.vocab_size, trigger)

    def _keep(self, grammar: str, compiled: _Compiled) -> None:
        if compiled.seconds > MAX_CACHED_S:
            return
        kept = self._compiled
        kept[grammar] = compiled
        while len(kept) > MAX_CACHED or sum(entry.seconds for entry in kept.values()) > MAX_CACHED_S:
            kept.popitem(last=False)

    def _build(self, grammar: str) -> _Compiled:
        if self._ll_tokenizer is None:
            self._ll_tokenizer = _ll_tokenizer(self.tokenizer, self.vocab_size)
        started = time.thread_time()
        matcher = LLMatcher(self._ll_tokenizer, grammar, log_level=0, limits=LIMITS)
        built = time.thread_time()
        if problem := fault(grammar, matcher):
            raise FormatError(problem)
        mask = np.zeros((self.vocab_size + 31) // 32, np.int32)
        matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        if time.thread_time() - built > 2 * MAX_MASK_S:
            raise FormatError("the format asked for is too complex: its beginning alone takes too long to follow")
        return _Compiled(matcher, mask, time.thread_time() - started)

    def _begin(self, matcher: LLMatcher, prefix: str) -> None:
        if len(prefix) > MAX_PREFIX_CHARS:
            raise FormatError(f"a prefix with a format may have {MAX_PREFIX_CHARS:,} characters", "messages")
        started = time.thread_time()
        for token_id in encode_infilling(self.tokenizer, prefix):
            if not matcher.consume_token(token_id):
                raise FormatError("the assistant's prefix does not begin an answer of the format asked for", "messages")
            if time.thread_time() - started > MAX_PREFIX_S:
                raise FormatError("the format asked for is too complex to follow through the assistant's prefix")


async def _in_thread(work: Callable[[], Result]) -> Result:
    return await asyncio.get_running_loop().run_in_executor(_THREADS, work)


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
