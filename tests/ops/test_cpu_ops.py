"""CpuOps against the definitions, on every instruction set; and the same bits in any company."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.ops.paged_cases import MIXED, PagedCase, paged_case
from tests.ops.weight_cases import weight_case
from tramontane.errors import ConfigError
from tramontane.ops import _cpu, reference
from tramontane.ops.cpu import CpuOps
from tramontane.ops.low_rank import LowRank
from tramontane.ops.packed_weight import linear
from tramontane.ops.page_types import Q8_0, page_width
from tramontane.ops.paged import PagedBatch
from tramontane.ops.torch_ops import TorchOps

OPS = CpuOps(threads=1)
ROWS = (1, 3, 5, 33)
CPU = torch.device("cpu")


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _attend(case: PagedCase) -> Tensor:
    return OPS.paged_attention(case.q_THK, case.k_pages_PSGK, case.v_pages_PSGK, case.batch, case.window)


@pytest.mark.parametrize("dim", [1, 7, 16, 100, 384, 1000])
def test_rms_norm(dim: int, instruction_set: str) -> None:
    weight = _random(dim, seed=1)
    for num_rows in ROWS:
        for scale in (1e-12, 1.0, 1e12):
            x = _random(num_rows, dim) * scale
            # a sum of d squares is off by at most d / 8 roundings in eight lanes or more, its root by half that
            torch.testing.assert_close(
                OPS.rms_norm(x, weight, 1e-5), reference.rms_norm(x, weight, 1e-5), rtol=1e-5, atol=0
            )
    assert bool((OPS.rms_norm(torch.zeros(2, dim), weight, 1e-5) == 0).all())


@pytest.mark.parametrize("head_dim", [2, 8, 30, 64, 128])
def test_rotate_is_the_definition_bit_for_bit(head_dim: int, instruction_set: str) -> None:
    for num_rows in ROWS:
        x, angles = _random(num_rows, 3, head_dim), _random(num_rows, head_dim // 2) * 100
        assert torch.equal(OPS.rotate(x, angles.cos(), angles.sin()), reference.rotate(x, angles.cos(), angles.sin()))


@pytest.mark.parametrize(
    ("in_features", "out_features", "rank"), [(1, 1, 1), (7, 100, 3), (384, 130, 16), (96, 64, 40)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_add_low_rank(in_features: int, out_features: int, rank: int, dtype: torch.dtype, instruction_set: str) -> None:
    low_ranks = [
        LowRank.of(_random(rank, in_features, seed=s), _random(out_features, rank, seed=s + 9), 0.3, dtype, CPU)
        for s in range(2)
    ]
    assert all(low_rank.b_PRN.shape == (-(-out_features // 64), rank, _cpu.low_rank_panel) for low_rank in low_ranks)
    index = torch.tensor([1, -1, 0, 2, 1, 0, 0], dtype=torch.int32)
    x, y = _random(len(index), in_features), _random(len(index), out_features, seed=5)
    arguments = [*low_ranks, None]
    out = OPS.add_low_rank(y, x, arguments, index)
    expected = reference.add_low_rank(y.double(), x.double(), arguments, index).float()
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)
    coarse = 1e-3 if dtype == torch.float32 else 2e-3 * (in_features * rank) ** 0.5
    torch.testing.assert_close(TorchOps().add_low_rank(y, x, arguments, index), expected, rtol=1e-3, atol=coarse)
    assert torch.equal(out[[1, 3]], y[[1, 3]])
    _cpu.set_num_threads(2)
    for row in range(len(index)):
        one = slice(row, row + 1)
        assert torch.equal(OPS.add_low_rank(y[one], x[one], arguments, index[one])[0], out[row])
    with pytest.raises(IndexError):
        OPS.add_low_rank(y, x, arguments[:1], index)
    bad = LowRank.of(_random(rank, in_features), _random(out_features, rank), 1.0, torch.bfloat16, CPU)
    with pytest.raises(ValueError, match="cannot be used by the CPU kernels"):
        OPS.add_low_rank(y, x, [bad], torch.zeros(len(index), dtype=torch.int32))


@pytest.mark.parametrize("hidden_dim", [1, 9, 64, 1000])
def test_swiglu(hidden_dim: int, instruction_set: str) -> None:
    up = _random(5, hidden_dim, seed=1)
    for scale in (0.1, 3.0, 30.0):
        gate = _random(5, hidden_dim) * scale
        torch.testing.assert_close(OPS.swiglu(gate, up), reference.swiglu(gate, up), rtol=2e-6, atol=1e-35)
    extreme = torch.tensor([[0.0, -100.0, 100.0, -3e38, 3e38, float("inf"), float("nan")]])
    ours, theirs = OPS.swiglu(extreme, torch.ones(1, 7)), reference.swiglu(extreme, torch.ones(1, 7))
    torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=5.0, equal_nan=True)  # -3e38 * e^-88 is -2.3, not 0
    assert ours[0, 1].abs() < 1e-35


def test_route_takes_the_first_of_equals() -> None:
    logits = _random(33, 8)
    for num_active in (1, 2, 8):
        weights, experts = OPS.route(logits, num_active)
        expected_weights, expected_experts = reference.route(logits, num_active)
        assert torch.equal(experts, expected_experts)
        torch.testing.assert_close(weights, expected_weights, rtol=1e-6, atol=0)
    assert OPS.route(torch.zeros(1, 8), 3)[1].tolist() == [[0, 1, 2]]
    assert bool(OPS.route(torch.tensor([[1.0, float("nan"), 2.0]]), 2)[0].isnan().all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_store_kv_is_torch_s_rounding_and_writes_only_its_slots(dtype: torch.dtype, instruction_set: str) -> None:
    k, v = _random(5, 2, 12), _random(5, 2, 12, seed=1) * 1e-6
    k[0, 0, :4] = torch.tensor([float("inf"), -0.0, 1e30, 3.1e-41])
    k[1, 1, 3] = float("nan")
    slots = torch.tensor([9, 2, 0, 11, 4])
    ours = [torch.full((3, 4, 2, 12), 7.0, dtype=dtype) for _ in range(2)]
    theirs = [pages.clone() for pages in ours]
    OPS.store_kv(k, v, ours[0], ours[1], slots)
    TorchOps().store_kv(k, v, theirs[0], theirs[1], slots)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("head_dim", [32, 96])
def test_store_kv_in_blocks_is_the_definition_bit_for_bit(head_dim: int, instruction_set: str) -> None:
    k = _random(33, 2, head_dim) * torch.logspace(-9, 6, 33)[:, None, None]
    v = _random(33, 2, head_dim, seed=1)
    k[0, 0, :2] = torch.tensor([float("inf"), -0.0])
    k[1, 1, 3], k[2, 0, 5] = float("nan"), 1e9
    v[3] = 0.0
    slots = torch.randperm(48, generator=torch.Generator().manual_seed(0))[:33]
    ours = [torch.full((12, 4, 2, page_width(head_dim, Q8_0)), 7, dtype=Q8_0) for _ in range(2)]
    theirs = [pages.clone() for pages in ours]
    OPS.store_kv(k, v, ours[0], ours[1], slots)
    TorchOps().store_kv(k, v, theirs[0], theirs[1], slots)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("window", [None, 40])
@pytest.mark.parametrize(("num_heads", "num_kv_heads", "head_dim"), [(3, 3, 32), (8, 2, 96), (4, 2, 256)])
def test_paged_attention_over_blocks(
    num_heads: int, num_kv_heads: int, head_dim: int, window: int | None, instruction_set: str
) -> None:
    shape: dict[str, Any] = {"num_heads": num_heads, "num_kv_heads": num_kv_heads, "head_dim": head_dim}
    case = paged_case([(70, 33), (5, 5), (40, 1)], window=window, page_dtype=Q8_0, **shape)
    torch.testing.assert_close(_attend(case), case.expected_THK, rtol=0, atol=3e-6)


@pytest.mark.parametrize("page_size", [1, 4, 16])
@pytest.mark.parametrize("window", [None, 1, 6, 64])
def test_paged_attention(window: int | None, page_size: int, instruction_set: str) -> None:
    """Every slot that must not be read holds NaN."""
    case = paged_case(MIXED, window=window, page_size=page_size)
    torch.testing.assert_close(_attend(case), case.expected_THK, rtol=0, atol=3e-6)


@pytest.mark.parametrize(("num_heads", "num_kv_heads", "head_dim"), [(1, 1, 2), (3, 3, 20), (12, 1, 64), (4, 2, 256)])
def test_paged_attention_of_other_shapes(
    num_heads: int, num_kv_heads: int, head_dim: int, instruction_set: str
) -> None:
    shape: dict[str, Any] = {"num_heads": num_heads, "num_kv_heads": num_kv_heads, "head_dim": head_dim}
    for dtype, atol in ((torch.float32, 3e-6), (torch.bfloat16, 2e-2), (torch.float16, 2e-3)):
        case = paged_case([(70, 33), (5, 5), (40, 1)], window=40, dtype=dtype, **shape)
        out = _attend(case)
        assert out.dtype == dtype
        torch.testing.assert_close(out, case.expected_THK, rtol=0, atol=atol)


@pytest.mark.parametrize("page_dtype", [torch.bfloat16, Q8_0])
def test_pages_by_head_hold_the_same_as_pages_by_slot(page_dtype: torch.dtype, instruction_set: str) -> None:
    case = paged_case(MIXED, window=None, head_dim=32, page_dtype=page_dtype)
    k, v = _random(5, 2, 32), _random(5, 2, 32, seed=1)
    slots, outs = torch.tensor([9, 2, 30, 0, 17]), []
    for by_head in (False, True):
        pages = [pages.clone() for pages in (case.k_pages_PSGK, case.v_pages_PSGK)]
        if by_head:
            pages = [each.transpose(1, 2).contiguous().transpose(1, 2) for each in pages]
        OPS.store_kv(k, v, pages[0], pages[1], slots)
        outs.append((*pages, OPS.paged_attention(case.q_THK, pages[0], pages[1], case.batch, None)))
    for by_slot, by_head_too in zip(*outs, strict=True):
        assert torch.equal(by_slot.view(torch.uint8), by_head_too.contiguous().view(torch.uint8))


@pytest.mark.parametrize("window", [None, 50])
def test_attention_of_a_query_has_the_same_bits_in_any_chunk_and_company(
    window: int | None, instruction_set: str
) -> None:
    length, page_size = 150, 8
    q, k, v = _random(length, 6, 32), _random(length, 2, 32, seed=1), _random(length, 2, 32, seed=2)

    def run(sizes: list[int], threads: int, *, first_page: int = 0) -> Tensor:
        """In chunks, as a sequence whose pages lie from `first_page` on, beside a stranger."""
        _cpu.set_num_threads(threads)
        k_pages = torch.full((60, page_size, 2, 32), torch.nan)
        v_pages = k_pages.clone()
        outs, start = [], 0
        for size in sizes:
            end = start + size
            slots = torch.arange(start, end) + first_page * page_size
            OPS.store_kv(k[start:end], v[start:end], k_pages, v_pages, slots)
            OPS.store_kv(k[:1], v[:1], k_pages, v_pages, torch.tensor([59 * page_size]))
            num_pages = -(-end // page_size)
            table = torch.zeros(2, num_pages, dtype=torch.int32)
            table[0, 0] = 59
            table[1] = torch.arange(num_pages) + first_page
            batch = PagedBatch(
                page_size,
                torch.tensor([0, 1, 1 + size], dtype=torch.int32),
                torch.tensor([0, start], dtype=torch.int32),
                table,
                torch.zeros(2, dtype=torch.int32),
            )
            rows = torch.cat([q[:1], q[start:end]])
            outs.append(OPS.paged_attention(rows, k_pages, v_pages, batch, window)[1:])
            start = end
        return torch.cat(outs)

    whole = run([length], 1)
    assert torch.equal(run([1] * length, 1), whole)
    assert torch.equal(run([33, 31, 1, 64, 21], 2, first_page=30), whole)
    assert torch.equal(run([7] * 21 + [3], 2), whole)


def test_elementwise_rows_have_the_same_bits_in_any_company(instruction_set: str) -> None:
    x, weight, up = _random(300, 200), _random(200, seed=1), _random(300, 200, seed=2)
    angles = _random(300, 20, seed=3)

    def run(rows: slice) -> list[Tensor]:
        cos, sin = angles[rows].cos(), angles[rows].sin()
        return [
            OPS.rms_norm(x[rows], weight, 1e-5),
            OPS.swiglu(x[rows], up[rows]),
            OPS.rotate(x[rows].view(-1, 5, 40), cos, sin),
        ]

    _cpu.set_num_threads(2)
    together = run(slice(None))
    for row in (0, 17, 299):
        assert all(torch.equal(a[row : row + 1], b) for a, b in zip(together, run(slice(row, row + 1)), strict=True))


def test_a_batch_that_names_what_is_not_there_is_refused() -> None:
    case = paged_case([(9, 2), (3, 3)], window=None)
    k_pages, v_pages = case.k_pages_PSGK, case.v_pages_PSGK

    def attend(**changes: object) -> Tensor:
        fields = {name: getattr(case.batch, name) for name in PagedBatch.__slots__}
        batch = PagedBatch(**{**fields, **changes})
        return OPS.paged_attention(case.q_THK, k_pages, v_pages, batch, None)

    table = case.batch.page_table
    with pytest.raises(IndexError, match="page 1000 is not in the KV cache"):
        attend(page_table=torch.where(table == table[0, 1], 1000, table).to(torch.int32))
    with pytest.raises(IndexError, match="page table of a sequence"):
        attend(first_positions=torch.tensor([50, 0], dtype=torch.int32))
    with pytest.raises(IndexError, match="rows of a sequence"):
        attend(query_starts=torch.tensor([0, 2, 50], dtype=torch.int32))
    with pytest.raises(ValueError, match="must be int32 on the CPU"):
        attend(query_starts=case.batch.query_starts.long())
    with pytest.raises(IndexError, match="slot 44 is not in the KV cache"):
        OPS.store_kv(_random(1, 2, 8), _random(1, 2, 8), k_pages[:11], v_pages[:11], torch.tensor([44]))
    with pytest.raises(ValueError, match="cannot be used by the CPU kernels"):
        OPS.store_kv(_random(1, 2, 8), _random(1, 2, 8), k_pages, v_pages[:1], torch.tensor([0]))
    with pytest.raises(ValueError, match="do not fit pages"):
        OPS.store_kv(_random(1, 3, 8), _random(1, 3, 8), k_pages, v_pages, torch.tensor([0]))


def test_plain_weights_other_dtypes_and_gradients_go_through_torch() -> None:
    x, weight = _random(3, 64), _random(20, 64)
    assert torch.equal(OPS.linear(x, weight), x @ weight.T)
    packed = weight_case("q8_0", 20, 64).packed
    assert torch.equal(OPS.linear(x, packed), linear(x, packed))
    x16 = x.bfloat16()
    assert torch.equal(
        OPS.rms_norm(x16, weight[0].bfloat16(), 1e-5), reference.rms_norm(x16, weight[0].bfloat16(), 1e-5)
    )
    leaf = x.clone().requires_grad_()
    OPS.swiglu(leaf, x).sum().backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None


def test_an_unavailable_instruction_set_is_a_configuration_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> str:
        raise ValueError("TRAMONTANE_CPU=mmx is not available here")

    monkeypatch.setattr(_cpu, "instruction_set", refuse)
    with pytest.raises(ConfigError, match="TRAMONTANE_CPU=mmx"):
        CpuOps()
