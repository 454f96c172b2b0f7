"""Generation: the answers to one request while they grow."""

from __future__ import annotations

from collections import deque

from tramontane.engine.request import Output, TokenLogprobs
from tramontane.engine.sampling import SamplingParams
from tramontane.llm.completion import Completion, Delta
from tramontane.llm.prompt import Prompt


class Generation:
    """Outputs of the engine go in; Deltas come out, and the Completion at the end."""

    def __init__(self, prompt: Prompt, params: SamplingParams) -> None:
        self.prompt = prompt
        self.deltas: deque[Delta] = deque()
        self.answers = prompt.answers(params)
        self.prompt_logprobs: tuple[TokenLogprobs | None, ...] | None = None
        self.num_cached_tokens = 0
        self.num_unwanted_tokens = 0  # made after a stop string, before the engine knew of it

    @property
    def is_finished(self) -> bool:
        return all(answer.finish_reason is not None for answer in self.answers)

    def take(self, output: Output) -> bool:
        """Whether a stop string has just ended the answer."""
        answer = self.answers[output.index]
        if answer.finish_reason is not None:
            self.num_unwanted_tokens += len(output.token_ids)
            return False  # the engine's own last word on an answer that a stop string ended
        self.deltas.append(answer.take(output))
        self.prompt_logprobs = output.prompt_logprobs or self.prompt_logprobs
        self.num_cached_tokens = max(self.num_cached_tokens, output.num_cached_tokens)
        return answer.stopped_by is not None and output.finish_reason is None

    def completion(self) -> Completion:
        return Completion(
            prompt_token_ids=tuple(self.prompt.token_ids),
            choices=tuple(answer.choice() for answer in self.answers),
            prompt_logprobs=self.prompt_logprobs,
            num_cached_tokens=self.num_cached_tokens,
        )
