"""The batches of a run, however long it is: the recipe's phases stretched to its tokens, and begun anew if it is
extended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tramontane.data.loader import Batch, Loader, Policy, scale_phases
from tramontane.data.shards import PhaseInfo, ShardSet
from tramontane.errors import DataError

# Phases are cut to whole documents; a little more than needed keeps the last batches in the last phase.
SURPLUS = 1.005
SAMPLED_BATCHES = 256  # of each phase, to know how much of `whole` batches is padding


class TokenStream:
    """Yields microbatches until `num_token_ids` have been given; its state is plain JSON. `phases`: those of the shards
    where there are none.

    A run resumed with more tokens finishes the round it is in, whose phases were fixed at its start, and then begins
    another with a new shuffle.
    """

    def __init__(
        self,
        shards: ShardSet,
        *,
        batch_len: int,
        policy: Policy,
        num_token_ids: int,
        seed: int,
        phases: Sequence[PhaseInfo] = (),
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._shards = shards
        self._recipe_phases = phases or shards.phases
        self._options: dict[str, Any] = {
            "batch_len": batch_len,
            "policy": policy,
            "rank": rank,
            "world_size": world_size,
        }
        self._seed = seed
        self._num_token_ids = num_token_ids
        self._given_len = 0  # padding counted
        self._before = 0  # tokens of the rounds before this one, padding not counted
        self._round = 0
        self.fill_share = self._fill_share()
        """About how much of the batches is not padding."""
        self._phases = self._phases_of(num_token_ids)
        self._loader = self._open()

    def _phases_of(self, num_token_ids: int) -> tuple[PhaseInfo, ...]:
        return scale_phases(self._recipe_phases, self._shards, round(num_token_ids * self.fill_share * SURPLUS))

    def _fill_share(self) -> float:
        if self._options["policy"] == "cut":
            return 1.0
        batch_len = int(self._options["batch_len"])
        num_token_ids = num_places = 0.0
        for phase in self._recipe_phases:
            phase_len = sum(n * self._shards.sources[name].info.num_token_ids for name, n in phase.epochs.items())
            if phase_len:
                sampled = scale_phases([phase], self._shards, SAMPLED_BATCHES * batch_len)
                loader = Loader(self._shards, batch_len=batch_len, policy="whole", phases=sampled, seed=self._seed)
                num_token_ids += phase_len
                num_places += phase_len / loader.fill_share(SAMPLED_BATCHES)
        return num_token_ids / num_places if num_places else 1.0

    def _open(self) -> Loader:
        return Loader(self._shards, phases=self._phases, seed=self._seed + self._round, **self._options)

    def __iter__(self) -> Iterator[Batch]:
        may_be_empty = True  # a resumed round may be over already
        while self._given_len < self._num_token_ids:
            for batch in self._loader:
                may_be_empty = True
                self._given_len += self._options["batch_len"] * self._options["world_size"]
                yield batch
                if self._given_len >= self._num_token_ids:
                    return
            if not may_be_empty:
                raise DataError("the shards give no batch at all; check the epochs of their phases")
            may_be_empty = False
            self._before += self._loader.num_token_ids_taken
            self._round += 1
            # at least one document of every source: a shorter round could be empty
            self._phases = self._phases_of(max(self._num_token_ids - self._given_len, self._one_epoch_len()))
            self._loader = self._open()

    def _one_epoch_len(self) -> int:
        return sum(source.info.num_token_ids for source in self._shards.sources.values())

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands, as plain JSON types."""
        return {
            "round": self._round,
            "given_len": self._given_len,
            "num_token_ids": self._before + self._loader.num_token_ids_taken,
            "phases": [{"name": phase.name, "epochs": dict(phase.epochs)} for phase in self._phases],
            "loader": self._loader.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly there. Raises DataError when the state belongs to other data."""
        self._round = int(state["round"])
        self._given_len = int(state["given_len"])
        self._phases = tuple(PhaseInfo(**phase) for phase in state["phases"])
        self._loader = self._open()
        self._loader.load_state_dict(state["loader"])
        # states of version 0.1.0 did not tell padding apart
        self._before = int(state.get("num_token_ids", self._given_len)) - self._loader.num_token_ids_taken
