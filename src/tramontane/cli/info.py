"""`tramontane info`: what a checkpoint is, the memory it needs, and what of this machine it would run on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tramontane.cli.options import KV_DTYPE_HELP, WEIGHT_FORMAT_HELP, Base, Json
from tramontane.cli.terminal import amount, print_json, printable

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from tramontane.config import ModelConfig
    from tramontane.loading import Checkpoint


def info(
    model: Annotated[
        str,
        typer.Argument(
            help="A folder (a LoRA adapter's too), a .gguf file or a pulled hub id.", envvar="TRAMONTANE_MODEL"
        ),
    ] = "default",
    *,
    base: Base = None,
    weight_format: Annotated[str, typer.Option(help=WEIGHT_FORMAT_HELP)] = "auto",
    dtype: Annotated[str, typer.Option(help="Compute in auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str, typer.Option(help="Run on auto, cpu, cuda or cuda:N.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads (default: TRAMONTANE_THREADS, else all).")] = None,
    kv_dtype: Annotated[str, typer.Option(help=KV_DTYPE_HELP)] = "auto",
    measure: Annotated[bool, typer.Option("--measure", help="Measure how fast this machine reads memory.")] = False,
    as_json: Json = False,
) -> None:
    """Describe a model and what running it takes.

    Only headers are read, so this is quick for any size.
    """
    facts = describe(
        model,
        base=base,
        weight_format=weight_format,
        dtype=dtype,
        device=device,
        threads=threads,
        kv_dtype=kv_dtype,
        measure=measure,
    )
    if as_json:
        print_json(facts)
    else:
        print(printable("\n".join(f"{name:<16}{value}" for name, value in rows(facts))))


def describe(
    model: str,
    *,
    base: str | None,
    weight_format: str,
    dtype: str,
    device: str,
    threads: int | None,
    kv_dtype: str,
    measure: bool,
) -> dict[str, Any]:
    """The facts of `info`, JSON-ready. Sizes are in bytes."""
    from tramontane.engine.kv_cache import resolve_kv_dtype
    from tramontane.loading import find_tokenizer
    from tramontane.loading.memory import available_bytes
    from tramontane.loading.named_model import find_model, open_named
    from tramontane.ops.page_types import page_type_name
    from tramontane.runtime import resolve_device, set_threads

    named = find_model(model, base)
    checkpoint = open_named(named)
    config, tokenizer = checkpoint.config, find_tokenizer(checkpoint)
    place = resolve_device(device)
    runs = how_it_runs(checkpoint, weight_format, dtype, place)
    compute = runs.pop("compute")
    held_as = resolve_kv_dtype(kv_dtype, config, compute, runs.pop("embeddings_format"))
    facts: dict[str, Any] = {
        "model": model,
        "adapter": None if named.adapter is None else adapter_facts(named.adapter, config),
        "path": str(checkpoint.weights),
        "layout": checkpoint.layout,
        "stored": checkpoint.stored,
        "size_bytes": checkpoint.size_bytes,
        "family": config.family,
        "n_layers": config.n_layers,
        "dim": config.dim,
        "n_heads": config.n_heads,
        "n_kv_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "hidden_dim": config.hidden_dim,
        "vocab_size": config.vocab_size,
        "max_seq_len": config.max_seq_len,
        "sliding_windows": list(config.sliding_windows),
        "num_experts": config.moe.num_experts if config.moe else None,
        "num_experts_per_tok": config.moe.num_experts_per_tok if config.moe else None,
        "num_parameters": config.num_parameters(),
        "num_active_parameters": config.num_parameters(active=True),
        "tokenizer_tokens": None if tokenizer is None else tokenizer.vocab_size,
        "chat_format": tokenizer.chat.name if tokenizer is not None and tokenizer.chat else None,
        "device": str(place),
        "dtype": str(compute).removeprefix("torch."),
        "threads": set_threads(threads),
        **runs,
        "free_bytes": available_bytes(place),
        "kv_dtype": page_type_name(held_as),
        "kv_cache": [
            {"num_tokens": length, "num_bytes": kv_cache_bytes(config, length, held_as)}
            for length in sorted({min(4096, config.max_seq_len), config.max_seq_len})
        ],
    }
    if measure:
        from tramontane.cli.machine import read_bandwidth

        facts["read_bytes_per_s"] = read_bandwidth(place)
    return facts


def how_it_runs(checkpoint: Checkpoint, weight_format: str, dtype: str, place: torch.device) -> dict[str, Any]:
    """What holds the weights and what computes with them."""
    import torch

    from tramontane.formats.names import EMBEDDINGS
    from tramontane.loading import resolve_weight_format
    from tramontane.loading.weight_formats import checkpoint_formats, packed_size, shown_formats
    from tramontane.runtime import resolve_dtype

    config = checkpoint.config
    held = resolve_weight_format(weight_format, dtype=dtype, device=place, config=config)
    if held is None:
        compute = resolve_dtype(dtype, checkpoint.dtype, place)
        name = str(compute).removeprefix("torch.")
        return {
            "compute": compute,
            "embeddings_format": None,
            "weight_format": name,
            "kernels": "torch",
            "instruction_set": None,
            "weights_bytes": checkpoint.memory_bytes(compute),
        }
    from tramontane.ops.cpu import CpuOps

    formats = checkpoint_formats(checkpoint, held)
    return {
        "compute": torch.float32,
        "embeddings_format": formats[EMBEDDINGS],
        "weight_format": shown_formats(config, formats),
        "kernels": CpuOps.name,
        "instruction_set": CpuOps.instruction_set(),
        "weights_bytes": packed_size(config, formats),
    }


def adapter_facts(folder: Path, config: ModelConfig) -> dict[str, Any]:
    """What a LoRA adapter is. Raises ConfigError or CheckpointError for one that does not fit the model."""
    from tramontane.loading.adapter_files import adapter_bytes, read_adapter

    adapter, tensors = read_adapter(folder, config)
    return {
        "path": str(folder),
        "base": adapter.base,
        "ranks": list(adapter.ranks),
        "scales": list(adapter.scales),
        "targets": list(adapter.targets),
        "num_linears": len(adapter.shapes),
        "num_parameters": sum(tensor.numel() for tensor in tensors.values()),
        "size_bytes": adapter_bytes(folder),
    }


def adapter_line(adapter: dict[str, Any]) -> str:
    ranks, scales = (shown_range(adapter[key]) for key in ("ranks", "scales"))
    return (
        f"LoRA of rank {ranks}, scale {scales}, on {', '.join(adapter['targets'])} "
        f"({adapter['num_linears']} matrices), {amount(adapter['num_parameters'])} weights, "
        f"{amount(adapter['size_bytes'], 'B')}; for {adapter['base'] or 'a model it does not name'}"
    )


def shown_range(values: list[float]) -> str:
    return f"{values[0]:g}" if len(values) == 1 else f"{values[0]:g} to {values[-1]:g}"


def kv_cache_bytes(config: ModelConfig, num_tokens: int, dtype: torch.dtype) -> int:
    """Keys and values of one sequence of `num_tokens`: a layer keeps no more than its window."""
    from tramontane.engine.kv_cache import token_bytes

    kept = sum(num_tokens if window is None else min(num_tokens, window) for window in config.sliding_windows)
    return kept * token_bytes(config, dtype)


def vocabulary(num_rows: int, num_tokens: int | None) -> str:
    """Rows of the embedding table, and what of them the tokenizer knows."""
    if num_tokens is None:
        return f"{num_rows} tokens, no tokenizer: token ids only"
    return f"{num_tokens} tokens" + (f", padded to {num_rows}" if num_tokens < num_rows else "")


def rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """The facts as lines for people."""
    active = facts["num_active_parameters"]
    experts = f", {facts['num_experts_per_tok']} of {facts['num_experts']} experts" if facts["num_experts"] else ""
    parameters = amount(facts["num_parameters"])
    if active != facts["num_parameters"]:
        parameters += f", {amount(active)} of them active for a token"
    free = facts["free_bytes"]
    fits = "" if free is None else f"; {amount(free, 'B')} are free"
    if free is not None and free < facts["weights_bytes"]:
        fits += ", which is too little"
    cpu = f", {facts['threads']} threads" if facts["device"] == "cpu" else ""
    native = f"native {facts['instruction_set']} kernels" if facts["instruction_set"] else facts["kernels"]
    cache = [f"{amount(size['num_bytes'], 'B')} for {size['num_tokens']} tokens" for size in facts["kv_cache"]]
    lines = [
        ("model", facts["model"]),
        *([] if facts["adapter"] is None else [("adapter", adapter_line(facts["adapter"]))]),
        ("files", f"{facts['path']} ({facts['layout']}, {facts['stored']}, {amount(facts['size_bytes'], 'B')})"),
        (
            "architecture",
            f"{facts['family']}, {facts['n_layers']} layers, dim {facts['dim']}, {facts['n_heads']} heads "
            f"({facts['n_kv_heads']} for keys) of {facts['head_dim']}, hidden {facts['hidden_dim']}{experts}",
        ),
        ("parameters", parameters),
        ("vocabulary", vocabulary(facts["vocab_size"], facts["tokenizer_tokens"])),
        ("context", f"{facts['max_seq_len']} tokens, {windows(facts['sliding_windows'])}"),
        ("chat", facts["chat_format"] or "no chat format: generate only"),
        ("runs on", f"{facts['device']}{cpu}, {native}, computing in {facts['dtype']}"),
        ("memory", f"{amount(facts['weights_bytes'], 'B')} for weights in {facts['weight_format']}{fits}"),
        ("keys, values", f"{', '.join(cache)}, in {facts['kv_dtype']}"),
    ]
    if "read_bytes_per_s" in facts:
        speed = facts["read_bytes_per_s"]
        ceiling = speed * facts["num_parameters"] / (facts["weights_bytes"] * active)
        lines.append(("reads", f"{amount(speed, 'B')}/s: at most {ceiling:.1f} tokens/s for one sequence"))
    return lines


def windows(sliding_windows: list[int | None]) -> str:
    """Which layers see how much."""
    counts = {window: sliding_windows.count(window) for window in sliding_windows}
    if len(counts) == 1:
        [window] = counts
        return "full attention" if window is None else f"window {window}"
    parts = [f"{'full' if window is None else window} in {count}" for window, count in counts.items()]
    return f"windows by layer: {', '.join(parts)}"
