"""lm-evaluation-harness on our engine: the model class `tramontane`, and its command line with that class registered.

    python -m tramontane.evals.harness run --model tramontane --model_args pretrained=FOLDER --tasks hellaswag

Every task of the harness runs so, with batching, the prefix cache and the native kernels underneath. Needs the extra
`harness`.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from tramontane.engine.sampling import SamplingParams
from tramontane.errors import ConfigError
from tramontane.evals.item import Pair
from tramontane.evals.likelihood import TokenPair, text_windows, token_likelihoods
from tramontane.evals.target import encode_pair
from tramontane.extras import install_hint
from tramontane.llm import LLM

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import LM

GENERATION_KEYS = {"until", "max_gen_toks", "do_sample", "temperature", "top_p", "top_k", "min_p", "seed"}


class HarnessModel:
    """The methods of the harness's `LM` by our engine; `register` joins it to that class.

    Options of `--model_args`: `pretrained`, and those of `LLM` (base, weight_format, dtype, device, threads,
    max_seq_len, kv_cache_gib). `batch_size`, `max_batch_size` and `device` of the harness's command line are taken
    too; the engine finds its own batches."""

    def __init__(
        self,
        pretrained: str = "default",
        *,
        base: str | None = None,
        weight_format: str = "auto",
        dtype: str = "auto",
        device: str | None = None,
        threads: int | None = None,
        max_seq_len: int | None = None,
        kv_cache_gib: float | None = None,
        max_gen_toks: int = 256,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        self.llm = LLM(
            pretrained,
            base=base,
            weight_format=weight_format,
            dtype=dtype,
            device=device or "auto",
            threads=threads,
            max_seq_len=max_seq_len,
            kv_cache_gib=kv_cache_gib,
        )
        self.max_gen_toks = max_gen_toks
        self.name = pretrained

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        pairs = [encode_pair(self.llm.tokenizer, Pair(*request.args)) for request in requests]
        return [(found.logprob, found.is_greedy) for found in token_likelihoods(self.llm.engine, pairs)]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Windows that do not overlap but for one token, the first after bos, as the harness has them."""
        tokenizer, length = self.llm.tokenizer, self.llm.max_seq_len
        windows: list[list[TokenPair]] = [
            text_windows(tokenizer.encode(request.args[0]), (tokenizer.bos_id,), length, length) for request in requests
        ]
        flat = iter(token_likelihoods(self.llm.engine, [pair for pairs in windows for pair in pairs]))
        return [sum(next(flat).logprob for _ in pairs) for pairs in windows]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Requests with the same settings are answered together. Raises ValueError for a setting we do not have."""
        answers = [""] * len(requests)
        alike: dict[str, tuple[SamplingParams, list[int]]] = {}
        for index, request in enumerate(requests):
            params = self._params(request.args[1])
            alike.setdefault(repr(params), (params, []))[1].append(index)
        for params, indices in alike.values():
            prompts = [self._prompt(requests[index].args[0], params.max_tokens or 0) for index in indices]
            for index, completion in zip(indices, self.llm.generate(prompts, params), strict=True):
                answers[index] = completion.text
        return answers

    def _prompt(self, text: str, max_tokens: int) -> list[int]:
        """Token ids; where prompt and answer are too long, the beginning of the prompt is left out."""
        room = max(1, self.llm.max_seq_len - max_tokens)
        return self.llm.tokenizer.encode_prompt(text)[-room:]

    def _params(self, given: dict[str, Any]) -> SamplingParams:
        unknown = given.keys() - GENERATION_KEYS
        if unknown:
            raise ValueError(f"generation setting {sorted(unknown)[0]!r} is not known to this model class")
        until = given.get("until") or []
        is_sampled = given.get("do_sample", given.get("temperature", 0) > 0)
        return SamplingParams(
            max_tokens=given.get("max_gen_toks", self.max_gen_toks),
            stop=tuple([until] if isinstance(until, str) else until),
            temperature=given.get("temperature", 1.0) if is_sampled else 0.0,
            top_p=given.get("top_p", 1.0),
            top_k=given.get("top_k"),
            min_p=given.get("min_p", 0.0),
            seed=given.get("seed", 0),
        )


@cache
def register() -> type[LM]:
    """The model class, known to the harness as `tramontane` from now on. Raises ConfigError without lm-eval."""
    try:
        from lm_eval.api.model import LM
        from lm_eval.api.registry import register_model
    except ImportError:
        raise ConfigError(f"lm-evaluation-harness is not installed; {install_hint('harness')}") from None

    @register_model("tramontane")
    class TramontaneLM(HarnessModel, LM):  # type: ignore[misc]  # the harness has no types
        pass

    return TramontaneLM


def main() -> None:
    register()
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    main()
