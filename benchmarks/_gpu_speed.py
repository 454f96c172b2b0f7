"""Decode, prefill and training of one random model on a device, each beside what the device can do at most."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks._results import spread
from tramontane.config import ModelConfig
from tramontane.engine.engine import Engine
from tramontane.engine.engine_config import EngineConfig
from tramontane.engine.sampling import SamplingParams
from tramontane.model.forward_input import ForwardInput
from tramontane.model.transformer import Transformer
from tramontane.ops.torch_ops import TorchOps
from tramontane.training.flops import forward_flops, training_flops
from tramontane.training.microbatch import VarlenAttention
from tramontane.training.model_setup import prepare

Row = dict[str, Any]
COMMON: Row = {"family": "mistral", "norm_eps": 1e-5, "rope_theta": 1e4, "max_seq_len": 8192}
SHAPES = {  # the layers of Mistral 7B, as many as load and run in seconds; and one to rehearse with
    "mistral-7b-8-layers": ModelConfig(
        **COMMON, dim=4096, n_layers=8, n_heads=32, n_kv_heads=8, head_dim=128, hidden_dim=14336, vocab_size=32000,
        sliding_windows=(4096,) * 8,
    ),
    "tiny": ModelConfig(
        **COMMON, dim=64, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=16, hidden_dim=128, vocab_size=256,
        sliding_windows=(None,) * 2,
    ),
}  # fmt: skip


class Ceilings:
    """What the device does at most, measured: bytes read and written per second of a copy, operations per second of a
    bfloat16 product."""

    def __init__(self, device: torch.device, *, is_large: bool) -> None:
        self.device = device
        size = 2**30 if is_large else 2**22
        source = torch.zeros(size, dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        self.copy_bytes_per_s = 2 * size / min(self.seconds(lambda: target.copy_(source)))
        width = 8192 if is_large else 128
        left, right = (torch.randn(width, width, device=device).bfloat16() for _ in range(2))
        self.product_flops_per_s = 2 * width**3 / min(self.seconds(lambda: left @ right))

    def seconds(self, act: Callable[[], object], repetitions: int = 10) -> list[float]:
        act()
        found = []
        for _ in range(repetitions):
            self.wait()
            started = time.perf_counter()
            act()
            self.wait()
            found.append(time.perf_counter() - started)
        return found

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def rows(self) -> Iterator[Row]:
        yield {"what": "copy", "gb_per_s": self.copy_bytes_per_s / 1e9}
        yield {"what": "product of bfloat16 matrices", "tflops": self.product_flops_per_s / 1e12}


def inference(ceilings: Ceilings, shape: str) -> Iterator[Row]:
    """Tokens per second of prefill and of 1, 8 and 64 streams, by whole steps of the engine."""
    config, is_large = SHAPES[shape], shape != "tiny"
    model = filled(config, ceilings.device, torch.bfloat16)
    engine_config = EngineConfig(
        max_batch_tokens=4096, prefix_cache=False, kv_cache_bytes=(8 << 30) if is_large else 1 << 26
    )
    engine = Engine(model, engine_config)
    length = 2048 if is_large else 64
    prompt = [token_id % config.vocab_size for token_id in range(length)]
    rate = [length / s for s in ceilings.seconds(lambda: answer(engine, [prompt], 1), 3)]
    flops = forward_flops(config, [length])
    yield {
        "what": f"prefill of {length}",
        "model": shape,
        "tokens_per_s": spread(rate),
        "share_of_product_rate": max(rate) / length * flops / ceilings.product_flops_per_s,
    }
    num_tokens = 32 if is_large else 4
    for streams in (1, 8, 64):
        prompts = [prompt[: 32 + place % 7] for place in range(streams)]
        short = ceilings.seconds(lambda: answer(engine, prompts, 1), 3)  # noqa: B023 - called at once
        whole = ceilings.seconds(lambda: answer(engine, prompts, 1 + num_tokens), 3)  # noqa: B023
        step_s = [max(long - min(short), 1e-9) / num_tokens for long in whole]
        yield {
            "what": f"decode of {streams} streams",
            "model": shape,
            "tokens_per_s": spread([streams / s for s in step_s]),
            # of one token: every weight once, but for the embeddings, read by row
            "share_of_copy_bandwidth": (model.weights_bytes - model.tok_embeddings.weight.nbytes)
            / min(step_s)
            / ceilings.copy_bytes_per_s,
        }


def training(ceilings: Ceilings, shape: str) -> Iterator[Row]:
    """Tokens per second of forward and backward over packed documents, float32 weights, bfloat16 products."""
    config, is_large = SHAPES[shape], shape != "tiny"
    model = filled(config, ceilings.device, torch.float32).requires_grad_(True)
    windows = prepare(model, compute_dtype=torch.bfloat16, compiled=False, checkpointing=False)
    lens = [1024, 512, 2048, 512] if is_large else [32, 16, 40]
    token_ids = torch.arange(sum(lens), device=ceilings.device) % config.vocab_size
    positions = torch.cat([torch.arange(length) for length in lens]).to(ceilings.device)
    starts = torch.tensor([0, *lens]).cumsum(0).to(ceilings.device, torch.int32)

    def update() -> None:
        hidden = model(ForwardInput(token_ids, positions, VarlenAttention(windows, starts, max(lens))))
        loss = F.cross_entropy(model.logits(hidden)[:-1], token_ids[1:])
        loss.backward()  # type: ignore[no-untyped-call]
        for weight in model.parameters():
            weight.grad = None

    seconds = ceilings.seconds(update, 5)
    yield {
        "what": f"forward and backward of {sum(lens)} tokens, not compiled",
        "model": shape,
        "tokens_per_s": spread([sum(lens) / s for s in seconds]),
        "share_of_product_rate": training_flops(config, lens) / min(seconds) / ceilings.product_flops_per_s,
    }


@torch.no_grad()
def filled(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> Transformer:
    """Random weights, drawn where they stay: `initialise` draws billions on the CPU."""
    with torch.device("meta"):
        model = Transformer(config, TorchOps())
    model = model.to(dtype).to_empty(device=device)
    for name, weight in model.named_parameters():
        weight.fill_(1.0) if "norm" in name else weight.normal_(0.0, 0.02)
    return model.requires_grad_(False)


def answer(engine: Engine, prompts: list[list[int]], num_tokens: int) -> None:
    for prompt in prompts:
        engine.add(prompt, SamplingParams(max_tokens=num_tokens, temperature=0.0, ignore_eos=True))
    while engine.has_work:
        for output in engine.step():
            if output.error is not None:
                raise RuntimeError(output.error)
