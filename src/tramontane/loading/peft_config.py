"""PEFT's adapter_config.json: which linears an adapter changes, at which rank and by which factor.

What is known to leave the computation alone is passed over; everything else is honoured as PEFT does, or refused by
name. The judge of every rule here is PEFT's own reading of the same folder.
"""

from __future__ import annotations

import math
import reprlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import regex

from tramontane.config import ModelConfig
from tramontane.errors import ConfigError
from tramontane.formats.names import OUTPUT, file_names
from tramontane.model.lora import ALL_LINEARS, LowRankShape

MAX_MATCH_S = 2.0  # of all patterns with all names of modules
REMEDY = "merge it into its base with PEFT (merge_and_unload), and open the result"
ALL_LINEAR = "all-linear"

# About the file, its training or other programs; `bias` and `fan_in_fan_out` concern what no model of this family has:
# biases, whose tensors would be left over, and transposed weights. The `..._config` of a way to initialise take effect
# by `init_lora_weights` alone.
_INERT = frozenset(
    {
        *("peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
        *("inference_mode", "merge_weights", "runtime_config", "megatron_config", "megatron_core"),
        *("bias", "fan_in_fan_out", "ensure_weight_tying", "qalora_group_size"),
        *("loftq_config", "eva_config", "corda_config", "lora_ga_config", "velora_config"),
    }
)
_HONOURED = frozenset(
    {
        *("r", "lora_alpha", "lora_dropout", "use_rslora", "rank_pattern", "alpha_pattern", "init_lora_weights"),
        *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "target_parameters"),
    }
)
# These leave the base alone. The others (pissa, olora, corda, loftq, lora_ga) change it, and PEFT does that again
# whenever it loads the adapter: A and B beside the untouched base are another model.
_PLAIN_INITS = ("gaussian", "eva", "orthogonal", "mica")


@dataclass(frozen=True, slots=True)
class Stack:
    """A pair of tensors that holds those of all experts of a layer, as transformers 5 has their weights: `prefix` of
    the pair's names, and the canonical linears of each expert that share A, their rows one after the other in B."""

    prefix: str
    experts: tuple[tuple[str, ...], ...]
    rank: int


@dataclass(frozen=True, slots=True)
class PeftTargets:
    """What a configuration adapts: by canonical linear, such as `layers.0.attention.wq`; and which of these are stored
    in stacks."""

    shapes: Mapping[str, LowRankShape]
    stacks: tuple[Stack, ...]
    dropout: float


def read_peft_config(document: Mapping[str, Any], source: str, model_config: ModelConfig, body: str) -> PeftTargets:
    """`source` names the file in messages; `body` is what the model's own modules begin with, such as `model.`.

    Raises ConfigError, with a remedy, for what would make A and B mean something else than W + scale B A, or for
    modules that cannot carry an adapter here.
    """
    _refuse_others(document, source)
    reader = _Reader(document, source)
    shapes, stacks = {}, []
    for linear, module in modules(model_config, body).items():
        if reader.is_target(module):
            if linear.rpartition(".")[2] not in ALL_LINEARS:
                reader.refuse("target_modules", f"adapts {module!r}, which cannot carry an adapter here; {REMEDY}")
            shapes[linear] = reader.shape(module)
    known = {f"{stack.prefix}.{suffix}": stack for stack, suffix in _stacks(model_config, body)}
    parameters = document.get("target_parameters") or ()
    for key, stack in known.items():
        if _is_named(key, parameters):
            shape = reader.shape(key)
            shapes |= {linear: shape for expert in stack.experts for linear in expert}
            stacks.append(Stack(stack.prefix, stack.experts, shape.rank))
    for target in parameters:
        if not any(_is_named(key, (target,)) for key in known):
            reader.refuse("target_parameters", f"names {target!r}, which cannot carry an adapter here; {REMEDY}")
    if not shapes:
        reader.refuse("target_modules", "names nothing that this model has; is the adapter for another model?")
    return PeftTargets(shapes, tuple(_nested(stacks)), reader.dropout())


def modules(model_config: ModelConfig, body: str) -> dict[str, str]:
    """Canonical name without `.weight` -> the module that transformers knows it by: all that have a matrix."""
    names = {OUTPUT: "lm_head.weight"}  # also where it is the embeddings
    names |= {name: hf for name, hf in file_names("hf", model_config).items() if "norm" not in name}
    return {
        name.removesuffix(".weight"): hf.replace("model.", body, 1).removesuffix(".weight")
        for name, hf in names.items()
    }


def _refuse_others(document: Mapping[str, Any], source: str) -> None:
    for key, value in document.items():
        if key in _INERT or key in _HONOURED or not value:
            continue
        raise ConfigError(f"{source}: {key}={value!r} is not supported, and may change what is computed; {REMEDY}")
    init = document.get("init_lora_weights", True)
    if isinstance(init, str) and init.lower() not in _PLAIN_INITS:
        raise ConfigError(
            f"{source}: init_lora_weights={init!r} changed the base weights, so that A and B are not all of the "
            f"adapter; {REMEDY}, or convert it to plain LoRA when saving "
            "(save_pretrained(..., path_initial_model_for_weight_conversion=...))"
        )


class _Reader:
    """The keys that say where, at which rank and how strongly; matched against module names as PEFT does."""

    def __init__(self, document: Mapping[str, Any], source: str) -> None:
        self.document = document
        self.source = source
        self.match_s = MAX_MATCH_S  # what is left of it
        self.rank, self.alpha = document.get("r", 8), document.get("lora_alpha", 8)
        if not _is_rank(self.rank) or not _is_number(self.alpha):
            self.refuse("r", f"and lora_alpha={self.alpha!r} must be a rank of at least 1 and a number")
        for key in ("rank_pattern", "alpha_pattern"):
            pattern = document.get(key) or {}
            is_right = _is_rank if key == "rank_pattern" else _is_number
            if not isinstance(pattern, Mapping) or not all(map(is_right, pattern.values())):
                self.refuse(key, "must name a number for each module")
        self.targets = self._names("target_modules")
        self.excluded = self._names("exclude_modules")
        layers = document.get("layers_to_transform")
        self.layers: Sequence[int] | None = [layers] if isinstance(layers, int) else layers or None
        if self.layers is not None and isinstance(self.targets, str):
            self.refuse(
                "layers_to_transform", "has no meaning where target_modules is a pattern; leave one of them out"
            )
        if self.layers is not None and not all(isinstance(layer, int) for layer in self.layers):
            self.refuse("layers_to_transform", "must be numbers of layers")
        containers = self._names("layers_pattern")
        self.containers = [containers] if isinstance(containers, str) else containers

    def refuse(self, key: str, reason: str) -> None:
        raise ConfigError(f"{self.source}: {key}={self.document.get(key)!r} {reason}")

    def is_target(self, module: str) -> bool:
        if self.excluded and self._matches(self.excluded, module):
            return False
        if isinstance(self.targets, str) and self.targets.lower() == ALL_LINEAR:
            return not module.endswith(("lm_head", "embed_tokens"))
        if self.layers is None or module in self.targets:  # a whole name says its layer itself
            return self._matches(self.targets, module)
        return self._matches(self.targets, module) and self._layer_of(module) in self.layers

    def shape(self, module: str) -> LowRankShape:
        rank = self._pattern("rank_pattern", module, self.rank)
        alpha = self._pattern("alpha_pattern", module, self.alpha)
        return LowRankShape(rank, alpha / (math.sqrt(rank) if self.document.get("use_rslora") else rank))

    def dropout(self) -> float:
        dropout = self.document.get("lora_dropout") or 0.0
        if not _is_number(dropout) or not 0 <= dropout < 1:
            self.refuse("lora_dropout", "must lie between 0 and 1")
        return float(dropout)

    def _names(self, key: str) -> str | list[str]:
        value = self.document.get(key) or []
        if not isinstance(value, str) and not (
            isinstance(value, list) and all(isinstance(each, str) for each in value)
        ):
            self.refuse(key, "must be a list of names, or a pattern")
        return value

    def _matches(self, names: str | list[str], module: str) -> bool:
        if isinstance(names, str):
            return self._search(f"(?:{names})$", module) is not None
        return _is_named(module, names)

    def _layer_of(self, module: str) -> int | None:
        """The first number after a container of layers, whatever its name unless `layers_pattern` says."""
        containers = [rf"(?:^|.*?\.){each}" for each in self.containers] or [r".*?\.[^.]*"]
        found = (self._search(rf"{container}\.\d+\.", module) for container in containers)
        return next((int(each[0].split(".")[-2]) for each in found if each is not None), None)

    def _pattern(self, key: str, module: str, default: Any) -> Any:
        """The value of the first pattern that the end of the name matches."""
        for pattern, value in (self.document.get(key) or {}).items():
            if self._search(rf"(.*\.)?({pattern})$", module) is not None:
                return value
        return default

    def _search(self, pattern: str, module: str) -> regex.Match[str] | None:
        """As PEFT's `re.match`, but with an end: a pattern from outside may take exponential time."""
        began = time.monotonic()
        try:
            return regex.match(pattern, module, timeout=self.match_s)
        except (regex.error, RecursionError) as error:
            raise ConfigError(f"{self.source}: {reprlib.repr(pattern)} is no pattern: {error}") from None
        except TimeoutError:
            raise ConfigError(
                f"{self.source}: {reprlib.repr(pattern)} takes too long to match {module!r}; write it without "
                "repeats inside repeats"
            ) from None
        finally:
            self.match_s = max(1e-3, self.match_s - (time.monotonic() - began))


def _stacks(config: ModelConfig, body: str) -> Iterator[tuple[Stack, str]]:
    """The experts' weights as transformers 5 has them, and the parameter's name, in the order PEFT wraps them in."""
    for layer in range(config.n_layers if config.moe is not None else 0):
        prefix = f"{body}layers.{layer}.mlp.experts"
        for parameter, weights in (("gate_up_proj", ("w1", "w3")), ("down_proj", ("w2",))):
            experts = tuple(
                tuple(f"layers.{layer}.feed_forward.experts.{e}.{w}" for w in weights)
                for e in range(config.moe.num_experts if config.moe is not None else 0)
            )
            yield Stack(prefix, experts, 0), parameter


def _nested(stacks: Sequence[Stack]) -> Iterator[Stack]:
    """Where both parameters of a layer are adapted, the wrapper of the first lies inside that of the second."""
    for index, stack in enumerate(stacks):
        is_inner = any(later.prefix == stack.prefix for later in stacks[index + 1 :])
        yield Stack(f"{stack.prefix}.base_layer" if is_inner else stack.prefix, stack.experts, stack.rank)


def _is_named(module: str, names: Iterable[str]) -> bool:
    """Whether one of the names is the module's, or the end of it."""
    return any(module == name or module.endswith(f".{name}") for name in names)


def _is_rank(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
