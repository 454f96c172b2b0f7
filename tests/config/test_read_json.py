"""Configuration files are read as hostile input."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tramontane.bounded_json import CONFIG
from tramontane.config import Fields, read_json
from tramontane.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

DAMAGED = {
    "empty": (b"", "is damaged"),
    "cut": (b'{"dim": 40', "is damaged"),
    "not text": (b"\xff\xfe\x00", "is damaged"),
    "list": (b"[1]", r"must hold a JSON object, not \[1\]"),
    "twice": (b'{"dim": 1, "dim": 2}', "key 'dim' is given twice"),
    "twice, nested": (b'{"moe": {"a": 1, "a": 2}}', "key 'a' is given twice"),
    "not a number": (b'{"dim": NaN}', "NaN is not a JSON number"),
    "infinite": (b'{"dim": -Infinity}', "-Infinity is not a JSON number"),
    "deep": (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deep"),
    "long number": (b'{"dim": ' + b"9" * 10_000 + b"}", "is damaged"),
}


@pytest.mark.parametrize("case", DAMAGED.values(), ids=DAMAGED)
def test_refuses(case: tuple[bytes, str], tmp_path: Path) -> None:
    content, message = case
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_json(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_refuses_a_huge_file_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with path.open("wb") as file:
        file.truncate(CONFIG.num_bytes + 1)
    with pytest.raises(ConfigError, match="is larger than 8 MiB"):
        read_json(path)


def test_refuses_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is missing; fetch the checkpoint again"):
        read_json(tmp_path / "config.json")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_json(tmp_path)


def test_messages_stay_short_whatever_the_value() -> None:
    fields = Fields({"key": {"a" * 10_000: ["b" * 10_000] * 10_000}, "x" * 10_000: 1}, "config.json")
    with pytest.raises(ConfigError) as caught:
        fields.finish()
    assert len(str(caught.value)) < 500
    with pytest.raises(ConfigError) as caught:
        fields.integer("key")
    assert len(str(caught.value)) < 500
