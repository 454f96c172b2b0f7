"""The memory that training takes, worked out before it is begun; about, as a test compares with a real run."""

from __future__ import annotations

from tramontane.config import ModelConfig
from tramontane.training.recipe import Recipe

CPU_HELD = 2.25
"""What a process on a CPU holds for each byte of activations: its allocator keeps what was freed between them. Measured
on the default model with one sample of 2,176, 8,448 and 27,648 tokens: 1.3, 3.7 and 11.6 GB at the peak."""
PROCESS_BYTES = 600e6  # Python, torch, and what it keeps of freed memory; measured by tests/training/test_memory.py


def activation_bytes(config: ModelConfig, microbatch_len: int, itemsize: int) -> int:
    """What layers keep for their backward pass: inputs of norms and products, queries, keys, values, gates."""
    active = 1 if config.moe is None else config.moe.num_experts_per_tok
    heads = 2 * config.n_heads + 2 * config.n_kv_heads
    kept = 4 * config.dim + heads * config.head_dim + 3 * config.hidden_dim * active
    return microbatch_len * config.n_layers * kept * itemsize


def run_memory_bytes(
    recipe: Recipe, config: ModelConfig, *, itemsize: int, packed_bytes: int | None, on_cpu: bool = True
) -> int:
    """Of one process alone: weights, gradients, moments of the optimizer, averages, the reference of preferences, the
    activations of one microbatch, and the program. `itemsize` is that of the compute dtype, `packed_bytes` what the
    frozen base of adapters takes where it is packed."""
    num_weights = config.num_parameters()
    if recipe.lora is None:
        held, trained = 4 * num_weights, num_weights
    else:
        held = num_weights * itemsize if packed_bytes is None else packed_bytes
        trained = _num_adapter_weights(config, recipe.lora.rank, recipe.lora.targets)
        held += 4 * trained
    num_moments = 1.3 if recipe.optimizer.kind == "muon" and recipe.lora is None else 2
    num_averages = 0 if recipe.optimizer.ema_decay is None else 1
    total = held + 4 * trained * (1 + num_moments + num_averages)
    if recipe.task.kind == "preference" and recipe.task.loss in ("dpo", "ipo") and recipe.lora is None:
        total += num_weights * itemsize
    kept = activation_bytes(config, recipe.data.microbatch_len, itemsize)
    if recipe.machine.activation_checkpointing:
        kept = kept // config.n_layers + recipe.data.microbatch_len * config.dim * config.n_layers * itemsize
    return round(total + kept * (CPU_HELD if on_cpu else 1.0) + PROCESS_BYTES)


def _num_adapter_weights(config: ModelConfig, rank: int, targets: tuple[str, ...]) -> int:
    queries, keys = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    num_experts = 1 if config.moe is None else config.moe.num_experts
    ends = {
        **{"wq": config.dim + queries, "wk": config.dim + keys, "wv": config.dim + keys, "wo": config.dim + queries},
        **dict.fromkeys(("w1", "w2", "w3"), num_experts * (config.dim + config.hidden_dim)),
    }
    return config.n_layers * rank * sum(ends[target] for target in targets)
