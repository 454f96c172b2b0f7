"""BodyBounds: how much a request's body may hold, by its route: no more than any valid request has a use for.

The cost of a body is in its structure. A text of many MiB is copied in a moment; as many bytes of little objects take
seconds and gigabytes to parse and to check. So both are bounded before anything is parsed: bytes as they arrive, values
in one pass over the raw body that looks at nothing but quotes, commas and brackets.
"""

from __future__ import annotations

from dataclasses import dataclass

from tramontane.server.errors import ApiError
from tramontane.server.guard import MIB, GuardPolicy
from tramontane.server.models import ModelRegistry

BASE_BYTES = MIB
"""Besides texts: names, numbers, tools, a schema."""
BASE_VALUES = 20_000
MAX_OBJECTS = 20_000
ESCAPED = 3
"""Bytes that JSON spells a byte of text with, at most: `\\u00e9` stands for two."""
MAX_TOKEN_IDS = 100_000
"""Of several prompts together; one alone may fill the context."""
INLINE_VALUES = 200_000
SLICE_BYTES = 64 * 1024
DOCUMENT_MARKS = (b";base64,", b'"file_data"')

CONVERSATIONS = frozenset(("/v1/chat/completions", "/v1/responses", "/v1/responses/input_tokens"))
"""Whose messages may hold documents."""
PROMPTS = {
    "/v1/fim/completions": 2,
    "/v1/completions": 256,
    "/v1/embeddings": 2048,
    "/v1/moderations": 256,
    "/v1/chat/moderations": 256,
    "/v1/classifications": 256,
    "/v1/chat/classifications": 256,
}
"""Texts that each may fill a context."""
DOCUMENTS = frozenset(("/api/documents/text", "/api/documents/summary", "/api/documents/answer"))
BATCHES = "/v1/batch/jobs"


@dataclass(frozen=True, slots=True)
class BodyBounds:
    """`max_text_bytes`: of a body without documents. `max_values` counts everything that JSON has in it, `max_objects`
    its objects and arrays."""

    max_bytes: int
    max_text_bytes: int
    max_values: int = BASE_VALUES
    max_objects: int = MAX_OBJECTS

    def check(self, body: bytes) -> None:
        """Raises ApiError, 413 or 400, for a body with more in it than any valid request has. Takes about as
        long as copying it, a slice at a time."""
        if len(body) > self.max_text_bytes and not any(mark in body for mark in DOCUMENT_MARKS):
            raise ApiError(
                413,
                f"the body has {len(body):,} bytes and no document in it; of text, no model here reads more than "
                f"{self.max_text_bytes:,}",
                code="too_large",
            )
        if len(body) > min(self.max_values, self.max_objects):  # else there is no room for more
            self._check_structure(body)

    def _check_structure(self, body: bytes) -> None:
        num_separators = num_objects = 0
        is_in_text = is_escaped = False
        for start in range(0, len(body), SLICE_BYTES):
            part = body[start + is_escaped : start + SLICE_BYTES]
            is_escaped = False
            if b"\\" in part:
                part = part.replace(b"\\\\", b"").replace(b'\\"', b"")
                is_escaped = part.endswith(b"\\")
            pieces = part.split(b'"')
            outside = b"".join(pieces[is_in_text::2])
            is_in_text ^= len(pieces) % 2 == 0
            num_separators += outside.count(b",")
            num_objects += outside.count(b"{") + outside.count(b"[")
            if num_separators + num_objects > self.max_values or num_objects > self.max_objects:
                raise ApiError(
                    400,
                    f"the body has more than {self.max_values:,} values, or {self.max_objects:,} objects and arrays; "
                    "nothing of use has so many",
                    code="too_many_values",
                )


def body_bounds(path: str, policy: GuardPolicy, registry: ModelRegistry) -> BodyBounds:
    """Of the route at `path`, with the models that are served now."""
    if path in policy.uploads:
        return BodyBounds(policy.max_bytes(path), policy.max_bytes(path))
    most = policy.max_body_bytes
    if path in DOCUMENTS:
        return BodyBounds(most, most)
    if path == BATCHES:
        return BodyBounds(most, most, INLINE_VALUES, INLINE_VALUES)
    if path not in CONVERSATIONS and path not in PROMPTS:
        return BodyBounds(BASE_BYTES, BASE_BYTES)
    tokens = max((model.llm.max_seq_len for model in registry), default=0)
    text = max((model.llm.max_text_bytes for model in registry), default=0) * ESCAPED
    num_prompts = PROMPTS.get(path, 1)
    text_bytes = min(most, BASE_BYTES + num_prompts * text)
    return BodyBounds(
        max_bytes=most if path in CONVERSATIONS else text_bytes,
        max_text_bytes=text_bytes,
        max_values=BASE_VALUES + 2 * tokens + max(tokens, min(MAX_TOKEN_IDS, num_prompts * tokens)),
        max_objects=MAX_OBJECTS + 2 * tokens,
    )
