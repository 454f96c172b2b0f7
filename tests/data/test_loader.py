from __future__ import annotations

import itertools
import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.shard_sets import FIRST_TEXT_ID, PAD_ID, is_learned, write_set
from tramontane.data.loader import Batch, Loader, Policy, scale_phases
from tramontane.data.permutation import Permutation
from tramontane.data.shards import PhaseInfo, ShardSet
from tramontane.errors import DataError

LENS = st.lists(st.integers(1, 40), min_size=1, max_size=25)
POLICIES = st.sampled_from(["cut", "whole"])


def token_ids_of(batch: Batch) -> list[int]:
    return batch.token_ids[: len(batch.token_ids) - batch.padding_len].tolist()


def equal(left: Batch, right: Batch) -> bool:
    return (
        torch.equal(left.token_ids, right.token_ids)
        and torch.equal(left.targets, right.targets)
        and torch.equal(left.loss_mask, right.loss_mask)
        and (left.document_lens, left.document_sources) == (right.document_lens, right.document_sources)
    )


@given(size=st.integers(1, 3000), key=st.integers(0, 2**64 - 1))
@settings(max_examples=40, deadline=None)
def test_permutation_visits_each_place_once(size: int, key: int) -> None:
    permutation = Permutation(size, key)
    assert sorted(permutation[place] for place in range(size)) == list(range(size))


def test_permutation_looks_shuffled_and_depends_on_its_key() -> None:
    orders = [[Permutation(1000, key)[place] for place in range(1000)] for key in (1, 2)]
    assert orders[0] != orders[1]
    for order in orders:
        neighbours = sum(abs(left - right) == 1 for left, right in itertools.pairwise(order))
        assert neighbours < 15  # 2 expected
        assert abs(sum(order[:500]) / 500 - 499.5) < 50  # 12.9 is one standard deviation


@given(a=LENS, b=LENS, batch_len=st.integers(40, 90), policy=POLICIES, seed=st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_each_token_comes_exactly_once_per_epoch(
    a: list[int], b: list[int], batch_len: int, policy: Policy, seed: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        documents = write_set(Path(folder), {"a": a, "b": b})
        phases = [PhaseInfo(name="one", epochs={"a": 2.0, "b": 1.0})]
        loader = Loader(ShardSet([Path(folder)]), batch_len=batch_len, policy=policy, phases=phases, seed=seed)
        seen = Counter(token_id for batch in loader for token_id in token_ids_of(batch))
        expected = Counter({token_id: 2 for each in documents["a"] for token_id in each})
        expected.update({token_id: 1 for each in documents["b"] for token_id in each})
        assert seen == expected


@given(lens=LENS, batch_len=st.integers(40, 64), policy=POLICIES)
@settings(max_examples=50, deadline=None)
def test_targets_are_the_next_token_of_the_same_document(lens: list[int], batch_len: int, policy: Policy) -> None:
    with tempfile.TemporaryDirectory() as folder:
        documents = write_set(Path(folder), {"a": lens}, with_mask=True)["a"]
        following = {left: right for each in documents for left, right in itertools.pairwise(each)}
        batches = list(Loader(ShardSet([Path(folder)]), batch_len=batch_len, policy=policy))
        for batch in batches:
            assert len(batch.token_ids) == len(batch.targets) == len(batch.loss_mask) == batch_len
            assert sum(batch.document_lens) == batch_len
            assert len(batch.document_sources) == len(batch.document_lens) - bool(batch.padding_len)
            for token_id, target, learned in zip(
                batch.token_ids.tolist(), batch.targets.tolist(), batch.loss_mask.tolist(), strict=True
            ):
                assert target == following.get(token_id, PAD_ID)
                assert learned == (token_id in following and bool(is_learned(torch.tensor([target]).numpy())[0]))
        predicted = [t for batch in batches for t in batch.targets[batch.targets >= FIRST_TEXT_ID].tolist()]
        assert sorted(predicted) == sorted(following.values())  # no target is lost where a document is cut


@given(
    lens=st.lists(st.integers(1, 40), min_size=8, max_size=25),
    policy=POLICIES,
    stop_after=st.integers(0, 12),
    world_size=st.integers(1, 3),
)
@settings(max_examples=50, deadline=None)
def test_resuming_anywhere_equals_never_stopping(
    lens: list[int], policy: Policy, stop_after: int, world_size: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_set(Path(folder), {"a": lens, "b": lens[:3]})
        phases = [PhaseInfo(name="x", epochs={"a": 1.5, "b": 3}), PhaseInfo(name="y", epochs={"b": 2})]

        def build() -> Loader:
            return Loader(
                ShardSet([Path(folder)]), batch_len=45, policy=policy, phases=phases, rank=0, world_size=world_size
            )

        uninterrupted = list(build())
        first = build()
        head = list(itertools.islice(first, stop_after))
        resumed = build()
        resumed.load_state_dict(json.loads(json.dumps(first.state_dict())))
        tail = list(resumed)
        assert len(head) + len(tail) == len(uninterrupted)
        assert all(equal(left, right) for left, right in zip(head + tail, uninterrupted, strict=True))


@pytest.mark.parametrize("policy", ["cut", "whole"])
def test_processes_share_the_batches_of_one_process(tmp_path: Path, policy: Policy) -> None:
    write_set(tmp_path, {"a": [9, 30, 14, 22, 5, 17, 40, 3, 28]})
    alone = list(Loader(ShardSet([tmp_path]), batch_len=41, policy=policy))
    both = [list(Loader(ShardSet([tmp_path]), batch_len=41, policy=policy, rank=r, world_size=2)) for r in (0, 1)]
    assert len(both[0]) == len(both[1]) == (len(alone) + 1) // 2
    for number, batch in enumerate(alone):
        assert equal(both[number % 2][number // 2], batch)


def test_after_the_last_batch_the_other_process_gets_padding(tmp_path: Path) -> None:
    write_set(tmp_path, {"a": [5]})
    batch = next(Loader(ShardSet([tmp_path]), batch_len=8, rank=1, world_size=2))
    assert batch.padding_len == 8
    assert not batch.loss_mask.any()


def test_a_state_can_be_resumed_by_another_number_of_processes(tmp_path: Path) -> None:
    write_set(tmp_path, {"a": [7] * 40})
    alone = list(Loader(ShardSet([tmp_path]), batch_len=16))
    pair = Loader(ShardSet([tmp_path]), batch_len=16, rank=0, world_size=2)
    next(pair)
    single = Loader(ShardSet([tmp_path]), batch_len=16)
    single.load_state_dict(pair.state_dict())
    assert equal(next(single), alone[2])


def test_sources_advance_together_and_phases_follow_each_other(tmp_path: Path) -> None:
    write_set(tmp_path, {"a": [10] * 60, "b": [10] * 30, "c": [10] * 10}, shard_len=200)
    phases = [PhaseInfo(name="broad", epochs={"a": 1.0, "b": 1.0}), PhaseInfo(name="last", epochs={"b": 0.5, "c": 2})]
    loader = Loader(ShardSet([tmp_path]), batch_len=100, phases=phases)
    sources = [source for batch in loader for source in batch.document_sources]
    for start in range(0, 90, 9):
        assert Counter(sources[start : start + 9]) == {"a": 6, "b": 3}
    assert Counter(sources[90:]) == {"b": 15, "c": 20}
    assert loader.phase is None
    assert loader.num_token_ids == 900 + 150 + 200


def test_epochs_are_shuffled_differently_and_seeds_too(tmp_path: Path) -> None:
    write_set(tmp_path, {"a": [4] * 50})
    orders = []
    for seed in (0, 1):
        loader = Loader(ShardSet([tmp_path]), batch_len=200, phases=[PhaseInfo(name="p", epochs={"a": 2})], seed=seed)
        orders += [batch.token_ids.tolist() for batch in loader]
    assert len(orders) == 4
    assert len({tuple(order) for order in orders}) == 4
    assert len({tuple(sorted(order)) for order in orders}) == 1


def test_whole_documents_waste_little(tmp_path: Path) -> None:
    lens = [(37 * number) % 61 + 4 for number in range(400)]
    write_set(tmp_path, {"a": lens}, shard_len=10_000)
    batches = list(Loader(ShardSet([tmp_path]), batch_len=512, policy="whole"))
    assert sum(batch.padding_len for batch in batches[:-1]) < 0.01 * sum(lens)


def test_scaled_phases_hold_the_tokens_asked_for(tmp_path: Path) -> None:
    write_set(tmp_path, {"a": [10] * 60, "b": [10] * 20})
    shards = ShardSet([tmp_path])
    scaled = scale_phases(shards.phases, shards, 4000)
    assert scaled[0].epochs == {"a": 5.0, "b": 5.0}
    assert sum(len(token_ids_of(batch)) for batch in Loader(shards, batch_len=64, phases=scaled)) == 4000
    with pytest.raises(DataError, match="no tokens"):
        scale_phases([PhaseInfo(name="p", epochs={"a": 0})], shards, 10)


def test_a_state_of_other_settings_is_refused(tmp_path: Path) -> None:
    write_set(tmp_path, {"a": [10] * 6})
    state = Loader(ShardSet([tmp_path]), batch_len=16).state_dict()
    for other in (Loader(ShardSet([tmp_path]), batch_len=17), Loader(ShardSet([tmp_path]), batch_len=16, seed=5)):
        with pytest.raises(DataError, match="belongs to other"):
            other.load_state_dict(state)


def test_unknown_sources_negative_epochs_and_short_batches_are_refused(tmp_path: Path) -> None:
    write_set(tmp_path, {"a": [10]})
    shards = ShardSet([tmp_path])
    with pytest.raises(DataError, match="'z', which is not among a"):
        Loader(shards, batch_len=16, phases=[PhaseInfo(name="p", epochs={"z": 1})])
    with pytest.raises(DataError, match="open the set that holds it"):
        scale_phases([PhaseInfo(name="p", epochs={"z": 1})], shards, 100)
    with pytest.raises(DataError, match="must not be negative"):
        Loader(shards, batch_len=16, phases=[PhaseInfo(name="p", epochs={"a": -1.0})])
    with pytest.raises(DataError, match="cannot hold the longest document"):
        Loader(shards, batch_len=9, policy="whole")


def test_the_loader_imports_no_tokenizer_library() -> None:
    code = (
        "import sys, tramontane.data.loader\n"
        "assert not {'mistral_common', 'tokenizers', 'transformers', 'datasketch', 'pyarrow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
