"""SpecialTokens: what the small files beside a vocabulary say of its tokens, merged as transformers merges them.

`tokenizer_config.json` comes first; `special_tokens_map.json` and `added_tokens.json` are older forms of the same, read
where it has no `added_tokens_decoder`. A token that the vocabulary lacks gets the next free id, so an id that a file
states is a claim to be proved: where two files disagree, both are named and neither is believed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tramontane.errors import TokenizerError
from tramontane.tokenizer.json_file import read_json

CONFIG = "tokenizer_config.json"
MAP = "special_tokens_map.json"
ADDED = "added_tokens.json"

_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
# In this order transformers adds those that the vocabulary lacks.
_ROLES = tuple(f"{role}_token" for role in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
_EXTRAS = ("additional_special_tokens", "extra_special_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class AddedToken:
    """A token beside the vocabulary proper. `token_id` None: whatever the vocabulary has, else the next free id."""

    content: str
    token_id: int | None
    source: str  # the file that declares it
    special: bool
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False

    @property
    def entry(self) -> dict[str, Any]:
        """As in tokenizer.json, without the id."""
        values = asdict(self)
        return {"content": self.content, **{flag: values[flag] for flag in _FLAGS}}


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """`adds_bos` and `adds_eos` are None where no file says it."""

    bos: str | None = None
    eos: str | None = None
    added: tuple[AddedToken, ...] = ()  # those with an id first, in its order
    adds_bos: bool | None = None
    adds_eos: bool | None = None


def read_config(folder: Path) -> dict[str, Any]:
    """Contents of tokenizer_config.json, empty when there is none. Raises TokenizerError for `auto_map`."""
    path = folder / CONFIG
    if not path.is_file():
        return {}
    config = read_json(path)
    if config.get("auto_map") is not None:
        raise TokenizerError(f"{path}: auto_map asks to run code of the checkpoint, which is never done; remove it")
    return config


def read_special_tokens(folder: Path) -> SpecialTokens:
    """Raises TokenizerError naming the file and key of a value that is none, or two files that disagree."""
    config = read_config(folder)
    source = str(folder / CONFIG)
    decoder = config.get("added_tokens_decoder")
    stated = {**config, **(_optional(folder / MAP) if decoder is None else {})}
    names = _named(stated, source if decoder is not None else f"{source} or {MAP}")
    added = _decoder(decoder, source) if decoder is not None else []
    older = _older(folder / ADDED, frozenset(names.values()))
    by_content = {token.content: token for token in added}
    for token in older:
        same = by_content.get(token.content)
        if decoder is None:
            added.append(token)
        elif same is None or same.token_id != token.token_id:
            stands = "leaves it out" if same is None else f"says {same.token_id}"
            raise TokenizerError(
                f"{token.source} gives {token.content!r} id {token.token_id}, but added_tokens_decoder of {source} "
                f"{stands}; keep the file that belongs to the model"
            )
    added.sort(key=lambda token: token.token_id or 0)
    known = {token.content for token in added}
    for name in dict.fromkeys(names.values()):
        if name not in known:
            added.append(AddedToken(content=name, token_id=None, source=source, special=True))
    return SpecialTokens(
        bos=names.get("bos_token"),
        eos=names.get("eos_token"),
        added=tuple(added),
        adds_bos=_optional_flag(config, "add_bos_token", source),
        adds_eos=_optional_flag(config, "add_eos_token", source),
    )


def _named(stated: Mapping[str, Any], source: str) -> dict[str, str]:
    """Name of the token by its role; those without one under numbers of their own."""
    others = sorted(key for key in stated if key.endswith("_token") and key not in _ROLES)
    names = {}
    for key in (*_ROLES, *others):
        value = stated.get(key)
        if value in (None, "") or isinstance(value, bool):  # add_bos_token and the like
            continue
        names[key] = _content(value, key, source)
    for key in _EXTRAS:
        extras = stated.get(key) or []
        values = extras.values() if isinstance(extras, Mapping) else extras
        if not isinstance(extras, list | Mapping):
            raise TokenizerError(f"{source}: {key} must be a list of tokens")
        for value in values:
            names[f"{key}[{len(names)}]"] = _content(value, key, source)
    return names


def _decoder(decoder: Any, source: str) -> list[AddedToken]:
    if not isinstance(decoder, dict):
        raise TokenizerError(f"{source}: added_tokens_decoder must be an object")
    tokens = []
    for key, entry in decoder.items():
        where = f"{source}: added_tokens_decoder[{key!r}]"
        if not key.isascii() or not key.isdigit() or len(key) > 9 or not isinstance(entry, dict):
            raise TokenizerError(f"{where} must be an object under a token id")
        flags = {flag: entry.get(flag, False) for flag in _FLAGS}
        if not all(isinstance(value, bool) for value in flags.values()):
            raise TokenizerError(f"{where} must have {', '.join(_FLAGS)} as true or false")
        content = _content(entry, "content", where)
        tokens.append(AddedToken(content=content, token_id=int(key), source=source, **flags))
    return tokens


def _older(path: Path, special: frozenset[str]) -> list[AddedToken]:
    tokens = []
    for content, token_id in _optional(path).items():
        if not content or not isinstance(token_id, int) or isinstance(token_id, bool) or token_id < 0:
            raise TokenizerError(f"{path}: {content!r}={token_id!r} must be a token and its id")
        is_special = content in special
        tokens.append(
            AddedToken(
                content=content, token_id=token_id, source=str(path), special=is_special, normalized=not is_special
            )
        )
    return tokens


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _optional_flag(config: Mapping[str, Any], key: str, source: str) -> bool | None:
    value = config.get(key)
    if value is not None and not isinstance(value, bool):
        raise TokenizerError(f"{source}: {key} must be true or false")
    return value


def _content(value: Any, key: str, source: str) -> str:
    content = value.get("content") if isinstance(value, dict) else value
    if not isinstance(content, str) or not content:
        raise TokenizerError(f"{source}: {key} must name a token")
    return content
