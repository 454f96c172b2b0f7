"""Steps: work that asks a model now and then, apart from whoever puts the questions to one.

The same summary is driven by an LLM that blocks, on the command line, and by an AsyncLLM among other tenants' work, in
a server: between two steps a driver may wait, let others go on, or give up.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from tramontane.engine.sampling import SamplingParams

if TYPE_CHECKING:
    from tramontane.llm import Completion
    from tramontane.tokenizer import Tokenizer

Result = TypeVar("Result")
GREEDY = SamplingParams()


class Reader(Protocol):
    """What preparing questions needs to know of the model; LLM and AsyncLLM are ones."""

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def reach(self) -> int: ...


class Answerer(Reader, Protocol):
    """What reading documents asks of a model; LLM is one."""

    def generate(self, prompts: Sequence[Sequence[int]], sampling: SamplingParams) -> list[Completion]:
        """One completion per prompt of token ids, in their order."""
        ...


@dataclass(frozen=True, slots=True)
class Ask:
    """Prompts that want answers, in their order. Without any, it is a moment to let others go on: a step computes for
    tenths of a second at most."""

    prompts: Sequence[Sequence[int]] = ()
    sampling: SamplingParams = GREEDY


@dataclass(frozen=True, slots=True)
class End(Generic[Result]):
    result: Result


Steps = Generator[Ask, "list[Completion]", Result]
PAUSE = Ask()


def advance(steps: Steps[Result], completions: list[Completion] | None) -> Ask | End[Result]:
    """Compute up to the next question. `completions` answer the last one; None begins."""
    try:
        return next(steps) if completions is None else steps.send(completions)
    except StopIteration as end:
        return End(end.value)


def run_steps(llm: Answerer, steps: Steps[Result]) -> Result:
    """All of it, at once."""
    completions: list[Completion] | None = None
    while True:
        step = advance(steps, completions)
        if isinstance(step, End):
            return step.result
        completions = llm.generate(step.prompts, step.sampling) if step.prompts else []
