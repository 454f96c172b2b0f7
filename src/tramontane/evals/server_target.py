"""A server that speaks OpenAI's API as a target: ours, llama.cpp's, vLLM's.

Likelihoods need `/v1/completions` to give the log-probabilities of the prompt (`echo` with `logprobs`), which chat-only
servers do not. The server cuts text into tokens: a token counts to the continuation if it begins in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from tramontane.errors import CapacityError, ConfigError, RequestError
from tramontane.evals.item import Likelihood, Pair, Question, Text, TextScore

NUM_PARALLEL = 16
TIMEOUT_S = 600.0
NUM_TRIES = 4
T = TypeVar("T")
R = TypeVar("R")


class ServerTarget:
    """`address` with or without the ending /v1. Raises ConfigError where no server answers there."""

    def __init__(self, address: str, model: str | None = None, *, api_key: str | None = None, seed: int = 0) -> None:
        import httpx

        self.seed = seed
        self.base = address.rstrip("/").removesuffix("/v1")
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self.client = httpx.Client(base_url=self.base, headers=headers, timeout=TIMEOUT_S)
        if model is None:
            served = self._call("GET", "/v1/models", None)["data"]
            if not served:
                raise ConfigError(f"{self.base} serves no model")
            model = str(served[0]["id"])
        self.model = model
        self.description: dict[str, Any] = {"model": model, "server": self.base}

    def close(self) -> None:
        self.client.close()

    def likelihoods(self, pairs: Sequence[Pair]) -> list[Likelihood]:
        return _together(self._likelihood, pairs)

    def text_scores(self, texts: Sequence[Text]) -> list[TextScore]:
        raise RequestError(
            "bits per byte over long texts need windows of tokens, which a server does not give; name the model's files"
        )

    def answers(self, questions: Sequence[Question]) -> list[list[str]]:
        return _together(self._answer, questions)

    def _likelihood(self, pair: Pair) -> Likelihood:
        context = pair.context.rstrip()
        text = pair.context + pair.continuation
        body = {"model": self.model, "prompt": text, "max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 1}
        choice = self._call("POST", "/v1/completions", body)["choices"][0]
        found = choice.get("logprobs")
        if not found or len(found.get("text_offset") or ()) != len(found.get("token_logprobs") or ()):
            raise RequestError(
                f"{self.base} gives no log-probabilities of the prompt (echo with logprobs), "
                "which tasks of likelihood need; name the model's files instead"
            )
        kept = [i for i, offset in enumerate(found["text_offset"]) if len(context) <= offset < len(text)]
        logprobs = [found["token_logprobs"][i] for i in kept]
        if not kept or any(logprob is None for logprob in logprobs):
            raise RequestError(f"{self.base} gives no log-probability of the text's first token, which this task needs")
        greedy = [logprobs[n] >= max((found["top_logprobs"][i] or {"": -1e9}).values()) for n, i in enumerate(kept)]
        return Likelihood(sum(logprobs), all(greedy), len(kept))

    def _answer(self, question: Question) -> list[str]:
        body: dict[str, Any] = {
            "model": self.model,
            "max_tokens": question.max_tokens,
            "temperature": question.temperature,
            "top_p": question.top_p,
            "n": question.num_answers,
            "seed": self.seed,
        }
        if question.stop:
            body["stop"] = list(question.stop)
        if question.is_chat:
            body["messages"] = [{"role": "user", "content": question.prompt}]
            choices = self._call("POST", "/v1/chat/completions", body)["choices"]
            return [choice["message"]["content"] or "" for choice in choices]
        return [c["text"] for c in self._call("POST", "/v1/completions", body | {"prompt": question.prompt})["choices"]]

    def _call(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        """The reply. A server that is busy is asked again, a little later each time.

        Raises ConfigError where none answers, CapacityError where it stays busy, RequestError for its refusal.
        """
        import httpx

        for attempt in range(NUM_TRIES):
            try:
                reply = self.client.request(method, path, json=body)
            except httpx.HTTPError as error:
                raise ConfigError(f"{self.base}: no answer ({error or type(error).__name__})") from None
            if reply.status_code not in (429, 503):
                break
            time.sleep(0.5 * 2**attempt)
        else:
            raise CapacityError(f"{self.base} is busy (status {reply.status_code}); try again later")
        if reply.status_code != 200:
            raise RequestError(f"{self.base}{path}: {reply.status_code}: {reply.text[:300]}")
        return reply.json()


def _together(ask: Callable[[T], R], asked: Sequence[T]) -> list[R]:
    """Answers in order; the server batches what is under way at once."""
    with ThreadPoolExecutor(NUM_PARALLEL) as pool:
        return list(pool.map(ask, asked))
