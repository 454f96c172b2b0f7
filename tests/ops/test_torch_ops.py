from __future__ import annotations

import pytest
import torch

from tests.ops.paged_cases import MIXED, paged_case
from tramontane.ops import reference
from tramontane.ops.page_types import Q8_0
from tramontane.ops.torch_ops import QUERY_CHUNK, TorchOps

OPS = TorchOps()


@pytest.mark.parametrize("page_size", [1, 4, 16])
@pytest.mark.parametrize("window", [None, 1, 6, 64])
def test_paged_attention(window: int | None, page_size: int) -> None:
    assert max(queries for _, queries in MIXED) > QUERY_CHUNK
    case = paged_case(MIXED, window=window, page_size=page_size)
    out = OPS.paged_attention(case.q_THK, case.k_pages_PSGK, case.v_pages_PSGK, case.batch, case.window)
    torch.testing.assert_close(out, case.expected_THK, rtol=0, atol=2e-6)


def test_paged_attention_over_blocks() -> None:
    case = paged_case(MIXED, window=6, head_dim=32, page_dtype=Q8_0)
    out = OPS.paged_attention(case.q_THK, case.k_pages_PSGK, case.v_pages_PSGK, case.batch, case.window)
    torch.testing.assert_close(out, case.expected_THK, rtol=0, atol=2e-6)


@pytest.mark.parametrize("window", [None, 1, 6, 300])
def test_packed_attention_and_its_gradients(window: int | None) -> None:
    generator = torch.Generator().manual_seed(0)
    lens = [5, 1, 600, 30]
    q = torch.randn(sum(lens), 4, 8, generator=generator, requires_grad=True)
    k = torch.randn(sum(lens), 2, 8, generator=generator, requires_grad=True)
    v = torch.randn(sum(lens), 2, 8, generator=generator, requires_grad=True)
    weight = torch.randn(sum(lens), 4, 8, generator=generator)
    out = OPS.packed_attention(q, k, v, lens, window)
    parts = zip(torch.split(q, lens), torch.split(k, lens), torch.split(v, lens), strict=True)
    expected = torch.cat([reference.attention(*part, window) for part in parts])
    torch.testing.assert_close(out, expected, rtol=0, atol=2e-6)
    gradients = torch.autograd.grad((out * weight).sum(), (q, k, v))
    for ours, theirs in zip(gradients, torch.autograd.grad((expected * weight).sum(), (q, k, v)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("by_head", [False, True])
def test_store_kv_writes_only_its_slots(by_head: bool) -> None:
    k_pages, v_pages = torch.zeros(3, 4, 2, 8), torch.zeros(3, 4, 2, 8)
    if by_head:
        k_pages, v_pages = (torch.zeros(3, 2, 4, 8).transpose(1, 2) for _ in range(2))
    k, v = torch.randn(2, 2, 8), torch.randn(2, 2, 8)
    OPS.store_kv(k, v, k_pages, v_pages, torch.tensor([9, 2]))
    assert torch.equal(k_pages[2, 1], k[0])
    assert torch.equal(v_pages[0, 2], v[1])
    assert k_pages.count_nonzero() == 2 * 2 * 8


def test_rotation_keeps_length_and_depends_on_distance_only() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(1, 1, 8, generator=generator), torch.randn(1, 1, 8, generator=generator)

    def at(x: torch.Tensor, position: int) -> torch.Tensor:
        angles = torch.tensor([[position * 10.0**-c for c in range(4)]])
        return OPS.rotate(x, angles.cos(), angles.sin())

    assert at(q, 5).norm().item() == pytest.approx(q.norm().item(), rel=1e-5)
    near, far = (at(q, 3) * at(k, 1)).sum(), (at(q, 103) * at(k, 101)).sum()
    assert near.item() == pytest.approx(far.item(), abs=1e-4)
    assert abs(near.item() - (at(q, 3) * at(k, 2)).sum().item()) > 1e-3


def test_route_weighs_only_the_chosen() -> None:
    weights, experts = OPS.route(torch.tensor([[1.0, 3.0, 2.0, -5.0]]), 2)
    assert experts.tolist() == [[1, 2]]
    torch.testing.assert_close(weights, torch.tensor([[3.0, 2.0]]).softmax(-1))
