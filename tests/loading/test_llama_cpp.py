"""What our GGUF metadata says of rotary scaling, llama.cpp computes: the same logits, far beyond the trained length."""

from __future__ import annotations

from pathlib import Path

import llama_cpp
import numpy as np
import pytest
import torch

from tramontane.config import RopeScaling
from tramontane.loading import load_model, named_shape, open_checkpoint, synthesise
from tramontane.model.packed_attention import packed_input

SCALINGS = {
    "none": None,
    "linear": RopeScaling(kind="linear", factor=4.0),
    "yarn as derived": RopeScaling(
        kind="yarn", factor=4.0, original_max_seq_len=48, attention_factor=1.1386294361119891
    ),
    "yarn with its own attention": RopeScaling(kind="yarn", factor=8.0, original_max_seq_len=48, attention_factor=0.7),
}


@pytest.mark.parametrize("scaling", SCALINGS.values(), ids=SCALINGS)
def test_rotary_scaling(scaling: RopeScaling | None, tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    synthesise(path, named_shape("tiny", dim=64, hidden_dim=96, rope_scaling=scaling), layout="gguf", stored="F32")
    model = load_model(open_checkpoint(path))
    token_ids = torch.randint(3, 32000, (120,), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        ours = model.logits(model(packed_input(model, token_ids, [120]))).numpy()
    # type 0: keys and values in float32, as ours
    judge = llama_cpp.Llama(str(path), n_ctx=128, logits_all=True, verbose=False, n_threads=1, type_k=0, type_v=0)
    judge.eval(token_ids.tolist())
    theirs = np.array(judge.scores[:120])
    judge.close()
    assert np.abs(ours - theirs).max() < 1e-4
