"""open_tensors: find the weight files of a checkpoint and open them as one TensorSource.

In a folder the first of these decides: `model.safetensors`, `model.safetensors.index.json` and its shards (in the order
of transformers, so that a save in one piece replaces an older one in several), the one kind of consolidated files
(`consolidated.safetensors`, `consolidated-*-of-*.safetensors`, `consolidated.*.pth` or `.pt`), the only `.gguf` file.
Where Hugging Face and consolidated files lie side by side, Hugging Face's are read. Of two sets of consolidated files
nothing says which is the older: they are refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from tramontane.bounded_json import TENSOR_HEADER
from tramontane.errors import CheckpointError
from tramontane.formats.gguf_file import GgufSource
from tramontane.formats.header_json import read_json_object
from tramontane.formats.names import shown
from tramontane.formats.safetensors_file import SafetensorsSource
from tramontane.formats.tensor_parallel import TensorParallelSource
from tramontane.formats.tensor_source import ShardedSource, TensorSource
from tramontane.formats.torch_pickle import TorchSource

HF_INDEX = "model.safetensors.index.json"
_WEIGHT_FILES = ("*.safetensors", "consolidated.*", "*.gguf")

_OPENERS: dict[str, Callable[[Path], TensorSource]] = {
    ".safetensors": SafetensorsSource,
    ".gguf": GgufSource,
    ".pth": TorchSource,
    ".pt": TorchSource,
}


def open_tensors(path: Path | str) -> TensorSource:
    """The tensors of a checkpoint folder, or of one .safetensors, .pth, .pt or .gguf file.

    Raises CheckpointError if there is none, a shard is missing, or a header is not exactly right.
    """
    path = Path(path)
    if path.is_dir():
        return _open_folder(path)
    if path.suffix not in _OPENERS:
        raise CheckpointError(f"{path} is not a checkpoint: neither a folder nor one of {', '.join(_OPENERS)}")
    return _OPENERS[path.suffix](path)


def _open_folder(folder: Path) -> TensorSource:
    if (folder / "model.safetensors").exists():
        return SafetensorsSource(folder / "model.safetensors")
    if (folder / HF_INDEX).exists():
        return _open_indexed(folder, folder / HF_INDEX)
    if shards := sorted(folder.glob("model-*-of-*.safetensors")):
        return _open_shards(folder, shards)
    if consolidated := _consolidated(folder):
        if consolidated[0].suffix == ".safetensors":
            return SafetensorsSource(consolidated[0]) if len(consolidated) == 1 else _open_shards(folder, consolidated)
        return _open_ranks(folder, consolidated)
    ggufs = sorted(folder.glob("*.gguf"))
    if len(ggufs) == 1:
        return GgufSource(ggufs[0])
    if ggufs:
        raise CheckpointError(f"{folder} holds {len(ggufs)} .gguf files ({shown([f.name for f in ggufs])}); name one")
    if (folder / "adapter_config.json").exists() or (folder / "lora.safetensors").exists():
        raise CheckpointError(
            f"{folder} is a LoRA adapter, no model of its own; merge it into its base: tramontane merge {folder} OUT"
        )
    if any(folder.glob("pytorch_model*.bin")):
        raise CheckpointError(
            f"{folder} holds weights only as pickled .bin files, which can run code and are never read; save them "
            "again as safetensors with transformers (save_pretrained)"
        )
    inside = sorted({path.parent.name for name in _WEIGHT_FILES for path in folder.glob(f"*/{name}")})
    raise CheckpointError(
        f"{folder} holds no weights: neither model.safetensors, consolidated.safetensors, "
        f"consolidated.00.pth nor a .gguf file{f'; name a folder inside it: {shown(inside)}' if inside else ''}"
    )


def _consolidated(folder: Path) -> list[Path]:
    """The files of the only set of consolidated weights, none if there is none."""
    names = ("consolidated.safetensors", "consolidated-*-of-*.safetensors", "consolidated.*.pth", "consolidated.*.pt")
    sets = [files for name in names if (files := sorted(folder.glob(name)))]
    if len(sets) > 1:
        raise CheckpointError(
            f"{folder} holds two sets of weights, {sets[0][0].name} and {sets[1][0].name}; remove the older one"
        )
    return sets[0] if sets else []


def _open_shards(folder: Path, shards: list[Path]) -> TensorSource:
    _require_complete(folder, [shard.name for shard in shards])
    return _open_all(shards, lambda sources: ShardedSource(folder, sources))


def _open_all(paths: Sequence[Path], join: Callable[[list[TensorSource]], TensorSource]) -> TensorSource:
    """Open every file and join them; if one cannot be, close the others."""
    with ExitStack() as opened:
        source = join([opened.enter_context(_OPENERS[path.suffix](path)) for path in paths])
        opened.pop_all()
        return source


def _open_indexed(folder: Path, index: Path) -> TensorSource:
    """The shards an index lists, each holding exactly the tensors that the index says it does."""
    weight_map = _read_weight_map(index)
    shards = sorted(set(weight_map.values()))
    for shard in shards:
        if not re.fullmatch(r"[\w.\-]+\.safetensors", shard):
            raise CheckpointError(f"{index} names {shown([shard])}, which is not a .safetensors file beside it")
        if not (folder / shard).exists():
            raise CheckpointError(f"{folder / shard} is missing, but {index.name} lists it; download it again")
    source = _open_all([folder / shard for shard in shards], lambda sources: ShardedSource(folder, sources))
    found = {name: source.file_of(name) for name in source.names()} if isinstance(source, ShardedSource) else {}
    wrong = sorted(name for name in found.keys() | weight_map.keys() if found.get(name) != weight_map.get(name))
    if wrong:
        source.close()
        raise CheckpointError(
            f"{index} and its shards disagree on {len(wrong)} tensors: {shown(wrong)}; download them again"
        )
    return source


def _read_weight_map(index: Path) -> dict[str, str]:
    try:
        with index.open("rb") as file:
            text = file.read(TENSOR_HEADER.num_bytes + 1)
    except OSError as error:
        raise CheckpointError(f"{index} cannot be read: {error.strerror}") from None
    try:
        weight_map = read_json_object(text.strip()).get("weight_map")
    except CheckpointError as error:
        raise CheckpointError(f"{index}: {error}") from None
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise CheckpointError(f"{index} has no weight_map from tensor names to file names")
    return weight_map


def _require_complete(folder: Path, shards: list[str]) -> None:
    """Shards are called prefix-00001-of-00003.safetensors; every number up to the last must be there."""
    prefix, _, total = shards[0].removesuffix(".safetensors").rsplit("-", 2)
    width = len(total)
    if not total.isascii() or not total.isdigit() or int(total) > 100_000:
        raise CheckpointError(f"{folder / shards[0]} is not named like a shard (-00001-of-00003)")
    expected = {shard_name(prefix.rsplit("-", 1)[0], number, int(total), width) for number in range(1, int(total) + 1)}
    difference = sorted(expected ^ set(shards))
    if difference:
        raise CheckpointError(f"{folder} must hold {len(expected)} shards, but {shown(difference)} is missing or extra")


def shard_name(prefix: str, number: int, total: int, width: int = 5) -> str:
    """File name of shard `number` (from 1) of `total`."""
    return f"{prefix}-{number:0{width}d}-of-{total:0{width}d}.safetensors"


def _open_ranks(folder: Path, ranks: list[Path]) -> TensorSource:
    """consolidated.00.pth, .01.pth, ...: slices of every tensor (Llama), or different tensors (first Mixtral)."""
    if len(ranks) == 1:
        return TorchSource(ranks[0])
    numbers = [rank.name.split(".")[1] for rank in ranks]
    if numbers != [f"{number:02d}" for number in range(len(ranks))]:
        raise CheckpointError(f"{folder} has consolidated files {shown(numbers)}, not 00 to {len(ranks) - 1:02d}")

    def join(sources: list[TensorSource]) -> TensorSource:
        if sources[0].names() and set(sources[0].names()).isdisjoint(sources[1].names()):
            return ShardedSource(folder, sources)
        return TensorParallelSource(folder, sources)

    return _open_all(ranks, join)
