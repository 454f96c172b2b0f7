"""StepPlan: what one step computes, as chunks of sequences. Pure Python: it never sees a tensor."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

from tramontane.engine.page_allocator import PageCopy
from tramontane.engine.request import Sequence


@dataclass(slots=True, eq=False)
class Chunk:
    """Tokens start … end - 1 of one sequence. Where they reach its last token, a next token is drawn for each of
    `samples`: the sequence itself and, at the end of a prompt, the forks made for its other answers.

    The last len(draft) tokens are a guess at how the sequence goes on. A next token is then drawn after its last token
    and after each guess, up to the first draw that is not the guess.
    """

    sequence: Sequence
    start: int
    end: int
    copies: tuple[PageCopy, ...] = ()
    samples: tuple[Sequence, ...] = ()
    draft: SequenceOf[int] = ()

    @property
    def token_ids(self) -> list[int]:
        return [*self.sequence.token_ids[self.start : self.end], *self.draft]


@dataclass(frozen=True, slots=True)
class StepPlan:
    """What one step computes; pages for it are held already."""

    chunks: tuple[Chunk, ...]

    @property
    def num_tokens(self) -> int:
        return sum(chunk.end - chunk.start for chunk in self.chunks)

    @property
    def is_decoding(self) -> bool:
        """Whether every row is one that a token is drawn after, in an answer that has begun."""
        return all(
            chunk.samples
            and chunk.end - chunk.start == 1 + len(chunk.draft)
            and chunk.start >= chunk.sequence.num_prompt_tokens
            for chunk in self.chunks
        )

    @property
    def copies(self) -> list[PageCopy]:
        return [copy for chunk in self.chunks for copy in chunk.copies]

    @property
    def samples(self) -> list[Sequence]:
        return [sequence for chunk in self.chunks for sequence in chunk.samples]
