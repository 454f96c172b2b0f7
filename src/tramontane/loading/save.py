"""Write checkpoints that transformers, mistral-inference and llama.cpp read, and convert one layout to another."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from tramontane.config import to_gguf_metadata, to_hf_config, to_params_json
from tramontane.errors import ConfigError
from tramontane.formats.gguf_write import write_gguf
from tramontane.formats.names import Layout
from tramontane.formats.open_tensors import open_tensors
from tramontane.formats.read import plan_reads, read_part, require_equal
from tramontane.formats.tensor_source import FLOAT_DTYPES
from tramontane.formats.write import SHARD_BYTES, write_consolidated, write_hf
from tramontane.loading.checkpoint import ADVICE
from tramontane.loading.tokenizer import find_tokenizer
from tramontane.tokenizer import TOKENIZER_FILES
from tramontane.tokenizer.gguf import padded_metadata

if TYPE_CHECKING:
    from torch import Tensor

    from tramontane.config import ModelConfig
    from tramontane.loading.checkpoint import Checkpoint
    from tramontane.tokenizer import Tokenizer


def save_checkpoint(
    out: Path,
    config: ModelConfig,
    tensors: Iterable[tuple[str, Tensor]],
    *,
    layout: Layout,
    stored: str = "BF16",
    packed: bool = False,
    tokenizer: Tokenizer | None = None,
    files: Mapping[str, Path | bytes] | None = None,
    stop_ids: Collection[int] = (),
    shard_bytes: int = SHARD_BYTES,
    overwrite: bool = False,
) -> None:
    """Write the canonical (name, tensor) pairs as a checkpoint, all or nothing.

    `out` is a folder for the layouts `hf` and `consolidated`, a .gguf file for `gguf`; `stored` is F32, F16, BF16 or,
    in GGUF, a quantised type, whose tensors come as blocks if they are `packed`. `files` go into the folder as they
    are; where they hold no tokenizer for the layout, that of `tokenizer` is written. `stop_ids` end an answer, beside
    those of `tokenizer`: they are stated in config.json, or in generation_config.json of the layout `consolidated`.
    `shard_bytes` is the most that one file of the layout `hf` holds.
    Raises ConfigError for what the layout cannot express, CheckpointError for tensors that are not the model's or an
    `out` that exists, CapacityError for a full disk.
    """
    if layout == "gguf":
        if out.suffix != ".gguf":
            raise ConfigError(f"{out} must end in .gguf: the layout gguf is one file")
        metadata = gguf_metadata(config, tokenizer, out.stem)
        write_gguf(out, config, tensors, metadata=metadata, stored=stored, packed=packed, overwrite=overwrite)
        return
    if stored not in FLOAT_DTYPES:
        raise ConfigError(f"weights in {stored} have no {layout} form; use {', '.join(FLOAT_DTYPES)}, or layout gguf")
    dtype = FLOAT_DTYPES[stored]
    with ExitStack() as stack:
        all_files: dict[str, Path | bytes] = {}
        if tokenizer is not None and not _hold_tokenizer(files or {}, layout):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tramontane-")))
            all_files |= {path.name: path for path in tokenizer.save(folder)}
            files = _without_added(files or {}) if "tokenizer.json" in all_files else files
        all_files |= files or {}
        own_stop_ids = [] if tokenizer is None else [tokenizer.eos_id]
        more_stop_ids = sorted({*stop_ids, *(() if tokenizer is None else tokenizer.stop_ids)}.difference(own_stop_ids))
        if layout == "consolidated":
            if more_stop_ids:
                all_files[ADVICE] = _with_stop_ids(all_files.get(ADVICE), sorted(own_stop_ids + more_stop_ids))
            write_consolidated(
                out,
                config,
                tensors,
                params_json=to_params_json(config),
                dtype=dtype,
                files=all_files,
                overwrite=overwrite,
            )
            return
        config_json = to_hf_config(config, str(dtype).removeprefix("torch."))
        if tokenizer is not None:
            config_json["bos_token_id"] = tokenizer.bos_id
        if ordered := own_stop_ids + more_stop_ids:
            config_json["eos_token_id"] = ordered[0] if len(ordered) == 1 else ordered
        write_hf(
            out,
            config,
            tensors,
            config_json=config_json,
            dtype=dtype,
            files=all_files,
            shard_bytes=shard_bytes,
            overwrite=overwrite,
        )


def convert(
    checkpoint: Checkpoint,
    out: Path,
    *,
    layout: Layout,
    stored: str | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write `checkpoint` again at `out`, one tensor in memory at a time; else as `save_checkpoint`.

    Without `stored` the weights keep their float type; quantised ones become bfloat16. The tokenizer goes along, and
    its files too where both sides are folders. `progress` is called with (bytes read, bytes in all).
    """
    tensors = stream_tensors(checkpoint, progress)
    save_again(checkpoint, tensors, out, layout=layout, stored=stored, overwrite=overwrite)


def save_again(
    checkpoint: Checkpoint,
    tensors: Iterable[tuple[str, Tensor]],
    out: Path,
    *,
    layout: Layout,
    stored: str | None,
    overwrite: bool,
) -> None:
    """Write `tensors` with all else that belongs to `checkpoint`; see `convert`."""
    if stored is None:
        stored = checkpoint.stored if checkpoint.stored in FLOAT_DTYPES else "BF16"
    save_checkpoint(
        out,
        checkpoint.config,
        tensors,
        layout=layout,
        stored=stored,
        tokenizer=find_tokenizer(checkpoint),
        files=own_files(checkpoint, layout),
        stop_ids=checkpoint.stop_ids,
        overwrite=overwrite,
    )


def stream_tensors(
    checkpoint: Checkpoint, progress: Callable[[int, int], None] | None = None
) -> Iterator[tuple[str, Tensor]]:
    """(canonical name, tensor) for every tensor; each is valid only until the next is asked for."""
    done = 0
    with open_tensors(checkpoint.weights) as source:
        for read in plan_reads(source, checkpoint.config):
            for part in read.parts:
                if part.must_equal is not None:
                    require_equal(source, read.file_name, part.must_equal, checkpoint.config)
                    continue
                tensor = read_part(source, read, part)
                yield part.name, tensor
                done += tensor.numel()
                if progress is not None:
                    progress(checkpoint.size_bytes * done // checkpoint.num_parameters, checkpoint.size_bytes)
            source.release(read.file_name)


def gguf_metadata(config: ModelConfig, tokenizer: Tokenizer | None, name: str) -> dict[str, object]:
    """Everything a GGUF file holds but tensors. llama.cpp wants a token for every row of the embedding table: rows
    beyond the tokenizer get unused ones. Raises ConfigError without a tokenizer, or for one that has more tokens."""
    if tokenizer is None:
        raise ConfigError("a GGUF file holds its tokenizer, and none was given; put its files beside the weights")
    if tokenizer.vocab_size > config.vocab_size:
        raise ConfigError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, the model {config.vocab_size}; use the model's own "
            "tokenizer"
        )
    return {
        **to_gguf_metadata(config),
        "general.type": "model",
        "general.name": name,
        **padded_metadata(tokenizer.gguf_metadata(), config.vocab_size),
    }


def _hold_tokenizer(files: Mapping[str, Path | bytes], layout: Layout) -> bool:
    """transformers wants tokenizer.json; of the others any kind will do."""
    native = any(name.startswith("tokenizer.model") or name == "tekken.json" for name in files)
    return "tokenizer.json" in files or (native and layout == "consolidated")


def own_files(checkpoint: Checkpoint, layout: Layout) -> dict[str, Path | bytes]:
    """Files of a checkpoint folder that belong into its copy in another folder."""
    if checkpoint.layout == "gguf" or layout == "gguf":
        return {}
    place = checkpoint.tokenizer_path or checkpoint.path
    found = [path for pattern in TOKENIZER_FILES for path in place.glob(pattern)]
    return {path.name: path for path in (*found, checkpoint.path / ADVICE) if path.is_file()}


def _without_added(files: Mapping[str, Path | bytes]) -> dict[str, Path | bytes]:
    """`files` without what they say of added tokens, which the tokenizer.json written beside them holds."""
    kept = {name: content for name, content in files.items() if name != "added_tokens.json"}
    if (config := kept.get("tokenizer_config.json")) is not None:
        data = json.loads(config if isinstance(config, bytes) else config.read_bytes())
        data.pop("added_tokens_decoder", None)
        kept["tokenizer_config.json"] = json.dumps(data, ensure_ascii=False, indent=1).encode()
    return kept


def _with_stop_ids(advice: Path | bytes | None, stop_ids: list[int]) -> bytes:
    """generation_config.json that states them."""
    data = {} if advice is None else json.loads(advice if isinstance(advice, bytes) else advice.read_bytes())
    return json.dumps({**data, "eos_token_id": stop_ids}, indent=2).encode()
