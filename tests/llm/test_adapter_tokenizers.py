"""An adapter whose folder holds a tokenizer, which it was trained with and transformers loads by that folder's name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from tests.llm.test_adapters import make_adapter
from tests.loading.checkpoints import edit_json
from tests.tiny_checkpoint import write_tiny_checkpoint
from tests.tokenizer.test_special_tokens import CHATML, CONFIG, END, START, flags
from tests.tokenizer.vocabularies import ours, saved
from tramontane import LLM
from tramontane.errors import TokenizerError
from tramontane.loading import convert, open_checkpoint, open_tokenizer
from tramontane.loading.merge import merge
from tramontane.training.finetune import FinetuneOptions, finetune_recipe

TEXT = "The wind"
SIZE = 1024


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 1,024 tokens, in an embedding table of 1,032 rows."""
    folder = tmp_path_factory.mktemp("adapter-tokenizers")
    return padded(write_tiny_checkpoint(folder / "narrow"), folder / "base")


def padded(narrow: Path, out: Path) -> Path:
    from safetensors.torch import load_file, save_file
    from torch.nn.functional import pad

    shutil.copytree(narrow, out)
    tensors = load_file(out / "model.safetensors")
    wide = {name: pad(tensor, (0, 0, 0, 8)) if tensor.shape[0] == SIZE else tensor for name, tensor in tensors.items()}
    save_file(wide, out / "model.safetensors", {"format": "pt"})
    edit_json(out / "config.json", vocab_size=SIZE + 8)
    return out


@pytest.fixture(scope="module")
def bare(base: Path) -> Path:
    return make_adapter(base.parent / "bare", base, 1)


def with_tokenizer(bare: Path, out: Path, vocabulary: str = "v7-small", **config: Any) -> Path:
    """As the Trainer leaves it: the tokenizer beside the adapter's weights."""
    shutil.copytree(bare, out)
    for path in saved(vocabulary).iterdir():
        shutil.copy(path, out)
    stated = json.loads((out / CONFIG).read_text()) | config
    if "chat_template" in config:
        (out / "chat_template.jinja").unlink(missing_ok=True)
    (out / CONFIG).write_text(json.dumps({key: value for key, value in stated.items() if value is not None}))
    return out


CHATS: dict[str, Any] = {
    "added_tokens_decoder": {str(SIZE): flags(END), str(SIZE + 1): flags(START)},
    "eos_token": END,
    "chat_template": CHATML,
}


def opened(path: Path) -> LLM:
    return LLM(str(path), threads=1, kv_cache_gib=0.01)


def test_what_the_adapter_was_trained_with_speaks_for_it(base: Path, bare: Path, tmp_path: Path) -> None:
    folder = with_tokenizer(bare, tmp_path / "adapter", **CHATS)
    llm, judge = opened(folder), AutoTokenizer.from_pretrained(folder)
    assert llm.tokenizer.eos_id == judge.eos_token_id == SIZE
    assert set(llm.engine.config.eos_token_ids) == {2, SIZE}  # the second is what the base's configuration says
    assert llm.tokenizer.chat is None  # never the base's format
    assert llm.generate([TEXT])[0].prompt_token_ids == tuple(judge(TEXT)["input_ids"])
    assert opened(bare).tokenizer.require_chat().name == "v7"


@pytest.mark.parametrize("layout", ["hf", "consolidated", "gguf"])
@pytest.mark.parametrize("of_gguf", [False, True])
def test_it_goes_along_when_the_adapter_is_merged(
    layout: Any, of_gguf: bool, base: Path, bare: Path, tmp_path: Path
) -> None:
    folder = with_tokenizer(bare, tmp_path / "adapter", **CHATS)
    if of_gguf:
        convert(open_checkpoint(base), tmp_path / "base.gguf", layout="gguf")
        base = tmp_path / "base.gguf"
    out = tmp_path / ("merged.gguf" if layout == "gguf" else "merged")
    merge(open_checkpoint(base), folder, out, layout=layout)
    tokenizer = open_tokenizer(open_checkpoint(out))
    assert (tokenizer.eos_id, tokenizer.chat) == (SIZE, None)
    assert {tokenizer.control_name(SIZE), tokenizer.control_name(SIZE + 1)} == {END, START}


DIFFERENT: dict[str, tuple[str, dict[str, Any]]] = {
    "its end of an answer": ("v7-small", {"eos_token": "[/INST]"}),
    "its chat format": ("v7-small", {"chat_template": CHATML}),
    "what it puts around a text": ("v7-small", {}),
    "its vocabulary": ("v13-small", {}),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_beside_a_model_of_another_tokenizer_it_is_refused(what: str, base: Path, bare: Path, tmp_path: Path) -> None:
    vocabulary, config = DIFFERENT[what]
    folder = with_tokenizer(bare, tmp_path / "adapter", vocabulary, **config)
    if what == "what it puts around a text":
        edit_json(folder / "tokenizer.json", post_processor=None)
    with pytest.raises(TokenizerError, match=f"adapter has a tokenizer of its own, and {what} is not that of the mod"):
        opened(base).load_adapter(folder)
    with pytest.raises(TokenizerError, match=what):
        finetune_recipe(FinetuneOptions(model=base, adapter=folder, data=(), run=tmp_path / "run"))
    llm = opened(folder)
    assert llm.checkpoint.tokenizer_path == folder


SAME: dict[str, dict[str, Any]] = {
    "copied": {},
    "without a template": {"chat_template": None},
    "a token for padding": {"pad_token": "[PAD]"},
    "more of them than there are rows": {"additional_special_tokens": [f"<extra_{i}>" for i in range(20)]},
}


@pytest.mark.parametrize("how", SAME)
def test_what_makes_no_difference_is_the_bases(how: str, base: Path, bare: Path, tmp_path: Path) -> None:
    folder = with_tokenizer(bare, tmp_path / "adapter", **SAME[how])
    assert opened(base).load_adapter(folder) == "adapter"
    llm = opened(folder)
    assert llm.checkpoint.tokenizer_path is None
    assert llm.tokenizer.require_chat().name == "v7"
    assert llm.tokenizer.encode_prompt(TEXT) == ours("v7-small").encode_prompt(TEXT)
