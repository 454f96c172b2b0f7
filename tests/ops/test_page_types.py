from __future__ import annotations

import pytest
import torch

from tramontane.ops.page_types import (
    BLOCK_BYTES,
    PAGE_TYPES,
    Q8_0,
    from_page_type,
    page_head_dim,
    page_type_name,
    page_width,
    to_page_type,
)


def test_no_value_of_a_block_is_off_by_more_than_half_its_scale() -> None:
    x = torch.randn(200, 96, generator=torch.Generator().manual_seed(0)) * torch.logspace(-9, 6, 200)[:, None]
    held = to_page_type(x, Q8_0)
    assert (held.dtype, held.shape) == (torch.uint8, (200, 3 * BLOCK_BYTES))
    scale = held.view(200, 3, BLOCK_BYTES)[..., :2].contiguous().view(torch.float16).float()
    error = (from_page_type(held, torch.float32) - x).abs().view(200, 3, 32)
    assert bool((error <= scale / 2 * (1 + 1e-6)).all())
    # and no float16 below the scale would reach the largest value
    largest = x.view(200, 3, 32).abs().amax(-1, keepdim=True)
    assert bool((scale * 127 >= largest * (1 - 1e-6)).all())
    assert bool(((scale - largest / 127) <= largest / 127 / 1024 + 2.0**-24).all())


def test_what_no_scale_reaches_becomes_nan_in_its_block_alone() -> None:
    x = torch.ones(4, 64)
    x[0, 3], x[1, 40], x[2, 63] = torch.nan, -torch.inf, 1e7
    x[3] = 0.0
    back = from_page_type(to_page_type(x, Q8_0), torch.float32)
    marked = back.view(4, 2, 32).isnan().all(-1)
    assert marked.tolist() == [[True, False], [False, True], [False, True], [False, False]]
    assert torch.equal(back[3], x[3])
    assert int(back.isnan().sum()) == 3 * 32


def test_floats_stay_what_they_are() -> None:
    x = torch.randn(3, 12)
    assert torch.equal(from_page_type(to_page_type(x, torch.bfloat16), torch.float32), x.bfloat16().float())
    assert (page_width(12, torch.float16), page_width(64, Q8_0)) == (12, 68)
    assert [page_type_name(dtype) for dtype in PAGE_TYPES.values()] == list(PAGE_TYPES)


def test_bytes_that_are_no_blocks_are_refused() -> None:
    assert page_head_dim(torch.zeros(1, 1, 1, 68, dtype=Q8_0)) == 64
    with pytest.raises(ValueError, match="rows of 34 bytes for each 32 values, not of 64"):
        page_head_dim(torch.zeros(1, 1, 1, 64, dtype=Q8_0))
