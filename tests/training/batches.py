"""Batches, shards and recipes small enough that a test of a whole run takes a second."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tramontane.data.loader import Batch
from tramontane.data.shards import Manifest, ShardWriter, SourceInfo, write_manifest
from tramontane.training.microbatch import Microbatch, Placement

CPU = torch.device("cpu")
VOCAB_SIZE = 101


def batch_of(documents: Sequence[Sequence[int]], *, padding_len: int = 0, learned_from: int = 0) -> Batch:
    """Packed documents as the loader gives them; targets before place `learned_from` of a document do not count."""
    token_ids: list[int] = []
    targets: list[int] = []
    mask: list[bool] = []
    for document in documents:
        token_ids += document
        targets += [*document[1:], 0]
        mask += [place >= learned_from for place in range(1, len(document))] + [False]
    token_ids += [0] * padding_len
    targets += [0] * padding_len
    mask += [False] * padding_len
    lens = [len(document) for document in documents] + ([padding_len] if padding_len else [])
    return Batch(
        token_ids=torch.tensor(token_ids),
        targets=torch.tensor(targets),
        loss_mask=torch.tensor(mask),
        document_lens=tuple(lens),
        document_sources=("a",) * len(documents),
        padding_len=padding_len,
    )


def microbatch_of(windows: tuple[int | None, ...], documents: Sequence[Sequence[int]], **options: int) -> Microbatch:
    return Placement(CPU, windows, max(map(len, documents))).place(batch_of(documents, **options))


def random_documents(lens: Sequence[int], *, vocab_size: int = VOCAB_SIZE, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, vocab_size, (length,), generator=generator).tolist() for length in lens]


def write_learnable_set(folder: Path, *, num_documents: int = 60, seed: int = 0) -> Path:
    """Shards of documents in which each token mostly decides the next: a loss that falls fast."""
    folder.mkdir(parents=True)
    successor = np.random.default_rng(0).permutation(VOCAB_SIZE)
    generator = np.random.default_rng(seed)
    writer = ShardWriter(folder, "chain", np.dtype("<u2"), 2000, has_mask=False)
    num_token_ids = 0
    for _ in range(num_documents):
        token_ids = [int(generator.integers(VOCAB_SIZE))]
        for _ in range(int(generator.integers(10, 40))):
            is_random = generator.random() < 0.1
            token_ids.append(int(generator.integers(VOCAB_SIZE) if is_random else successor[token_ids[-1]]))
        writer.add(np.array(token_ids))
        num_token_ids += len(token_ids)
        if writer.is_full:
            writer.close_shard()
    writer.close_shard()
    source = SourceInfo(
        name="chain",
        shards=tuple(writer.shards),
        num_documents=num_documents,
        num_token_ids=num_token_ids,
        num_learned=num_token_ids,
        num_text_bytes=3 * num_token_ids,
    )
    manifest = Manifest(
        name="chains",
        kind="text",
        vocab_size=VOCAB_SIZE,
        pad_id=0,
        max_document_len=40,
        tokenizer_sha256="t",
        sources=(source,),
    )
    write_manifest(folder, manifest)
    return folder


def recipe_text(tmp_path: Path, **changes: Any) -> str:
    """A TOML recipe over `write_learnable_set`, whose folders lie in `tmp_path`."""
    values = {"run": tmp_path / "run", "train": tmp_path / "train", "num_steps": 12, "extra": ""} | changes
    return f"""
run = "{values["run"]}"
[data]
train = ["{values["train"]}"]
batch_len = 128
microbatch_len = 64
[model]
dim = 32
n_layers = 2
n_heads = 2
n_kv_heads = 1
head_dim = 16
hidden_dim = 48
sliding_window = 16
max_seq_len = 64
init_std = 0.1
[schedule]
num_steps = {values["num_steps"]}
warmup_steps = 2
[optimizer]
lr = 0.01
muon_lr = 0.02
[checkpoint]
dtype = "float32"
[metrics]
every_steps = 1
{values["extra"]}
"""
