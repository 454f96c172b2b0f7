"""The memory that is estimated beside the peak of a real run in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.model.tiny import tiny_config
from tests.tokenizer.vocabularies import ours
from tests.training.test_commands import rows_of, write_jsonl
from tramontane.loading import save_checkpoint
from tramontane.model.init import initialise
from tramontane.model.transformer import Transformer
from tramontane.ops.torch_ops import TorchOps

FACTOR = 1.6  # what the estimate is good for: whether a run fits, not the last tenth
PEAK = """
import re, sys
from pathlib import Path
from tramontane.cli.main import run
code = run(sys.argv[1:])
# of this program alone: what getrusage tells includes what its parent had when it was forked
print(1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]))
sys.exit(code)
"""


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_estimate_is_near_the_peak_of_a_run(method: str, tmp_path: Path) -> None:
    tokenizer = ours("v7-small")
    config = tiny_config(vocab_size=tokenizer.vocab_size, n_layers=6, dim=512, hidden_dim=2048)
    model = Transformer(config, TorchOps())
    initialise(model, seed=0, std=0.02)
    tensors = ((name, parameter.detach()) for name, parameter in model.named_parameters())
    save_checkpoint(tmp_path / "base", config, tensors, layout="hf", stored="BF16", tokenizer=tokenizer)
    data = write_jsonl(tmp_path / "rows.jsonl", rows_of("chat", 80))
    command = ["finetune", str(tmp_path / "base"), str(data), "--run", str(tmp_path / "run"), "--method", method]
    command += ["--steps", "2", "--json", "--set", "data.batch_len=2048", "--set", "data.microbatch_len=2048"]

    def peak(*more: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-c", PEAK, *command, *more],
            env={**os.environ, "PYTHONPATH": "src", "TRAMONTANE_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    estimated = json.loads("\n".join(peak("--check")[:-1]))["memory_bytes"]
    measured = json.loads(peak("--resume")[-1])
    assert measured / FACTOR < estimated < measured * FACTOR, (measured, estimated)
