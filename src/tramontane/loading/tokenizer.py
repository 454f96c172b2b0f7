"""The tokenizer of a checkpoint, proved to be that of its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tramontane.errors import TokenizerError
from tramontane.tokenizer import AbsentTokenizer, Tokenizer, gguf_tokenizer, has_tokenizer, load_tokenizer

if TYPE_CHECKING:
    from tramontane.loading.checkpoint import Checkpoint

_NO_VOCABULARY = (None, "none", "no_vocab")  # tokenizer.ggml.model of a GGUF file without one

# Embedding tables are padded to a multiple of 8 to 512 rows (training code, tensor cores); rows beyond that are
# tokens that a tokenizer file should know.
_PADDED_TO = 8
_MAX_PADDING = 512


def open_tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    """The tokenizer beside the weights, or inside a GGUF file; where there is none, one that refuses text.

    Its `stop_ids` hold those of the checkpoint's configuration too. Raises TokenizerError for files that cannot be
    read, or that are another model's: tokens without a row of the embedding table, or rows without a token that are
    no padding.
    """
    tokenizer = find_tokenizer(checkpoint)
    if tokenizer is None:
        tokenizer = AbsentTokenizer(checkpoint.config.vocab_size)
        tokenizer.stop_ids = frozenset(checkpoint.stop_ids)
    return tokenizer


def find_tokenizer(checkpoint: Checkpoint) -> Tokenizer | None:
    """As `open_tokenizer`; None where there is none."""
    metadata = checkpoint.gguf_metadata
    if metadata is not None:
        tokenizer = None if metadata.get("tokenizer.ggml.model") in _NO_VOCABULARY else gguf_tokenizer(metadata)
    else:
        tokenizer = load_tokenizer(checkpoint.path) if has_tokenizer(checkpoint.path) else None
    if tokenizer is not None:
        _require_fit(checkpoint, tokenizer)
        tokenizer.stop_ids |= frozenset(checkpoint.stop_ids)
    return tokenizer


def _require_fit(checkpoint: Checkpoint, tokenizer: Tokenizer) -> None:
    rows, num_tokens = checkpoint.config.vocab_size, tokenizer.vocab_size
    sizes = f"{checkpoint.path}: the tokenizer has {num_tokens} tokens, but the embedding table {rows} rows"
    if num_tokens > rows:
        last = [tokenizer.control_name(token_id) or "" for token_id in range(rows, num_tokens)]
        named = ", ".join(repr(name) for name in last[:3] if name)
        raise TokenizerError(
            f"{sizes}{f' (none for {named})' if named else ''}; use the model's own tokenizer files, or take the "
            "tokens without a row out of them"
        )
    missing = [token_id for token_id in checkpoint.stop_ids if token_id >= num_tokens]
    if missing or (num_tokens < rows and (rows % _PADDED_TO or rows - num_tokens > _MAX_PADDING)):
        ends = f", and answers end at token {missing[0]}" if missing else ""
        raise TokenizerError(
            f"{sizes}{ends}; put the model's own added_tokens.json or tokenizer.json beside it, or remove the "
            "tokenizer files to work with token ids alone"
        )
