"""The tokenizer of a checkpoint, proved to be that of its weights."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tramontane.errors import TokenizerError
from tramontane.tokenizer import AbsentTokenizer, Tokenizer, gguf_tokenizer, has_tokenizer, load_tokenizer
from tramontane.tokenizer.tokenizer_json import chat_template

if TYPE_CHECKING:
    from pathlib import Path

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
    metadata, folder = checkpoint.gguf_metadata, checkpoint.tokenizer_path or checkpoint.path
    if metadata is not None and checkpoint.tokenizer_path is None:
        tokenizer = None if metadata.get("tokenizer.ggml.model") in _NO_VOCABULARY else gguf_tokenizer(metadata)
    else:
        tokenizer = load_tokenizer(folder) if has_tokenizer(folder) else None
    if tokenizer is not None:
        _require_fit(checkpoint, tokenizer)
        tokenizer.stop_ids |= frozenset(checkpoint.stop_ids)
    return tokenizer


def with_adapters_tokenizer(checkpoint: Checkpoint, adapter: Path) -> Checkpoint:
    """`checkpoint` with the tokenizer in an adapter's folder, if there is one and it reads or writes otherwise: the
    adapter was trained with it, and it is what transformers loads by that folder's name."""
    if not has_tokenizer(adapter):
        return checkpoint
    base = find_tokenizer(checkpoint)
    if base is not None and _difference(base, adapter) is None:
        return checkpoint
    return replace(checkpoint, tokenizer_path=adapter)


def require_same_tokenizer(tokenizer: Tokenizer, adapter: Path) -> None:
    """Raise TokenizerError if an adapter that is to be computed beside others, with one `tokenizer` for all, was
    trained with another: by the files in its folder, if it has any."""
    what = _difference(tokenizer, adapter) if has_tokenizer(adapter) else None
    if what is not None:
        raise TokenizerError(
            f"{adapter} has a tokenizer of its own, and {what} is not that of the model it would be beside; open the "
            "adapter by its own name, merge it into its base, or remove its tokenizer files to use the model's"
        )


def _difference(tokenizer: Tokenizer, adapter: Path) -> str | None:
    """What an adapter's own tokenizer does otherwise. Special tokens at the end that only one of the two has, such as
    one for padding, are no difference: no text becomes one, only the chat format places them."""
    own = load_tokenizer(adapter)
    tokens, own_tokens = (
        [(each.token_bytes(i), each.control_name(i)) for i in range(each.vocab_size)] for each in (tokenizer, own)
    )
    shared = min(len(tokens), len(own_tokens))
    if own_tokens[:shared] != tokens[:shared] or any(text for text, _ in (*tokens[shared:], *own_tokens[shared:])):
        return "its vocabulary"
    if (own.prefix_ids, own.suffix_ids) != (tokenizer.prefix_ids, tokenizer.suffix_ids):
        return "what it puts around a text"
    if own.eos_id not in tokenizer.stop_ids:
        return "its end of an answer"
    if chat_template(adapter) is not None and _chat_name(own) != _chat_name(tokenizer):
        return "its chat format"
    return None


def _chat_name(tokenizer: Tokenizer) -> str | None:
    return None if tokenizer.chat is None else tokenizer.chat.name


def _require_fit(checkpoint: Checkpoint, tokenizer: Tokenizer) -> None:
    rows, num_tokens = checkpoint.config.vocab_size, tokenizer.vocab_size
    place = checkpoint.tokenizer_path or checkpoint.path
    sizes = f"{place}: the tokenizer has {num_tokens} tokens, but the embedding table {rows} rows"
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
