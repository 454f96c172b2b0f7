from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.data.shard_sets import write_set
from tramontane.data.loader import Batch
from tramontane.data.shards import PhaseInfo, ShardSet
from tramontane.errors import DataError
from tramontane.training.token_stream import TokenStream

LENS = {"a": [30, 20, 25, 35], "b": [40, 10]}


def stream(folder: Path, num_token_ids: int, **options: Any) -> TokenStream:
    return TokenStream(ShardSet([folder]), batch_len=40, policy="cut", num_token_ids=num_token_ids, seed=3, **options)


def ids(batches: list[Batch]) -> list[list[int]]:
    return [batch.token_ids.tolist() for batch in batches]


@pytest.mark.parametrize("num_batches", [1, 3, 4, 5, 50])
def test_gives_as_many_batches_as_were_asked_for(num_batches: int, tmp_path: Path) -> None:
    write_set(tmp_path, LENS)
    assert len(list(stream(tmp_path, 40 * num_batches))) == num_batches


def test_phases_are_stretched_over_the_run(tmp_path: Path) -> None:
    documents = write_set(
        tmp_path, LENS, phases=(PhaseInfo(name="one", epochs={"a": 1.0}), PhaseInfo(name="two", epochs={"b": 2.0}))
    )
    of_b = {token_id for document in documents["b"] for token_id in document}
    shares = [
        sum(token_id in of_b for token_id in batch.token_ids.tolist()) / 40 for batch in stream(tmp_path, 40 * 42)
    ]
    assert shares[:20] == [0.0] * 20
    assert all(share > 0.99 for share in shares[24:])


def test_a_runs_own_phases_take_the_place_of_those_of_the_shards(tmp_path: Path) -> None:
    write_set(tmp_path, LENS, phases=(PhaseInfo(name="one", epochs={"a": 1.0}),))
    batches = list(stream(tmp_path, 40 * 4, phases=(PhaseInfo(name="mine", epochs={"b": 1.0}),)))
    assert {source for batch in batches for source in batch.document_sources} == {"b"}


@pytest.mark.parametrize("stop", [1, 3, 7, 8, 19])
def test_goes_on_exactly_from_any_state_also_when_extended(stop: int, tmp_path: Path) -> None:
    write_set(tmp_path, LENS)
    whole = ids(list(stream(tmp_path, 40 * 20)))
    first = stream(tmp_path, 40 * 20)
    iterator = iter(first)
    begun = [next(iterator) for _ in range(stop)]
    state = json.loads(json.dumps(first.state_dict()))
    rest = stream(tmp_path, 40 * 20)
    rest.load_state_dict(state)
    assert ids(begun) + ids(list(rest)) == whole
    longer = stream(tmp_path, 40 * 90)
    longer.load_state_dict(state)
    extended = ids(list(longer))
    assert len(extended) == 90 - stop
    assert extended[: 20 - stop] == whole[stop:]


def test_a_round_that_is_over_may_be_resumed(tmp_path: Path) -> None:
    write_set(tmp_path, LENS)
    first = stream(tmp_path, 160)
    assert len(list(first)) == 4
    longer = stream(tmp_path, 160 + 80)
    longer.load_state_dict(first.state_dict())
    assert len(list(longer)) == 2


def test_processes_share_the_batches(tmp_path: Path) -> None:
    write_set(tmp_path, LENS)
    alone = ids(list(stream(tmp_path, 40 * 12)))
    shared = [ids(list(stream(tmp_path, 40 * 12, rank=rank, world_size=2))) for rank in (0, 1)]
    assert [batch for both in zip(*shared, strict=True) for batch in both] == alone


def test_state_of_other_data_is_refused(tmp_path: Path) -> None:
    write_set(tmp_path / "x", LENS)
    write_set(tmp_path / "y", {"a": [30, 20], "b": [10]})
    with pytest.raises(DataError, match=r"other data|names source"):
        stream(tmp_path / "y", 80).load_state_dict(stream(tmp_path / "x", 80).state_dict())


def test_batches_are_long_enough_tensors(tmp_path: Path) -> None:
    write_set(tmp_path, LENS)
    for batch in stream(tmp_path, 400):
        assert batch.token_ids.shape == batch.targets.shape == batch.loss_mask.shape == torch.Size([40])


def test_phases_are_over_at_the_end_of_the_run_however_much_of_it_is_padding(tmp_path: Path) -> None:
    """Documents of 25 in batches of 40: more than a third of each is padding."""
    phases = (PhaseInfo(name="one", epochs={"a": 1.0}), PhaseInfo(name="two", epochs={"b": 1.0}))
    write_set(tmp_path, {"a": [25] * 40, "b": [25] * 40}, phases=phases)
    whole = TokenStream(ShardSet([tmp_path]), batch_len=40, policy="whole", num_token_ids=40 * 60, seed=3)
    batches = list(whole)
    assert len(batches) == 60
    sources = [batch.document_sources[0] for batch in batches]
    assert sources == ["a"] * 30 + ["b"] * 30
    assert whole.fill_share == 25 / 40
    assert whole.state_dict()["num_token_ids"] == 60 * 25
