"""open_model: a model's name to weights in memory, their tokenizer, and the engine's configuration."""

from __future__ import annotations

from dataclasses import dataclass

from tramontane.engine.engine import Engine
from tramontane.engine.engine_config import EngineConfig
from tramontane.errors import ConfigError
from tramontane.llm.adapters import AdapterStore
from tramontane.llm.memory_plan import MemoryPlan, promise
from tramontane.loading import Checkpoint, Progress, load_model, open_checkpoint, open_tokenizer, resolve_weight_format
from tramontane.loading.named_model import find_checkpoint, find_model, open_named
from tramontane.model.transformer import Transformer
from tramontane.runtime import resolve_device, set_threads
from tramontane.tokenizer import Tokenizer

GPU_SHARED_COST = 1024
"""A GPU takes hardly longer for this than for the least."""


@dataclass(frozen=True, slots=True)
class OpenModel:
    checkpoint: Checkpoint
    tokenizer: Tokenizer
    engine: Engine
    adapters: AdapterStore


def open_model(
    model: str,
    *,
    base: str | None,
    weight_format: str,
    dtype: str,
    device: str,
    threads: int | None,
    max_seq_len: int | None,
    kv_cache_gib: float | None,
    kv_dtype: str,
    draft_model: str | None,
    max_sequences: int | None = None,
    max_waiting: int | None = None,
    max_waiting_per_owner: int | None = None,
    progress: Progress | None = None,
) -> OpenModel:
    """Load `model` (a folder, a .gguf file, a hub id that was pulled, or `default`); of a LoRA adapter's folder its
    base (by default the one it names), with the adapter beside it.

    Raises ConfigError, CheckpointError or TokenizerError for a model that cannot be used, CapacityError where it
    does not fit this machine.
    """
    if kv_cache_gib is not None and not 0 < kv_cache_gib < 2**20:
        raise ConfigError(f"kv_cache_gib={kv_cache_gib} must be a size above 0")
    set_threads(threads)
    named = find_model(model, base)
    checkpoint = open_named(named)
    tokenizer = open_tokenizer(checkpoint)

    place = resolve_device(device)
    plan = MemoryPlan(checkpoint.config, place, None if kv_cache_gib is None else int(kv_cache_gib * 2**30))

    def load(checkpoint: Checkpoint, progress: Progress | None) -> Transformer:
        held = resolve_weight_format(weight_format, dtype=dtype, device=place, config=checkpoint.config)
        return load_model(
            checkpoint,
            weight_format=held,
            dtype=dtype,
            device=device,
            beside_bytes=plan.beside_weights_bytes,
            progress=progress,
        )

    transformer = load(checkpoint, progress)
    draft = None if draft_model is None else load(open_checkpoint(find_checkpoint(draft_model)), None)
    sizes = EngineConfig()
    config = EngineConfig(
        max_sequences=sizes.max_sequences if max_sequences is None else max_sequences,
        max_waiting=sizes.max_waiting if max_waiting is None else max_waiting,
        max_waiting_per_owner=max_waiting_per_owner,
        max_shared_cost=GPU_SHARED_COST if transformer.device.type == "cuda" else sizes.max_shared_cost,
        max_seq_len=max_seq_len,
        kv_dtype=kv_dtype,
        kv_cache_bytes=plan.kv_cache_bytes(transformer, *([] if draft is None else [draft])),
        eos_token_ids=tuple(sorted(tokenizer.stop_ids)),
    )
    adapters = AdapterStore(transformer, tokenizer)
    if named.adapter is not None:
        adapters.default = adapters.load(named.adapter)
    default_adapter = None if adapters.default is None else adapters.get(adapters.default)
    engine = Engine(transformer, config, draft_model=draft, default_adapter=default_adapter)
    promise(engine)
    return OpenModel(checkpoint, tokenizer, engine, adapters)
