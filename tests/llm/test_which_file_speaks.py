"""Checkpoints whose files say different things, from folder to answer: the result is transformers'."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    MistralConfig,
    MistralForCausalLM,
)

from tests.loading.checkpoints import edit_json
from tests.parity.llama_cpp import llama_cpp_logits
from tests.parity.tiny_models import SIZES
from tests.tokenizer.vocabularies import ours, path_of
from tramontane import LLM, AsyncLLM, SamplingParams
from tramontane.errors import CapacityError, ConfigError, TokenizerError
from tramontane.evals.item import Pair, Text
from tramontane.evals.target import EngineTarget
from tramontane.loading import convert, open_checkpoint, open_tokenizer

TINY = {key: value for key, value in SIZES.items() if key != "vocab_size"}
VOCABULARY = "v7-small"  # 1,024 tokens; 2 ends a sequence
END = 900  # an ordinary token by the tokenizer


def always_says(token_id: int, vocab_size: int = 1024) -> Any:
    """A model of transformers that predicts `token_id` at every position."""
    model = MistralForCausalLM(MistralConfig(**TINY, vocab_size=vocab_size, sliding_window=None)).float().eval()
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.model.embed_tokens.weight.zero_()
        model.model.embed_tokens.weight[:, 0] = 1.0
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.lm_head.weight[token_id, 0] = 5.0
    return model


def save(model: Any, folder: Path, vocabulary: str | None = VOCABULARY) -> Path:
    model.save_pretrained(folder)
    if vocabulary is not None:
        ours(vocabulary).save(folder)
    return folder


def opened(path: Path, **options: Any) -> LLM:
    return LLM(str(path), threads=1, kv_cache_gib=0.02, **options)


def num_generated(llm: LLM) -> int:
    completion = llm.generate([[1, 500, 501]], SamplingParams(max_tokens=5))[0]
    assert (completion.finish_reason == "stop") == (len(completion.token_ids) == 1)
    return len(completion.token_ids)


STATED: dict[str, tuple[Any, Any]] = {  # (config.json, generation_config.json)
    "both": ([2, END], [2, END]),
    "config": ([2, END], None),
    "config alone": (END, 2),
    "advice": (2, [END]),
    "advice alone": (None, END),
}


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(always_says(END), tmp_path_factory.mktemp("endless") / "model")


def stating(source: Path, folder: Path, config: Any, advice: Any) -> Path:
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).hardlink_to(path)
    for name, value in (("config.json", config), ("generation_config.json", advice)):
        data = json.loads((folder / name).read_text()) | {"eos_token_id": value}
        (folder / name).unlink()
        (folder / name).write_text(json.dumps({key: value for key, value in data.items() if value is not None}))
    return folder


@pytest.mark.parametrize("stated", STATED.values(), ids=STATED)
def test_every_stated_end_stops_an_answer(stated: tuple[Any, Any], endless: Path, tmp_path: Path) -> None:
    llm = opened(stating(endless, tmp_path / "model", *stated))
    assert num_generated(llm) == 1
    assert llm.generate(["hi"], SamplingParams(max_tokens=5))[0].text == ""  # what ends an answer is none of its text
    assert len(llm.generate(["hi"], SamplingParams(max_tokens=5, ignore_eos=True))[0].token_ids) == 5
    assert EngineTarget(llm, "tiny").llm.engine.config.eos_token_ids == (2, END)


def test_without_a_word_from_the_files_it_goes_on(endless: Path, tmp_path: Path) -> None:
    assert num_generated(opened(stating(endless, tmp_path / "model", 2, None))) == 5


@pytest.mark.parametrize("layout", ["hf", "consolidated", "gguf"])
@pytest.mark.parametrize("stop_ids", [[2, END], [2, END, 901, 902, 903]])
def test_every_end_is_kept_when_a_model_is_written_again(
    layout: Any, stop_ids: list[int], endless: Path, tmp_path: Path
) -> None:
    source = open_checkpoint(stating(endless, tmp_path / "model", stop_ids, 2))
    first = tmp_path / ("first.gguf" if layout == "gguf" else "first")
    convert(source, first, layout=layout)
    assert opened(first).tokenizer.stop_ids == frozenset(stop_ids)
    convert(open_checkpoint(first), tmp_path / "hf", layout="hf")
    assert num_generated(opened(tmp_path / "hf")) == 1
    if layout != "hf":  # there the source's own generation_config.json, of one end, goes along
        judge = AutoModelForCausalLM.from_pretrained(tmp_path / "hf").generation_config
        assert set(judge.eos_token_id) == set(stop_ids)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
@pytest.mark.parametrize(
    ("value", "message"), [(1024, "is outside"), ([2, -1], "is outside"), (["x"], "must be a tok")]
)
def test_an_end_that_is_no_token_is_named(name: str, value: Any, message: str, endless: Path, tmp_path: Path) -> None:
    both = (value, 2) if name == "config.json" else (2, value)
    with pytest.raises(ConfigError, match=f"{name}.*eos_token_id=.*{message}"):
        open_checkpoint(stating(endless, tmp_path / "model", *both))


def test_the_text_part_of_a_wrapper_states_ends_too(tmp_path: Path) -> None:
    text = MistralConfig(**TINY, vocab_size=1024, sliding_window=None, eos_token_id=[2, END]).to_dict()
    model = Mistral3ForConditionalGeneration(Mistral3Config(text_config=text, vision_config=VISION)).float()
    assert END in open_checkpoint(save(model, tmp_path / "model")).stop_ids


VISION = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": 28,
}


@pytest.mark.parametrize(("wrapper", "text"), [(True, False), (False, True), (None, False), (True, True)])
def test_a_wrapper_ties_embeddings_as_transformers_does(wrapper: bool | None, text: bool, tmp_path: Path) -> None:
    torch.manual_seed(3)
    part = MistralConfig(**TINY, vocab_size=1024, sliding_window=None, tie_word_embeddings=text).to_dict()
    said = {} if wrapper is None else {"tie_word_embeddings": wrapper}
    model = Mistral3ForConditionalGeneration(Mistral3Config(text_config=part, vision_config=VISION, **said)).float()
    folder = save(model.eval(), tmp_path / "model")
    if wrapper is None:
        edit_json(folder / "config.json", tie_word_embeddings=None)
    ids = [1, *range(300, 320)]
    judge = Mistral3ForConditionalGeneration.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = judge(torch.tensor([ids])).logits[0].float()
    assert (opened(folder, weight_format="f32").logits(ids) - expected).abs().max() < 1e-4


def test_a_gguf_of_architecture_mistral3_gives_llama_cpps_logits(tmp_path: Path) -> None:
    """llama.cpp's converter calls every Mistral3ForConditionalGeneration so, Small 3.1 and 3.2 with it."""
    torch.manual_seed(11)
    model = MistralForCausalLM(MistralConfig(**TINY, vocab_size=1024, sliding_window=None)).float()
    convert(open_checkpoint(save(model, tmp_path / "model")), tmp_path / "llama.gguf", layout="gguf", stored="F32")
    reader = gguf.GGUFReader(tmp_path / "llama.gguf")
    path = tmp_path / "mistral3.gguf"
    writer = gguf.GGUFWriter(str(path), "mistral3")
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        own = f"mistral3.{key.removeprefix('llama.')}" if key.startswith("llama.") else key
        is_array = field.types[0] == gguf.GGUFValueType.ARRAY
        writer.add_key_value(own, field.contents(), field.types[0], sub_type=field.types[-1] if is_array else None)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, np.array(tensor.data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    ids = [1, *range(300, 320)]
    ours_of_it = opened(path, weight_format="f32").logits(ids)
    assert torch.equal(ours_of_it, opened(tmp_path / "llama.gguf", weight_format="f32").logits(ids))
    assert (ours_of_it - llama_cpp_logits(path, ids)).abs().max() < 0.01


# --- vocabulary and embedding rows


@pytest.mark.parametrize("rows", [1032, 1056, 1088, 1152, 1536])
@pytest.mark.parametrize("layout", ["hf", "consolidated", "gguf"])
def test_padded_vocabularies_convert_and_load_back(rows: int, layout: Any, tmp_path: Path) -> None:
    folder = save(always_says(END, rows), tmp_path / "model")
    out = tmp_path / ("out.gguf" if layout == "gguf" else "out")
    convert(open_checkpoint(folder), out, layout=layout)
    llm = opened(out)
    assert (llm.checkpoint.config.vocab_size, llm.tokenizer.vocab_size) == (rows, 1024)
    assert llm.tokenizer.encode_prompt("The wind") == ours(VOCABULARY).encode_prompt("The wind")
    assert num_generated(llm) == 5
    convert(open_checkpoint(out), tmp_path / "again", layout="hf")
    assert opened(tmp_path / "again").logits([1, 2]).shape == (2, rows)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (1016, r"the tokenizer has 1024 tokens, but the embedding table 1016 rows; use the model's own"),
        (1026, r"has 1024 tokens, but the embedding table 1026 rows; put the model's own added_tokens.json"),
        (2048, r"has 1024 tokens, but the embedding table 2048 rows; put the model's own"),
    ],
)
def test_a_tokenizer_of_another_size_is_refused(rows: int, message: str, tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=message):
        open_tokenizer(open_checkpoint(save(always_says(END, rows), tmp_path / "model")))


IM_END, IM_START = "<|im_end|>", "<|im_start|>"
FLAGS = dict.fromkeys(("lstrip", "rstrip", "normalized", "single_word"), False)
CHATML_FILES: dict[str, dict[str, Any]] = {  # what fine-tunes of OpenHermes' kind leave beside tokenizer.model
    "ids and roles": {
        "added_tokens.json": {IM_END: 32000, IM_START: 32001},
        "tokenizer_config.json": {"bos_token": "<s>", "eos_token": IM_END},
    },
    "ids and map": {
        "added_tokens.json": {IM_END: 32000, IM_START: 32001},
        "special_tokens_map.json": {"bos_token": "<s>", "eos_token": {"content": IM_END, **FLAGS}},
    },
    "ids alone": {"added_tokens.json": {IM_END: 32000, IM_START: 32001}},
    "decoder": {
        "tokenizer_config.json": {
            "eos_token": IM_END,
            "added_tokens_decoder": {
                "32000": {"content": IM_END, **FLAGS, "special": True},
                "32001": {"content": IM_START, **FLAGS, "special": False},
            },
        }
    },
}


@pytest.fixture(scope="module")
def chatml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sizes = TINY | {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    model = MistralForCausalLM(MistralConfig(**sizes, vocab_size=32002, eos_token_id=32000)).float()
    return save(model, tmp_path_factory.mktemp("chatml") / "model", None)


@pytest.mark.parametrize("files", CHATML_FILES.values(), ids=CHATML_FILES)
def test_added_tokens_survive_every_layout(files: dict[str, Any], chatml: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for path in chatml.iterdir():
        (folder / path.name).hardlink_to(path)
    (folder / "tokenizer.model").write_bytes(path_of("v1").read_bytes())
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    tokenizer = open_tokenizer(open_checkpoint(folder))
    assert (tokenizer.vocab_size, 32000 in tokenizer.stop_ids) == (32002, True)
    texts = ("hi", f"hi {IM_START} x", f"{IM_START}user\n", f"a{IM_START}", "The wind \n blows")
    for layout, name in (("hf", "hf"), ("consolidated", "own"), ("gguf", "model.gguf")):
        convert(open_checkpoint(folder), tmp_path / name, layout=layout)  # type: ignore[arg-type]
        again = open_tokenizer(open_checkpoint(tmp_path / name))
        assert (again.vocab_size, again.eos_id, again.stop_ids) == (32002, tokenizer.eos_id, tokenizer.stop_ids)
        assert [again.encode(text) for text in texts] == [tokenizer.encode(text) for text in texts]
    judge = llama_cpp.Llama(str(tmp_path / "model.gguf"), vocab_only=True, verbose=False)
    try:
        for text in texts:
            assert judge.tokenize(text.encode(), add_bos=False, special=False) == tokenizer.encode(text), text
    finally:
        judge.close()


@pytest.mark.parametrize("files", [{}, {"tokenizer_config.json": {"bos_token": "<s>", "eos_token": IM_END}}])
def test_a_fine_tune_that_lost_its_added_tokens_is_refused(files: dict[str, Any], chatml: Path, tmp_path: Path) -> None:
    for path in chatml.iterdir():
        (tmp_path / path.name).hardlink_to(path)
    (tmp_path / "tokenizer.model").write_bytes(path_of("v1").read_bytes())
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(TokenizerError, match=r"the embedding table 32002 rows.*own added_tokens.json or tok"):
        open_tokenizer(open_checkpoint(tmp_path))


def test_an_end_that_only_the_padding_has_is_refused(tmp_path: Path) -> None:
    folder = save(always_says(END, 1032), tmp_path / "model")
    edit_json(folder / "config.json", eos_token_id=[2, 1024])
    with pytest.raises(TokenizerError, match="1032 rows, and answers end at token 1024; put the model's own added_tok"):
        LLM(str(folder))


def test_a_model_without_tokenizer_works_with_token_ids(tmp_path: Path) -> None:
    model = always_says(END)
    model.config.eos_token_id = model.generation_config.eos_token_id = [2, END]
    llm = opened(save(model, tmp_path / "model", None))
    assert num_generated(llm) == 1
    assert llm.score([1, 500, 501])[0] is None
    with torch.no_grad():
        expected = model(torch.tensor([[1, 500, 501]])).logits[0]
    assert (llm.logits([1, 500, 501]) - expected).abs().max() < 1e-3
    for attempt in (lambda: llm.generate(["hi"]), lambda: llm.embed(["hi"])):
        with pytest.raises(TokenizerError, match="has no tokenizer, so it takes token ids only; put"):
            attempt()
    with pytest.raises(TokenizerError, match="this model cannot chat: it has no tokenizer"):
        llm.chat([{"role": "user", "content": "hi"}])
    convert(open_checkpoint(tmp_path / "model"), tmp_path / "again", layout="consolidated")
    assert num_generated(opened(tmp_path / "again")) == 1


# --- the beginning of sequence, everywhere


@pytest.mark.parametrize("adds_bos", [True, False])
def test_the_checkpoint_says_whether_texts_begin_with_bos(adds_bos: bool, endless: Path, tmp_path: Path) -> None:
    folder = stating(endless, tmp_path / "model", 2, 2)
    tokenizer = ours(VOCABULARY)
    data = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").write_text(json.dumps(data | ({} if adds_bos else {"post_processor": None})))
    bos = (tokenizer.bos_id,) if adds_bos else ()
    convert(open_checkpoint(folder), tmp_path / "model.gguf", layout="gguf")
    for path in (folder, tmp_path / "model.gguf"):
        llm = opened(path)
        text = tokenizer.encode("The wind")
        assert llm.generate(["The wind"], SamplingParams(max_tokens=1))[0].prompt_token_ids == (*bos, *text)
        assert torch.equal(llm.embed(["The wind"])[0], embedded(llm, [*bos, *text]))
        target = EngineTarget(llm, "tiny")
        [scored] = target.text_scores([Text("The wind")])
        given = [*bos, *text]
        assert scored.num_tokens == len(given) - 1
        assert scored.logprob == pytest.approx(sum(s for s in llm.score(given) if s is not None), abs=1e-4)
        [likelihood] = target.likelihoods([Pair("The wind", " blows")])
        whole = [*bos, *tokenizer.encode("The wind blows")]
        expected = [score or 0.0 for score in llm.score(whole)][len(given) :]
        assert likelihood.logprob == pytest.approx(sum(expected), abs=1e-4)
        assert llm.tokenizer.require_chat().encode_chat([{"role": "user", "content": "x"}])[0] == tokenizer.bos_id


def embedded(llm: LLM, token_ids: list[int]) -> torch.Tensor:
    return torch.nn.functional.normalize(llm.engine.embed([token_ids]), dim=-1)[0]


# --- lengths


def test_a_length_above_the_configurations_is_honoured(tmp_path: Path) -> None:
    torch.manual_seed(5)
    config = LlamaConfig(**{**TINY, "max_position_embeddings": 64}, vocab_size=1024)
    model = LlamaForCausalLM(config).float().eval()
    folder = save(model, tmp_path / "model")
    ids = torch.randint(0, 1024, (200,), generator=torch.Generator().manual_seed(1)).tolist()
    llm = opened(folder, max_seq_len=256, weight_format="f32")
    assert llm.max_seq_len == 256
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0]
    assert (llm.logits(ids) - expected).abs().max() < 1e-3
    assert opened(folder).max_seq_len == 64


def test_a_length_that_the_cache_cannot_hold_is_refused(endless: Path) -> None:
    with pytest.raises(CapacityError, match=r"max_seq_len=1000000 needs a KV cache of .* max_seq_len smaller"):
        opened(endless, max_seq_len=1_000_000)


@pytest.mark.parametrize("number", [0, -5])
@pytest.mark.parametrize("name", ["max_sequences", "max_waiting"])
def test_no_sequences_at_all_are_refused(name: str, number: int, endless: Path) -> None:
    with pytest.raises(ConfigError, match=f"{name}={number} must be at least 1"):
        AsyncLLM(str(endless), **{name: number})  # type: ignore[arg-type]  # which mypy sees as any of them
