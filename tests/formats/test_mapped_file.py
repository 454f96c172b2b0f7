"""The memory map: no copies, private changes, memory given back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.formats.hostile import resident_bytes
from tramontane.errors import CheckpointError
from tramontane.formats.mapped_file import MappedFile
from tramontane.formats.open_tensors import open_tensors


@pytest.fixture
def numbers(tmp_path: Path) -> Path:
    path = tmp_path / "numbers"
    np.arange(1000, dtype=np.float32).tofile(path)
    return path


def test_changes_stay_in_memory(numbers: Path) -> None:
    before = numbers.read_bytes()
    file = MappedFile(numbers)
    tensor = file.tensor(400, torch.float32, (10, 10))
    tensor += 1
    assert file.tensor(400, torch.float32, (100,))[0] == 101
    assert numbers.read_bytes() == before


def test_views_outlive_close(numbers: Path) -> None:
    file = MappedFile(numbers)
    tensor = file.tensor(0, torch.float32, (1000,))
    file.close()
    numbers.unlink()
    assert tensor.sum() == 499500
    with pytest.raises(ValueError, match="was closed"):
        file.tensor(0, torch.float32, (1,))


@pytest.mark.parametrize(("offset", "length"), [(4000, 1), (3997, 1), (0, 1001), (-4, 1), (2**63, 1), (0, 2**61)])
def test_nothing_outside_the_file(offset: int, length: int, numbers: Path) -> None:
    with pytest.raises(CheckpointError, match="lie outside the file"):
        MappedFile(numbers).tensor(offset, torch.float32, (length,))


def test_memory_is_touched_late_and_given_back(tmp_path: Path) -> None:
    """Opening and viewing 64 MB costs nothing, reading them costs 64 MB, releasing gives them back."""
    size = 64 << 20
    save_file({"x": torch.ones(size // 4)}, tmp_path / "x.safetensors")
    before = resident_bytes()
    with open_tensors(tmp_path / "x.safetensors") as source:
        tensor = source.read("x")
        assert resident_bytes() - before < 8 << 20
        assert tensor.sum() == size // 4
        assert resident_bytes() - before > size // 2
        source.release("x")
        assert resident_bytes() - before < 8 << 20
        assert tensor[-1] == 1
