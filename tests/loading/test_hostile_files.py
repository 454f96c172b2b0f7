"""A hostile pickle in every file slot of a checkpoint folder: refused or not looked at, never run."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest

from tests.formats.gadgets import as_legacy, as_tar, as_zip, programs
from tests.loading.checkpoints import edit_json
from tramontane.errors import TramontaneError
from tramontane.loading import (
    Checkpoint,
    convert,
    load_model,
    named_shape,
    open_checkpoint,
    open_tokenizer,
    synthesise,
)

ROOT = Path(__file__).resolve().parents[2]
CONTAINERS: dict[str, Callable[[bytes], bytes]] = {
    "bare": lambda program: program,
    "zip": as_zip,
    "legacy": as_legacy,
    "tar": as_tar,
}
# what is read, and must be refused
READ_SLOTS = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer.model",
    "tekken.json",
)
# what lies beside the weights in folders of other programs, and is left alone
IGNORED_SLOTS = (
    "pytorch_model.bin",
    "pytorch_model-00001-of-00002.bin",
    "adapter_model.bin",
    "optimizer.pt",
    "optimizer.bin",
    "scheduler.pt",
    "rng_state.pth",
    "training_args.bin",
    "trainer_state.pt",
    "value_head.bin",
    "tokenizer.bin",
    "merges.pkl",
    "consolidated.00.pth",  # model.safetensors comes first
    "other.gguf",
)
# the only weights in the folder
WEIGHT_SLOTS = ("consolidated.00.pth", "consolidated.00.pt", "consolidated.safetensors", "model.safetensors", "x.gguf")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sound") / "sound"
    synthesise(out, named_shape("tiny", dim=64, hidden_dim=96), layout="hf")
    return out


def copy_of(sound: Path, folder: Path) -> Path:
    folder.mkdir()
    for path in sound.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def use(path: Path, out: Path) -> Checkpoint:
    """Everything that is ever done with a checkpoint."""
    checkpoint = open_checkpoint(path)
    open_tokenizer(checkpoint)
    load_model(checkpoint)
    convert(checkpoint, out, layout="consolidated")
    return checkpoint


def gadget(canary: Path, number: int = 0) -> bytes:
    return next(islice(programs(canary), number, None))


def test_the_gadget_is_live(tmp_path: Path) -> None:
    pickle.loads(gadget(tmp_path / "canary"))
    assert (tmp_path / "canary").exists()


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("slot", READ_SLOTS)
def test_a_pickle_where_data_is_read_is_refused(slot: str, container: str, sound: Path, tmp_path: Path) -> None:
    folder = copy_of(sound, tmp_path / "hostile")
    if slot == "tekken.json" or (slot.startswith("tokenizer.") and slot != "tokenizer.json"):
        (folder / "tokenizer.json").unlink(missing_ok=True)
    if slot == "tokenizer.json":
        (folder / "tokenizer.model").unlink(missing_ok=True)
    if slot == "model.safetensors.index.json":  # which is read where the weights are not in one piece
        (folder / "model.safetensors").unlink()
    (folder / slot).write_bytes(CONTAINERS[container](gadget(tmp_path / "canary")))
    with pytest.raises(TramontaneError) as caught:
        use(folder, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "canary").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("container", CONTAINERS)
def test_pickles_beside_the_weights_are_left_alone(container: str, sound: Path, tmp_path: Path) -> None:
    folder = copy_of(sound, tmp_path / "hostile")
    for slot in IGNORED_SLOTS:
        (folder / slot).write_bytes(CONTAINERS[container](gadget(tmp_path / "canary")))
    use(folder, tmp_path / "out")
    assert not (tmp_path / "canary").exists()
    assert not {path.name for path in (tmp_path / "out").iterdir()} & set(IGNORED_SLOTS)


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("slot", WEIGHT_SLOTS)
def test_a_pickle_in_place_of_the_weights_is_refused(slot: str, container: str, sound: Path, tmp_path: Path) -> None:
    folder = copy_of(sound, tmp_path / "hostile")
    (folder / "model.safetensors").unlink()
    edit_json(folder / "params.json", dim=64)
    for number in range(0, 40, 8):
        (folder / slot).write_bytes(CONTAINERS[container](gadget(tmp_path / "canary", number)))
        with pytest.raises(TramontaneError):
            use(folder, tmp_path / "out")
        assert not (tmp_path / "canary").exists()


def test_security_does_not_vanish_under_optimised_python() -> None:
    """SECURITY row 14: a check that is an `assert` is gone under -O."""
    suites = ["config/test_read_json.py", "config/test_params_json.py", "hub/test_resolve_model.py"]
    suites += ["loading/test_open_checkpoint.py", "loading/test_hostile_files.py"]
    command = [sys.executable, "-OO", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    command += ["-W", "ignore::pytest.PytestConfigWarning"]
    command += ["-k", "not optimised and (not hostile_files or live or zip)"]
    command += [f"tests/{suite}" for suite in suites]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
