"""Item and Task: one thing to be measured, and how its answer becomes numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tramontane.evals.sources import Sources

Scores = dict[str, float]


@dataclass(frozen=True, slots=True)
class Pair:
    """A continuation whose probability after `context` is wanted. An empty context is the beginning of a text."""

    context: str
    continuation: str


@dataclass(frozen=True, slots=True)
class Pairs:
    """The answer is one Likelihood per pair."""

    pairs: tuple[Pair, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """The answer is `num_answers` texts, each ended before any of `stop`; greedy at temperature 0. `is_chat`: the
    prompt is what a user says, where the model can chat."""

    prompt: str
    max_tokens: int
    stop: tuple[str, ...] = ()
    is_chat: bool = False
    num_answers: int = 1
    temperature: float = 0.0
    top_p: float = 1.0


@dataclass(frozen=True, slots=True)
class Text:
    """The answer is the TextScore of one document; with `messages`, of the assistant's turns of that conversation,
    whose words `text` then holds."""

    text: str
    messages: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Likelihood:
    """Natural logarithm of the probability of a continuation; whether greedy decoding would have written it."""

    logprob: float
    is_greedy: bool
    num_tokens: int


@dataclass(frozen=True, slots=True)
class TextScore:
    """Natural logarithm of the probability of a text, and the number of tokens it was cut into."""

    logprob: float
    num_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """`reference` (JSON) is what the answer is judged by; `group` the part of the task that is reported apart."""

    id: str
    work: Pairs | Question | Text
    reference: Any = None
    group: str = ""


Answer = Sequence[Likelihood] | Sequence[str] | TextScore


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """`score(item, answer)` gives numbers of one item, whose means (or, for `ratios`, quotients of sums) are the
    task's metrics. `settings` says in words how it is asked: shots, prompt, normalisation. `runs_code`: scoring runs
    what the model wrote. `chance(item)`: what the metrics it names are for one who guesses blindly."""

    name: str
    settings: str
    load: Callable[[Sources], list[Item]]
    score: Callable[[Item, Any], Scores]
    headline: str
    kind: Literal["likelihood", "generation", "text"] = "likelihood"
    ratios: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # metric -> (summed, divided by sum of)
    exponential: tuple[str, ...] = ()  # ratios reported as e to their power
    runs_code: bool = False
    chance: Callable[[Item], Scores] | None = None
    version: int = 1
