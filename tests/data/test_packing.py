"""Packing: nothing is lost or doubled, and little is padding, whatever the lengths."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tramontane.data.packing import WINDOW, least_padded, pack

RNG = np.random.default_rng(0)
LENS = {
    "long-tailed": np.clip(RNG.lognormal(5.5, 0.9, 3000).astype(int), 8, 2048).tolist(),
    "even": RNG.integers(10, 1500, 1000).tolist(),
    "two kinds": [1100, 300] * 200,
    "all but full": RNG.integers(2000, 2049, 50).tolist(),
    "one": [7],
}


@pytest.mark.parametrize("name", LENS)
@pytest.mark.parametrize("num_epochs", [1, 3])
def test_each_sample_of_each_epoch_is_in_one_batch_that_holds_it(name: str, num_epochs: int) -> None:
    lens = LENS[name]
    orders = [np.random.default_rng(epoch).permutation(len(lens)).tolist() for epoch in range(num_epochs)]
    batches = list(pack(orders, lens, 2048))
    assert Counter(sample for batch in batches for sample in batch) == dict.fromkeys(range(len(lens)), num_epochs)
    assert all(batch and sum(lens[sample] for sample in batch) <= 2048 for batch in batches)


@pytest.mark.parametrize(("name", "share"), [("long-tailed", 0.005), ("even", 0.01), ("two kinds", 0.32)])
def test_little_is_padding(name: str, share: float) -> None:
    """1100 and 300 go 1100 + 3 x 300 into 2048, which leaves 48, until the 300s are used up."""
    lens = LENS[name]
    order = np.random.default_rng(5).permutation(len(lens)).tolist()
    num_batches = len(list(pack([order], lens, 2048)))
    assert 1 - sum(lens) / (2048 * num_batches) < share


def test_samples_stay_near_their_place_in_the_order() -> None:
    lens = LENS["long-tailed"]
    order = np.random.default_rng(6).permutation(len(lens)).tolist()
    given = [sample for batch in pack([order], lens, 2048) for sample in batch]
    places = {sample: place for place, sample in enumerate(order)}
    early = [place - places[sample] for place, sample in enumerate(given)]
    assert min(early) >= -WINDOW


def test_an_epoch_is_over_before_the_next_begins() -> None:
    lens = LENS["even"]
    orders = [list(range(500)), list(range(500, 1000))]
    given = [sample for batch in pack(orders, lens, 2048) for sample in batch]
    assert set(given[:500]) == set(range(500))


def test_the_length_that_samples_fill_best_is_chosen() -> None:
    lens = [1100] * 64
    chosen = least_padded(lens, range(1152, 2561, 128), 2048)
    assert chosen in (1152, 2304)
    assert least_padded([64] * 100, [128, 256, 512], 256) == 256  # all of them are filled
