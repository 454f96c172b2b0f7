"""A power cut in the midst of a pull leaves the model as it was or as it is on the hub, and the next pull ends it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.hub.conftest import config_json
from tests.hub.fake_hub import REPOSITORY, FakeHub
from tests.hub.pulling import fetch
from tests.power_cut import Recorder, lasting, put, states
from tramontane.errors import CheckpointError
from tramontane.hub import resolve_model
from tramontane.hub.store import RECORD


def generation(n: int) -> dict[str, bytes]:
    """Files of the same sizes in every generation: only their bytes tell."""
    return {
        "config.json": config_json(num_layers=n),
        "tokenizer.json": b"%d" % n * 40,
        "model.safetensors": b"%d" % n * 90,
    }


def found() -> dict[str, bytes] | None:
    try:
        folder = resolve_model(REPOSITORY)
    except CheckpointError as error:
        return None if "run: tramontane pull" in str(error) else {"error": str(error).encode()}
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != RECORD}


@pytest.mark.parametrize("has_old", [True, False])
@pytest.mark.parametrize("forgets", ["nothing", "files", "folders"])
def test_a_power_cut_leaves_the_old_model_or_the_new(
    has_old: bool, forgets: str, hub: FakeHub, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.mkdir()
    if has_old:
        hub.files = generation(1)
        fetch()
    old = found()
    hub.files, hub.commit = generation(2), "b" * 40
    recorder = Recorder(home, lambda path: forgets != "nothing" and path.is_dir() == (forgets == "folders"))
    with recorder.recording() as trace:
        fetch()
    new = found()
    assert new == generation(2)
    wrong = 0
    for states_, allowed in ((states(trace), (old, new)), (lasting(trace), (new,))):
        for number, state in enumerate(states_):
            place = home.parent / "after"
            put(state, place)
            monkeypatch.setenv("TRAMONTANE_HOME", str(place))
            wrong += found() not in allowed
            if forgets == "nothing" and number % 50 == 0:
                fetch()
                assert found() == new
            shutil.rmtree(place)
            if wrong:
                break
    assert (wrong == 0) == (forgets == "nothing")
