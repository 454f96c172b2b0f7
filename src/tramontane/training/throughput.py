"""How fast this machine really trains: a few updates of the trainer's own parts on random tokens."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from tramontane.config import ModelConfig
from tramontane.data.loader import Batch
from tramontane.runtime import training_dtype
from tramontane.training.flops import measure_matmul_rate, training_flops
from tramontane.training.gradients import average_and_clip
from tramontane.training.microbatch import Placement
from tramontane.training.model_setup import new_model, prepare
from tramontane.training.optim import OptimizerSet
from tramontane.training.recipe import LossRecipe, OptimizerRecipe
from tramontane.training.tasks import TextTask, TrainingModule


@dataclass(frozen=True, slots=True)
class Throughput:
    tokens_per_s: float
    flops_per_s: float  # reached
    matmul_flops_per_s: float  # of a large matrix product: the ceiling

    @property
    def share_of_peak(self) -> float:
        return self.flops_per_s / max(self.flops_per_s, self.matmul_flops_per_s)


def measure_throughput(
    config: ModelConfig,
    device: torch.device,
    *,
    microbatch_len: int = 2048,
    document_len: int = 512,
    seconds: float = 5.0,
) -> Throughput:
    """The best of the updates that fit into `seconds`, and at least two after one to warm up; in the dtype that
    training takes here. Other programs on the machine only ever slow it down."""
    dtype = training_dtype(device)
    model = new_model(config, device=device, seed=0, std=0.02)
    windows = prepare(model, compute_dtype=dtype, compiled=False, checkpointing=False)
    module = TrainingModule(model, TextTask(LossRecipe()))
    optimizers = OptimizerSet(module.trainable(), OptimizerRecipe(), compute_dtype=dtype)
    placement = Placement(device, windows, document_len)
    generator = torch.Generator().manual_seed(0)
    document_lens = (document_len,) * (microbatch_len // document_len)
    num_tokens = sum(document_lens)
    token_ids = torch.randint(config.vocab_size, (num_tokens + 1,), generator=generator)
    sources = ("random",) * len(document_lens)
    batch = Batch(
        token_ids=token_ids[:-1],
        targets=token_ids[1:],
        loss_mask=torch.ones(num_tokens, dtype=torch.bool),
        document_lens=document_lens,
        document_sources=sources,
        padding_len=0,
    )
    times: list[float] = []
    started = time.monotonic()
    while len(times) < 3 or time.monotonic() - started < seconds:
        start = time.perf_counter()
        objective = module(placement.place(batch))
        objective.total.backward()
        average_and_clip(optimizers.gradients(), objective.weight, 1.0)
        optimizers.step(1.0)
        optimizers.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    best = min(times[1:])
    reached = training_flops(config, document_lens) / best
    return Throughput(num_tokens / best, reached, measure_matmul_rate(device, dtype))
