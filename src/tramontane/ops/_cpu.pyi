"""The native extension (csrc/). Memory is passed as addresses: the caller proves shape, dtype and contiguity."""

def instruction_sets() -> list[str]:
    """Sets this build holds and this processor supports, narrowest first: 'scalar', then 'avx2', 'avx512'
    or 'neon', 'neon_dotprod'."""

def best_instruction_set() -> str:
    """The widest of `instruction_sets()`."""

def instruction_set() -> str:
    """The set in use: `TRAMONTANE_CPU`, else the widest. Raises ValueError if the one asked for is unavailable."""

def set_instruction_set(name: str) -> None:
    """Use `name` from now on; no kernel may be running. Raises ValueError if it is unavailable."""

def num_threads() -> int: ...
def set_num_threads(num_threads: int) -> None:
    """Threads of the kernels, the caller's included. Raises ValueError below 1."""

def packed_bytes(format: str, out_features: int, in_features: int) -> int:
    """Size of a packed weight. Raises ValueError for an unknown format or a shape the format cannot hold."""

def row_bytes(format: str, in_features: int) -> int:
    """Size of one row as it lies in a file."""

def pack(format: str, rows: int, out_features: int, in_features: int, panels: int) -> None: ...
def dequantize(format: str, blocks: int, num_values: int, out: int) -> None: ...
def quantize(format: str, x: int, num_values: int, blocks: int) -> None:
    """float32 -> blocks of q8_0, q4_0 or q4_k."""

class PackedMatrix:
    """A packed weight as the kernels see it; `owner` is kept alive."""

    def __init__(self, format: str, panels: int, out_features: int, in_features: int, owner: object) -> None: ...
    def read_rows(self, rows: int, num_rows: int, out: int) -> None:
        """Rows named by int64 indices, as float32. Raises IndexError if one is out of range."""

def linear(x: int, num_rows: int, matrix: PackedMatrix, out: int) -> None: ...
def linears(x: int, num_rows: int, matrices: list[PackedMatrix], outs: list[int]) -> None:
    """Several weights times the same x, in one call."""

max_head_dim: int
max_heads_per_kv: int
max_rank: int
low_rank_panel: int

# (k address, v address, "f32" | "bf16" | "f16" | "q8_0", pages, page size, kv heads, head dim,
#  bytes from page to page, slot to slot, head to head)
Pages = tuple[int, int, str, int, int, int, int, int, int, int]
# PagedBatch: (sequences, query_starts, first_positions, page_table, table width, page_offsets)
Sequences = tuple[int, int, int, int, int, int]

# (a, b, float16, scale, in_features, out_features, rank); rank 0: nothing
LowRank = tuple[int, int, bool, float, int, int, int]

def rms_norm(x: int, weight: int, eps: float, num_rows: int, dim: int, out: int) -> None: ...
def rotate(x: int, cosine: int, sine: int, num_rows: int, num_heads: int, head_dim: int, out: int) -> None: ...
def add_low_rank(
    x: int,
    in_features: int,
    num_rows: int,
    out: int,
    out_features: int,
    adapters: list[LowRank],
    adapter_of_row: int,  # int32, negative: none
) -> None:
    """Adds to `out`. Raises IndexError for an adapter that does not exist."""

def swiglu(gate: int, up: int, num_rows: int, hidden_dim: int, out: int) -> None: ...
def route(logits: int, num_rows: int, num_experts: int, num_active: int, weights: int, experts: int) -> None: ...
def store_kv(k: int, v: int, num_rows: int, slots: int, pages: Pages) -> None:
    """Raises IndexError, before anything is written, if a slot is not in the pages."""

def paged_attention(
    q: int, num_rows: int, num_heads: int, pages: Pages, sequences: Sequences, window: int, out: int
) -> None:
    """`window` 0: none. Raises IndexError, before anything is read, if the batch names what does not exist."""

document_lanes: int
document_lanes_bf16: int

# (heads, kv heads, head dim, window or 0)
Heads = tuple[int, int, int, int]

def packed_attention_forward(
    document_lens: list[int], heads: Heads, q: int, k: int, v: int, out: int, lse: int
) -> None: ...
def packed_attention_backward(
    document_lens: list[int],
    heads: Heads,
    q: int,
    k: int,
    v: int,
    out: int,
    lse: int,
    grad: int,
    grad_q: int,
    grad_k: int,  # (heads, rows, head dim), zeros before
    grad_v: int,
) -> None: ...

# Of bfloat16 in heads of a multiple of document_lanes_bf16, where the instruction set multiplies such.
def computes_bf16_documents() -> bool: ...

packed_attention_forward_bf16 = packed_attention_forward
packed_attention_backward_bf16 = packed_attention_backward

class PagePool:
    """The pages of every layer of a cache; `owner` is kept alive."""

    def __init__(self, layers: list[Pages], group_of_layer: list[int], owner: object) -> None: ...

# (w1, w2, w3)
FeedForward = tuple[PackedMatrix, PackedMatrix, PackedMatrix]
# (attention_norm, ffn_norm, wq, wk, wv, wo, experts, router, active experts)
Layer = tuple[
    int, int, PackedMatrix, PackedMatrix, PackedMatrix, PackedMatrix, list[FeedForward], PackedMatrix | None, int
]
# (slots, sequences, window or 0)
Group = tuple[int, Sequences, int]

# (wq, wk, wv, wo, [(w1, w2, w3) of each expert])
LayerAdapter = tuple[LowRank, LowRank, LowRank, LowRank, list[tuple[LowRank, LowRank, LowRank]]]

class Adapter: ...

class Decoder:
    def __init__(
        self,
        config: tuple[int, int, int, int, float],  # dim, heads, kv heads, head_dim, norm_eps
        embeddings: PackedMatrix,
        layers: list[Layer],
        norm: int,
        owner: object,
    ) -> None:
        """Raises ValueError if the weights do not fit together."""

    def adapter(self, layers: list[LayerAdapter], owner: object) -> Adapter:
        """`owner` is kept alive. Raises ValueError if it does not fit the weights."""

    def forward(
        self,
        num_rows: int,
        token_ids: int,
        cosine: int,
        sine: int,
        pool: PagePool,
        groups: list[Group],
        adapters: list[Adapter],
        adapter_of_row: int,  # int32, negative: none; not read where there are no adapters
        hidden: int,
    ) -> None:
        """Raises IndexError for token ids, slots, pages or adapters that do not exist."""
