from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.data.tokenizers import tokenizer_folder
from tramontane.data.build import BuildPlaces, build_set
from tramontane.data.loader import Loader
from tramontane.data.recipe import DataRecipe, read_data_recipe
from tramontane.data.report import SourceReport
from tramontane.data.shards import ShardSet, read_manifest, verify_shards
from tramontane.data.tokenizer_corpus import corpus_texts
from tramontane.errors import DataError
from tramontane.tokenizer import load_tokenizer

WORDS = ("the", "wind", "of", "hills", "and", "houses", "that", "children", "have", "stories", "blue", "to", "rivers")
SECRET = "this sentence belongs to the evaluation and must never be seen in any training text at all"

RECIPE = """
name = "tiny"
seed = 1
[decontaminate]
paths = ["eval.jsonl"]
[set.text]
kind = "text"
max_document_len = 160
valid_fraction = 0.1
shard_len = 2000
clean = { mask_personal_data = true, drop_lines = ["^ADVERT"] }
[[set.text.source]]
name = "notes"
paths = ["notes.jsonl"]
[[set.text.source]]
name = "more"
paths = ["more.txt"]
split_on = "<|end|>"
[[set.text.phase]]
name = "all"
epochs = { notes = 2.0, more = 1.0 }
[set.chat]
kind = "chat"
max_document_len = 64
valid_fraction = 0.1
[[set.chat.source]]
name = "talk"
paths = ["notes.jsonl"]
render = "messages"
"""


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BuildPlaces:
    monkeypatch.setattr("tramontane.data.build._BATCH_GROUPS", 20)
    data = tmp_path / "data"
    data.mkdir()
    rng = random.Random(3)
    rows: list[dict[str, Any]] = []
    for _ in range(150):
        text = " ".join(rng.choices(WORDS, k=rng.randint(12, 30)))
        turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": text[:40]}]
        rows.append({"text": text, "messages": turns})
    rows.append({"text": rows[0]["text"].upper(), "messages": []})
    rows.append({"text": f"He wrote: {SECRET}!", "messages": [{"role": "user", "content": "no answer"}]})
    rows.append(
        {"text": "---", "messages": [{"role": "user", "content": "x " * 99}, {"role": "assistant", "content": "y"}]}
    )
    rows.append({"text": "Write to jo@example.com.\nADVERT buy\nBye.", "messages": rows[1]["messages"]})
    (data / "notes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    long = " ".join(rng.choices(WORDS, k=400)).replace(" be ", ". ")
    (data / "more.txt").write_text(f"One short note.<|end|>{long}")
    (data / "eval.jsonl").write_text(json.dumps({"question": SECRET}))
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return BuildPlaces(data, tmp_path / "recipe.toml", tokenizer_folder(), tmp_path / "out")


@pytest.fixture
def recipe(places: BuildPlaces) -> DataRecipe:
    return read_data_recipe(places.recipe)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def documents_of(folder: Path, source: str) -> list[str]:
    tokenizer = load_tokenizer(tokenizer_folder())
    shards = ShardSet([folder]).sources[source]
    return [
        tokenizer.decode(shards.read(number)[0].tolist(), keep_control=True)
        for number in range(shards.info.num_documents)
    ]


def dropped(report: SourceReport) -> dict[str, int]:
    return {reason: tally.num_documents for reason, tally in report.dropped.items()}


def test_text_becomes_shards_and_every_loss_is_accounted_for(recipe: DataRecipe, places: BuildPlaces) -> None:
    notes, more = build_set(recipe, "text", places)
    assert notes.num_records == 154
    assert dropped(notes) == {"exact duplicate": 1, "shares an n-gram with an evaluation item": 1, "no letters": 1}
    assert notes.train.num_documents + notes.valid.num_documents == 151
    assert 3 <= notes.valid.num_documents <= 30
    train, valid = places.out / "text" / "train", places.out / "text" / "valid"
    verify_shards(train)
    verify_shards(valid)
    texts = documents_of(train, "notes") + documents_of(valid, "notes")
    assert len(texts) == 151
    assert all(text.startswith("<s>") and text.endswith("</s>") for text in texts)
    assert "<s>Write to [email].\nBye.</s>" in texts
    assert not [text for text in texts if SECRET in text]
    held_out = (places.out / "text" / "valid" / "texts.jsonl").read_text().splitlines()
    assert len(held_out) == notes.valid.num_documents + more.valid.num_documents
    manifest = read_manifest(train)
    assert len(manifest.sources[0].shards) > 1
    assert manifest.sources[0].num_text_bytes == notes.train.num_text_bytes
    assert manifest.phases[0].epochs == {"notes": 2.0, "more": 1.0}


def test_long_text_is_cut_and_closed_only_at_its_end(recipe: DataRecipe, places: BuildPlaces) -> None:
    build_set(recipe, "text", places)
    pieces = documents_of(places.out / "text" / "train", "more")
    assert len(pieces) > 5
    assert sum(piece.endswith("</s>") for piece in pieces) == 2
    assert ShardSet([places.out / "text" / "train"]).max_document_len == 160
    source = ShardSet([places.out / "text" / "train"]).sources["more"]
    assert max(source.document_len(number) for number in range(source.info.num_documents)) <= 160


def test_conversations_keep_their_masks_and_long_ones_go(recipe: DataRecipe, places: BuildPlaces) -> None:
    (talk,) = build_set(recipe, "chat", places)
    assert dropped(talk) == {
        "invalid: messages must be a list with at least one message": 1,
        "invalid: a conversation to learn from must end with a whole message of the assistant": 1,
        "too long": 1,
        "exact duplicate": 1,
    }
    assert talk.notes == {"key passed over: text": talk.train.num_documents + talk.valid.num_documents}
    loader = Loader(ShardSet([places.out / "chat" / "train"]), batch_len=256, policy="whole")
    tokenizer = load_tokenizer(tokenizer_folder())
    batch = next(loader)
    learned = tokenizer.decode(batch.targets[batch.loss_mask].tolist(), keep_control=True)
    assert "Hello" not in learned
    assert "[/INST]" not in learned
    assert learned.count("</s>") == len(batch.document_sources)


def test_a_row_held_out_in_one_set_is_held_out_in_all(recipe: DataRecipe, places: BuildPlaces) -> None:
    build_set(recipe, "text", places)
    build_set(recipe, "chat", places)
    held = {name: (places.out / name / "valid" / "texts.jsonl").read_text() for name in ("text", "chat")}
    answers = [json.loads(line)["messages"][1]["content"] for line in held["chat"].splitlines()]
    assert answers
    assert all(answer in held["text"] for answer in answers)
    seen = list(corpus_texts(recipe, places))
    assert len(seen) > 100
    assert not [text for text in seen if text in held["text"]]


def test_workers_do_not_change_a_byte(recipe: DataRecipe, places: BuildPlaces, tmp_path: Path) -> None:
    build_set(recipe, "text", places)
    other = BuildPlaces(places.data, places.recipe, places.tokenizer, tmp_path / "other")
    build_set(recipe, "text", other, num_workers=2)
    assert files_of(places.out) == files_of(other.out)


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("stop_at", [1, 3, 8])
def test_a_stopped_build_goes_on_and_writes_the_same_bytes(
    recipe: DataRecipe, places: BuildPlaces, tmp_path: Path, stop_at: int
) -> None:
    build_set(recipe, "text", places)
    calls = 0

    def stop(source: str, num_token_ids: int) -> None:
        nonlocal calls
        calls += 1
        if calls == stop_at:
            raise StoppedError

    other = BuildPlaces(places.data, places.recipe, places.tokenizer, tmp_path / "other")
    with pytest.raises(StoppedError):
        build_set(recipe, "text", other, progress=stop)
    assert not (other.out / "text").exists()
    seen: list[str] = []
    build_set(recipe, "text", other, progress=lambda source, num_token_ids: seen.append(source))
    assert files_of(places.out) == files_of(other.out)
    if stop_at == 8:
        assert len(seen) < 9  # it did not begin anew


def test_a_finished_set_is_left_alone_and_another_recipe_refused(recipe: DataRecipe, places: BuildPlaces) -> None:
    first = build_set(recipe, "text", places)
    before = files_of(places.out)
    assert build_set(recipe, "text", places) == first
    assert files_of(places.out) == before
    places.recipe.write_text(RECIPE.replace("valid_fraction = 0.1", "valid_fraction = 0.2"))
    with pytest.raises(DataError, match="built from another recipe"):
        build_set(read_data_recipe(places.recipe), "text", places)


def test_the_report_shows_numbers_reasons_and_examples(recipe: DataRecipe, places: BuildPlaces) -> None:
    build_set(recipe, "text", places)
    page = (places.out / "text" / "report.md").read_text()
    assert "| notes | 154 |" in page
    assert "| notes | exact duplicate | 1 |" in page
    assert "notes.jsonl:152" in page
    assert "repeats kept document 0 of this set" in page


def test_fill_in_the_middle_at_a_rate(recipe: DataRecipe, places: BuildPlaces) -> None:
    places.recipe.write_text(RECIPE.replace("shard_len = 2000", "shard_len = 2000\nfim_rate = 0.5"))
    build_set(read_data_recipe(places.recipe), "text", places)
    texts = documents_of(places.out / "text" / "train", "notes")
    turned = sum(text.startswith("<s>[SUFFIX]") for text in texts)
    assert 0.35 < turned / len(texts) < 0.65


CODE = "def f(x):\n    if x:\n\n\n        return 1"
CHAT_RECIPE = """
name = "tiny"
[set.chat]
kind = "chat"
max_document_len = 512
valid_fraction = 0.0
[[set.chat.source]]
name = "talk"
paths = ["*.jsonl"]
render = "messages"
[set.text]
kind = "text"
valid_fraction = 0.0
[[set.text.source]]
name = "code"
paths = ["*.jsonl"]
"""


def built(tmp_path: Path, name: str, *rows: dict[str, Any]) -> tuple[list[SourceReport], Path]:
    data = tmp_path / "data"
    data.mkdir()
    (data / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "recipe.toml").write_text(CHAT_RECIPE)
    places = BuildPlaces(data, tmp_path / "recipe.toml", tokenizer_folder(), tmp_path / "out")
    return build_set(read_data_recipe(places.recipe), name, places), places.out / name


def test_conversations_keep_system_prompts_code_tools_calls_and_results(tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "run", "parameters": {}}}]
    call = {"id": "abcdefghi", "type": "function", "function": {"name": "run", "arguments": "{}"}}
    messages = [
        {"role": "system", "content": "You write Python."},
        {"role": "user", "content": "Write f."},
        {"role": "assistant", "content": CODE},
        {"role": "user", "content": "Run it."},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "abcdefghi", "content": "  1\n\n\n"},
        {"role": "assistant", "content": "It gives 1."},
        {"role": "user", "content": "Thanks"},
    ]
    (report,), out = built(tmp_path, "chat", {"messages": messages, "tools": tools, "id": 7})
    first, second = documents_of(out / "train", "talk")
    head = "<s>[SYSTEM_PROMPT]You write Python.[/SYSTEM_PROMPT]"
    assert first.startswith(f"{head}[AVAILABLE_TOOLS]")
    assert first.endswith(f"[INST]Write f.[/INST]{CODE}</s>")
    assert f"[INST]Write f.[/INST]{CODE}</s>[AVAILABLE_TOOLS]" in second
    assert second.endswith(
        '[INST]Run it.[/INST][TOOL_CALLS][{"name": "run", "arguments": {}, "id": "abcdefghi"}]</s>'
        "[TOOL_RESULTS]abcdefghi[TOOL_CONTENT]  1\n\n\n[/TOOL_RESULTS]It gives 1.</s>"
    )
    assert report.notes == {
        "messages after the last answer or the most that are kept, left out of a conversation": 1,
        "key passed over: id": 1,
    }
    assert "key passed over: id" in (out / "report.md").read_text()


def test_code_in_texts_keeps_its_empty_lines_and_indentation(tmp_path: Path) -> None:
    _, out = built(tmp_path, "text", {"text": f"    {CODE}\n"})
    assert documents_of(out / "train", "code") == [f"<s>    {CODE}</s>"]


def test_a_build_that_keeps_nothing_fails_and_says_why(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"set.chat: no document was kept: invalid: messages must be a list.* \(2\)"):
        built(tmp_path, "chat", {"messages": []}, {"messages": "x"})
    assert not list((tmp_path / "out").iterdir())
