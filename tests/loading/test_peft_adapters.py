"""Adapter folders as PEFT writes them, judged by PEFT's own reading of the same folder."""

from __future__ import annotations

import json
import random
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.model.tiny import tiny_config
from tests.parity.tiny_models import build
from tests.tokenizer.vocabularies import ours
from tests.training.test_gradients_parity import to_ours
from tramontane.config import ModelConfig
from tramontane.engine.engine import Engine
from tramontane.engine.engine_config import EngineConfig
from tramontane.errors import CheckpointError, ConfigError
from tramontane.loading import load_model, open_checkpoint
from tramontane.loading.adapter_files import AdapterConfig, adapter_digest, open_adapter, read_adapter, write_adapter
from tramontane.loading.merge import merge
from tramontane.loading.peft_config import MAX_MATCH_S, read_peft_config
from tramontane.model.lora import LowRankShape
from tramontane.model.transformer import Transformer

# peft 0.21 reads an attribute that transformers has renamed, and warns of what it converts
pytestmark = pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing:FutureWarning", "ignore::UserWarning", "ignore::RuntimeWarning"
)

BOUND = 1e-4
IDS = [1, *range(300, 318)]
DENSE = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ATTENTION = DENSE[:4]
Bases = dict[str, tuple[Path, Transformer, Transformer]]
KINDS = ["mistral_windowed", "llama_linear_rope", "mixtral"]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Bases:
    """Of each kind: its folder, the model on native kernels, and computed by torch."""
    found = {}
    for kind in KINDS:
        folder = tmp_path_factory.mktemp("bases") / kind
        to_ours(build(kind), folder)
        ours("v7-small").save(folder)
        checkpoint = open_checkpoint(folder)
        native = load_model(checkpoint, weight_format="f32")
        found[kind] = (folder, native, load_model(checkpoint, dtype="float32"))
    return found


def saved(kind: str, folder: Path, seed: int = 0, **settings: Any) -> Path:
    """A PEFT adapter with random weights."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    settings = {"r": 4, "lora_alpha": 12, "task_type": "CAUSAL_LM", **settings}
    model = get_peft_model(build(kind), LoraConfig(**settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(0.0, 0.15)
    model.save_pretrained(folder)
    return folder


def judged(kind: str, folder: Path) -> torch.Tensor:
    from peft import PeftModel

    with torch.no_grad():
        logits: torch.Tensor = PeftModel.from_pretrained(build(kind), folder).eval()(torch.tensor([IDS])).logits[0]
    return logits


def logits_of(model: Transformer, folder: Path | None) -> torch.Tensor:
    engine = Engine(model, EngineConfig(page_size=8))
    return engine.logits(IDS, adapter=None if folder is None else open_adapter(folder, model))


def require_parity(kind: str, folder: Path, bases: Bases, *, again_by_us_alone: bool = False) -> None:
    """By native kernels, by torch, merged, and written back."""
    base, native, plain = bases[kind]
    expected = judged(kind, folder)
    assert (logits_of(plain, None) - expected).abs().max() > 100 * BOUND
    for model in (native, plain):
        torch.testing.assert_close(logits_of(model, folder), expected, rtol=0, atol=BOUND)
    merged = folder.parent / f"{folder.name}-merged"
    merge(open_checkpoint(base), folder, merged, layout="hf")
    found = logits_of(load_model(open_checkpoint(merged), dtype="float32"), None)
    torch.testing.assert_close(found, expected, rtol=0, atol=BOUND)
    again = folder.parent / f"{folder.name}-again"
    write_adapter(again, plain.config, *read_adapter(folder, plain.config))
    torch.testing.assert_close(logits_of(plain, again), expected, rtol=0, atol=BOUND)
    if not again_by_us_alone:
        torch.testing.assert_close(judged(kind, again), expected, rtol=0, atol=BOUND)


SETTINGS: dict[str, dict[str, Any]] = {
    "rank-stabilised": {"target_modules": DENSE, "use_rslora": True},
    "patterns": {
        "target_modules": DENSE,
        "rank_pattern": {"q_proj": 2, r"layers\.1\.self_attn\.v_proj": 7, "^model.layers.0.mlp.down_proj": 1},
        "alpha_pattern": {"down_proj": 3, r".*\.2\.self_attn\..*": 20},
    },
    "some layers": {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": [0, 2]},
    "one layer": {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": 0, "layers_pattern": "layers"},
    "a pattern of targets": {"target_modules": r".*\.(0|1)\.(self_attn\.(q|v)_proj|mlp\.up_proj)"},
    "whole names and suffixes": {"target_modules": ["model.layers.1.self_attn.q_proj", "mlp.down_proj"]},
    "whole names beside layers": {
        "target_modules": ["model.layers.1.self_attn.q_proj", "v_proj"],
        "layers_to_transform": [0],
    },
    "all linears": {"target_modules": "all-linear"},
    "exclusions": {"target_modules": DENSE, "exclude_modules": r".*layers\.1\..*"},
    "exclusions by name": {"target_modules": DENSE, "exclude_modules": ["q_proj", "model.layers.0.mlp.up_proj"]},
    "gaussian": {"target_modules": ["q_proj"], "init_lora_weights": "gaussian"},
    "orthogonal": {"target_modules": ["q_proj"], "init_lora_weights": "orthogonal"},
    "no initialisation": {"target_modules": ["q_proj"], "init_lora_weights": False},
    "biases there are none of": {"target_modules": ["q_proj"], "bias": "all"},
    "transposed for others": {"target_modules": ["q_proj"], "fan_in_fan_out": True},
    "a target this model has not": {"target_modules": ["q_proj", "c_attn"]},
    "dropout": {"target_modules": ["q_proj"], "lora_dropout": 0.3},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_are_honoured_as_peft_does(name: str, bases: Bases, tmp_path: Path) -> None:
    require_parity("mistral_windowed", saved("mistral_windowed", tmp_path / "adapter", **SETTINGS[name]), bases)


@pytest.mark.parametrize("seed", range(9))
def test_random_configurations_equal_peft(seed: int, bases: Bases, tmp_path: Path) -> None:
    kind = KINDS[seed % 3]
    require_parity(kind, saved(kind, tmp_path / "adapter", seed, **random_settings(random.Random(seed), kind)), bases)


def random_settings(draw: random.Random, kind: str) -> dict[str, Any]:
    modules = ATTENTION if kind == "mixtral" else DENSE
    targets = draw.sample(modules, draw.randint(1, len(modules)))
    settings: dict[str, Any] = {
        "r": draw.choice([1, 3, 8]),
        "lora_alpha": draw.choice([1, 6, 16]),
        "use_rslora": draw.random() < 0.5,
        "rank_pattern": {name: draw.randint(1, 9) for name in draw.sample(targets, draw.randint(0, len(targets)))},
        "alpha_pattern": {
            rf"layers\.{draw.randrange(3)}\..*{name}": draw.randint(1, 30) for name in draw.sample(targets, 1)
        },
    }
    if draw.random() < 0.4:
        return settings | {"target_modules": rf"model\.layers\.[{draw.randrange(3)}2]\..*({'|'.join(targets)})"}
    settings["target_modules"] = targets
    if draw.random() < 0.5:
        settings["layers_to_transform"] = draw.sample(range(3), draw.randint(1, 2))
    if draw.random() < 0.5:
        settings["exclude_modules"] = [f"2.self_attn.{draw.choice(ATTENTION)}"]
    return settings


@pytest.mark.parametrize(
    "targets", [["q_proj", "w1", "w2", "w3"], ["v_proj", "w2"], ["w1", "w3"]], ids=["all", "down", "gate and up"]
)
def test_experts_that_peft_has_in_stacks(targets: list[str], bases: Bases, tmp_path: Path) -> None:
    """transformers 5 holds the experts of a layer in one parameter; so are their adapters."""
    folder = saved("mixtral", tmp_path / "adapter", target_modules=targets)
    document = json.loads((folder / "adapter_config.json").read_text("utf-8"))
    assert document["target_parameters"]
    # peft 0.21 cannot read experts' own w1 and w3 without w2: it looks for them in a wrapper that is then not there
    require_parity("mixtral", folder, bases, again_by_us_alone="w2" not in targets)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another kind": ({"peft_type": "IA3"}, "peft_type must be LORA"),
    "dora": ({"use_dora": True}, "use_dora=True is not supported"),
    "modules": ({"modules_to_save": ["lm_head"]}, r"modules_to_save=\['lm_head'\] .*merge it into its base with PEFT"),
    "tokens": ({"trainable_token_indices": [3]}, "trainable_token_indices"),
    "a bias of its own": ({"lora_bias": True}, "lora_bias=True"),
    "replication": ({"layer_replication": [[0, 2]]}, "layer_replication"),
    "activated later": ({"alora_invocation_tokens": [5]}, "alora_invocation_tokens"),
    "a key of tomorrow": ({"use_something_new": 1}, "use_something_new=1 is not supported"),
    "pissa": ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa' changed the base"),
    "pissa by iterations": ({"init_lora_weights": "pissa_niter_16"}, "changed the base"),
    "olora": ({"init_lora_weights": "OLoRA"}, "changed the base"),
    "corda": ({"init_lora_weights": "corda"}, "changed the base"),
    "loftq": ({"init_lora_weights": "loftq"}, "changed the base"),
    "lora-ga": ({"init_lora_weights": "lora_ga"}, "changed the base"),
    "other modules": ({"target_modules": ["c_attn"]}, "names nothing that this model has"),
    "the output": ({"target_modules": ["q_proj", "lm_head"]}, "adapts 'lm_head', which cannot carry"),
    "embeddings": ({"target_modules": ["q_proj", "embed_tokens"]}, "adapts 'model.embed_tokens'"),
    "parameters": ({"target_parameters": ["mlp.up_proj.weight"]}, "target_parameters.*'mlp.up_proj.weight'"),
    "no pattern": ({"target_modules": "(q_proj"}, "is no pattern"),
    "a rank in words": ({"r": "4"}, "must be a rank"),
    "another rank": ({"r": 8}, "has shape"),
    "fewer targets": ({"target_modules": ["q_proj"]}, "is left over"),
    "more targets": ({"target_modules": DENSE}, "is missing"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_honoured_is_refused_by_name(name: str, bases: Bases, tmp_path: Path) -> None:
    changes, words = REFUSED[name]
    folder = saved("mistral_windowed", tmp_path / "adapter", target_modules=["q_proj", "v_proj"])
    change(folder, changes)
    with pytest.raises((ConfigError, CheckpointError), match=words) as found:
        read_adapter(folder, bases["mistral_windowed"][2].config)
    assert "\n" not in str(found.value)


def test_keys_that_say_nothing_pass(bases: Bases, tmp_path: Path) -> None:
    folder = saved("mistral_windowed", tmp_path / "adapter", target_modules=["q_proj"])
    expected = judged("mistral_windowed", folder)
    inert = {
        "auto_mapping": {"base_model_class": "MistralForCausalLM"},
        "merge_weights": True,
        "enable_lora": None,
        "megatron_config": {},
        "loftq_config": {"loftq_bits": 4},
        "eva_config": {"rho": 2.0},
        "peft_version": "99",
        "use_something_new": False,
        "another_thing": None,
        "yet_another": [],
    }
    change(folder, inert)
    found = logits_of(bases["mistral_windowed"][2], folder)
    torch.testing.assert_close(found, expected, rtol=0, atol=BOUND)


def test_pickled_weights_alone_are_named(bases: Bases, tmp_path: Path) -> None:
    folder = saved("mistral_windowed", tmp_path / "adapter", target_modules=["q_proj"])
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    for read in (lambda: read_adapter(folder, bases["mixtral"][2].config), lambda: adapter_digest(folder)):
        with pytest.raises(
            CheckpointError, match=r"only as a pickled adapter_model\.bin, .*; load it with PEFT and save"
        ):
            read()


def test_embeddings_in_an_adapter_are_refused_with_a_remedy(bases: Bases, tmp_path: Path) -> None:
    """PEFT stores them beside A and B where tokens were added."""
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(build("mistral_windowed"), LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    model.save_pretrained(tmp_path, save_embedding_layers=True)
    with pytest.raises(
        CheckpointError, match=r"(lm_head|embed_tokens)\.weight' belongs to no weight .*; merge it into"
    ):
        read_adapter(tmp_path, bases["mistral_windowed"][2].config)


def test_an_adapter_of_another_shape_is_refused(bases: Bases, tmp_path: Path) -> None:
    folder = saved("mistral_windowed", tmp_path / "adapter", target_modules=["q_proj"])
    config: ModelConfig = bases["mixtral"][2].config
    changed = ModelConfig(**{**{n: getattr(config, n) for n in config.__dataclass_fields__}, "dim": 32})
    with pytest.raises(CheckpointError, match="has shape"):
        read_adapter(folder, changed)


def change(folder: Path, changes: dict[str, Any]) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")


def test_an_adapter_is_replaced_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was two files, one after the other: whoever read in between, or was cut off there, had half of each."""
    config = tiny_config(vocab_size=64)
    folder = tmp_path / "adapter"

    def write(rank: int) -> None:
        shapes = {"layers.0.attention.wq": LowRankShape(rank, 2.0)}
        rows = config.n_heads * config.head_dim
        tensors = {
            "layers.0.attention.wq.lora.a": torch.full((rank, config.dim), float(rank)),
            "layers.0.attention.wq.lora.b": torch.full((rows, rank), float(rank)),
        }
        write_adapter(folder, config, AdapterConfig(shapes=shapes), tensors)

    write(2)
    (folder / "README.md").write_text("mine")
    with monkeypatch.context() as patch:

        def cut(target: Path, data: str) -> None:
            raise OSError(28, "No space left on device", str(target))

        patch.setattr("tramontane.durable.write", cut)
        with pytest.raises(OSError, match="No space left"):
            write(4)
    assert read_adapter(folder, config)[0].ranks == (2,)
    write(4)
    assert read_adapter(folder, config)[0].ranks == (4,)
    assert (folder / "README.md").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter"]


@pytest.mark.parametrize(
    "document",
    [
        {"target_modules": r"(.*)*(.*)*(.*)*(.*)*(.*)*(.*)*(.*)*x"},
        {"target_modules": ["q_proj"], "rank_pattern": {r"(([a-z_.0-9])+)+!": 4}},
        {"target_modules": ["q_proj"], "layers_to_transform": [0], "layers_pattern": [r"((.+)+)+!"]},
        {"target_modules": "q_proj", "exclude_modules": r"(?:(?:.|.)+)+!"},
        {"target_modules": r"(\w+|\.|\w)*\d\d\d"},
        {"target_modules": r"(\w|\w\w|\w\w\w|\.)*(\w|\w\w|\.)*\d\d\d"},
    ],
)
def test_patterns_take_little_time_in_all(document: dict[str, Any]) -> None:
    """Python's own `re` would try for ever. The limit is on all that one configuration asks, not on each match."""
    config = tiny_config(vocab_size=64, n_layers=40)
    began = time.process_time()
    with suppress(ConfigError):
        read_peft_config({"r": 2, **document}, "adapter", config, "model.")
    assert time.process_time() - began < 5 * MAX_MATCH_S
