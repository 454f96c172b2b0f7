"""The bodies of /v1/fim/completions and /v1/completions."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from tramontane.server.schema.chat import StreamOptions
from tramontane.server.schema.sampling import SamplingFields, TokenId

MAX_PROMPTS = 256
TokenIds = list[TokenId]


class FimRequest(SamplingFields):
    model: str = "codestral-2404"
    prompt: str
    suffix: str | None = ""
    stream_options: StreamOptions | None = None


class CompletionRequest(SamplingFields):
    """OpenAI's text completions; `max_tokens` is 16 there unless it is given."""

    prompt: str | Annotated[list[str] | TokenIds | list[TokenIds], Field(min_length=1, max_length=2**20)]
    suffix: str | None = None
    max_tokens: int | None = Field(default=16, ge=0)
    echo: bool | None = False
    best_of: int | None = Field(default=None, ge=1, le=20)
    logprobs: int | None = Field(default=None, ge=0, le=20)
    stream_options: StreamOptions | None = None

    @model_validator(mode="after")
    def _can_be_answered(self) -> CompletionRequest:
        if self.best_of is not None and self.best_of < (self.n or 1):
            raise ValueError("best_of must be at least n")
        if self.stream and (self.best_of or 1) > (self.n or 1):
            raise ValueError("best_of cannot be streamed: which answer is best is known at the end")
        if self.suffix and (self.echo or self.logprobs is not None):
            raise ValueError("suffix does not go with echo or logprobs")
        if len(self.prompts) > MAX_PROMPTS:
            raise ValueError(f"at most {MAX_PROMPTS} prompts are taken at once")
        if self.stream and self.echo:
            raise ValueError("echo cannot be streamed")
        return self

    @property
    def prompts(self) -> list[str | list[int]]:
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]
        return list(self.prompt)
