"""What a model's name stands for: a checkpoint, or a LoRA adapter and the checkpoint it is for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from tramontane.errors import CheckpointError, ConfigError
from tramontane.formats.open_tensors import open_tensors
from tramontane.hub import HubName, resolve_model
from tramontane.hub.store import RECORD, default_model
from tramontane.loading.adapter_files import adapter_base, is_adapter, read_adapter, write_adapter
from tramontane.loading.checkpoint import Checkpoint, open_checkpoint
from tramontane.loading.classifier_files import HEAD, open_classifier, write_classifier
from tramontane.loading.tokenizer import with_adapters_tokenizer
from tramontane.runtime import home


@dataclass(frozen=True, slots=True)
class NamedModel:
    """`path` is a checkpoint's folder or file; of an `adapter`'s folder its base."""

    path: Path
    adapter: Path | None = None


def find_model(name: str, base: str | None = None) -> NamedModel:
    """`name` is anything `resolve_model` takes, or an adapter's folder; then `base` overrides the model it names.

    Raises CheckpointError, naming the remedy, where either is not there, ConfigError for a base that is of no use.
    """
    path = resolve_model(name)
    if not is_adapter(path):
        if base is not None:
            with open_tensors(path):  # says what is the matter where it is no model either
                pass
            raise ConfigError(f"--base {base} is for LoRA adapters, and {name} is a whole model; leave it out")
        return NamedModel(path)
    wanted = base or adapter_base(path)
    try:
        found = resolve_model(wanted)
    except CheckpointError as error:
        remedy = "" if base else "; name the model it is for with --base"
        raise CheckpointError(f"{name} is a LoRA adapter of a model that is not here: {error}{remedy}") from None
    if is_adapter(found):
        raise ConfigError(f"the base {wanted} of {name} is a LoRA adapter itself; name a whole model with --base")
    return NamedModel(found, path)


def open_named(named: NamedModel) -> Checkpoint:
    """The checkpoint, with the tokenizer that speaks for it. Errors as `open_checkpoint`."""
    checkpoint = open_checkpoint(named.path)
    return checkpoint if named.adapter is None else with_adapters_tokenizer(checkpoint, named.adapter)


def find_checkpoint(name: str) -> Path:
    """As `resolve_model`, where an adapter alone is of no use. Raises ConfigError, with the command, for one."""
    path = resolve_model(name)
    if is_adapter(path):
        raise ConfigError(f"{name} is a LoRA adapter; merge it into its base first: tramontane merge {name} OUT")
    return path


def copy_adapter(named: NamedModel, out: Path) -> None:
    """The adapter of `named` in the folder `out`, in PEFT's format and for the base it has there, with a classifier's
    head if it has one. Raises ConfigError or CheckpointError for one that does not fit its base."""
    if named.adapter is None:
        raise ValueError(f"{named.path} is no adapter")
    model_config = open_checkpoint(named.path).config
    config, tensors = read_adapter(named.adapter, model_config)
    write_adapter(out, model_config, replace(config, base=portable_name(named.path)), tensors)
    if (named.adapter / HEAD).exists():
        write_classifier(out, open_classifier(named.adapter, model_config.dim))


def portable_name(path: Path) -> str:
    """What names the model at `path` on other machines too, where there is such a name: `default`, or the hub id it was
    pulled by; else the path from the root."""
    path = path.resolve()
    if path == default_model().resolve():
        return "default"
    models = (home() / "models").resolve()
    parts = path.relative_to(models).parts if path.is_relative_to(models) else ()
    if len(parts) == 3 and "++" not in parts[2] and (path / RECORD).is_file():
        return str(HubName(f"{parts[0]}/{parts[1]}", revision=parts[2].replace("+", "/")))
    return str(path)
