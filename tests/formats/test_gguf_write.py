"""Our GGUF files, read by the gguf package and by ourselves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from tests.formats.tiny import MISTRAL, MIXTRAL, TIED, random_weights, read_tensors
from tramontane.config import to_gguf_metadata
from tramontane.config.model_config import ModelConfig
from tramontane.errors import CheckpointError
from tramontane.formats import names
from tramontane.formats.gguf_file import GgufSource, MetadataValue
from tramontane.formats.gguf_write import FILE_TYPES, K_FILE_TYPES, stored_types, write_gguf
from tramontane.formats.open_tensors import open_tensors
from tramontane.formats.quant_blocks import BLOCK_TYPES, dequantise, quantise
from tramontane.formats.read import plan_reads, read_part, read_part_blocks
from tramontane.formats.tensor_source import FLOAT_DTYPES

ARCHITECTURE = {"general.architecture": "llama"}


@pytest.mark.parametrize("stored", FILE_TYPES)
@pytest.mark.parametrize("config", [MISTRAL, MIXTRAL, TIED])
def test_round_trip(config: ModelConfig, stored: str, tmp_path: Path) -> None:
    weights = random_weights(config, torch.bfloat16)
    write_gguf(tmp_path / "m.gguf", config, weights.items(), metadata=to_gguf_metadata(config), stored=stored)
    types = stored_types(config, stored)
    with open_tensors(tmp_path / "m.gguf") as source:
        found = dict(read_tensors(source, config))
    assert found.keys() == weights.keys()
    for name, tensor in weights.items():
        if types[name] in FLOAT_DTYPES:
            expected = tensor.to(FLOAT_DTYPES[types[name]])
        else:
            expected = dequantise(quantise(tensor, types[name]), types[name], tuple(tensor.shape))
        assert found[name].dtype == expected.dtype
        assert torch.equal(found[name], expected), name
    assert [path.name for path in tmp_path.iterdir()] == ["m.gguf"]


@pytest.mark.parametrize("stored", FILE_TYPES)
@pytest.mark.parametrize("config", [MISTRAL, MIXTRAL])
def test_the_gguf_package_reads_the_same_values(config: ModelConfig, stored: str, tmp_path: Path) -> None:
    weights = random_weights(config)
    write_gguf(tmp_path / "m.gguf", config, weights.items(), metadata=to_gguf_metadata(config), stored=stored)
    theirs = gguf.GGUFReader(tmp_path / "m.gguf")
    assert theirs.get_field("general.file_type").contents() == FILE_TYPES[stored]
    assert (theirs.get_field("general.quantization_version") is not None) == (stored in BLOCK_TYPES)
    with GgufSource(tmp_path / "m.gguf") as ours:
        assert [tensor.name for tensor in theirs.tensors] == ours.names()
        for tensor in theirs.tensors:
            info = ours.info(tensor.name)
            assert info.shape == tuple(tensor.shape.tolist()[::-1])
            assert info.stored == tensor.tensor_type.name
            values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(info.shape)
            np.testing.assert_array_equal(ours.read(tensor.name).to(torch.float32).numpy(), values)


def test_packed_experts_come_out_one_by_one(tmp_path: Path) -> None:
    """Blocks of a single expert are its rows of the stack, untouched."""
    weights = random_weights(MIXTRAL)
    write_gguf(tmp_path / "m.gguf", MIXTRAL, weights.items(), metadata=ARCHITECTURE, stored="Q8_0")
    with GgufSource(tmp_path / "m.gguf") as source:
        for read in plan_reads(source, MIXTRAL):
            for part in read.parts:
                if ".experts." in part.name:
                    blocks = read_part_blocks(source, read, part)
                    assert torch.equal(blocks, quantise(weights[part.name], "Q8_0")), part.name


@pytest.mark.parametrize("stored", [*K_FILE_TYPES, "Q4_0"])
def test_packed_blocks_are_written_untouched(stored: str, tmp_path: Path) -> None:
    config = replace(MIXTRAL, dim=256, hidden_dim=256, head_dim=64)
    types = stored_types(config, stored, packed=True)
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, weights in random_weights(config).items():
        tensors[name] = weights
        if types[name] in BLOCK_TYPES:
            row_bytes = BLOCK_TYPES[types[name]].row_bytes(weights.shape[-1])
            tensors[name] = torch.randint(256, (weights.shape[0], row_bytes), generator=generator, dtype=torch.uint8)
    path = tmp_path / "m.gguf"
    write_gguf(path, config, tensors.items(), metadata=ARCHITECTURE, stored=stored, packed=True)
    with GgufSource(path) as source:
        for read in plan_reads(source, config):
            for part in read.parts:
                read_one = read_part_blocks if types[part.name] in BLOCK_TYPES else read_part
                assert torch.equal(read_one(source, read, part), tensors[part.name]), part.name
    with pytest.raises(CheckpointError, match="has shape"):
        write_gguf(path, config, random_weights(config).items(), metadata=ARCHITECTURE, stored=stored, packed=True,
                   overwrite=True)  # fmt: skip


def test_types_of_the_exceptions() -> None:
    types = stored_types(MIXTRAL, "Q4_0")
    assert types["layers.0.attention.wq.weight"] == "Q4_0"
    assert types["tok_embeddings.weight"] == "Q4_0"
    assert types["output.weight"] == "Q8_0"
    assert types["layers.0.attention_norm.weight"] == types["norm.weight"] == "F32"
    assert types["layers.1.feed_forward.gate.weight"] == "F32"
    assert stored_types(TIED, "Q4_0")["tok_embeddings.weight"] == "Q8_0"
    assert stored_types(MISTRAL, "BF16")["output.weight"] == "BF16"
    assert set(FILE_TYPES) >= {"F32", "F16", "BF16", "Q8_0", "Q4_0"}
    with pytest.raises(CheckpointError, match="cannot write GGUF as 'Q4_K'; use one of F32, F16"):
        stored_types(MISTRAL, "Q4_K")


def test_file_types_are_llama_cpps() -> None:
    for stored, number in (FILE_TYPES | K_FILE_TYPES).items():
        kinds = {f"ALL_{stored}", f"MOSTLY_{stored}", f"MOSTLY_{stored}_M"}
        assert gguf.LlamaFileType(number).name in kinds


def test_rows_that_are_not_whole_blocks_become_float16(tmp_path: Path) -> None:
    config = ModelConfig(
        family="mistral", dim=40, n_layers=1, n_heads=2, n_kv_heads=1, head_dim=16, hidden_dim=64, vocab_size=32,
        norm_eps=1e-5, rope_theta=1e4, max_seq_len=64, sliding_windows=(None,),
    )  # fmt: skip
    weights = random_weights(config)
    write_gguf(tmp_path / "m.gguf", config, weights.items(), metadata=ARCHITECTURE, stored="Q8_0")
    with GgufSource(tmp_path / "m.gguf") as source:
        stored = {name: source.info(name).stored for name in source.names()}
    assert stored["blk.0.attn_q.weight"] == "F16"  # rows of 40
    assert stored["blk.0.attn_output.weight"] == "Q8_0"  # rows of 32
    assert stored["blk.0.ffn_down.weight"] == "Q8_0"  # rows of 64


def test_metadata_keeps_its_types(tmp_path: Path) -> None:
    values: dict[str, MetadataValue] = {
        "a.string": "naïve 🌬 \n\0",
        "a.true": True,
        "a.zero": 0,
        "a.large": 2**32 - 1,
        "a.negative": -5,
        "a.huge": 2**64 - 1,
        "a.deep": -(2**63),
        "a.float": 0.5,
        "an.empty": [],
        "a.list": [1, -1, 2],
        "a.wide": [2**31, 1],
        "a.wider": [-(2**40), 1],
        "a.mixed": [1.5, 2],
        "a.scores": [-1.0, 0.25],
        "a.flags": [True, False],
        "a.vocabulary": ["<s>", "▁wind", ""],
    }
    kinds = gguf.GGUFValueType
    expected = {
        "a.string": [kinds.STRING], "a.true": [kinds.BOOL], "a.zero": [kinds.UINT32], "a.large": [kinds.UINT32],
        "a.negative": [kinds.INT32], "a.huge": [kinds.UINT64], "a.deep": [kinds.INT64], "a.float": [kinds.FLOAT32],
        "a.list": [kinds.ARRAY, kinds.INT32], "a.wide": [kinds.ARRAY, kinds.UINT32],
        "a.wider": [kinds.ARRAY, kinds.INT64], "a.mixed": [kinds.ARRAY, kinds.FLOAT32],
        "a.scores": [kinds.ARRAY, kinds.FLOAT32], "a.flags": [kinds.ARRAY, kinds.BOOL],
        "a.vocabulary": [kinds.ARRAY, kinds.STRING],
    }  # fmt: skip
    metadata = {**ARCHITECTURE, **values, "general.alignment": 64, "split.count": 3, "general.file_type": 99}
    write_gguf(tmp_path / "m.gguf", MISTRAL, random_weights(MISTRAL).items(), metadata=metadata, stored="F16")
    with GgufSource(tmp_path / "m.gguf") as source:
        assert source.metadata == {**ARCHITECTURE, **values, "general.file_type": 1}
    theirs = gguf.GGUFReader(tmp_path / "m.gguf")
    for key, types in expected.items():
        field = theirs.get_field(key)
        assert field.types[: len(types)] == types, key


@pytest.mark.parametrize("value", [None, b"raw", {"a": 1}, [1, "a"], [[1]], [True, 1], 2**64, [2**64], 1e39, object()])
def test_metadata_without_a_type_is_refused(value: object, tmp_path: Path) -> None:
    metadata = {**ARCHITECTURE, "a.key": value}
    with pytest.raises(CheckpointError, match=r"metadata 'a\.key' has no GGUF type"):
        write_gguf(tmp_path / "m.gguf", MISTRAL, random_weights(MISTRAL).items(), metadata=metadata, stored="F16")
    assert not list(tmp_path.iterdir())


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    weights = random_weights(MISTRAL)
    path = tmp_path / "m.gguf"
    with pytest.raises(CheckpointError, match=r"GGUF metadata must name general\.architecture"):
        write_gguf(path, MISTRAL, weights.items(), metadata={}, stored="F16")
    with pytest.raises(CheckpointError, match=r"1 tensors were not given: 'output\.weight'"):
        write_gguf(path, MISTRAL, list(weights.items())[:-1], metadata=ARCHITECTURE, stored="F16")
    weights["layers.0.attention.wo.weight"][1, 1] = float("nan")
    with pytest.raises(CheckpointError, match=r"'layers\.0\.attention\.wo\.weight': a weight is infinite or not"):
        write_gguf(path, MISTRAL, weights.items(), metadata=ARCHITECTURE, stored="Q4_0")
    assert not list(tmp_path.iterdir())


def test_an_existing_file_is_replaced_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    old, new = random_weights(MISTRAL, seed=1), random_weights(MISTRAL, seed=2)
    write_gguf(path, MISTRAL, old.items(), metadata=ARCHITECTURE, stored="F32")
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=r"m\.gguf exists already"):
        write_gguf(path, MISTRAL, new.items(), metadata=ARCHITECTURE, stored="F32")
    with pytest.raises(CheckpointError, match="were not given"):
        write_gguf(path, MISTRAL, list(new.items())[1:], metadata=ARCHITECTURE, stored="F32", overwrite=True)
    assert path.read_bytes() == before
    write_gguf(path, MISTRAL, new.items(), metadata=ARCHITECTURE, stored="F32", overwrite=True)
    with GgufSource(path) as source:
        assert torch.equal(source.read("output.weight"), new["output.weight"])
    with pytest.raises(CheckpointError, match="is a folder; name a file in it"):
        write_gguf(tmp_path, MISTRAL, new.items(), metadata=ARCHITECTURE, stored="F32", overwrite=True)


def test_experts_apart_as_in_early_files(tmp_path: Path) -> None:
    """Files of the gguf package with one tensor per expert, in its own writer's order."""
    weights = random_weights(MIXTRAL)
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    for name, file_name in names.file_names("gguf", MIXTRAL).items():
        writer.add_tensor(file_name, weights[name].numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with open_tensors(tmp_path) as source:
        found = dict(read_tensors(source, MIXTRAL))
    for name, tensor in weights.items():
        assert torch.equal(found[name], tensor), name
