"""The names that clients and examples hard-code, mapped onto what is served."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from tramontane.errors import ConfigError
from tramontane.server.models import ServedModel

CHAT = (
    *("mistral-tiny", "mistral-small", "mistral-small-latest", "mistral-small-2409", "mistral-small-2501"),
    *("mistral-small-2503", "mistral-small-2506", "mistral-medium", "mistral-medium-latest", "mistral-medium-2505"),
    *("mistral-medium-2508", "mistral-medium-3-5", "mistral-large-latest", "mistral-large-2407", "mistral-large-2411"),
    *("mistral-large-2512", "ministral-3b-latest", "ministral-3b-2410", "ministral-8b-latest", "ministral-8b-2410"),
    *("ministral-14b-latest", "open-mistral-7b", "open-mistral-nemo", "open-mistral-nemo-2407", "open-mixtral-8x7b"),
    "open-mixtral-8x22b",
)
CODE = ("codestral-latest", "codestral-2404", "codestral-2405", "codestral-2501", "codestral-2508")
AGENT = (
    *("mistral-vibe-cli-latest", "devstral-latest", "devstral-small-latest", "devstral-small-2505"),
    *("devstral-small-2507", "devstral-medium-latest", "devstral-medium-2507", "devstral-2512"),
)
REASONING = (
    *("magistral-small-latest", "magistral-small-2506", "magistral-small-2507", "magistral-small-2509"),
    *("magistral-medium-latest", "magistral-medium-2506", "magistral-medium-2507", "magistral-medium-2509"),
)
MODERATION = (
    *("mistral-moderation-latest", "mistral-moderation-2411", "mistral-moderation-2603", "omni-moderation-latest"),
)
EMBEDDING = ("mistral-embed", "codestral-embed")


def default_aliases(models: Sequence[ServedModel]) -> dict[str, str]:
    """Alias to the name of the first model able to stand in for it."""
    aliases: dict[str, str] = {}
    for names, can in (
        (CHAT, "completion_chat"),
        (CODE, "completion_fim"),
        (CODE, "completion_chat"),
        (AGENT, "function_calling"),
        (AGENT, "completion_chat"),
        (REASONING, "reasoning"),
        (REASONING, "completion_chat"),
        (MODERATION, "moderation"),
    ):
        able = [model.name for model in models if getattr(model.capabilities, can)]
        if able:
            aliases = dict.fromkeys(names, able[0]) | aliases
    if models:
        aliases |= dict.fromkeys(EMBEDDING, models[-1].name if len(models) > 1 else models[0].name)
    served = {model.name for model in models}
    return {alias: name for alias, name in aliases.items() if alias not in served}


EVERY = "*"


def read_aliases(path: Path, served: Sequence[str]) -> Mapping[str, str]:
    """A TOML file of `alias = "model"` lines. Raises ConfigError naming the line that cannot be honoured."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: the aliases cannot be read: {error}") from None
    for alias, name in table.items():
        _check_alias(f"{path}: {alias} = {name!r}", alias, name, served)
    return table


def given_aliases(given: Sequence[str], served: Sequence[str]) -> Mapping[str, str]:
    """Of ALIAS=MODEL texts; ALIAS alone is the first model's. Raises ConfigError."""
    aliases = {}
    for text in given:
        alias, is_named, name = text.partition("=")
        aliases[alias] = name if is_named else served[0]
        _check_alias(f"alias {text!r}", alias, aliases[alias], served)
    return aliases


def _check_alias(source: str, alias: str, name: object, served: Sequence[str]) -> None:
    if not alias or name not in served:
        raise ConfigError(f"{source} names no served model; served are {', '.join(served)}")
    if alias in served:
        raise ConfigError(f"{source}: {alias} is the name of a served model")
