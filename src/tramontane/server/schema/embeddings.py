"""The body of /v1/embeddings, Mistral's and OpenAI's names together."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tramontane.server.schema.base import ApiModel, Metadata
from tramontane.server.schema.fim import TokenIds
from tramontane.server.schema.sampling import MAX_INTEGER

MAX_TEXTS = 2048


class EmbeddingRequest(ApiModel):
    model: str
    input: str | Annotated[list[str] | TokenIds | list[TokenIds], Field(min_length=1, max_length=2**20)]
    output_dimension: int | None = Field(default=None, gt=0, le=MAX_INTEGER)
    dimensions: int | None = Field(default=None, gt=0, le=MAX_INTEGER)
    output_dtype: Literal["float", "int8", "uint8", "binary", "ubinary"] | None = "float"
    encoding_format: Literal["float", "base64"] | None = "float"
    metadata: Metadata | None = None

    @model_validator(mode="after")
    def _has_one_value_for_each(self) -> EmbeddingRequest:
        if None not in (self.output_dimension, self.dimensions) and self.output_dimension != self.dimensions:
            raise ValueError("output_dimension and dimensions mean the same and differ; give one of them")
        if len(self.texts) > MAX_TEXTS:
            raise ValueError(f"at most {MAX_TEXTS} texts are taken at once")
        return self

    @property
    def dimension(self) -> int | None:
        return self.dimensions if self.output_dimension is None else self.output_dimension

    @property
    def texts(self) -> list[str | list[int]]:
        if isinstance(self.input, str):
            return [self.input]
        if isinstance(self.input[0], int):
            return [self.input]
        return list(self.input)
