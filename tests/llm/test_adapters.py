"""Adapters from their folders: by name and by default, in and out of memory, alone and together."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
import torch

from tests.tiny_checkpoint import write_tiny_checkpoint
from tramontane import LLM, AsyncLLM, SamplingParams
from tramontane.errors import CapacityError, CheckpointError, ConfigError, RequestError
from tramontane.llm.adapters import AdapterStore
from tramontane.loading import load_model, open_checkpoint
from tramontane.loading.adapter_files import AdapterConfig, write_adapter
from tramontane.loading.merge import merge
from tramontane.model.lora import Lora, attach_lora, merge_lora
from tramontane.training.adapters import adapter_tensors, load_adapter

GREEDY = SamplingParams(max_tokens=12, ignore_eos=True)
PROMPT = "The wind beside the Mistral"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("adapters") / "base", sliding_windows=24)


def make_adapter(folder: Path, base: Path, seed: int) -> Path:
    model = load_model(open_checkpoint(base))
    torch.manual_seed(seed)
    shapes = attach_lora(model, rank=4, alpha=8.0)
    for module in model.modules():
        if isinstance(module, Lora):
            torch.nn.init.normal_(module.b, std=0.3)
    write_adapter(folder, model.config, AdapterConfig(shapes=shapes, base=str(base)), adapter_tensors(model))
    return folder


@pytest.fixture(scope="module")
def folders(base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("adapters")
    return [make_adapter(root / f"persona-{seed}", base, seed) for seed in range(3)]


@pytest.fixture
def llm(base: Path) -> LLM:
    return LLM(str(base), kv_cache_gib=0.01)


def test_an_adapter_answers_as_the_model_it_was_merged_into(
    llm: LLM, base: Path, folders: list[Path], tmp_path: Path
) -> None:
    checkpoint = open_checkpoint(base)
    merge(checkpoint, folders[0], tmp_path / "merged", layout="hf")
    weights = load_model(checkpoint)
    load_adapter(weights, folders[0])
    assert merge_lora(weights) > 0
    for name, parameter in load_model(open_checkpoint(tmp_path / "merged")).named_parameters():
        torch.testing.assert_close(parameter, weights.get_parameter(name))
    name = llm.load_adapter(folders[0])
    assert name == "persona-0"
    token_ids = llm.tokenizer.encode(PROMPT, bos=True)
    expected = LLM(str(tmp_path / "merged"), kv_cache_gib=0.01).logits(token_ids)
    torch.testing.assert_close(llm.logits(token_ids, adapter=name), expected, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(llm.logits(token_ids), expected, atol=0.1)


def test_a_folder_of_an_adapter_opens_its_base_with_it(llm: LLM, base: Path, folders: list[Path]) -> None:
    direct = LLM(str(folders[1]), kv_cache_gib=0.01)
    llm.load_adapter(folders[1], "other name")
    adapted = llm.generate(PROMPT, GREEDY, adapter="other name")
    assert direct.default_adapter == "persona-1"
    assert direct.generate(PROMPT, GREEDY) == adapted
    direct.engine.default_adapter = None
    assert direct.generate(PROMPT, GREEDY) == llm.generate(PROMPT, GREEDY) != adapted


def test_a_base_is_found_beside_its_adapter(base: Path, folders: list[Path], tmp_path: Path) -> None:
    moved = shutil.copytree(folders[0], tmp_path / "adapter")
    shutil.copytree(base, tmp_path / "base")
    config = (moved / "adapter_config.json").read_text("utf-8").replace(str(base), "../base")
    (moved / "adapter_config.json").write_text(config, "utf-8")
    assert LLM(str(moved), kv_cache_gib=0.01).default_adapter == "adapter"
    (moved / "adapter_config.json").write_text(config.replace('"../base"', "null"), "utf-8")
    with pytest.raises(ConfigError, match="does not say which model it is for; name that with --base"):
        LLM(str(moved))


def test_adapters_of_many_tasks_come_and_go_while_others_are_answered(base: Path, folders: list[Path]) -> None:
    async def journey() -> None:
        llm = AsyncLLM(str(base), kv_cache_gib=0.01)
        try:
            names = [await llm.load_adapter(folder) for folder in folders]
            alone = {name: (await llm.generate(PROMPT, GREEDY, adapter=name)).text for name in names}
            alone[""] = (await llm.generate(PROMPT, GREEDY)).text
            assert len(set(alone.values())) == 4
            llm.adapters.max_bytes = 1  # nothing that is not in use stays
            wanted = [*names, "", *reversed(names), ""] * 2
            tasks = [llm.generate(PROMPT, GREEDY, adapter=name or None) for name in wanted]
            answers = await asyncio.gather(*tasks)
            assert [answer.text for answer in answers] == [alone[name] for name in wanted]
            stream = await llm.start(await llm.read_prompt(PROMPT), GREEDY, adapter=names[0])
            llm.unload_adapter(names[0])
            async with stream:
                assert "".join([delta.text async for delta in stream]) == alone[names[0]]
            with pytest.raises(RequestError, match="no adapter named 'persona-0'; loaded are persona-1, persona-2"):
                await llm.generate(PROMPT, adapter=names[0])
        finally:
            llm.shutdown()

    asyncio.run(journey())


def test_the_one_used_longest_ago_leaves_memory_first(llm: LLM, folders: list[Path], tmp_path: Path) -> None:
    store = llm.adapters
    first, second, third = (shutil.copytree(folder, tmp_path / folder.name) for folder in folders)
    store.load(first)
    size = store.num_bytes
    store.max_bytes = 2 * size
    store.load(second)
    store.get("persona-0")
    store.load(third)
    assert store.num_bytes == 2 * size
    assert store.names == ("persona-1", "persona-0", "persona-2")
    held = store.get("persona-0")
    assert store.get("persona-0") is held
    shutil.rmtree(second)
    with pytest.raises(CheckpointError, match="an adapter is adapter_config"):
        store.get("persona-1")  # it was the one that left
    with pytest.raises(CapacityError, match="adapters may take 1 in all"):
        AdapterStore(llm.engine.model, llm.tokenizer, max_bytes=1).load(first)


def test_another_adapter_cannot_take_a_name(llm: LLM, folders: list[Path], tmp_path: Path) -> None:
    name = llm.load_adapter(folders[0])
    assert llm.load_adapter(folders[0]) == name
    with pytest.raises(ConfigError, match="loaded already"):
        llm.load_adapter(folders[1], name)
    changed = shutil.copytree(folders[0], tmp_path / "changed")
    llm.load_adapter(changed)
    llm.adapters.max_bytes = 1
    llm.adapters.get(name)
    shutil.copy(folders[1] / "adapter_model.safetensors", changed)
    with pytest.raises(CheckpointError, match="has changed since it was loaded"):
        llm.generate(PROMPT, adapter="changed")
    llm.unload_adapter(name)
    with pytest.raises(RequestError, match="no adapter named 'persona-0'"):
        llm.unload_adapter(name)
