"""EngineConfig: the sizes and limits of one engine."""

from __future__ import annotations

from dataclasses import dataclass

from tramontane.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Raises ConfigError for a value that could not work."""

    page_size: int = 16  # tokens of a KV page
    max_batch_tokens: int = 1024  # tokens computed in one step, decodes and prefill chunks together
    max_sequences: int = 64  # sequences that hold pages at once
    max_waiting: int = 1024  # requests and preempted sequences waiting for pages
    # of one owner; None: no more than are left for the others. Requests without owner may fill the queue
    max_waiting_per_owner: int | None = None
    # cost of one step while owners share, an answer's token counting twice: what a newcomer's first token waits for
    max_shared_cost: int = 48
    # prompt and answer together, above the length in the model's configuration too, which is wrong in some
    # checkpoints; None: what the model and the KV cache allow
    max_seq_len: int | None = None
    kv_cache_bytes: int | None = None  # None: 1 GiB on a CPU, 80 % of the free memory of a GPU
    kv_dtype: str = "auto"  # of keys and values: see resolve_kv_dtype
    num_pages: tuple[int, ...] | None = None  # per window group (ModelConfig.windows), instead of kv_cache_bytes
    prefix_cache: bool = True
    max_draft_tokens: int = 16  # longest guess verified at once (0: none); used where scores do not depend on company
    eos_token_ids: tuple[int, ...] = ()  # end an answer unless its request says ignore_eos
    aging_steps: int = 256  # one unit of priority is worth this many steps of waiting
    max_logits_bytes: int = 256 * 2**20  # largest (rows, V) float32 block of scores held at once

    def __post_init__(self) -> None:
        for name in (
            "page_size", "max_batch_tokens", "max_sequences", "max_waiting", "max_shared_cost", "aging_steps"
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1")
        for name in ("max_waiting_per_owner", "max_seq_len", "kv_cache_bytes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}={value} must be at least 1 (None: as much as fits)")
        if self.max_draft_tokens < 0:
            raise ConfigError(f"max_draft_tokens={self.max_draft_tokens} must be at least 0 (0: no speculation)")
        if self.max_batch_tokens < self.max_sequences:
            # one token for each running sequence in every step is what makes the scheduler free of starvation
            raise ConfigError(
                f"max_batch_tokens={self.max_batch_tokens} must be at least max_sequences={self.max_sequences}"
            )
        if self.num_pages is not None and any(pages < 1 for pages in self.num_pages):
            raise ConfigError(f"num_pages={self.num_pages} must be at least 1 for each window group")
        if self.num_pages is not None and self.kv_cache_bytes is not None:
            raise ConfigError("num_pages and kv_cache_bytes both size the KV cache; give one of them")
