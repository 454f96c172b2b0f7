from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tramontane.errors import CheckpointError
from tramontane.training.checkpointer import Checkpointer, TrainerState, read_state

STATE = TrainerState(
    {"weights/a": torch.arange(6.0).view(2, 3), "rng/cpu": torch.arange(9, dtype=torch.uint8), "n": torch.tensor(3.0)},
    {"step": 3, "stream": {"cursors": {"a": 1}}},
)


def write_release(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}", "utf-8")


def save(checkpointer: Checkpointer, *steps: int) -> None:
    for step in steps:
        checkpointer.save(step, STATE, write_release)


def test_state_comes_back_as_it_was(tmp_path: Path) -> None:
    checkpointer = Checkpointer(tmp_path, keep=2)
    save(checkpointer, 3)
    path = checkpointer.newest()
    assert path is not None
    assert sorted(p.name for p in path.iterdir()) == ["config.json", "trainer"]
    state = read_state(path)
    assert state.values == STATE.values
    assert set(state.tensors) == set(STATE.tensors)
    for name, tensor in STATE.tensors.items():
        torch.testing.assert_close(state.tensors[name], tensor, rtol=0, atol=0)


def test_old_checkpoints_go_and_milestones_stay(tmp_path: Path) -> None:
    checkpointer = Checkpointer(tmp_path, keep=2, keep_every_steps=10)
    save(checkpointer, 5, 10, 15, 20, 25, 30)
    assert checkpointer.steps() == [10, 20, 25, 30]
    assert sorted(path.name for path in checkpointer.folder.iterdir()) == [f"step-{n:08d}" for n in (10, 20, 25, 30)]


def test_a_write_that_fails_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    checkpointer = Checkpointer(tmp_path, keep=2)
    save(checkpointer, 1)

    def fail(folder: Path) -> None:
        write_release(folder)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        checkpointer.save(2, STATE, fail)
    assert checkpointer.steps() == [1]
    save(checkpointer, 2)
    assert checkpointer.steps() == [1, 2]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda trainer: (trainer / "state.json").unlink(), "holds no trainer state"),
        (lambda trainer: (trainer / "state.json").write_text("{", "utf-8"), "damaged"),
        (lambda trainer: (trainer / "state.json").write_text('{"format": 9}', "utf-8"), "another version"),
        (lambda trainer: os.truncate(trainer / "state.safetensors", 100), "state.safetensors"),
    ],
)
def test_damage_is_reported(damage: object, words: str, tmp_path: Path) -> None:
    checkpointer = Checkpointer(tmp_path, keep=2)
    save(checkpointer, 3)
    path = checkpointer.path(3)
    damage(path / "trainer")  # type: ignore[operator]
    with pytest.raises(CheckpointError) as caught:
        read_state(path)
    assert words in str(caught.value)


DRIVER = """
import os, random, signal, sys, time, torch
from pathlib import Path
from tramontane.training.checkpointer import Checkpointer, TrainerState, read_state

checkpointer = Checkpointer(Path(sys.argv[1]), keep=2)

def save(step):
    def write_release(folder):
        folder.mkdir(exist_ok=True)
        for part in range(5):
            (folder / f"part-{part}").write_text(str(step) * 1000)
    state = TrainerState({"a": torch.full((20000,), float(step))}, {"step": step})
    checkpointer.save(step, state, write_release)

def check():
    for step in checkpointer.steps():
        path = checkpointer.path(step)
        assert {(path / f"part-{part}").read_text() for part in range(5)} == {str(step) * 1000}, path
        state = read_state(path)
        assert state.values["step"] == step, path
        assert torch.equal(state.tensors["a"], torch.full((20000,), float(step))), path
    return checkpointer.steps()

save(1)
moments = random.Random(0)
for _ in range(20):
    before = check()[-1]
    child = os.fork()
    if child == 0:
        checkpointer.rotate()
        step = before
        while True:
            step += 1
            save(step)
    while checkpointer.steps()[-1] < before + 2:
        time.sleep(0.0005)
    time.sleep(moments.uniform(0, 0.02))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert check()[-1] >= before + 2
print("whole", check()[-1])
"""


def test_kill_at_any_moment_leaves_whole_checkpoints_only(tmp_path: Path) -> None:
    """A child saves as fast as it can and is killed with SIGKILL at 20 moments; each time everything that bears a
    checkpoint's name is complete and of one step, and progress is never lost."""
    driver = subprocess.run(
        [sys.executable, "-c", DRIVER, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": "src"},
        check=False,
    )
    assert driver.returncode == 0, driver.stderr
    assert int(driver.stdout.split()[1]) > 40


def test_state_json_is_readable_by_people(tmp_path: Path) -> None:
    checkpointer = Checkpointer(tmp_path, keep=1)
    save(checkpointer, 3)
    document = json.loads((checkpointer.path(3) / "trainer" / "state.json").read_text("utf-8"))
    assert document == {"format": 1, **STATE.values}
