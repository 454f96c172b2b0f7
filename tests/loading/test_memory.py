"""How much memory is free, read from what Linux reports in each of its ways."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tramontane.errors import CapacityError
from tramontane.loading import memory
from tramontane.loading.memory import RESERVE_BYTES, available_bytes, require_memory

CPU = torch.device("cpu")


def test_meminfo(tmp_path: Path) -> None:
    path = tmp_path / "meminfo"
    path.write_text("MemTotal:       24576000 kB\nMemFree:          100000 kB\nMemAvailable:   20480000 kB\n")
    assert memory._meminfo_bytes(path) == 20480000 * 1024
    assert memory._meminfo_bytes(tmp_path / "missing") is None


def group(folder: Path, limit: str, used: str, stat: str, *, v2: bool = True) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ("memory.max" if v2 else "memory.limit_in_bytes")).write_text(limit + "\n")
    (folder / ("memory.current" if v2 else "memory.usage_in_bytes")).write_text(used + "\n")
    (folder / "memory.stat").write_text(stat)


def test_cgroup_version_2_takes_the_tightest_of_the_chain(tmp_path: Path) -> None:
    membership = tmp_path / "cgroup"
    membership.write_text("0::/user.slice/job.scope\n")
    root = tmp_path / "sys"
    group(root / "user.slice" / "job.scope", "max", "700", "")
    assert memory._cgroup_bytes(root, membership) is None
    group(root / "user.slice", "1000", "700", "anon 500\nactive_file 30\ninactive_file 150\nfile 200\n")
    assert memory._cgroup_bytes(root, membership) == 1000 - 700 + 180
    group(root / "user.slice" / "job.scope", "800", "700", "")
    assert memory._cgroup_bytes(root, membership) == 100


def test_cgroup_of_a_container_lies_at_the_root(tmp_path: Path) -> None:
    membership = tmp_path / "cgroup"
    membership.write_text("0::/docker/abcdef\n")
    group(tmp_path / "sys", "5000", "1000", "")
    assert memory._cgroup_bytes(tmp_path / "sys", membership) == 4000


def test_cgroup_version_1(tmp_path: Path) -> None:
    membership = tmp_path / "cgroup"
    membership.write_text("12:cpu,cpuacct:/\n7:memory:/job\n")
    group(tmp_path / "sys" / "memory" / "job", "5000", "1000", "active_file 10\ninactive_file 20\n", v2=False)
    assert memory._cgroup_bytes(tmp_path / "sys", membership) == 4030


def test_no_cgroup_is_no_limit(tmp_path: Path) -> None:
    assert memory._cgroup_bytes(tmp_path, tmp_path / "missing") is None


def test_the_least_of_all_limits_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_meminfo_bytes", lambda: 900)
    monkeypatch.setattr(memory, "_cgroup_bytes", lambda: 800)
    monkeypatch.setattr(memory, "_address_space_bytes", lambda: 1000)
    assert available_bytes(CPU) == 800
    assert available_bytes(CPU, mapped_bytes=300) == 700
    monkeypatch.setattr(memory, "_cgroup_bytes", lambda: None)
    monkeypatch.setattr(memory, "_address_space_bytes", lambda: None)
    assert available_bytes(CPU, mapped_bytes=300) == 900
    monkeypatch.setattr(memory, "_meminfo_bytes", lambda: None)
    assert available_bytes(CPU) is None


def test_this_machine_has_a_plausible_amount_free() -> None:
    free_bytes = available_bytes(CPU)
    assert free_bytes is None or 2**20 < free_bytes < 2**50


def test_the_refusal_names_both_numbers_and_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda device, mapped_bytes: 8_000_000_000)
    require_memory(8_000_000_000 - RESERVE_BYTES, CPU, "model", "remedy")
    with pytest.raises(CapacityError, match=r"^model needs 14\.8 GB of memory on cpu, but 8\.0 GB are free; remedy$"):
        require_memory(14_500_000_000, CPU, "model", "remedy")
