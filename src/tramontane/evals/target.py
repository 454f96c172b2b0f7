"""Target: what can be measured, be it a model in this process or a server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from tramontane.engine.sampling import SamplingParams
from tramontane.errors import RequestError, TokenizerError
from tramontane.evals.item import Likelihood, Pair, Question, Text, TextScore
from tramontane.evals.likelihood import TokenPair, text_windows, token_likelihoods
from tramontane.llm import LLM
from tramontane.tokenizer import Tokenizer


class Target(Protocol):
    """`description` (JSON) goes into the settings of a run: what it is, so that two runs can be told apart."""

    description: dict[str, Any]

    def likelihoods(self, pairs: Sequence[Pair]) -> list[Likelihood]: ...

    def text_scores(self, texts: Sequence[Text]) -> list[TextScore]: ...

    def answers(self, questions: Sequence[Question]) -> list[list[str]]: ...

    def close(self) -> None: ...


class EngineTarget:
    """A model in this process. Texts are scored in windows of `window` tokens that advance by `stride`.

    Raises RequestError for a window the model does not hold, or a stride that would leave tokens out.
    """

    def __init__(self, llm: LLM, name: str, *, window: int | None = None, stride: int | None = None, seed: int = 0):
        self.llm = llm
        self.seed = seed
        if window is not None and not 1 <= window <= llm.max_seq_len:
            raise RequestError(f"window={window} must lie between 1 and the {llm.max_seq_len} tokens the model reads")
        self.window = min(2048, llm.max_seq_len) if window is None else window
        self.stride = max(1, self.window // 2) if stride is None else stride
        if not 1 <= self.stride <= self.window:
            raise RequestError(f"stride={self.stride} must lie between 1 and window={self.window}")
        config = llm.checkpoint.config
        self.description: dict[str, Any] = {
            "model": name,
            "parameters": config.num_parameters(),
            "dtype": str(llm.engine.model.dtype).removeprefix("torch."),
            "weights_bytes": llm.engine.model.weights_bytes,
            "max_seq_len": llm.max_seq_len,
            "window": self.window,
            "stride": self.stride,
            "can_chat": llm.tokenizer.chat is not None,
        }
        if (adapter := llm.engine.default_adapter) is not None:
            self.description["adapter"] = adapter.digest

    def close(self) -> None:
        """Nothing: the model goes with its last reference."""

    def likelihoods(self, pairs: Sequence[Pair]) -> list[Likelihood]:
        encoded = [encode_pair(self.llm.tokenizer, pair) for pair in pairs]
        return token_likelihoods(self.llm.engine, encoded)

    def text_scores(self, texts: Sequence[Text]) -> list[TextScore]:
        windows = [text_pairs(self.llm.tokenizer, text, self.window, self.stride) for text in texts]
        flat = iter(token_likelihoods(self.llm.engine, [pair for pairs in windows for pair in pairs]))
        scores = []
        for pairs in windows:
            parts = [next(flat) for _ in pairs]
            scores.append(TextScore(sum(part.logprob for part in parts), sum(part.num_tokens for part in parts)))
        return scores

    def answers(self, questions: Sequence[Question]) -> list[list[str]]:
        """Questions asked alike are answered in one batch."""
        results: list[list[str]] = [[] for _ in questions]
        alike: dict[tuple[Any, ...], list[int]] = {}
        for index, q in enumerate(questions):
            alike.setdefault((q.max_tokens, q.stop, q.num_answers, q.temperature, q.top_p), []).append(index)
        for (max_tokens, stop, num_answers, temperature, top_p), indices in alike.items():
            params = SamplingParams(
                max_tokens=max_tokens,
                stop=stop,
                n=num_answers,
                temperature=temperature,
                top_p=top_p,
                seed=self.seed,
            )
            prompts = [self._prompt(questions[index]) for index in indices]
            for index, completion in zip(indices, self.llm.generate(prompts, params), strict=True):
                results[index] = [choice.text for choice in completion.choices]
        return results

    def _prompt(self, question: Question) -> list[int]:
        """Token ids; where prompt and answer are too long, the beginning of the prompt is left out."""
        tokenizer = self.llm.tokenizer
        if question.is_chat and tokenizer.chat is not None:
            token_ids = tokenizer.chat.encode_chat([{"role": "user", "content": question.prompt}])
        else:
            token_ids = tokenizer.encode_prompt(question.prompt)
        room = self.llm.max_seq_len - question.max_tokens
        if room < 1:
            raise RequestError(
                f"answers of {question.max_tokens} tokens leave no room for a prompt in max_seq_len="
                f"{self.llm.max_seq_len}"
            )
        return token_ids[-room:]


def encode_pair(tokenizer: Tokenizer, pair: Pair) -> TokenPair:
    """As the lm-evaluation-harness does: spaces at the end of the context belong to the continuation, both are encoded
    together, and the continuation is what comes after as many tokens as the context alone has. An empty context is
    the beginning-of-sequence token."""
    context = pair.context.rstrip()
    continuation = pair.context[len(context) :] + pair.continuation
    if not context:
        token_pair = TokenPair((tokenizer.bos_id,), tuple(tokenizer.encode(continuation)))
    else:
        whole = tokenizer.encode(context + continuation)
        num_context = len(tokenizer.encode(context))
        token_pair = TokenPair((*tokenizer.prefix_ids, *whole[:num_context]), tuple(whole[num_context:]))
    if not token_pair.continuation:
        raise TokenizerError(f"the continuation {continuation[:60]!r} has no token of its own after its context")
    return token_pair


def text_pairs(tokenizer: Tokenizer, text: Text, window: int, stride: int) -> list[TokenPair]:
    """Pairs that score each token once: windows of a text, or the assistant's turns of a conversation, each after all
    that was said before, end of sequence included. Raises TokenizerError for a conversation that this model's format
    cannot express."""
    if not text.messages:
        return text_windows(tokenizer.encode(text.text), tokenizer.prefix_ids, window, stride)
    pairs: list[TokenPair] = []
    said: tuple[int, ...] = ()
    for turn in tokenizer.require_chat().encode_turns(list(text.messages)):
        if turn.role == "assistant" and said and turn.token_ids:
            pairs.append(TokenPair(said, tuple(turn.token_ids)))
        said += tuple(turn.token_ids)
    return pairs
