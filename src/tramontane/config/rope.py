"""The rotary scaling settings shared by the three readers."""

from __future__ import annotations

import math

from tramontane.config.fields import Fields
from tramontane.config.model_config import RopeScaling


def yarn_mscale(factor: float, mscale: float = 1.0) -> float:
    """Temperature of attention over a context stretched `factor` times (arXiv:2309.00071, section 3.4)."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def read_hf_rope_scaling(fields: Fields, max_seq_len: int) -> RopeScaling | None:
    """Scaling described by Hugging Face's `rope_scaling` or `rope_parameters`, as transformers 5 computes it.

    `rope_theta` is left to the caller. Raises ConfigError for a type that is not honoured.
    """
    kind = fields.optional_text("rope_type") or "default"
    legacy = fields.optional_text("type") or kind  # the key's name before transformers 4.43
    if kind == "default":
        kind = legacy
    elif legacy != kind:
        fields.refuse("type", f"contradicts rope_type={kind!r}; keep rope_type")
    fields.ignore("finetuned", "max_position_embeddings")
    fields.expect("partial_rotary_factor", 1, reason="would rotate a part of each head only, which is not supported")
    fields.expect("llama_4_scaling_beta", 0, reason="scales queries by position, which is not supported")
    scaling: RopeScaling | None = None
    if kind == "linear":
        scaling = RopeScaling(kind="linear", factor=fields.number("factor"))
        fields.ignore("original_max_position_embeddings")
    elif kind == "yarn":
        scaling = _read_yarn(fields, max_seq_len)
    elif kind != "default":
        fields.refuse(
            "rope_type" if fields.has("rope_type") else "type", "is not supported; use default, linear or yarn"
        )
    else:
        fields.ignore("original_max_position_embeddings", "factor")
    return scaling


def _read_yarn(fields: Fields, max_seq_len: int) -> RopeScaling:
    original = fields.optional_integer("original_max_position_embeddings")
    if original is None:
        original = max_seq_len
    factor = fields.optional_number("factor")
    if factor is None:
        factor = max_seq_len / max(original, 1)
    mscale, mscale_all_dim = fields.optional_number("mscale"), fields.optional_number("mscale_all_dim")
    attention_factor = fields.optional_number("attention_factor")
    if attention_factor is None:
        attention_factor = (
            yarn_mscale(factor, mscale) / yarn_mscale(factor, mscale_all_dim)
            if mscale and mscale_all_dim
            else yarn_mscale(factor)
        )
    return RopeScaling(
        kind="yarn",
        factor=factor,
        original_max_seq_len=original,
        beta_fast=fields.optional_number("beta_fast") or 32.0,
        beta_slow=fields.optional_number("beta_slow") or 1.0,
        attention_factor=attention_factor,
        truncate=fields.flag("truncate", default=True),
    )
