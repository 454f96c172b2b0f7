"""Our trainer beside `transformers` Trainer and `peft`: the same model, samples and optimiser, whole processes in turn.

Both train in float32 with AdamW on samples of chat length (log-normal, 16 to 1024 tokens, mean near 256). Every update
is one pass over about 2,048 tokens in the way that is each side's default: ours packs samples with block-diagonal
attention, the Trainer pads eight samples to the longest of them. Real tokens are counted, padding is not. With LoRA
(rank 16 on every linear of a layer) the second half of a sample is learned, as in chats; with full training all of it.

    python -m benchmarks.training [--threads N] [--repetitions N] [--quick]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks._results import peak_rss_bytes, record, rss_bytes, spread
from tramontane.config import ModelConfig
from tramontane.data.shards import Manifest, ShardSet, ShardWriter, SourceInfo, write_manifest
from tramontane.loading import named_shape
from tramontane.runtime import resolve_device
from tramontane.training.flops import measure_matmul_rate, training_flops

COMMON: dict[str, Any] = {"rope_theta": 1e4, "max_seq_len": 2048}
TINY = {"dim": 64, "n_layers": 2, "n_heads": 2, "n_kv_heads": 1, "head_dim": 32, "hidden_dim": 128, "vocab_size": 512}
SHAPES = {
    "15M": named_shape("mini-16m", sliding_windows=(None,) * 8, **COMMON),
    "tiny": named_shape("mini-16m", sliding_windows=(None,) * 2, **COMMON, **TINY),
}
METHODS, SIDES = ("lora", "full"), ("ours", "theirs")
UPDATE_LEN, SAMPLES_PER_UPDATE = 2048, 8
WARM_UP = 1
LEARNING_RATE = 1e-4
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def samples(config: ModelConfig, count: int) -> list[np.ndarray[Any, np.dtype[np.int64]]]:
    generator = np.random.default_rng(0)
    lens = np.clip(np.exp(generator.normal(5.2, 0.8, count)), 16, 1024).astype(int)
    return [generator.integers(0, config.vocab_size, length) for length in lens]


def first_learned(method: str, length: int) -> int:
    return length // 2 if method == "lora" else 1


def write_inputs(folder: Path, shape: str, num_updates: int) -> None:
    """The base checkpoint, and the samples as shards of each method; `theirs` makes the same samples again."""
    from tramontane.loading import save_checkpoint
    from tramontane.training.model_setup import new_model

    config = SHAPES[shape]
    model = new_model(config, device=torch.device("cpu"), seed=0, std=0.02)
    tensors = ((name, parameter.detach()) for name, parameter in model.named_parameters())
    save_checkpoint(folder / "base", config, tensors, layout="hf", stored="F32")
    documents = samples(config, num_samples(num_updates))
    for method in METHODS:
        out = folder / method
        out.mkdir()
        writer = ShardWriter(out, "samples", np.dtype("<u2"), 1 << 30, has_mask=True)
        for document in documents:
            writer.add(document, np.arange(len(document)) >= first_learned(method, len(document)))
        writer.close_shard()
        num_token_ids = sum(map(len, documents))
        source = SourceInfo(
            name="samples",
            shards=tuple(writer.shards),
            num_documents=len(documents),
            num_token_ids=num_token_ids,
            num_learned=num_token_ids,
            num_text_bytes=num_token_ids,
        )
        manifest = Manifest(
            name="samples",
            kind="chat",
            vocab_size=config.vocab_size,
            pad_id=0,
            max_document_len=1024,
            tokenizer_sha256="none",
            sources=(source,),
        )
        write_manifest(out, manifest)


def num_samples(num_updates: int) -> int:
    return (num_updates + 2) * SAMPLES_PER_UPDATE


def ours(folder: Path, method: str, num_updates: int, shape: str) -> dict[str, float]:
    """The trainer of `tramontane finetune` and `pretrain`, with nothing but its updates timed."""
    from tramontane.training.assembly import assemble, choose_machine
    from tramontane.training.distributed import World
    from tramontane.training.recipe import read_recipe

    before = rss_bytes()
    recipe_path = folder / f"{method}.toml"
    lora = "[lora]\nrank = 16\n" if method == "lora" else ""
    recipe_path.write_text(
        f"""
run = "{folder / "run"}"
[data]
train = ["{folder / method}"]
batch_len = {UPDATE_LEN}
microbatch_len = {UPDATE_LEN}
policy = "whole"
[model]
checkpoint = "{folder / "base"}"
{lora}
[optimizer]
kind = "adamw"
lr = {LEARNING_RATE}
[schedule]
num_steps = {num_updates}
kind = "constant"
warmup_steps = 0
[machine]
dtype = "float32"
""",
        "utf-8",
    )
    recipe = read_recipe(recipe_path)
    world = World(device=resolve_device("cpu"))
    trainer = assemble(recipe, choose_machine(recipe, world)).trainer
    ends, losses, flops = [], [], []
    for _ in range(num_updates):
        update = trainer.update()
        ends.append(time.perf_counter())
        losses.append(update.means["loss"])
        flops.append(update.flops)
    trainer.close()
    return report(ends, real_lens(folder / method, num_updates), losses, shape, method, before)


def real_lens(shards: Path, num_updates: int) -> list[list[int]]:
    """Lengths of the documents of each update of `ours`, without padding: its stream drawn once more."""
    from tramontane.training.token_stream import TokenStream

    options: dict[str, Any] = {"batch_len": UPDATE_LEN, "policy": "whole", "seed": 0}
    batches = list(TokenStream(ShardSet([shards]), num_token_ids=num_updates * UPDATE_LEN, **options))
    return [list(batch.document_lens[: len(batch.document_lens) - bool(batch.padding_len)]) for batch in batches]


def theirs(folder: Path, method: str, num_updates: int, shape: str) -> dict[str, float]:
    """`transformers.Trainer`, on a `peft` model for LoRA, with its defaults but for what the docstring says."""
    from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

    before = rss_bytes()
    model: Any = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    if method == "lora":
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules=list(LINEARS)))
    documents = samples(SHAPES[shape], num_samples(num_updates))
    drawn: list[list[int]] = []

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Padded to the longest, as DataCollatorForSeq2Seq does."""
        lens = [len(row["input_ids"]) for row in rows]
        drawn.append(lens)
        shape = (len(rows), max(lens))
        batch = {"input_ids": torch.zeros(shape, dtype=torch.long), "attention_mask": torch.zeros(shape).long()}
        batch["labels"] = torch.full(shape, -100)
        for place, (row, length) in enumerate(zip(rows, lens, strict=True)):
            batch["input_ids"][place, :length] = torch.from_numpy(row["input_ids"])
            batch["attention_mask"][place, :length] = 1
            learned = slice(first_learned(method, length), length)
            batch["labels"][place, learned] = torch.from_numpy(row["input_ids"][learned])
        return batch

    ends: list[float] = []
    losses: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

        def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
            if "loss" in logs:
                losses.append(float(logs["loss"]))

    arguments = TrainingArguments(
        output_dir=str(folder / "theirs"),
        per_device_train_batch_size=SAMPLES_PER_UPDATE,
        max_steps=num_updates,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        optim="adamw_torch",
        weight_decay=0.1,
        adam_beta2=0.95,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    rows: Any = [{"input_ids": document} for document in documents]
    Trainer(model, arguments, data_collator=collate, train_dataset=rows, callbacks=[Clock()]).train()
    return report(ends, drawn, losses, shape, method, before)


def report(
    ends: list[float], lens: list[list[int]], losses: list[float], shape: str, method: str, before: int
) -> dict[str, float]:
    """Of one process: what it did after warming up. `before`: bytes resident once its libraries were imported."""
    seconds = ends[-1] - ends[WARM_UP - 1]
    counted = lens[WARM_UP : len(ends)]
    config = SHAPES[shape]
    flops = sum(training_flops(config, each, trains_weights=method == "full") for each in counted)
    rate = measure_matmul_rate(torch.device("cpu"), torch.float32)
    return {
        "tokens_per_s": sum(map(sum, counted)) / seconds,
        "share_of_peak": flops / seconds / max(rate, flops / seconds),  # where something else ran while it was measured
        "matmul_gflop_per_s": rate / 1e9,
        "peak_bytes": peak_rss_bytes(),
        "working_bytes": peak_rss_bytes() - before,
        "first_loss": losses[0],
        "last_loss": losses[-1],
    }


def run_child(folder: Path, side: str, method: str, options: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.training", "--child", side, "--folder", str(folder)]
    command += ["--method", method, "--shape", options.shape, "--updates", str(options.updates)]
    done = subprocess.run([*command, "--threads", str(options.threads)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    values: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--updates", type=int, default=5, help="of each process; the first is not counted")
    parser.add_argument("--shape", choices=SHAPES, default="15M")
    parser.add_argument("--quick", action="store_true", help="try it out: a tiny model, once; nothing is recorded")
    parser.add_argument("--note", help="recorded in each row, such as what else the machine was doing")
    parser.add_argument("--child", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--method", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        torch.set_num_threads(options.threads)
        train = ours if options.child == "ours" else theirs
        print(json.dumps(train(options.folder, options.method, options.updates, options.shape)))
        return
    if options.quick:
        options.shape, options.repetitions = "tiny", 1
    torch.set_num_threads(options.threads)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder, options.shape, options.updates)
        for method in METHODS:
            runs: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
            for repetition in range(options.repetitions):
                for side in SIDES if repetition % 2 == 0 else SIDES[::-1]:
                    runs[side].append(run_child(folder, side, method, options))
                    print(method, side, {name: round(value, 4) for name, value in runs[side][-1].items()}, flush=True)
            row: dict[str, Any] = {"method": method, "shape": options.shape, "note": options.note}
            row["weights"] = SHAPES[options.shape].num_parameters()
            for side in SIDES:
                row |= {f"{side}_{key}": spread([run[key] for run in runs[side]]) for key in runs[side][0]}
            pairs = list(zip(runs["ours"], runs["theirs"], strict=True))
            for key in ("tokens_per_s", "peak_bytes", "working_bytes"):
                row[f"{key}_ratio"] = spread([first[key] / second[key] for first, second in pairs])
            rows.append(row)
    if options.quick:
        print(json.dumps(rows))
    else:
        record("training", rows)


if __name__ == "__main__":
    main()
