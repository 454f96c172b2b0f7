"""Request, Sequence, Output: what a client asked, the answers in the making, and what one step has to say of them."""

from __future__ import annotations

from collections.abc import Hashable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from concurrent.futures import Future

    from torch import Tensor

    from tramontane.engine.pages import PageTable
    from tramontane.engine.prefix_cache import PrefixNode
    from tramontane.engine.sampling import SamplingParams
    from tramontane.engine.speculation import Lookup
    from tramontane.model.adapter import Adapter

FinishReason = Literal["stop", "length", "abort", "error", "refused"]
"""`refused`: what the request asked of its answer turned out to be more than is done; `error` says what."""


class SequenceId(NamedTuple):
    request_id: int
    answer: int  # index of the answer among those of the request


class SequenceStatus(Enum):
    WAITING = "waiting"  # holds no pages
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Natural logarithms of the model's raw distribution at one place."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]  # the most likely (token_id, logprob), likeliest first, lower id in a tie


@dataclass(frozen=True, slots=True)
class Output:
    """What one step added to one answer. Every answer ends with exactly one Output whose finish_reason is set."""

    sequence_id: SequenceId
    token_ids: tuple[int, ...]  # new ones; the token that ended the answer is included
    finish_reason: FinishReason | None = None
    logprobs: tuple[TokenLogprobs, ...] | None = None  # one per new token, where asked for
    prompt_logprobs: tuple[TokenLogprobs | None, ...] | None = None  # once, with the first Output of the first answer
    num_cached_tokens: int = 0  # prompt tokens that came from the prefix cache
    error: str | None = None  # set where finish_reason is "error" or "refused"

    @property
    def request_id(self) -> int:
        return self.sequence_id.request_id

    @property
    def index(self) -> int:
        return self.sequence_id.answer


class Collector(Protocol):
    """Wants the hidden states of a whole prompt. Positions come in order and once each, however the prompt was cut
    into chunks and whether or not it was preempted in between."""

    num_collected: int  # positions received so far

    def collect(self, hidden_TD: Tensor) -> None:
        """Final hidden states of positions num_collected … num_collected + T - 1; advances num_collected."""
        ...


@dataclass(slots=True, eq=False)
class Request:
    """One prompt and the `params.n` answers wanted to it. They start as one sequence, which is forked once the
    prompt is computed; `sequences` then holds all of them."""

    request_id: int
    prompt_token_ids: list[int]
    params: SamplingParams
    seed: int
    stop_token_ids: frozenset[int]
    max_total_tokens: int  # prompt and answer
    priority: int = 0  # lower is served first
    owner: str = ""  # between owners, service is shared out evenly
    salt: str | None = None  # the prefix cache is shared only between requests of equal salt
    first_index: int = 0
    collector: Collector | None = None
    adapter: Adapter | None = None  # what its rows carry; None: nothing, the bare model answers
    sequences: list[Sequence] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sequences.append(Sequence(self, self.first_index))

    @property
    def is_forked(self) -> bool:
        return len(self.sequences) == self.params.n

    @property
    def is_finished(self) -> bool:
        return self.is_forked and all(sequence.is_finished for sequence in self.sequences)

    @property
    def prefix_salt(self) -> Hashable:
        """Computed pages are shared only between requests of equal salts: what else than tokens determines them."""
        return self.salt if self.adapter is None else (self.salt, self.adapter.digest)

    def fork(self) -> list[Sequence]:
        """Create the other answers, which so far consist of the prompt; they hold no pages yet."""
        forks = [Sequence(self, self.first_index + i) for i in range(1, self.params.n)]
        for sequence in forks:
            sequence.order = (*self.sequences[0].order[:2], sequence.index)
        self.sequences += forks
        return forks


@dataclass(slots=True, eq=False)
class Usage:
    """What one request has taken, known from when it is queued until long after it is over. A prompt counts once
    computing it has begun, an answer as it is made: leaving early changes nothing. What was made of an answer after a
    stop string had ended it does not count."""

    request: Request | None = None  # once it is queued
    num_unwanted_tokens: int = 0

    @property
    def num_cached_tokens(self) -> int:
        return 0 if self.request is None else self.request.sequences[0].num_cached_tokens or 0

    @property
    def num_prompt_tokens(self) -> int:
        if self.request is None or self.request.sequences[0].num_cached_tokens is None:
            return 0
        return len(self.request.prompt_token_ids)

    @property
    def num_generated_tokens(self) -> int:
        sequences = () if self.request is None else self.request.sequences
        return sum(sequence.num_generated_tokens for sequence in sequences) - self.num_unwanted_tokens


class Meter(Protocol):
    """Told of what a request takes, on the event loop: of its prompt when it is queued, of an answer's tokens as they
    come, of the difference to what it has taken in the end."""

    def begin(self, usage: Usage) -> None:
        """A request is queued; `usage` will say what it takes."""
        ...

    def charge(self, num_tokens: int) -> None:
        """So many tokens more; fewer, below 0, where less was computed in the end."""
        ...


class Sequence:
    """One stream of tokens with its pages.

    Keys and values are stored for the first `num_computed_tokens` tokens; `tables[g]` holds the pages of window group
    g that future queries can still see.
    """

    __slots__ = (
        "error",
        "finish_reason",
        "index",
        "last_step",
        "lookup",
        "may_share_page",
        "num_cached_tokens",
        "num_charged_tokens",
        "num_computed_tokens",
        "num_late_steps",
        "num_prompt_tokens",
        "order",
        "pending",
        "prefix_node",
        "request",
        "sequence_id",
        "status",
        "tables",
        "token_ids",
        "trailing_nodes",
    )

    def __init__(self, request: Request, index: int) -> None:
        self.request = request
        self.index = index
        self.sequence_id = SequenceId(request.request_id, index)
        self.token_ids = list(request.prompt_token_ids)
        self.num_prompt_tokens = len(self.token_ids)
        self.num_computed_tokens = 0
        self.tables: list[PageTable] = []
        self.prefix_node: PrefixNode | None = None  # deepest node of the prefix cache that this sequence follows
        self.trailing_nodes: list[PrefixNode | None] = []  # of the generated page that last left each group's window
        self.may_share_page = False  # the page it writes next may be shared with a fork
        self.num_cached_tokens: int | None = None  # prompt tokens found in the prefix cache when it first ran
        self.num_charged_tokens = 0  # to its owner, where service is shared
        self.last_step = 0  # in which it advanced, where service is shared
        self.order: tuple[int, int, int] = (0, 0, index)  # place in every queue; set by the scheduler
        self.lookup: Lookup | None = None  # what the drafter knows of it
        self.pending: Future[None] | None = None  # what its logits processors are still at, before its next draw
        self.num_late_steps = 0  # steps that were over before them
        self.status = SequenceStatus.WAITING
        self.finish_reason: FinishReason | None = None
        self.error: str | None = None

    def __repr__(self) -> str:
        return (
            f"Sequence({self.request.request_id}.{self.index} {self.status.value}, {self.num_computed_tokens} of "
            f"{len(self.token_ids)} tokens computed)"
        )

    @property
    def is_pending(self) -> bool:
        """Whether no token can be drawn for it yet."""
        return self.pending is not None and not self.pending.done()

    @property
    def generated_token_ids(self) -> SequenceOf[int]:
        return self.token_ids[self.num_prompt_tokens :]

    @property
    def num_generated_tokens(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def num_remaining_tokens(self) -> int:
        """Tokens whose keys and values are not stored yet: 1 while decoding."""
        return len(self.token_ids) - self.num_computed_tokens

    @property
    def is_finished(self) -> bool:
        return self.status is SequenceStatus.FINISHED

    @property
    def num_cacheable_tokens(self) -> int:
        """How much of this sequence may come from the prefix cache: not the last token, whose hidden state is needed,
        nor a position whose hidden state a collector still wants."""
        limit = len(self.token_ids) - 1
        collector = self.request.collector
        if collector is not None and collector.num_collected < self.num_prompt_tokens:
            limit = min(limit, collector.num_collected)
        return limit
