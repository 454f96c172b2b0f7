"""The one table of tensor names: canonical (consolidated) <-> Hugging Face <-> GGUF, with shapes.

Each row of the table names a tensor three times. `plan` turns the names found in a file into a list of reads that
together give every canonical tensor exactly once, or says what is missing and what is left over.

Expert weights have been stored in several ways; E experts, F hidden_dim, D dim:

    canonical     layers.0.feed_forward.experts.3.w1.weight               (F, D)     one per expert
    consolidated  layers.0.block_sparse_moe.w1 | w2 | w3                  (E*F, D)   first Mixtral .pth; w2 transposed
    hf            model.layers.0.block_sparse_moe.experts.3.w1.weight     (F, D)
    hf            model.layers.0.mlp.experts.gate_up_proj | down_proj     (E, 2F, D) | (E, D, F)   in-memory names
    gguf          blk.0.ffn_gate_exps.weight                              (E, F, D)
    gguf          blk.0.ffn_gate.3.weight                                 (F, D)     files of early 2024
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tramontane.errors import CheckpointError, ConfigError
from tramontane.formats.rotary_layout import half_to_interleaved

if TYPE_CHECKING:
    from torch import Tensor

    from tramontane.config.model_config import ModelConfig

Layout = Literal["consolidated", "hf", "gguf"]

EMBEDDINGS = "tok_embeddings.weight"
OUTPUT = "output.weight"

# canonical, Hugging Face, GGUF
_MODEL_NAMES = (
    (EMBEDDINGS, "embed_tokens.weight", "token_embd.weight"),
    ("norm.weight", "norm.weight", "output_norm.weight"),
    (OUTPUT, "lm_head.weight", "output.weight"),
)
_LAYER_NAMES = (
    ("attention_norm.weight", "input_layernorm.weight", "attn_norm.weight"),
    ("attention.wq.weight", "self_attn.q_proj.weight", "attn_q.weight"),
    ("attention.wk.weight", "self_attn.k_proj.weight", "attn_k.weight"),
    ("attention.wv.weight", "self_attn.v_proj.weight", "attn_v.weight"),
    ("attention.wo.weight", "self_attn.o_proj.weight", "attn_output.weight"),
    ("ffn_norm.weight", "post_attention_layernorm.weight", "ffn_norm.weight"),
)
_DENSE_NAMES = (
    ("feed_forward.w1.weight", "mlp.gate_proj.weight", "ffn_gate.weight"),
    ("feed_forward.w2.weight", "mlp.down_proj.weight", "ffn_down.weight"),
    ("feed_forward.w3.weight", "mlp.up_proj.weight", "ffn_up.weight"),
)
_ROUTER_NAME = ("feed_forward.gate.weight", "block_sparse_moe.gate.weight", "ffn_gate_inp.weight")
_EXPERT_NAMES = (  # per expert e
    ("feed_forward.experts.{e}.w1.weight", "block_sparse_moe.experts.{e}.w1.weight", "ffn_gate.{e}.weight"),
    ("feed_forward.experts.{e}.w2.weight", "block_sparse_moe.experts.{e}.w2.weight", "ffn_down.{e}.weight"),
    ("feed_forward.experts.{e}.w3.weight", "block_sparse_moe.experts.{e}.w3.weight", "ffn_up.{e}.weight"),
)
GGUF_EXPERT_STACKS = {"w1": "ffn_gate_exps.weight", "w2": "ffn_down_exps.weight", "w3": "ffn_up_exps.weight"}
_COLUMN = {"consolidated": 0, "hf": 1, "gguf": 2}
_LAYER_PREFIX = {"consolidated": "layers.{layer}.", "hf": "{body}layers.{layer}.", "gguf": "blk.{layer}."}

# Hugging Face puts the text model under one of these, and the output matrix under the other.
_HF_PREFIXES = (
    ("model.", ""),
    ("language_model.model.", "language_model."),  # Mistral3ForConditionalGeneration on disk
    ("model.language_model.", ""),  # the same model, transformers 5 in-memory names
)

# What may be present beside the text model: tables recomputed from the configuration, and the vision tower.
_SKIPPED = {
    "consolidated": re.compile(
        r"rope\.freqs|layers\.\d+\.attention\.inner_attention\.rope\.freqs"
        r"|(vision_encoder|vision_language_adapter|patch_merger|pre_mm_projector_norm)\..+"
    ),
    "hf": re.compile(
        r"(model\.|language_model\.model\.|model\.language_model\.)(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq"
        r"|(model\.)?(vision_tower|multi_modal_projector)\..+"
    ),
    "gguf": re.compile(r"blk\.\d+\.attn_rot_embd\.weight"),
}
_MAX_TENSORS = 1_000_000  # Mixtral 8x22B has 1,739; more can only be a configuration made to exhaust memory


@dataclass(frozen=True, slots=True)
class TensorPart:
    """One canonical tensor inside a stored one, seen as a matrix of rows (leading dimensions flattened)."""

    name: str  # canonical
    shape: tuple[int, ...]  # canonical, torch order
    start_row: int | None = None  # first row taken; None: the whole tensor
    transposed: bool = False  # stored as (columns, rows); impossible on packed blocks
    half_heads: int | None = None  # number of heads whose rows stand in the `half` rotary order
    must_equal: str | None = None  # not a tensor of its own: the copy of this (tied) tensor, to be compared with it

    @property
    def rows(self) -> tuple[int, int] | None:
        """Half-open range of stored rows this part occupies, None for all."""
        if self.start_row is None:
            return None
        return self.start_row, self.start_row + (self.shape[1] if self.transposed else self.shape[0])

    @property
    def is_in_order(self) -> bool:
        """Whether the stored rows are the canonical ones, one by one."""
        return self.half_heads is None and not self.transposed

    def stored_rows(self, start: int, stop: int) -> tuple[int, int]:
        """Where canonical rows `start` … `stop` - 1 are stored, of a part that `is_in_order`."""
        first = self.start_row or 0
        return first + start, first + stop

    def arrange(self, rows: Tensor) -> Tensor:
        """The canonical tensor, from its stored rows: (rows, columns), packed blocks (rows, bytes), or a vector."""
        if self.half_heads is not None:
            return half_to_interleaved(rows, self.half_heads)
        return rows.T if self.transposed else rows


@dataclass(frozen=True, slots=True)
class TensorRead:
    """One stored tensor and the canonical tensors it holds."""

    file_name: str
    shape: tuple[int, ...]  # the stored shape this configuration calls for
    parts: tuple[TensorPart, ...]


def canonical_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Shape (torch order, output rows first) of every tensor of the model, in the order of computation.

    A tied model has no `output.weight`. Raises ConfigError for a number of tensors no model has.
    """
    num_experts = config.moe.num_experts if config.moe else 1
    if config.n_layers * (3 * num_experts + 7) > _MAX_TENSORS:
        raise ConfigError(f"n_layers={config.n_layers} with {num_experts} experts is beyond any model of this family")
    D, F = config.dim, config.hidden_dim
    attention = {
        "attention_norm.weight": (D,),
        "attention.wq.weight": (config.n_heads * config.head_dim, D),
        "attention.wk.weight": (config.n_kv_heads * config.head_dim, D),
        "attention.wv.weight": (config.n_kv_heads * config.head_dim, D),
        "attention.wo.weight": (D, config.n_heads * config.head_dim),
        "ffn_norm.weight": (D,),
    }
    w123 = {"w1": (F, D), "w2": (D, F), "w3": (F, D)}
    feed_forward: dict[str, tuple[int, ...]]
    if config.moe is None:
        feed_forward = {f"feed_forward.{w}.weight": shape for w, shape in w123.items()}
    else:
        feed_forward = {"feed_forward.gate.weight": (num_experts, D)}
        for e in range(num_experts):
            feed_forward |= {f"feed_forward.experts.{e}.{w}.weight": shape for w, shape in w123.items()}
    shapes: dict[str, tuple[int, ...]] = {EMBEDDINGS: (config.vocab_size, D)}
    for layer in range(config.n_layers):
        shapes |= {f"layers.{layer}.{name}": shape for name, shape in (attention | feed_forward).items()}
    shapes["norm.weight"] = (D,)
    if not config.tied_embeddings:
        shapes[OUTPUT] = (config.vocab_size, D)
    return shapes


def detect_layout(file_names: Iterable[str]) -> Layout:
    """Whose names these are, by the embedding table. Raises CheckpointError when it is nobody's we know."""
    names = set(file_names)
    if EMBEDDINGS in names:
        return "consolidated"
    if "token_embd.weight" in names:
        return "gguf"
    if any(body + "embed_tokens.weight" in names for body, _ in _HF_PREFIXES):
        return "hf"
    raise CheckpointError(
        "no embedding table (tok_embeddings.weight, model.embed_tokens.weight or token_embd.weight) among "
        f"{len(names)} tensors: {shown(sorted(names))}; is this a Mistral- or Llama-family checkpoint?"
    )


def stores_output(file_names: Iterable[str]) -> bool:
    """Whether an output matrix is stored. GGUF metadata does not say if embeddings are tied; its absence does."""
    outputs = {"output.weight", *(head + "lm_head.weight" for _, head in _HF_PREFIXES)}
    return any(name in outputs for name in file_names)


def hf_body(module_names: Iterable[str]) -> str:
    """What the names of a model's layers begin with, judged by names of modules or tensors in Hugging Face's layout."""
    names = list(module_names)
    return next(
        (body for body, _ in _HF_PREFIXES if any(name.startswith(f"{body}layers.") for name in names)),
        _HF_PREFIXES[0][0],
    )


def rotary_heads(canonical: str, config: ModelConfig) -> int | None:
    """Number of heads if the rows of this canonical tensor depend on the rotary layout, else None."""
    if canonical.endswith("attention.wq.weight"):
        return config.n_heads
    return config.n_kv_heads if canonical.endswith("attention.wk.weight") else None


def file_names(layout: Layout, config: ModelConfig) -> dict[str, str]:
    """Canonical name -> the name `layout` stores it under, one to one (experts apart, as Hugging Face writes them)."""
    return {read.parts[0].name: read.file_name for read in _one_to_one(layout, config, "model.", "")}


def written(layout: Layout, config: ModelConfig) -> list[TensorRead]:
    """The tensors of a file that we write: one per canonical tensor, but GGUF's experts stacked."""
    reads = list(_one_to_one(layout, config, "model.", ""))
    if layout != "gguf" or config.moe is None:
        return reads
    together = [read for read in reads if ".experts." not in read.parts[0].name]
    return together + [read for layer in range(config.n_layers) for read in _gguf_stacks(config, layer, "")]


def plan(layout: Layout, file_names: Iterable[str], config: ModelConfig) -> list[TensorRead]:
    """The reads that give each canonical tensor once, in the order of computation.

    Raises CheckpointError naming tensors that are missing, left over, or stored twice.
    """
    names = set(file_names)
    body, head = _hf_prefix(names) if layout == "hf" else ("", "")
    known = {read.file_name: read for read in _known_reads(layout, config, body, head)}
    reads = [read for read in known.values() if read.file_name in names]
    left_over = sorted(name for name in names - known.keys() if not _SKIPPED[layout].fullmatch(name))
    times = Counter(part.name for read in reads for part in read.parts if part.must_equal is None)
    place = {name: number for number, name in enumerate(canonical_shapes(config))}
    missing = [name for name in place if name not in times]
    if missing:
        hint = f" (left over: {shown(left_over)})" if left_over else ""
        raise CheckpointError(f"{len(missing)} tensors are missing: {shown(missing)}{hint}")
    if left_over:
        raise CheckpointError(f"{len(left_over)} tensors do not belong to this model: {shown(left_over)}")
    twice = [name for name, count in times.items() if count > 1]
    if twice:
        raise CheckpointError(f"{len(twice)} tensors are stored twice under different names: {shown(twice)}")
    return sorted(reads, key=lambda read: place.get(read.parts[0].name, len(place)))


def shown(names: list[str]) -> str:
    """The first few of `names`, quoted and cut, fit for a one-line message."""
    return ", ".join(repr(name[:100]) for name in names[:3]) + (", ..." if len(names) > 3 else "")


def _hf_prefix(names: set[str]) -> tuple[str, str]:
    for body, head in _HF_PREFIXES:
        if body + "embed_tokens.weight" in names:
            return body, head
    return _HF_PREFIXES[0]


def _known_reads(layout: Layout, config: ModelConfig, body: str, head: str) -> Iterator[TensorRead]:
    """Every way this layout is known to store the model's tensors, in the order of computation."""
    yield from _one_to_one(layout, config, body, head)
    if config.tied_embeddings:
        name = {"consolidated": OUTPUT, "hf": head + "lm_head.weight", "gguf": "output.weight"}[layout]
        shape = (config.vocab_size, config.dim)
        yield TensorRead(name, shape, (TensorPart(OUTPUT, shape, must_equal=EMBEDDINGS),))
    if config.moe is not None:
        stacks = {"consolidated": _consolidated_stacks, "hf": _hf_stacks, "gguf": _gguf_stacks}[layout]
        for layer in range(config.n_layers):
            yield from stacks(config, layer, body)


def _one_to_one(layout: Layout, config: ModelConfig, body: str, head: str) -> Iterator[TensorRead]:
    """Every canonical tensor under its own name in `layout`, experts apart."""
    column = _COLUMN[layout]
    layer_names = {row[0]: row[column] for row in (*_LAYER_NAMES, *_DENSE_NAMES, _ROUTER_NAME)}
    model_names = {row[0]: row[column] for row in _MODEL_NAMES}
    if layout == "hf":
        model_names = {name: (head if name == OUTPUT else body) + stored for name, stored in model_names.items()}
    experts = {row[0]: row[column] for row in _EXPERT_NAMES}
    for name, shape in canonical_shapes(config).items():
        if name in model_names:
            stored = model_names[name]
        else:
            _, layer, suffix = name.split(".", 2)
            stored = _LAYER_PREFIX[layout].format(body=body, layer=layer)
            if suffix in layer_names:
                stored += layer_names[suffix]
            else:
                e = suffix.split(".")[2]
                stored += experts[suffix.replace(f".{e}.", ".{e}.")].format(e=e)
        heads = rotary_heads(name, config) if layout == "hf" else None
        yield TensorRead(stored, shape, (TensorPart(name, shape, half_heads=heads),))


def _expert(layer: int, e: int, w: str) -> str:
    return f"layers.{layer}.feed_forward.experts.{e}.{w}.weight"


def _consolidated_stacks(config: ModelConfig, layer: int, body: str) -> Iterator[TensorRead]:
    """The first Mixtral files: experts stacked by rows as megablocks wants them, w2 transposed."""
    E, F, D = _num_experts(config), config.hidden_dim, config.dim
    router = TensorPart(f"layers.{layer}.feed_forward.gate.weight", (E, D))
    yield TensorRead(f"layers.{layer}.block_sparse_moe.gate.weight", (E, D), (router,))
    for w in ("w1", "w2", "w3"):
        shape, transposed = ((D, F), True) if w == "w2" else ((F, D), False)
        parts = (TensorPart(_expert(layer, e, w), shape, start_row=e * F, transposed=transposed) for e in range(E))
        yield TensorRead(f"layers.{layer}.block_sparse_moe.{w}", (E * F, D), tuple(parts))


def _hf_stacks(config: ModelConfig, layer: int, body: str) -> Iterator[TensorRead]:
    """The names of transformers 5 in memory: gate rows before up rows, expert by expert."""
    E, F, D = _num_experts(config), config.hidden_dim, config.dim
    prefix = f"{body}layers.{layer}.mlp."
    router = TensorPart(f"layers.{layer}.feed_forward.gate.weight", (E, D))
    yield TensorRead(prefix + "gate.weight", (E, D), (router,))
    gate_up = []
    for e in range(E):
        gate_up.append(TensorPart(_expert(layer, e, "w1"), (F, D), start_row=2 * e * F))
        gate_up.append(TensorPart(_expert(layer, e, "w3"), (F, D), start_row=(2 * e + 1) * F))
    yield TensorRead(prefix + "experts.gate_up_proj", (E, 2 * F, D), tuple(gate_up))
    down = (TensorPart(_expert(layer, e, "w2"), (D, F), start_row=e * D) for e in range(E))
    yield TensorRead(prefix + "experts.down_proj", (E, D, F), tuple(down))


def _gguf_stacks(config: ModelConfig, layer: int, body: str) -> Iterator[TensorRead]:
    E, F, D = _num_experts(config), config.hidden_dim, config.dim
    for w, name in GGUF_EXPERT_STACKS.items():
        rows, columns = (D, F) if w == "w2" else (F, D)
        parts = (TensorPart(_expert(layer, e, w), (rows, columns), start_row=e * rows) for e in range(E))
        yield TensorRead(f"blk.{layer}.{name}", (E, rows, columns), tuple(parts))


def _num_experts(config: ModelConfig) -> int:
    return config.moe.num_experts if config.moe else 0
