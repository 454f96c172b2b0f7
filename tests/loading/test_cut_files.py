"""Every file of a model, ended early as a broken download leaves it: refused in one line, wherever the cut is."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch

from tests.formats.gadgets import as_legacy, as_tar
from tests.formats.hostile import assert_one_line, write_anew
from tests.loading.checkpoints import DENSE, random_weights, write, write_pth
from tests.temporary import temporary_folder
from tests.tiny_checkpoint import write_tiny_checkpoint
from tests.tokenizer.vocabularies import path_of, saved, tiny_sentencepiece
from tramontane.errors import TramontaneError
from tramontane.formats.open_tensors import open_tensors
from tramontane.loading import load_model, open_checkpoint, open_tokenizer, save_checkpoint
from tramontane.loading.adapter_files import AdapterConfig, read_adapter, write_adapter
from tramontane.loading.classifier_files import Classifier, open_classifier, write_classifier
from tramontane.model.lora import LowRankShape
from tramontane.tokenizer import load_tokenizer
from tramontane.tokenizer.sentencepiece import write_model
from tramontane.training.checkpointer import TrainerState, read_state, write_state

EVERY_BYTE = 150
"""Of the beginning and of the end of a file; between them it is cut at so many places more."""
BETWEEN = 30


@dataclass(frozen=True)
class Sound:
    """A file in a folder of its own with all it needs, and what reads it."""

    path: Path
    read: Callable[[], object]


def whole_model(path: Path) -> Callable[[], object]:
    def read() -> None:
        checkpoint = open_checkpoint(path)
        open_tokenizer(checkpoint)
        load_model(checkpoint)

    return read


def hugging_face(file: str) -> Sound:
    folder = write(temporary_folder(), DENSE, "hf")
    (folder / "generation_config.json").write_text('{"eos_token_id": 2, "do_sample": true, "temperature": 0.5}')
    return Sound(folder / file, lambda: load_model(open_checkpoint(folder)))


def sharded(file: str) -> Sound:
    folder = temporary_folder() / "sharded"
    save_checkpoint(folder, DENSE, random_weights(DENSE).items(), layout="hf", stored="F32", shard_bytes=60_000)
    return Sound(sorted(folder.glob(file))[0], lambda: load_model(open_checkpoint(folder)))


def consolidated(file: str) -> Sound:
    folder = write(temporary_folder(), DENSE, "consolidated")
    return Sound(folder / file, lambda: load_model(open_checkpoint(folder)))


def gguf() -> Sound:
    path = write_tiny_checkpoint(temporary_folder() / "x.gguf", layout="gguf")
    return Sound(path, whole_model(path))


def pickled(file: str) -> Sound:
    folder = write_pth(temporary_folder() / "pth", DENSE, random_weights(DENSE))
    return Sound(folder / file, lambda: load_model(open_checkpoint(folder)))


def old_pickle(write_as: Callable[[bytes], bytes]) -> Sound:
    path = temporary_folder() / "x.pth"
    path.write_bytes(write_as(b"\x80\x02}."))
    return Sound(path, lambda: open_tensors(path))


def vocabulary(source: Path, name: str) -> Sound:
    path = temporary_folder() / name  # alone: what lies beside a vocabulary is read too
    shutil.copy(source, path)
    return Sound(path, lambda: load_tokenizer(path))


def pieces() -> Sound:
    path = temporary_folder() / "tokenizer.model"
    path.write_bytes(write_model(tiny_sentencepiece().vocabulary))
    return Sound(path, lambda: load_tokenizer(path))


def adapter(file: str) -> Sound:
    folder = temporary_folder() / "adapter"
    name = "layers.0.attention.wq"
    tensors = {f"{name}.lora.a": torch.ones(2, 64), f"{name}.lora.b": torch.ones(32, 2)}
    write_adapter(folder, DENSE, AdapterConfig(shapes={name: LowRankShape(2, 1.0)}), tensors)
    return Sound(folder / file, lambda: read_adapter(folder, DENSE))


def classifier(file: str) -> Sound:
    folder = temporary_folder()
    write_classifier(folder, Classifier({"t": ("a", "b")}, frozenset({"t"}), torch.ones(2, 8), torch.zeros(2)))
    return Sound(folder / file, lambda: open_classifier(folder, 8))


def run(file: str) -> Sound:
    folder = temporary_folder()
    write_state(folder / "trainer", TrainerState({"m": torch.ones(3)}, {"step": 1}))
    return Sound(folder / "trainer" / file, lambda: read_state(folder))


KINDS: dict[str, Callable[[], Sound]] = {
    "config.json": lambda: hugging_face("config.json"),
    "generation_config.json": lambda: hugging_face("generation_config.json"),
    "safetensors": lambda: hugging_face("model.safetensors"),
    "index": lambda: sharded("model.safetensors.index.json"),
    "shard": lambda: sharded("model-00002-of-*.safetensors"),
    "params.json": lambda: consolidated("params.json"),
    "gguf": gguf,
    "pth": lambda: pickled("consolidated.00.pth"),
    "params.json of pth": lambda: pickled("params.json"),
    "legacy pth": lambda: old_pickle(as_legacy),
    "tar pth": lambda: old_pickle(as_tar),
    "tokenizer.json": lambda: vocabulary(saved("v7-small") / "tokenizer.json", "tokenizer.json"),
    "tekken.json": lambda: vocabulary(path_of("v7-small"), "tekken.json"),
    "tokenizer.model": pieces,
    "adapter_config.json": lambda: adapter("adapter_config.json"),
    "adapter_model.safetensors": lambda: adapter("adapter_model.safetensors"),
    "classifier's labels": lambda: classifier("classifier.json"),
    "classifier's weights": lambda: classifier("classifier.safetensors"),
    "run's values": lambda: run("state.json"),
    "run's tensors": lambda: run("state.safetensors"),
}
REFUSED_WHOLE = ("legacy pth", "tar pth")


@cache
def sound(kind: str) -> Sound:
    return KINDS[kind]()


def cuts(data: bytes) -> Iterator[int]:
    step = max(1, (len(data) - 2 * EVERY_BYTE) // BETWEEN)
    return (n for n in range(len(data)) if n < EVERY_BYTE or n >= len(data) - EVERY_BYTE or n % step == 0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_ends_early_is_refused_in_one_line(kind: str) -> None:
    file = sound(kind)
    data = file.path.read_bytes()
    if kind not in REFUSED_WHOLE:
        file.read()
    try:
        for length in cuts(data):
            if data[:length].rstrip() == data.rstrip() and kind.endswith((".json", "labels", "values", "index")):
                continue  # of JSON a line break at its end is no part
            write_anew(file.path, data[:length])
            with pytest.raises(TramontaneError) as caught:  # noqa: PT012  # where it was cut
                file.read()
                pytest.fail(f"{kind} was read, cut at {length} of {len(data)}")
            assert_one_line(caught.value)
    finally:
        write_anew(file.path, data)
