"""Fields: typed reads of one configuration file, ending with proof that no key was overlooked."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from tramontane.bounded_json import CONFIG, parse_bounded, structure_fault
from tramontane.errors import ConfigError

T = TypeVar("T")


class Fields:
    """Reads keys of `data` with their types; `finish` raises for every key with a value that no reader asked for.

    `source` names the file in messages, `prefix` the section inside it. A key whose value is null counts as absent,
    as in the files themselves. Every method raises ConfigError naming key and value.
    """

    def __init__(self, data: Mapping[str, Any], source: str, prefix: str = "") -> None:
        if not isinstance(data, Mapping):
            what = prefix.rstrip(".") or "the file"
            raise ConfigError(f"{source}: {what} must hold named values, not {_short(data)}")
        self._data = data
        self._source = source
        self._prefix = prefix
        self._unread = set(data)

    def refuse(self, key: str, reason: str) -> NoReturn:
        """Raise ConfigError for the value of `key`."""
        raise ConfigError(f"{self._source}: {self._name(key)}={_short(self._data.get(key))} {reason}")

    def has(self, key: str) -> bool:
        """Whether `key` is present with a value; does not count as reading it."""
        return self._data.get(key) is not None

    def mentions(self, key: str) -> bool:
        """Whether `key` is in the file, be it as null; does not count as reading it."""
        return key in self._data

    def is_list(self, key: str) -> bool:
        return isinstance(self._data.get(key), list | tuple)

    def optional_integer(self, key: str) -> int | None:
        value = self._take(key)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool):
            self.refuse(key, "must be a whole number")
        return value

    def integer(self, key: str) -> int:
        return self._required(key, self.optional_integer(key))

    def optional_number(self, key: str) -> float | None:
        value = self._take(key)
        if value is None:
            return None
        if not isinstance(value, int | float) or isinstance(value, bool):
            self.refuse(key, "must be a number")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            self.refuse(key, "must be a finite number")
        return number

    def number(self, key: str) -> float:
        return self._required(key, self.optional_number(key))

    def flag(self, key: str, default: bool = False) -> bool:
        value = self._take(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.refuse(key, "must be true or false")
        return value

    def optional_text(self, key: str) -> str | None:
        value = self._take(key)
        if value is not None and not isinstance(value, str):
            self.refuse(key, "must be text")
        return value

    def text(self, key: str) -> str:
        return self._required(key, self.optional_text(key))

    def optional_list(self, key: str) -> list[Any] | None:
        value = self._take(key)
        if value is not None and not isinstance(value, list | tuple):
            self.refuse(key, "must be a list")
        return None if value is None else list(value)

    def optional_section(self, key: str) -> Fields | None:
        """The mapping under `key` as Fields of its own; its `finish` is the caller's to call."""
        value = self._take(key)
        return None if value is None else Fields(value, self._source, f"{self._prefix}{key}.")

    def expect(self, key: str, *allowed: object, reason: str) -> None:
        """Accept `key` only when absent, null or equal to one of `allowed` (1 and true are not equal here)."""
        value = self._take(key)
        if value is not None and not any(
            value == a and isinstance(value, bool) == isinstance(a, bool) for a in allowed
        ):
            self.refuse(key, reason)

    def ignore(self, *keys: str) -> None:
        """Accept `keys` with any value: they say nothing about what the text model computes."""
        self._unread.difference_update(keys)

    def ignore_namespaces(self, *prefixes: str) -> None:
        """Accept every key that opens with one of `prefixes`: notes that other programs keep for themselves."""
        self._unread = {key for key in self._unread if not key.startswith(prefixes)}

    def ignore_where(self, says_nothing: Callable[[str, Any], bool]) -> None:
        """Accept the keys not read so far of which `says_nothing` is true, given name and value."""
        self._unread = {key for key in self._unread if not says_nothing(key, self._data[key])}

    def finish(self) -> None:
        """Raise ConfigError naming the first key with a value that was never read."""
        for key in sorted(key for key in self._unread if self.has(key)):
            self.refuse(key, "is a setting this version does not know; use a supported model, or remove an unused key")

    def _take(self, key: str) -> Any:
        self._unread.discard(key)
        return self._data.get(key)

    def _required(self, key: str, value: T | None) -> T:
        if value is None:
            raise ConfigError(f"{self._source}: {self._name(key)} is missing; fetch the file again from its origin")
        return value

    def _name(self, key: str) -> str:
        name = f"{self._prefix}{key}"
        return name if name.isprintable() and len(name) <= 100 else _short(name)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`. Raises ConfigError if it is missing, too large, damaged, too deep, has a key twice
    or is not an object."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, value in pairs:
            if key in result:
                raise ConfigError(f"{path}: key {_short(key)} is given twice; keep one")
            result[key] = value
        return result

    def refuse_constant(name: str) -> NoReturn:
        raise ConfigError(f"{path}: {name} is not a JSON number; write a finite value")

    try:
        with path.open("rb") as file:
            text = file.read(CONFIG.num_bytes + 1)
        if fault := structure_fault(text, CONFIG):
            raise ConfigError(f"{path}: {fault}")
        data = parse_bounded(text, object_pairs_hook=unique, parse_constant=refuse_constant)
    except FileNotFoundError:
        raise ConfigError(f"{path} is missing; fetch the checkpoint again") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); check that it is a readable file") from None
    except RecursionError:
        raise ConfigError(f"{path} is nested too deep; fetch the file again from its origin") from None
    except ValueError as error:
        raise ConfigError(f"{path} is damaged ({error}); fetch the file again from its origin") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path} must hold a JSON object, not {_short(data)}")
    return data


def _short(value: object) -> str:
    """One printable line for a value of unknown size and depth."""
    short = reprlib.Repr()
    short.maxlevel, short.maxstring, short.maxother = 2, 80, 80
    text = short.repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
