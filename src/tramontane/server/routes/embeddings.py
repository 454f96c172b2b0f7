"""/v1/embeddings: texts as vectors, the mean of the model's final hidden states."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from fastapi import APIRouter

from tramontane.server.endpoint import Call, Endpoint
from tramontane.server.errors import ApiError
from tramontane.server.schema.answers import Embeddings
from tramontane.server.schema.embeddings import EmbeddingRequest

router = APIRouter()


async def answer(call: Call, request: EmbeddingRequest) -> dict[str, Any]:
    model = call.use(request.model)
    dim = model.llm.checkpoint.config.dim
    dimension = dim if request.dimension is None else request.dimension
    if dimension > dim:
        raise ApiError(
            400, f"output_dimension={dimension} is above the {dim} of {model.name}", param="output_dimension"
        )
    if request.output_dtype in ("binary", "ubinary") and dimension % 8:
        raise ApiError(400, f"output_dimension={dimension}: packed bits need a multiple of 8", param="output_dimension")
    texts = [prompt.token_ids for prompt in await model.llm.read_prompts(request.texts)]
    call.prompt_tokens = sum(map(len, texts))
    vectors_ND = (
        await model.embed(texts, owner=call.caller.owner, salt=call.caller.salt, priority=call.priority, meter=call)
    ).numpy()[:, :dimension]
    if dimension < dim:
        vectors_ND = vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    packed = quantised(vectors_ND, request.output_dtype or "float")
    rows = [
        base64.b64encode(row.tobytes()).decode() if request.encoding_format == "base64" else row.tolist()
        for row in packed
    ]
    return {
        "id": call.request_id,
        "object": "list",
        "model": request.model,
        "data": [{"object": "embedding", "embedding": row, "index": place} for place, row in enumerate(rows)],
        "usage": call.usage,
    }


def quantised(vectors_ND: np.ndarray, dtype: str) -> np.ndarray:
    """Vectors of length 1 as `dtype`: float32; int8 and uint8 of the components, which lie in -1..1; binary and ubinary
    the signs, eight to a byte, the first in the highest bit, binary shifted by 128 into int8."""
    if dtype == "float":
        return vectors_ND.astype(np.float32)
    if dtype == "int8":
        return np.asarray(np.rint(vectors_ND * 127), np.int8)
    if dtype == "uint8":
        return np.asarray(np.rint(vectors_ND * 127) + 128, np.uint8)
    bits = np.packbits(vectors_ND > 0, axis=1)
    return bits if dtype == "ubinary" else (bits.astype(np.int16) - 128).astype(np.int8)


Endpoint("/v1/embeddings", EmbeddingRequest, answer, None, Embeddings, "Texts as vectors", "embeddings").add_to(router)
