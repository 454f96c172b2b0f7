"""Tiny checkpoints of known weights, in every layout."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tramontane.config import ModelConfig, MoeConfig, to_gguf_metadata, to_params_json
from tramontane.formats.gguf_write import write_gguf
from tramontane.formats.names import Layout, canonical_shapes
from tramontane.loading import save_checkpoint

DENSE = ModelConfig(
    family="mistral",
    dim=64,
    n_layers=2,
    n_heads=4,
    n_kv_heads=2,
    head_dim=8,
    hidden_dim=96,
    vocab_size=96,
    norm_eps=1e-5,
    rope_theta=10000.0,
    max_seq_len=128,
    sliding_windows=(16, 16),
)
TIED = replace(DENSE, tied_embeddings=True)
EXPERTS = replace(DENSE, family="mixtral", moe=MoeConfig(num_experts=3, num_experts_per_tok=2))
CONFIGS = {"dense": DENSE, "tied": TIED, "experts": EXPERTS}
LAYOUTS: tuple[Layout, ...] = ("hf", "consolidated", "gguf")


def random_weights(config: ModelConfig, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(7)
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in canonical_shapes(config).items()}


def write(
    folder: Path, config: ModelConfig, layout: Layout, weights: Mapping[str, Tensor] | None = None, stored: str = "F32"
) -> Path:
    """A checkpoint in `folder`, without a tokenizer; returns what to open."""
    tensors = (random_weights(config) if weights is None else weights).items()
    if layout == "gguf":
        out = folder / f"{config.family}.gguf"
        write_gguf(out, config, tensors, metadata=to_gguf_metadata(config), stored=stored)
    else:
        out = folder / layout
        save_checkpoint(out, config, tensors, layout=layout, stored=stored)
    return out


def write_pth(folder: Path, config: ModelConfig, weights: Mapping[str, Any], *, num_ranks: int = 1) -> Path:
    """consolidated.NN.pth and params.json, sliced over `num_ranks` as Llama was released."""
    folder.mkdir()
    (folder / "params.json").write_text(json.dumps(to_params_json(config)))
    for rank in range(num_ranks):
        torch.save({name: _slice(name, w, rank, num_ranks) for name, w in weights.items()}, rank_file(folder, rank))
    return folder


def rank_file(folder: Path, rank: int) -> Path:
    return folder / f"consolidated.{rank:02d}.pth"


def _slice(name: str, weight: Tensor, rank: int, num_ranks: int) -> Tensor:
    if weight.dim() == 1:
        return weight
    by_columns = name.startswith("tok_embeddings") or name.endswith((".wo.weight", ".w2.weight"))
    return weight.chunk(num_ranks, dim=1 if by_columns else 0)[rank].clone()


def edit_json(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file; None removes one."""
    data = json.loads(path.read_text()) if path.exists() else {}
    data |= changes
    path.write_text(json.dumps({key: value for key, value in data.items() if value is not None}))
