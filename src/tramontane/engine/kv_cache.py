"""KvCache: the memory behind the pages, and how much of it each window group gets."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tramontane.config import ModelConfig
from tramontane.engine.engine_config import EngineConfig
from tramontane.engine.page_allocator import PageCopy
from tramontane.engine.pages import max_pages_for
from tramontane.errors import CapacityError, ConfigError
from tramontane.model.transformer import Transformer
from tramontane.ops.page_types import BLOCK, PAGE_TYPES, Q8_0, page_width

DEFAULT_CPU_BYTES = 2**30
DEFAULT_GPU_SHARE = 0.8  # of the memory that is free once the weights are loaded


class KvCache:
    """Keys and values of all pages: for each layer two tensors (P, S, G, page_width of K), P being its window
    group's pages. On a CPU all rows of one head lie together, page after page, since the kernels attend head by head
    and neighbouring pages, as most of a sequence's are, then make one stream that the processor reads ahead in.

    The memory is reserved, not written: on a CPU it becomes resident page by page as sequences need it.
    """

    def __init__(
        self, config: ModelConfig, num_pages: Sequence[int], page_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.page_size = page_size
        self.windows = config.windows
        self.group_of_layer = [config.windows.index(window) for window in config.sliding_windows]
        width = page_width(config.head_dim, dtype)

        def reserve(num_pages: int) -> Tensor:
            if device.type == "cpu":
                return torch.empty((config.n_kv_heads, num_pages, page_size, width), dtype=dtype).permute(1, 2, 0, 3)
            return torch.empty((num_pages, page_size, config.n_kv_heads, width), dtype=dtype, device=device)

        try:
            self.k_pages = [reserve(num_pages[group]) for group in self.group_of_layer]
            self.v_pages = [reserve(num_pages[group]) for group in self.group_of_layer]
        except (RuntimeError, OSError, OverflowError) as error:
            size_gib = sum(page_bytes(config, page_size, dtype)[g] * n for g, n in enumerate(num_pages)) / 2**30
            raise CapacityError(
                f"a KV cache of {size_gib:.2f} GiB cannot be reserved on {device}: {str(error).splitlines()[0]}; "
                "make kv_cache_gib (--kv-cache-gib) smaller"
            ) from None

    def copy_pages(self, copies: Sequence[PageCopy]) -> None:
        """Copy in every layer of each copy's group. All sources are read before any target is written."""
        for group in {copy.group for copy in copies}:
            device = self.k_pages[0].device
            sources = torch.tensor([copy.source for copy in copies if copy.group == group], device=device)
            targets = torch.tensor([copy.target for copy in copies if copy.group == group], device=device)
            for layer, layer_group in enumerate(self.group_of_layer):
                if layer_group == group:
                    for pages in (self.k_pages[layer], self.v_pages[layer]):
                        pages.index_copy_(0, targets, pages.index_select(0, sources))


def model_kv_dtype(kv_dtype: str, model: Transformer) -> torch.dtype:
    """`resolve_kv_dtype` for a model as it is loaded."""
    packed = model.tok_embeddings.packed
    return resolve_kv_dtype(kv_dtype, model.config, model.dtype, None if packed is None else packed.format)


def resolve_kv_dtype(
    kv_dtype: str, config: ModelConfig, compute: torch.dtype, packed_format: str | None
) -> torch.dtype:
    """What keys and values are stored in: Q8_0 stands for blocks (ops/page_types.py).

    `auto` is float16 where the CPU kernels multiply weights of at most 16 bits: half the memory and traffic of float32,
    in which they compute, for less error than the weights have. Everywhere else it is the compute dtype. Raises
    ConfigError for an unknown name, and for q8_0 where heads are not whole blocks.
    """
    if kv_dtype == "auto":
        return compute if packed_format in (None, "f32") else torch.float16
    if kv_dtype not in PAGE_TYPES:
        raise ConfigError(f"kv_dtype {kv_dtype!r} is unknown; use one of auto, {', '.join(PAGE_TYPES)}")
    if PAGE_TYPES[kv_dtype] == Q8_0 and config.head_dim % BLOCK:
        raise ConfigError(
            f"kv_dtype 'q8_0' needs heads of a multiple of {BLOCK} values, and this model's have {config.head_dim}; "
            "use float16"
        )
    return PAGE_TYPES[kv_dtype]


def page_bytes(config: ModelConfig, page_size: int, dtype: torch.dtype) -> tuple[int, ...]:
    """Memory of one page in each window group, all its layers together."""
    layer_bytes = page_size * token_bytes(config, dtype)
    return tuple(config.sliding_windows.count(window) * layer_bytes for window in config.windows)


def token_bytes(config: ModelConfig, dtype: torch.dtype) -> int:
    """Memory of one token's key and value in one layer."""
    return 2 * config.n_kv_heads * page_width(config.head_dim, dtype) * dtype.itemsize


def resolve_num_pages(
    config: ModelConfig, engine_config: EngineConfig, dtype: torch.dtype, device: torch.device
) -> tuple[int, ...]:
    """Pages of each window group within the memory allowed.

    First every group gets what the longest sequence needs, which for a windowed group is its window and one chunk of
    prefill; if that is too much, what the longest sequence that does fit needs. Then all groups get equally many more,
    since short sequences need as many pages in each, but none more than max_sequences of the longest would fill.
    Raises CapacityError if the memory is too small for one page in each, or for the max_seq_len that was asked for,
    ConfigError for a wrong number of groups.
    """
    if engine_config.num_pages is not None:
        if len(engine_config.num_pages) != len(config.windows):
            raise ConfigError(
                f"num_pages={engine_config.num_pages} must give one number for each window group {config.windows}"
            )
        return engine_config.num_pages
    size = engine_config.page_size
    bytes_of_page = page_bytes(config, size, dtype)
    budget = engine_config.kv_cache_bytes or _default_bytes(device)
    longest = engine_config.max_seq_len or config.max_seq_len

    def pages_of_one(num_pages: int) -> list[int]:
        chunk = engine_config.max_batch_tokens
        return [num_pages if w is None else min(num_pages, max_pages_for(w - 1 + chunk, size)) for w in config.windows]

    def total_bytes(pages: Sequence[int]) -> int:
        return sum(count * each for count, each in zip(pages, bytes_of_page, strict=True))

    low, high = 0, -(-longest // size)
    while low < high:  # the longest sequence, in pages, that fits alone
        middle = (low + high + 1) // 2
        low, high = (middle, high) if total_bytes(pages_of_one(middle)) <= budget else (low, middle - 1)
    if low == 0:
        raise CapacityError(
            f"a KV cache of {budget:,} bytes is too small for one page of {size} tokens in each window group "
            f"({sum(bytes_of_page):,} bytes); make kv_cache_gib (--kv-cache-gib) larger"
        )
    if engine_config.max_seq_len is not None and low * size < longest:
        raise CapacityError(
            f"max_seq_len={longest} needs a KV cache of {total_bytes(pages_of_one(-(-longest // size))):,} bytes, but "
            f"it has {budget:,} for {low * size} tokens; make kv_cache_gib (--kv-cache-gib) larger "
            "or max_seq_len smaller"
        )
    alone = pages_of_one(low)
    more = (budget - total_bytes(alone)) // sum(bytes_of_page)
    return tuple(min(pages + more, pages * engine_config.max_sequences) for pages in alone)


def _default_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * DEFAULT_GPU_SHARE)
    return DEFAULT_CPU_BYTES
