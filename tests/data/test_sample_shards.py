from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.data.tokenizers import tokenizer_folder
from tramontane.data.loader import Loader
from tramontane.data.sample_shards import LABELS, check_samples, write_sample_shards
from tramontane.data.shards import ShardSet, verify_shards
from tramontane.errors import DataError
from tramontane.tokenizer import load_tokenizer


def chat(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def written(tmp_path: Path, *rows: Any) -> Path:
    path = tmp_path / "samples.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def texts(folder: Path, source: str) -> list[str]:
    tokenizer = load_tokenizer(tokenizer_folder())
    shards = ShardSet([folder]).sources[source]
    return [tokenizer.decode(shards.read(n)[0].tolist(), keep_control=True) for n in range(shards.info.num_documents)]


def test_conversations_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, chat("Hi", "Hello"), chat("Hi", "Hello"), chat("Bye", "See you"))
    manifest = write_sample_shards(path, "chat", tokenizer_folder(), tmp_path / "out", max_len=64)
    verify_shards(tmp_path / "out")
    expected = ["<s>[INST]Hi[/INST]Hello</s>"] * 2 + ["<s>[INST]Bye[/INST]See you</s>"]
    assert texts(tmp_path / "out", "samples") == expected
    assert manifest.sources[0].num_text_bytes == len("HelloHelloSee you")
    tokenizer = load_tokenizer(tokenizer_folder())
    (batch,) = Loader(ShardSet([tmp_path / "out"]), batch_len=128, policy="whole")
    learned = tokenizer.decode(batch.targets[batch.loss_mask].tolist(), keep_control=True)
    assert sorted(learned.split("</s>")) == ["", "Hello", "Hello", "See you"]


def test_pairs_stay_pairs(tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": f"Q{n}"}], "chosen": f"good {n}", "rejected": f"bad {n}"}
        for n in range(3)
    ]
    write_sample_shards(written(tmp_path, *rows), "preference", tokenizer_folder(), tmp_path / "out", max_len=64)
    assert texts(tmp_path / "out", "chosen") == [f"<s>[INST]Q{n}[/INST]good {n}</s>" for n in range(3)]
    assert texts(tmp_path / "out", "rejected") == [f"<s>[INST]Q{n}[/INST]bad {n}</s>" for n in range(3)]


def test_classifier_labels_by_place(tmp_path: Path) -> None:
    rows = [
        {"text": "so happy", "labels": {"mood": "joy", "topics": ["self"]}},
        {"messages": [{"role": "user", "content": "no"}], "labels": {"mood": "anger", "topics": ["self", "day"]}},
        {"text": "yes", "labels": {"mood": "joy", "topics": []}},
    ]
    write_sample_shards(written(tmp_path, *rows), "classifier", tokenizer_folder(), tmp_path / "out", max_len=64)
    assert texts(tmp_path / "out", "samples") == ["<s>so happy", "<s>[INST]no[/INST]", "<s>yes"]
    labels = json.loads((tmp_path / "out" / LABELS).read_text())
    assert labels["targets"] == {"mood": ["joy", "anger"], "topics": ["self", "day"]}
    assert [row["mood"] for row in labels["documents"]] == [[0], [1], [0]]
    assert [row["topics"] for row in labels["documents"]] == [[0], [0, 1], []]


def test_nothing_is_written_until_the_file_is_sound(tmp_path: Path) -> None:
    path = written(tmp_path, chat("Hi", "Hello"), {"messages": []}, chat("x" * 90, "long"), chat("Hi", "Ho"))
    with pytest.raises(DataError) as caught:
        write_sample_shards(path, "chat", tokenizer_folder(), tmp_path / "out", max_len=32)
    assert "samples.jsonl: 2 of 4 lines are invalid: line 2: messages must be a list" in str(caught.value)
    assert "line 3: " in str(caught.value)
    assert "tokens long, more than 32" in str(caught.value)
    assert [each.name for each in tmp_path.iterdir()] == ["samples.jsonl"]
    check = check_samples(path, "chat", tokenizer_folder(), 32)
    assert (check.num_valid, check.num_invalid) == (2, 2)
    manifest = write_sample_shards(
        path, "chat", tokenizer_folder(), tmp_path / "out", max_len=32, max_invalid_share=0.5
    )
    assert manifest.sources[0].num_documents == 2


def test_a_file_without_any_sound_line_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 of 1 lines"):
        write_sample_shards(
            written(tmp_path, []), "chat", tokenizer_folder(), tmp_path / "out", max_len=32, max_invalid_share=1.0
        )
    with pytest.raises(DataError, match="the file is empty"):
        write_sample_shards(written(tmp_path), "chat", tokenizer_folder(), tmp_path / "out", max_len=32)
