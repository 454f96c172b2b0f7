"""How keys and values lie in pages: as floats, or as q8_0 blocks, which are bytes.

In q8_0 pages a head's row of K values is K / 32 blocks of 34 bytes: the block's scale as float16, then its values as
int8, each standing for scale times itself. The scale is the smallest float16 that reaches the block's largest value
with 127, so that no value is off by more than half of it. It is NaN, and so are all values of the block, where one is
not finite.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 32
BLOCK_BYTES = 34
Q8_0 = torch.uint8  # pages of bytes hold q8_0 blocks
PAGE_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "q8_0": Q8_0}


def page_type_name(dtype: torch.dtype) -> str:
    return next(name for name, held_as in PAGE_TYPES.items() if held_as == dtype)


def page_width(head_dim: int, dtype: torch.dtype) -> int:
    """Elements of one head's row in pages of `dtype`; q8_0 needs a head_dim that is a multiple of 32."""
    return head_dim // BLOCK * BLOCK_BYTES if dtype == Q8_0 else head_dim


def page_head_dim(pages_PSGK: Tensor) -> int:
    """Values of one head's row. Raises ValueError for bytes that are no whole number of blocks."""
    width = pages_PSGK.shape[-1]
    if pages_PSGK.dtype != Q8_0:
        return width
    if width % BLOCK_BYTES:
        raise ValueError(f"q8_0 pages have rows of {BLOCK_BYTES} bytes for each {BLOCK} values, not of {width}")
    return width // BLOCK_BYTES * BLOCK


def to_page_type(x_K: Tensor, dtype: torch.dtype) -> Tensor:
    """(…, K) values as they lie in pages of `dtype`."""
    if dtype != Q8_0:
        return x_K.to(dtype)
    blocks = x_K.float().reshape(*x_K.shape[:-1], -1, BLOCK)
    exact = blocks.abs().amax(-1, keepdim=True) / 127
    scale = exact.half()
    scale = torch.where(scale.float() < exact, (scale.view(torch.int16) + 1).view(torch.float16), scale)
    scale = torch.where(scale.isfinite(), scale, torch.nan)
    inverse = torch.where(scale > 0, 1 / scale.float(), 0.0)
    values = torch.where(scale > 0, (blocks * inverse).round(), 0.0).to(torch.int8)
    return torch.cat((scale.view(torch.uint8), values.view(torch.uint8)), dim=-1).flatten(-2)


def from_page_type(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """(…, page_width) elements of pages as (…, K) values of `dtype`."""
    if rows.dtype != Q8_0:
        return rows.to(dtype)
    blocks = rows.reshape(*rows.shape[:-1], -1, BLOCK_BYTES)
    scale = blocks[..., :2].contiguous().view(torch.float16)
    values = blocks[..., 2:].view(torch.int8).float() * scale.float()
    return values.flatten(-2).to(dtype)
