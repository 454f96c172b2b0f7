"""The fields that say how tokens are drawn, shared by chat, fill-in-the-middle and text completions."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

from pydantic import Field, model_validator

from tramontane.engine.sampling import SamplingParams
from tramontane.server.schema.base import ApiModel, Metadata, at_most

StopText = Annotated[str, Field(min_length=1, max_length=4096)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
MAX_ANSWERS = 128
MAX_INTEGER = 2**63 - 1
MAX_BIASES = 1024
MAX_COUNT = 2**31
"""More tokens than any context or vocabulary has: larger numbers mean the same."""

SYNONYMS = (("random_seed", "seed"), ("max_tokens", "max_completion_tokens"), ("repetition_penalty", "repeat_penalty"))
"""Mistral's name of a field, or Hugging Face's, and OpenAI's or llama.cpp's."""


class SamplingFields(ApiModel):
    """Mistral's fields, OpenAI's, and those that other engines' clients send for what this one can do too."""

    model: str
    stream: bool | None = False
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1)  # 0 and -1: no limit
    min_p: float | None = Field(default=None, ge=0, le=1)
    max_tokens: int | None = Field(default=None, ge=0)
    max_completion_tokens: int | None = Field(default=None, ge=0)
    min_tokens: int | None = Field(default=None, ge=0, le=MAX_INTEGER)
    stop: Annotated[str, Field(max_length=4096)] | Annotated[list[StopText], Field(max_length=64)] | None = None
    random_seed: int | None = Field(default=None, ge=0, lt=2**63)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    stop_token_ids: Annotated[list[TokenId], Field(max_length=64)] | None = None
    ignore_eos: bool | None = None
    repetition_penalty: float | None = Field(default=None, ge=0.01, le=100)
    repeat_penalty: float | None = Field(default=None, ge=0.01, le=100)
    logit_bias: (
        Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], at_most(MAX_BIASES, "token ids")] | None
    ) = None
    n: int | None = Field(default=None, ge=1, le=MAX_ANSWERS)
    metadata: Metadata | None = None
    prompt_cache_key: str | None = None
    service_tier: str | None = None  # there is one

    @model_validator(mode="after")
    def _has_one_value_for_each(self) -> SamplingFields:
        for ours, theirs in SYNONYMS:
            first, second = getattr(self, ours), getattr(self, theirs)
            if first is not None and second is not None and first != second:
                raise ValueError(f"{ours} and {theirs} mean the same and differ; give one of them")
        if self.limit is not None and (self.min_tokens or 0) > self.limit:
            raise ValueError("min_tokens must not exceed max_tokens")
        for name in self.logit_bias or ():
            if not (name.isascii() and name.isdigit() and len(name) < 10):
                raise ValueError(f"logit_bias: {name[:20]!r} is no token id")
        return self

    @property
    def limit(self) -> int | None:
        """Most tokens of an answer."""
        return self.max_completion_tokens if self.max_tokens is None else self.max_tokens

    def sampling(self, default: SamplingParams, **more: Any) -> SamplingParams:
        """The SamplingParams: `default` where a field is not given; `more` are those that other fields decide. Raises
        RequestError."""
        stop = () if not self.stop else (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        given: dict[str, Any] = {
            "min_tokens": self.min_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "min_p": self.min_p,
            "stop_token_ids": None if self.stop_token_ids is None else tuple(self.stop_token_ids),
            "ignore_eos": self.ignore_eos,
            "repetition_penalty": self.repeat_penalty if self.repetition_penalty is None else self.repetition_penalty,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "seed": self.random_seed if self.seed is None else self.seed % 2**63,
            "n": self.n,
        }
        return dataclasses.replace(
            default,
            max_tokens=None if self.limit is None else min(self.limit, MAX_COUNT),
            top_k=default.top_k if self.top_k is None else min(self.top_k, MAX_COUNT) if self.top_k > 0 else None,
            stop=stop,
            logit_bias={int(token_id): bias for token_id, bias in (self.logit_bias or {}).items()},
            **{name: value for name, value in given.items() if value is not None},
            **more,
        )
