"""Loading what a server is to serve."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from tramontane.errors import ConfigError
from tramontane.hub import resolve_model
from tramontane.hub.store import default_model
from tramontane.llm import AsyncLLM
from tramontane.loading import Progress
from tramontane.loading.adapter_files import is_adapter
from tramontane.server.aliases import EVERY, default_aliases, given_aliases, read_aliases
from tramontane.server.models import ModelRegistry, ServedModel, serve_adapter, serve_model
from tramontane.server.settings import ServerSettings

ProgressOf = Callable[[str], contextlib.AbstractContextManager[Progress | None]]
"""A progress report for the model of a name."""


DESCRIPTION_OF_DEFAULT = (
    "The model that comes along is a toy of 11 million weights. It writes short stories and verses in simple English; "
    "facts, sums, code and summaries are beyond it, and what it says is mostly wrong."
)


def no_progress(_: str) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext()


def load_registry(settings: ServerSettings, progress_of: ProgressOf = no_progress) -> ModelRegistry:
    """Every model in memory and under its names. Raises ConfigError, CheckpointError, TokenizerError or CapacityError
    for one that cannot be served; those loaded by then are let go again."""
    models: list[ServedModel] = []
    named = named_models(settings)
    adapted = [name for name, source in named if settings.base is not None and is_adapter(resolve_model(source))]
    if settings.base is not None and not adapted:
        raise ConfigError(
            f"base={settings.base} is for LoRA adapters, and none is to be served as a MODEL; leave it out"
        )
    if settings.draft_model is not None and len(named) > 1:
        raise ConfigError(f"draft_model={settings.draft_model} guesses for one model; {len(named)} are to be served")
    try:
        for name, source in named:
            with progress_of(source) as progress:
                llm = AsyncLLM(
                    source,
                    base=settings.base if name in adapted else None,
                    weight_format=settings.weight_format,
                    dtype=settings.dtype,
                    device=settings.device,
                    threads=settings.threads,
                    max_seq_len=settings.max_seq_len,
                    kv_cache_gib=settings.kv_cache_gib,
                    kv_dtype=settings.kv_dtype,
                    draft_model=settings.draft_model,
                    max_sequences=settings.max_sequences,
                    max_waiting=settings.max_waiting,
                    max_waiting_per_owner=settings.max_waiting_per_owner,
                    progress=progress,
                )
            is_default = llm.checkpoint.path == default_model()
            models.append(serve_model(name, llm, description=DESCRIPTION_OF_DEFAULT if is_default else None))
        adapters = [serve_adapter(models[0], *named_adapter(given)) for given in settings.adapter or ()]
        aliases = default_aliases(models)
        names = [model.name for model in models]
        if settings.aliases is not None:
            aliases |= read_aliases(settings.aliases, names)
        aliases |= given_aliases(settings.alias or (), names)
    except BaseException:
        for model in models:
            model.llm.shutdown()
        raise
    registry = ModelRegistry()
    registry.stand_in = aliases.pop(EVERY, None)
    for model in models:
        model.aliases += [alias for alias, name in aliases.items() if name == model.name]
        registry.add(model)
    for model in adapters:
        registry.add(model)
    return registry


def named_adapter(given: str) -> tuple[str, Path]:
    """Raises ConfigError for anything but NAME=FOLDER."""
    name, _, folder = given.partition("=")
    if not name or not folder:
        raise ConfigError(f"adapter {given!r}: write NAME=FOLDER")
    return name, resolve_model(folder)


def named_models(settings: ServerSettings) -> list[tuple[str, str]]:
    """(name to serve under, folder, file or hub id) of each model. Raises ConfigError if two have one name."""
    named: dict[str, str] = {}
    for given in settings.models or ["default"]:
        name, is_named, source = given.partition("=")
        if not is_named:
            source = given
            path = Path(given)
            name = path.resolve().stem if path.suffix == ".gguf" else path.resolve().name if path.exists() else given
        if not name or not source:
            raise ConfigError(f"model {given!r}: write NAME=MODEL or MODEL")
        if name in named:
            raise ConfigError(f"two models are named {name!r}; name one with NAME=MODEL")
        named[name] = source
    return list(named.items())
