"""The names that clients and examples hard-code, mapped onto what is served."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from tramontane.errors import ConfigError
from tramontane.server.models import ServedModel

CHAT = (
    *("mistral-tiny", "mistral-small-latest", "mistral-medium-latest", "mistral-medium-2505", "mistral-medium-3-5"),
    *("mistral-large-latest", "mistral-large-2411", "ministral-3b-latest", "ministral-8b-latest", "open-mistral-7b"),
    *("open-mixtral-8x7b", "open-mistral-nemo"),
)
CODE = ("codestral-latest", "codestral-2404", "codestral-2405", "codestral-2501")
REASONING = ("magistral-small-latest", "magistral-medium-latest")
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
        (REASONING, "reasoning"),
        (MODERATION, "moderation"),
    ):
        able = [model.name for model in models if getattr(model.capabilities, can)]
        if able:
            aliases = dict.fromkeys(names, able[0]) | aliases
    if models:
        aliases |= dict.fromkeys(EMBEDDING, models[-1].name if len(models) > 1 else models[0].name)
    served = {model.name for model in models}
    return {alias: name for alias, name in aliases.items() if alias not in served}


def read_aliases(path: Path, served: Sequence[str]) -> Mapping[str, str]:
    """A TOML file of `alias = "model"` lines. Raises ConfigError naming the line that cannot be honoured."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: the aliases cannot be read: {error}") from None
    for alias, name in table.items():
        if not isinstance(name, str) or name not in served:
            raise ConfigError(f"{path}: {alias} = {name!r} names no served model; served are {', '.join(served)}")
        if alias in served:
            raise ConfigError(f"{path}: {alias} is the name of a served model")
    return table
