from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.data.tokenizers import tokenizer_folder
from tramontane.data.loader import Loader
from tramontane.data.sample_shards import LABELS, HeldOut, read_notes, read_skipped, write_sample_shards
from tramontane.data.shards import ShardSet, verify_shards
from tramontane.errors import DataError
from tramontane.tokenizer import load_tokenizer
from tramontane.training.sample_stream import Samples


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


def seen(folder: Path) -> list[str]:
    """The documents of one epoch, before they are shuffled."""
    samples = Samples(ShardSet([folder]))
    found = texts(folder, "samples")
    return [found[samples.document(place)] for place in range(len(samples))]


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
    assert "samples.jsonl: 2 of 4 lines are no samples: line 2: messages must be a list" in str(caught.value)
    assert "line 3: " in str(caught.value)
    assert "tokens long, more than 32; raise --max-len" in str(caught.value)
    assert [each.name for each in tmp_path.iterdir()] == ["samples.jsonl"]
    manifest = write_sample_shards(
        path, "chat", tokenizer_folder(), tmp_path / "out", max_len=32, max_invalid_share=0.5
    )
    assert manifest.sources[0].num_documents == 2
    assert [problem.line for problem in read_skipped(tmp_path / "out")] == [2, 3]


def test_a_file_without_any_sound_line_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"samples.jsonl: line 1: a JSON list; each line must be an object"):
        write_sample_shards(
            written(tmp_path, []), "chat", tokenizer_folder(), tmp_path / "out", max_len=32, max_invalid_share=1.0
        )
    with pytest.raises(DataError, match=r"samples.jsonl: the file is empty; write one JSON object per line$"):
        write_sample_shards(written(tmp_path), "chat", tokenizer_folder(), tmp_path / "out", max_len=32)


def test_a_fault_of_every_line_is_told_once(tmp_path: Path) -> None:
    path = written(tmp_path, *[{"foo": n} for n in range(60)])
    with pytest.raises(DataError) as caught:
        write_sample_shards(path, "chat", tokenizer_folder(), tmp_path / "out", max_len=32)
    message = str(caught.value)
    assert message.startswith("samples.jsonl: none of 60 lines is a sample: line 1: keys 'foo' are of no shape")
    assert message.count("no shape") == 1
    assert message.endswith("and 59 more")


def test_several_files_with_weights(tmp_path: Path) -> None:
    first, second = tmp_path / "a.jsonl", tmp_path / "b:2.jsonl"
    first.write_text(json.dumps(chat("a", "A")))
    second.write_text("\n".join(json.dumps(chat(f"b{n}", "B")) for n in range(40)))
    write_sample_shards([f"{first}:2", f"{second}:1.5"], "chat", tokenizer_folder(), tmp_path / "out", max_len=32)
    written_once = texts(tmp_path / "out", "samples")
    assert len(written_once) == len(set(written_once)) == 41
    found = seen(tmp_path / "out")
    assert found[:2] == ["<s>[INST]a[/INST]A</s>"] * 2
    counts = [found.count(f"<s>[INST]b{n}[/INST]B</s>") for n in range(40)]
    assert set(counts) == {1, 2}
    assert 10 < counts.count(2) < 30
    for address, expected in ((f"{first}:0", "must be above 0"), (tmp_path / "no.jsonl", "there is no such file")):
        with pytest.raises(DataError, match=expected):
            write_sample_shards([address], "chat", tokenizer_folder(), tmp_path / "out", max_len=32)


def test_stretches_of_lines_are_seen_as_copies_would_be(tmp_path: Path) -> None:
    rows = [chat("a", "A"), {"no": "sample"}, chat("b", "B"), chat("c", "C"), chat("d", "D")]
    repeats = [(3, 2), (1, 3)]  # of the last line nothing is said
    path = written(tmp_path, *rows)
    write_sample_shards(
        path, "chat", tokenizer_folder(), tmp_path / "out", max_len=32, max_invalid_share=0.5, repeats=repeats
    )
    expected = [f"<s>[INST]{name}[/INST]{name.upper()}</s>" for name in "ababcccd"]
    assert seen(tmp_path / "out") == expected
    assert texts(tmp_path / "out", "samples") == sorted(set(expected))
    with pytest.raises(DataError, match="repeats are pairs"):
        write_sample_shards([path, path], "chat", tokenizer_folder(), tmp_path / "out", max_len=32, repeats=repeats)


def test_a_share_is_held_out_by_content(tmp_path: Path) -> None:
    rows = [chat(f"q{n % 50}", "a") for n in range(100)]  # each sample stands twice
    path = written(tmp_path, *rows)
    held_out = HeldOut(tmp_path / "valid", 0.1)
    write_sample_shards(path, "chat", tokenizer_folder(), tmp_path / "train", max_len=32, held_out=held_out)
    train, valid = texts(tmp_path / "train", "samples"), texts(tmp_path / "valid", "samples")
    assert (len(train), len(valid), len(set(valid))) == (90, 5, 5)
    assert not set(train) & set(valid)
    path.write_text("".join(json.dumps(row) + "\n" for row in reversed(rows)))
    write_sample_shards(path, "chat", tokenizer_folder(), tmp_path / "train", max_len=32, held_out=held_out)
    assert sorted(texts(tmp_path / "valid", "samples")) == sorted(valid)
    other = HeldOut(tmp_path / "valid", 0.1, seed=1)
    write_sample_shards(path, "chat", tokenizer_folder(), tmp_path / "train", max_len=32, held_out=other)
    assert sorted(texts(tmp_path / "valid", "samples")) != sorted(valid)
    with pytest.raises(DataError, match="too few samples to hold some out"):
        write_sample_shards(
            written(tmp_path, rows[0]), "chat", tokenizer_folder(), tmp_path / "t", max_len=32, held_out=held_out
        )


LONG = {
    "messages": [
        {"role": "system", "content": "S"},
        *chat("one", "first")["messages"],
        *chat("two", "x" * 40)["messages"],
        *chat("three", "third")["messages"],
        *chat("four", "fourth")["messages"],
    ]
}


def test_what_becomes_of_long_samples_is_chosen_and_told(tmp_path: Path) -> None:
    path = written(tmp_path, LONG, chat("Hi", "Hello"))
    out = tmp_path / "out"
    head = "<s>[SYSTEM_PROMPT]S[/SYSTEM_PROMPT]"
    expected = {
        "drop": (["<s>[INST]Hi[/INST]Hello</s>"], "longer than 24 tokens, left out: 1"),
        "split": (
            [
                f"{head}[INST]one[/INST]first</s>",
                f"{head}[INST]three[/INST]third</s>",
                f"{head}[INST]four[/INST]fourth</s>",
            ],
            "longer than 24 tokens, left out: 1",
        ),
        "truncate": ([f"{head}[INST]one[/INST]first</s>[INST]two"], "longer than 24 tokens, cut there: 1"),
    }
    for too_long, (documents, note) in expected.items():
        write_sample_shards(path, "chat", tokenizer_folder(), out, max_len=24, too_long=too_long)  # type: ignore[arg-type]
        found = texts(out, "samples")
        assert found[-1] == "<s>[INST]Hi[/INST]Hello</s>"
        assert all(len(ShardSet([out]).sources["samples"].read(n)[0]) <= 24 for n in range(len(found)))
        assert found[0].startswith(documents[0])
        if too_long == "split":
            assert "third" in "".join(found)
            assert not any("x" in text.replace("[INST]", "") for text in found)
        assert any(note in line for line in read_notes(out)), read_notes(out)
    with pytest.raises(
        DataError, match=r"raise --max-len .over HTTP seq_len., or choose --too-long drop, truncate or split"
    ):
        write_sample_shards(path, "chat", tokenizer_folder(), out, max_len=24)
    with pytest.raises(DataError, match="--too-long split is for conversations"):
        write_sample_shards(path, "preference", tokenizer_folder(), out, max_len=24, too_long="split")
    with pytest.raises(DataError, match=r"no sample is left; samples.jsonl: longer than 3 tokens, left out: 2"):
        write_sample_shards(path, "chat", tokenizer_folder(), out, max_len=3, too_long="drop")


def test_texts_are_learned_whole_and_may_be_split(tmp_path: Path) -> None:
    text = "def f(x):\n    if x:\n\n\n        return 1\n" * 3
    path = written(tmp_path, {"text": text, "url": "x"})
    manifest = write_sample_shards(path, "chat", tokenizer_folder(), tmp_path / "out", max_len=512)
    assert texts(tmp_path / "out", "samples") == [f"<s>{text}</s>"]
    assert manifest.sources[0].num_learned == manifest.sources[0].num_token_ids
    assert read_notes(tmp_path / "out") == [
        "samples.jsonl: read as texts to learn whole (text): 1",
        "samples.jsonl: keys without a meaning for training, passed over: url (1)",
    ]
    write_sample_shards(path, "chat", tokenizer_folder(), tmp_path / "out", max_len=16, too_long="split")
    pieces = texts(tmp_path / "out", "samples")
    assert "".join(piece.removeprefix("<s>") for piece in pieces) == f"{text}</s>"
    assert all(piece.startswith("<s>") for piece in pieces)
    assert "samples.jsonl: longer than 16 tokens, split: 1" in read_notes(tmp_path / "out")


def test_every_label_that_is_measured_is_trained(tmp_path: Path) -> None:
    rows = [{"text": f"t{n}", "label": f"rare {n}" if n % 3 == 0 else "often"} for n in range(30)]
    held_out = HeldOut(tmp_path / "valid", 0.3)
    path = written(tmp_path, *rows)
    write_sample_shards(path, "classifier", tokenizer_folder(), tmp_path / "train", max_len=32, held_out=held_out)
    assert len(texts(tmp_path / "valid", "samples")) == 9
    assert json.loads((tmp_path / "valid" / LABELS).read_text())["targets"] == {"label": ["often"]}


def test_a_table_that_breaks_off_is_refused_whatever_may_be_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("question,answer\na,b\nc,d,e\nf,g\n")
    with pytest.raises(DataError, match=r"a.csv: 1 of 2 lines is no sample: line 2: .*number of cells differs"):
        write_sample_shards(path, "chat", tokenizer_folder(), tmp_path / "out", max_len=32, max_invalid_share=1.0)
