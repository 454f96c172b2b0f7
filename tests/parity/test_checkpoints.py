"""The same weights through every file format and through independent implementations: the same logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.parity.llama_cpp import llama_cpp_logits, quantise_with_llama_cpp
from tests.parity.tiny_models import BUILDERS, build, judge_logits, token_ids
from tests.tokenizer.vocabularies import ours as ours_vocabulary
from tramontane.engine.engine import Engine
from tramontane.engine.engine_config import EngineConfig
from tramontane.errors import ConfigError
from tramontane.formats.names import Layout
from tramontane.loading import load_model, open_checkpoint, save_checkpoint, stream_tensors
from tramontane.model.packed_attention import packed_input

TOLERANCE = 1e-4  # max |Δlogits| in float32
IDS = token_ids(70)


# Relative error of a token's logits against llama.cpp on the same file, in the median. F32, F16: its keys and values
# are float16, 2^-11 of each. Quantised: it rounds activations to 8 bits before each product, up to 1/254 of the largest
# in a block, where we multiply exactly.
LLAMA_CPP_BOUND = {"F32": 1e-3, "F16": 1e-3, "Q8_0": 3e-2, "Q4_0": 3e-2, "Q4_K_M": 3e-2, "Q6_K": 3e-2}


def our_logits(path: Path, ids: list[int] = IDS) -> torch.Tensor:
    """float32 (T, V) of a checkpoint, checked to be the same through the paged engine and in one packed pass."""
    model = load_model(open_checkpoint(path), dtype="float32")
    with torch.inference_mode():
        packed = model.logits(model(packed_input(model, torch.tensor(ids), [len(ids)])))
    config = EngineConfig(page_size=4, max_batch_tokens=16, max_sequences=4, kv_cache_bytes=2**22)
    paged = Engine(model, config).logits(ids)
    torch.testing.assert_close(paged, packed, rtol=0, atol=2e-5)
    return paged


def assert_parity(ours: torch.Tensor, judge: torch.Tensor) -> None:
    assert judge.std() > 0.5, "the model says nothing; the comparison would prove nothing"
    assert (ours - judge).abs().max().item() <= TOLERANCE


@pytest.fixture(scope="module", params=BUILDERS)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A model of `transformers` and the folder it saved itself in."""
    model = build(request.param)
    folder = tmp_path_factory.mktemp("hf") / request.param
    model.save_pretrained(folder)
    return model, folder


def test_written_by_transformers(saved: tuple[Any, Path]) -> None:
    model, folder = saved
    assert_parity(our_logits(folder), judge_logits(model, IDS))


@pytest.mark.parametrize("layout", ["hf", "consolidated", "gguf"])
def test_written_by_us(saved: tuple[Any, Path], layout: Layout, tmp_path: Path) -> None:
    model, folder = saved
    if layout == "consolidated" and not has_consolidated_form(folder):
        with pytest.raises(ConfigError, match="linear rope scaling"):
            rewrite(folder, layout, tmp_path)
        return
    assert_parity(our_logits(rewrite(folder, layout, tmp_path)), judge_logits(model, IDS))


def test_our_hugging_face_layout_in_transformers(saved: tuple[Any, Path], tmp_path: Path) -> None:
    """HF -> us -> another layout -> us -> HF -> transformers: nothing is lost on the way round."""
    from transformers import AutoModelForCausalLM

    model, folder = saved
    between = rewrite(folder, "consolidated" if has_consolidated_form(folder) else "gguf", tmp_path)
    back = AutoModelForCausalLM.from_pretrained(
        rewrite(between, "hf", tmp_path), dtype=torch.float32, attn_implementation="eager"
    )
    assert torch.equal(judge_logits(back, IDS), judge_logits(model, IDS))


@pytest.mark.parametrize("stored", ["F32", "F16", "Q8_0", "Q4_0"])
@pytest.mark.parametrize("name", BUILDERS)
def test_our_gguf_in_llama_cpp(name: str, stored: str, tmp_path: Path) -> None:
    """Both read the same file. llama.cpp knows no sliding window in this architecture: the sequence stays inside."""
    build(name, std=0.08).save_pretrained(tmp_path / "saved")
    path = rewrite(tmp_path / "saved", "gguf", tmp_path, stored)
    windows = [window for window in open_checkpoint(path).config.windows if window is not None]
    ids = IDS[: min(windows, default=len(IDS))]
    assert relative_error(our_logits(path, ids), llama_cpp_logits(path, ids)) <= LLAMA_CPP_BOUND[stored]


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_K_M", "Q6_K"])
def test_gguf_quantised_by_llama_cpp(kind: str, tmp_path: Path) -> None:
    """Files of llama.cpp's own quantiser, from a model wide enough for its 256-weight blocks."""
    build("wide", std=0.04).save_pretrained(tmp_path / "saved")
    original = rewrite(tmp_path / "saved", "gguf", tmp_path)
    quantised = quantise_with_llama_cpp(original, tmp_path / f"{kind}.gguf", kind)
    assert open_checkpoint(quantised).size_bytes < open_checkpoint(original).size_bytes / 2
    ours = our_logits(quantised)
    assert relative_error(ours, llama_cpp_logits(quantised, IDS)) <= LLAMA_CPP_BOUND[kind]
    assert relative_error(ours, our_logits(original)) > 1e-3, "the quantised weights were not used"


def has_consolidated_form(folder: Path) -> bool:
    """params.json has no word for linear rope scaling."""
    scaling = open_checkpoint(folder).config.rope_scaling
    return scaling is None or scaling.kind == "yarn"


def rewrite(source: Path, layout: Layout, folder: Path, stored: str = "F32") -> Path:
    """`source` written again by us, with a vocabulary of the right size."""
    checkpoint = open_checkpoint(source)
    out = folder / ("model.gguf" if layout == "gguf" else layout)
    tokenizer = ours_vocabulary("v7-small")
    tensors = stream_tensors(checkpoint)
    save_checkpoint(out, checkpoint.config, tensors, layout=layout, stored=stored, tokenizer=tokenizer)
    return out


def relative_error(one: torch.Tensor, other: torch.Tensor) -> float:
    """Root mean square difference of a token's logits over their spread; the median over tokens, since a router that
    is undecided between two experts may rightly fall either way at a single token."""
    return ((one - other).square().mean(-1).sqrt() / other.std(-1)).median().item()
