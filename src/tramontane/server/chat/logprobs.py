"""Log-probabilities in the shape that both APIs share; Mistral's adds the token's id."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tramontane.engine.request import TokenLogprobs
from tramontane.tokenizer import Tokenizer


def logprobs_json(tokenizer: Tokenizer, entries: Iterable[TokenLogprobs | None]) -> dict[str, Any]:
    """`{"content": [...]}`, one entry for each token that ends no answer."""
    return {
        "content": [
            _entry(tokenizer, entry.token_id, entry.logprob)
            | {"top_logprobs": [_entry(tokenizer, *pair) for pair in entry.top]}
            for entry in entries
            if entry is not None and entry.token_id not in tokenizer.stop_ids
        ],
        "refusal": None,
    }


def token_text(tokenizer: Tokenizer, token_id: int) -> str:
    return tokenizer.control_name(token_id) or tokenizer.token_bytes(token_id).decode(errors="replace")


def _entry(tokenizer: Tokenizer, token_id: int, logprob: float) -> dict[str, Any]:
    piece = tokenizer.token_bytes(token_id)
    return {"token": token_text(tokenizer, token_id), "logprob": logprob, "bytes": list(piece), "token_id": token_id}
