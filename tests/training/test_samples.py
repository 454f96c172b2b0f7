"""Pairs and labels: streams of whole samples, classifier heads, and runs that learn from them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.training.batches import VOCAB_SIZE, recipe_text
from tramontane.data.loader import Batch
from tramontane.data.sample_shards import LABELS
from tramontane.data.shards import Manifest, ShardSet, ShardWriter, SourceInfo, write_manifest, write_repeats
from tramontane.errors import ConfigError, DataError
from tramontane.formats.open_tensors import open_tensors
from tramontane.training.classifier import classifier_loss
from tramontane.training.metrics import read_rows
from tramontane.training.recipe import DataPaths, read_recipe
from tramontane.training.run import train
from tramontane.training.sample_stream import LabelledBatch, SampleStream, Targets, read_targets
from tramontane.training.streams import steps_of_epochs


def write_samples(
    folder: Path, sources: dict[str, list[list[int]]], kind: str, *, repeats: Sequence[tuple[int, int]] = ()
) -> Path:
    folder.mkdir(parents=True)
    infos = []
    for name, documents in sources.items():
        writer = ShardWriter(folder, name, np.dtype("<u2"), 200, has_mask=True)
        for document in documents:
            writer.add(np.array(document), np.arange(len(document)) >= 2)
            if writer.is_full:
                writer.close_shard()
        writer.close_shard()
        num_token_ids = sum(map(len, documents))
        infos.append(
            SourceInfo(
                name=name,
                shards=tuple(writer.shards),
                num_documents=len(documents),
                num_token_ids=num_token_ids,
                num_learned=num_token_ids,
                num_text_bytes=num_token_ids,
                num_repeats=write_repeats(folder, name, repeats),
            )
        )
    manifest = Manifest(
        name="samples",
        kind=kind,  # type: ignore[arg-type]
        vocab_size=VOCAB_SIZE,
        pad_id=0,
        max_document_len=max(len(document) for documents in sources.values() for document in documents),
        tokenizer_sha256="t",
        sources=tuple(infos),
    )
    write_manifest(folder, manifest)
    return folder


def write_pairs(folder: Path, num_pairs: int = 30) -> Path:
    """The chosen answer repeats the prompt's token, the rejected one does not."""
    generator = np.random.default_rng(0)
    tokens = generator.integers(1, 50, num_pairs).tolist()
    chosen = [[token, token, *[token] * (2 + token % 5)] for token in tokens]
    rejected = [[token, token, *generator.integers(50, 100, 4).tolist()] for token in tokens]
    return write_samples(folder, {"chosen": chosen, "rejected": rejected}, "preference")


def write_labelled(folder: Path, num_documents: int = 40, *, labels: tuple[str, str] = ("low", "high")) -> Path:
    """The label of target `size` says whether the first token is small; `odd` has any number of labels."""
    generator = np.random.default_rng(1)
    documents = [generator.integers(1, 100, int(generator.integers(3, 12))).tolist() for _ in range(num_documents)]
    write_samples(folder, {"samples": documents}, "classifier")
    small_first = labels == ("low", "high")
    rows = [
        {"size": [int((document[-1] >= 50) == small_first)], **({"odd": [0] if document[-1] % 2 else []} if n else {})}
        for n, document in enumerate(documents)
    ]
    value = {"targets": {"size": list(labels), "odd": ["odd"]}, "documents": rows}
    (folder / LABELS).write_text(json.dumps(value), "utf-8")
    return folder


def pairs_of(batch: Batch | LabelledBatch) -> list[tuple[list[int], list[int]]]:
    assert isinstance(batch, Batch)
    lens = batch.document_lens[:-1] if batch.padding_len else batch.document_lens
    documents = [part.tolist() for part in torch.split(batch.token_ids, list(batch.document_lens))][: len(lens)]
    return list(zip(documents[0::2], documents[1::2], strict=True))


def test_pairs_stay_together_and_come_once_an_epoch(tmp_path: Path) -> None:
    shards = ShardSet([write_pairs(tmp_path / "pairs")])
    stream = SampleStream(shards, batch_len=64, epochs=1, seed=0)
    batches = list(stream)
    seen = [pair for batch in batches for pair in pairs_of(batch)]
    assert len(seen) == 30
    assert all(chosen[0] == rejected[0] and max(rejected[2:]) >= 50 for chosen, rejected in seen)
    for batch in batches:
        assert isinstance(batch, Batch)
        assert len(batch.token_ids) == len(batch.targets) == sum(batch.document_lens) == 64
        learned = batch.targets[batch.loss_mask]
        assert torch.equal(learned, batch.token_ids[1:][batch.loss_mask[:-1]])


def random_set(folder: Path, kind: str, generator: np.random.Generator) -> tuple[ShardSet, list[list[int]]]:
    """Samples of any lengths, each with a token of its own in front, and all of their token ids."""
    num_samples = int(generator.integers(1, 60))
    lens = np.clip(generator.lognormal(generator.uniform(0.5, 3), generator.uniform(0, 1.2), (num_samples, 2)), 2, 90)
    samples = [[[n, *[99] * (int(each) - 1)] for each in row] for n, row in enumerate(lens)]
    if kind == "preference":
        sources = {"chosen": [row[0] for row in samples], "rejected": [row[1] for row in samples]}
        return ShardSet([write_samples(folder, sources, kind)]), [row[0] + row[1] for row in samples]
    if kind == "two sources":
        half = num_samples // 2 or 1
        documents = [row[0] for row in samples]
        sources = {"a": documents[:half], "b": documents[half:]}
        sources = {name: each for name, each in sources.items() if each}
        return ShardSet([write_samples(folder, sources, "chat")]), documents
    return ShardSet([write_samples(folder, {"samples": [row[0] for row in samples]}, kind)]), [r[0] for r in samples]


@pytest.mark.parametrize("kind", ["chat", "two sources", "preference", "classifier"])
def test_every_sample_is_given_exactly_as_often_as_asked(kind: str, tmp_path: Path) -> None:
    for case in range(25):
        generator = np.random.default_rng(case)
        shards, samples = random_set(tmp_path / str(case), kind, generator)
        longest = max(map(len, samples))
        batch_len = int(generator.integers(longest, 4 * longest + 1))
        epochs, world_size = int(generator.integers(1, 6)), int(generator.integers(1, 4))
        seen: Counter[int] = Counter()
        num_rounds = set()
        for rank in range(world_size):
            stream = SampleStream(
                shards, batch_len=batch_len, epochs=epochs, seed=case, rank=rank, world_size=world_size
            )
            batches = list(stream)
            num_rounds.add(len(batches))
            for batch in batches:
                assert isinstance(batch, Batch)
                documents = [part.tolist() for part in torch.split(batch.token_ids, list(batch.document_lens))]
                documents = documents[: len(batch.document_sources)]
                step = 2 if kind == "preference" else 1
                for place in range(0, len(documents), step):
                    sample = documents[place][0]
                    seen[sample] += 1
                    assert list(chain(*documents[place : place + step])) == samples[sample]
            assert stream.state_dict()["num_token_ids"] == epochs * sum(map(len, samples))
        assert seen == dict.fromkeys(range(len(samples)), epochs)
        assert len(num_rounds) == 1  # all processes stop at the same time


def test_a_part_of_an_epoch_is_so_many_samples(tmp_path: Path) -> None:
    shards = ShardSet([write_pairs(tmp_path / "pairs")])
    seen = [pair for batch in SampleStream(shards, batch_len=64, epochs=2.5, seed=0) for pair in pairs_of(batch)]
    assert len(seen) == 75


def test_each_epoch_has_its_own_order_and_any_state_goes_on_exactly(tmp_path: Path) -> None:
    shards = ShardSet([write_pairs(tmp_path / "pairs")])

    def stream(seed: int = 0) -> SampleStream:
        return SampleStream(shards, batch_len=64, epochs=4, seed=seed)

    whole = [pairs_of(batch) for batch in stream()]
    given = [pair for batch in whole for pair in batch]
    assert given[:30] != given[30:60]
    for stop in (0, 1, 7, len(whole)):
        first = stream()
        iterator = iter(first)
        for _ in range(stop):
            next(iterator)
        state = json.loads(json.dumps(first.state_dict()))
        resumed = stream()
        resumed.load_state_dict(state)
        assert resumed.state_dict() == state
        assert [pairs_of(batch) for batch in resumed] == whole[stop:]
    with pytest.raises(DataError, match="other data"):
        stream(seed=1).load_state_dict(state)


def test_without_epochs_the_samples_begin_anew(tmp_path: Path) -> None:
    shards = ShardSet([write_pairs(tmp_path / "pairs")])
    stream = SampleStream(shards, batch_len=64, epochs=None, seed=0)
    seen = [pair for batch in islice(stream, 40) for pair in pairs_of(batch)]
    assert len(seen) > 90


def test_two_processes_share_the_batches(tmp_path: Path) -> None:
    shards = ShardSet([write_pairs(tmp_path / "pairs")])
    alone = [pairs_of(batch) for batch in SampleStream(shards, batch_len=64, epochs=3, seed=0)]
    parts = [
        [pairs_of(b) for b in SampleStream(shards, batch_len=64, epochs=3, seed=0, rank=rank, world_size=2)]
        for rank in (0, 1)
    ]
    assert [batch for both in zip(*parts, strict=True) for batch in both if batch] == alone


def test_samples_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    shards = ShardSet([write_pairs(tmp_path / "pairs")])
    with pytest.raises(DataError, match="cannot hold the longest sample"):
        SampleStream(shards, batch_len=10, epochs=1, seed=0)


def test_labels_are_rows_of_all_targets(tmp_path: Path) -> None:
    folder = write_labelled(tmp_path / "set")
    targets = read_targets(folder)
    assert targets.labels == {"size": ("low", "high"), "odd": ("odd",)}
    assert targets.single == {"size"}
    rows = targets.rows([0, 1])
    assert rows.shape == (2, 3)
    assert bool(rows[0, 2].isnan())  # document 0 says nothing of `odd`
    assert float(rows[1, :2].sum()) == 1
    swapped = read_targets(write_labelled(tmp_path / "swapped", labels=("high", "low")))
    assert torch.equal(swapped.matched_to(targets, folder).rows([1, 2]), targets.rows([1, 2]))
    with pytest.raises(DataError, match="label 'vast' of target 'size'"):
        read_targets(write_labelled(tmp_path / "other", labels=("low", "vast"))).matched_to(targets, tmp_path)
    with pytest.raises(DataError, match=r"holds no labels\.json"):
        read_targets(tmp_path)


def test_classifier_loss_is_softmax_or_logistic_by_target() -> None:
    targets = Targets({"a": ("x", "y", "z"), "b": ("p", "q")}, ({"a": (1,), "b": (0, 1)}, {"a": (2,)}))
    scores = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
    loss, hits = classifier_loss(scores, targets.rows([0, 1]), targets)
    softmax = F.cross_entropy(scores[:, :3], torch.tensor([1, 2]), reduction="none")
    logistic = F.binary_cross_entropy_with_logits(scores[0, 3:], torch.ones(2))
    torch.testing.assert_close(loss, torch.stack([(softmax[0] + logistic) / 2, softmax[1]]))
    expected = [
        (float(scores[0, :3].argmax() == 1) + float((scores[0, 3:] > 0).all())) / 2,
        float(scores[1, :3].argmax() == 2),
    ]
    assert hits.tolist() == expected


def test_a_classifier_run_learns_and_gives_its_head(tmp_path: Path) -> None:
    write_labelled(tmp_path / "train", 60)
    write_labelled(tmp_path / "valid", 20)
    path = tmp_path / "recipe.toml"
    path.write_text(recipe_text(tmp_path, num_steps=60), "utf-8")
    changes = ["task.kind=classify", f"data.valid=['{tmp_path / 'valid'}']", "data.batch_len=64"]
    train(read_recipe(path, changes))
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    losses = [row["loss"] for row in rows if row["kind"] == "train"]
    assert losses[0] == pytest.approx(np.log(2), rel=0.01)  # the head starts undecided
    assert np.mean(losses[-5:]) < 0.6 * losses[0]
    assert [row["bits_per_byte"] for row in rows if row["kind"] == "held_out"] == [None]
    assert "run: loss in nats per sample" in (tmp_path / "run" / "loss.svg").read_text("utf-8")
    document = json.loads((tmp_path / "run" / "model" / "classifier.json").read_text("utf-8"))
    assert document == {"targets": {"size": ["low", "high"], "odd": ["odd"]}, "single": ["size"]}
    with open_tensors(tmp_path / "run" / "model" / "classifier.safetensors") as head:
        assert head.read("weight").shape == (3, 32)
        assert bool(head.read("weight").any())


def test_a_preference_run_on_adapters_resumes_and_releases_them(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs")
    path = tmp_path / "recipe.toml"
    path.write_text(recipe_text(tmp_path, train=tmp_path / "pairs", num_steps=2, run=tmp_path / "base"), "utf-8")
    train(read_recipe(path, ["task.kind=preference", "task.loss=orpo", "data.batch_len=64"]))
    path.write_text(
        f"""
run = "{tmp_path / "run"}"
[data]
train = ["{tmp_path / "pairs"}"]
batch_len = 128
microbatch_len = 64
[model]
checkpoint = "{tmp_path / "base" / "model"}"
[task]
kind = "preference"
[lora]
rank = 4
dropout = 0.1
[schedule]
num_steps = 20
[optimizer]
lr = 0.02
[metrics]
every_steps = 1
""",
        "utf-8",
    )
    train(read_recipe(path, ["schedule.warmup_steps=2"]))
    rows = [row for row in read_rows(tmp_path / "run" / "metrics.jsonl") if row["kind"] == "train"]
    assert rows[0]["loss"] == pytest.approx(np.log(2))  # policy and reference are still one
    assert rows[-1]["margin"] > 0
    assert sorted(path.name for path in (tmp_path / "run" / "model").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    parts = [f"run='{tmp_path / 'parts'}'", "schedule.warmup_steps=2"]
    from tests.training.test_run import final_state, stop_after

    stop_after(read_recipe(path, parts), 9)
    train(read_recipe(path, parts), resume=True)
    whole, resumed = final_state(tmp_path / "run"), final_state(tmp_path / "parts")
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name]), name


def test_shape_beside_a_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(recipe_text(tmp_path), "utf-8")
    with pytest.raises(DataError, match=r"model\.dim has no effect beside model\.checkpoint"):
        read_recipe(path, ["model.checkpoint=somewhere"])


def stretches(generator: np.random.Generator, num_documents: int) -> list[tuple[int, int]]:
    found = []
    while num_documents:
        size = int(generator.integers(1, num_documents + 1))
        found.append((size, int(generator.integers(1, 6))))
        num_documents -= size
    return found


def copied(documents: list[Any], repeats: list[tuple[int, int]]) -> list[Any]:
    found, first = list[Any](), 0
    for num_documents, times in repeats:
        found += documents[first : first + num_documents] * times
        first += num_documents
    return found


@pytest.mark.parametrize("kind", ["chat", "preference", "classifier"])
def test_weights_give_what_copies_would(kind: str, tmp_path: Path) -> None:
    """Bit for bit: the same batches in the same order as a set that holds each document as often as it is seen."""
    for case in range(12):
        generator = np.random.default_rng(case)
        num_documents = int(generator.integers(1, 40))
        lens = generator.integers(2, 60, (2, num_documents))
        names = ["chosen", "rejected"] if kind == "preference" else ["samples"]
        sources = {
            name: [generator.integers(1, 90, each).tolist() for each in row]
            for name, row in zip(names, lens, strict=False)
        }
        repeats = stretches(generator, num_documents)
        weighted = write_samples(tmp_path / f"weighted {case}", sources, kind, repeats=repeats)
        labels = [{"size": [int(n)]} for n in generator.integers(0, 2, num_documents)]
        more = {name: copied(each, repeats) for name, each in sources.items()}
        plain = write_samples(tmp_path / f"copied {case}", more, kind)
        targets: list[Targets | None] = [None, None]
        if kind == "classifier":
            for place, rows in enumerate((labels, copied(labels, repeats))):
                targets[place] = Targets({"size": ("low", "high")}, tuple({"size": tuple(r["size"])} for r in rows))
        one, other = ShardSet([weighted]), ShardSet([plain])
        assert sum(source.epoch_len for source in one.sources.values()) == sum(
            source.info.num_token_ids for source in other.sources.values()
        )
        streams = [
            SampleStream(shards, batch_len=128, epochs=2.5, seed=case, targets=known)
            for shards, known in zip((one, other), targets, strict=True)
        ]
        for ours, expected in zip(*streams, strict=True):
            for a, b in zip(flat(ours), flat(expected), strict=True):
                assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def flat(batch: Batch | LabelledBatch) -> list[Any]:
    if isinstance(batch, LabelledBatch):
        return [*flat(batch.batch), torch.nan_to_num(batch.labels, -1.0)]
    return [batch.token_ids, batch.targets, batch.loss_mask, batch.document_lens]


def test_weights_take_no_room_and_no_time_of_their_own(tmp_path: Path) -> None:
    documents = [[n % 90 + 1] * 5 for n in range(1000)]
    folder = write_samples(tmp_path / "set", {"samples": documents}, "chat", repeats=[(400, 10_000), (600, 1)])
    shards = ShardSet([folder])
    assert sum(path.stat().st_size for path in folder.iterdir()) < 50_000
    stream = SampleStream(shards, batch_len=50, epochs=None, seed=0)
    seen = Counter(int(each) for batch in islice(stream, 500) for each in flat(batch)[0][::5])
    assert sum(seen.values()) == 5000
    (folder / "samples.repeats").write_bytes(bytes(8))
    with pytest.raises(DataError, match=r"samples.repeats: 8 bytes where 16 belong"):
        ShardSet([folder])


def test_more_samples_than_a_run_plans_are_refused_at_once(tmp_path: Path) -> None:
    folder = write_samples(tmp_path / "set", {"samples": [[1, 2, 3]] * 4}, "chat", repeats=[(4, 2**31)])
    data = DataPaths(train=(str(folder),), batch_len=64, microbatch_len=64, policy="whole", epochs=1.0)
    with pytest.raises(ConfigError, match=r"1 epochs of 8,589,934,592 samples.* training_steps"):
        steps_of_epochs(data, ShardSet([folder]), 0)
