"""What full fine-tuning gives away, judged by transformers: it loads, chats, and has everything the base had."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.model.tiny import tiny_config
from tests.tokenizer.vocabularies import ours, path_of
from tests.training.test_commands import conversations
from tramontane.cli.main import run
from tramontane.loading import save_checkpoint
from tramontane.model.init import initialise
from tramontane.model.transformer import Transformer
from tramontane.ops.torch_ops import TorchOps

transformers: Any = pytest.importorskip("transformers")
QUESTION = [{"role": "user", "content": "What is 3?"}]


def base_with(folder: Path, vocabulary: str, kind: str) -> Path:
    """A tiny model with a tokenizer as `transformers` leaves one, or with nothing but Mistral's own file."""
    tokenizer = ours(vocabulary)
    config = tiny_config(vocab_size=tokenizer.vocab_size, sliding_windows=(64, None, 64), dim=32)
    model = Transformer(config, TorchOps())
    initialise(model, seed=0, std=0.1)
    tensors = ((name, parameter.detach()) for name, parameter in model.named_parameters())
    native = {"native": {path_of(vocabulary).name: path_of(vocabulary)}, "hf": {}}[kind]
    save_checkpoint(folder, config, tensors, layout="hf", stored="F32", tokenizer=tokenizer, files=native)
    if kind == "hf":
        saved = transformers.AutoTokenizer.from_pretrained(folder)
        saved.save_pretrained(folder)
        advice = {"do_sample": True, "temperature": 0.3, "eos_token_id": [tokenizer.eos_id, 7]}
        (folder / "generation_config.json").write_text(json.dumps(advice), "utf-8")
        assert (folder / "chat_template.jinja").exists()
    else:
        names = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"}
        for path in folder.iterdir():
            if path.name in names:
                path.unlink()
    return folder


@pytest.mark.parametrize(("vocabulary", "kind"), [("v3", "hf"), ("v3", "native"), ("v3-small", "native")])
def test_transformers_chats_with_a_model_whose_weights_were_all_trained(
    vocabulary: str, kind: str, tmp_path: Path
) -> None:
    base = base_with(tmp_path / "base", vocabulary, kind)
    data = conversations(tmp_path / "chat.jsonl", 4)
    command = ["finetune", str(base), str(data), "--run", str(tmp_path / "run"), "--method", "full", "--steps", "2"]
    assert run([*command, "--set", "checkpoint.dtype=float32"]) == 0
    shutil.rmtree(base)
    model = tmp_path / "run" / "model"
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    prompt = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    wanted = ours(vocabulary).require_chat().encode_chat(QUESTION)
    assert prompt["input_ids"][0].tolist() == wanted
    whole = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    answer = whole.generate(**prompt, max_new_tokens=4, do_sample=False)
    assert answer.shape[1] > len(wanted)
    if kind == "hf":
        advice = json.loads((model / "generation_config.json").read_text("utf-8"))
        assert advice["temperature"] == 0.3
        assert whole.generation_config.eos_token_id == [ours(vocabulary).eos_id, 7]
