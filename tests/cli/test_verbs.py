"""Every verb on a tiny checkpoint with a real vocabulary: what it prints, and how it refuses."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.documents.sample_files import docx_of, pdf_of
from tramontane import LLM, SamplingParams
from tramontane.cli import main
from tramontane.cli.options import WEIGHT_FORMAT_HELP
from tramontane.ops.packed_weight import WEIGHT_FORMATS


@pytest.fixture
def tramontane(capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command line that must succeed; what it printed."""

    def run(*arguments: object) -> str:
        assert main.run([str(argument) for argument in arguments]) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    return run


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command line that must end with exit code 2 and one line; that line."""

    def run(*arguments: object) -> str:
        assert main.run([str(argument) for argument in arguments]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("error: ")
        assert captured.err.count("\n") == 1
        return captured.err.removeprefix("error: ").rstrip("\n")

    return run


def type_in(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_generate_streams_what_json_reports(tramontane: Any, tiny_checkpoint: Path) -> None:
    flags = ("-m", tiny_checkpoint, "--max-tokens", 8, "--dtype", "float32")
    text = tramontane("generate", "The wind", *flags)
    [answer] = map(json.loads, tramontane("generate", "The wind", *flags, "--json").splitlines())
    assert text == answer["text"] + "\n"
    assert answer["finish_reason"] == "length"
    assert len(answer["token_ids"]) == answer["completion_tokens"] == 8
    assert answer["prompt_tokens"] > 2


def test_generate_reads_stdin_and_every_line_of_it(
    tramontane: Any, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ("-m", tiny_checkpoint, "--max-tokens", 4, "--json")
    prompts = ("north", "", "été\u2028🙂\x0c\x85", "south")
    alone = [json.loads(tramontane("generate", prompt, *flags)) for prompt in prompts]
    type_in(monkeypatch, "\r\n".join(prompts).encode())
    together = [json.loads(line) for line in tramontane("generate", "-", "--each-line", *flags).strip().split("\n")]
    assert [a["token_ids"] for a in together] == [a["token_ids"] for a in alone]


def test_generate_prints_each_of_n_answers(tramontane: Any, tiny_checkpoint: Path) -> None:
    flags = ("-m", tiny_checkpoint, "--max-tokens", 5, "-n", 3, "-t", 1, "--seed", 7, "--json")
    answers = [json.loads(line) for line in tramontane("generate", "x", *flags).splitlines()]
    assert len({tuple(answer["token_ids"]) for answer in answers}) == 3


def test_stop_ends_an_answer(tramontane: Any, tiny_checkpoint: Path) -> None:
    flags = ("-m", tiny_checkpoint, "--max-tokens", 12, "--json")
    whole = json.loads(tramontane("generate", "The wind", *flags))["text"]
    stop = whole[3:6]
    cut = json.loads(tramontane("generate", "The wind", *flags, "--stop", stop))
    assert cut["text"] == whole[: whole.index(stop)]
    assert cut["finish_reason"] == "stop"


def test_chat_answers_stdin(tramontane: Any, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ("chat", "-m", tiny_checkpoint, "--max-tokens", 6, "--system", "Be brief.")
    type_in(monkeypatch, b"Hello\nthere\n")
    text = tramontane(*flags)
    type_in(monkeypatch, b"Hello\nthere\n")
    answer = json.loads(tramontane(*flags, "--json"))
    assert answer["text"] + "\n" == text
    type_in(monkeypatch, b"Hello\nthere\n")
    without_system = json.loads(tramontane(*flags[:-2], "--json"))
    assert without_system["prompt_tokens"] < answer["prompt_tokens"]


@pytest.mark.parametrize("output", [(), ("--json",)])
def test_chat_prints_statistics_from_a_pipe_too(
    output: tuple[str, ...], tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    type_in(monkeypatch, b"Hello")
    assert main.run(["chat", "-m", str(tiny_checkpoint), "--max-tokens", "6", "--stats", *output]) == 0
    captured = capsys.readouterr()
    assert "tokens/s" in captured.err
    assert "tokens/s" not in captured.out


def test_info_says_what_of_the_vocabulary_is_known(
    tramontane: Any, tiny_checkpoint: Path, tmp_path: Path, refused: Any
) -> None:
    assert "v7" in tramontane("info", tiny_checkpoint)
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(tiny_checkpoint / name, bare)
    assert "1024 tokens, no tokenizer: token ids only" in tramontane("info", bare)
    assert json.loads(tramontane("info", bare, "--json"))["tokenizer_tokens"] is None
    assert "has no tokenizer, so it takes token ids only" in refused("generate", "hi", "-m", bare)


def test_fim_fills_the_mark_or_before_the_suffix(
    tramontane: Any, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ("-m", tiny_checkpoint, "--max-tokens", 6, "--json")
    given = json.loads(tramontane("fim", "def f(", "return x", *flags))
    type_in(monkeypatch, b"def f(<FILL>return x")
    assert json.loads(tramontane("fim", "-", *flags)) == given
    assert tramontane("fim", "def f(@@return x", "--mark", "@@", *flags[:-1]) == given["text"] + "\n"


@pytest.mark.parametrize("kind", ["txt", "md", "html", "pdf", "docx", "-"])
def test_summarize_reads_every_kind(
    kind: str, tramontane: Any, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "The tramontane is a wind from the north."
    data = {
        "html": f"<html><body><p>{text}</p></body></html>".encode(),
        "pdf": pdf_of(text),
        "docx": docx_of("Winds", text),
    }.get(kind, text.encode())
    path = tmp_path / f"wind.{kind}"
    path.write_bytes(data)
    type_in(monkeypatch, data)
    source = "-" if kind == "-" else path
    summary = json.loads(tramontane("summarize", source, "-m", tiny_checkpoint, "--words", 10, "--json"))
    assert summary["source"] == ("stdin" if kind == "-" else str(path))
    assert (summary["num_parts"], summary["num_passes"]) == (1, 1)
    assert tramontane("summarize", path, "-m", tiny_checkpoint, "--words", 10) == summary["summary"] + "\n"


def test_summarize_a_document_longer_than_the_context(tramontane: Any, tiny_checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text("Some words about the weather. " * 300)
    flags = ("-m", tiny_checkpoint, "--words", 10, "--max-seq-len", 512, "--json")
    summary = json.loads(tramontane("summarize", path, *flags))
    assert summary["num_parts"] > 3
    assert summary["num_passes"] > 1


def test_ask_prints_the_passages(tramontane: Any, tiny_checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("\n\n".join(["Nothing of note. " * 40, "Perpignan has the tramontane.", "Or else. " * 60]))
    flags = ("ask", path, "Where does the tramontane blow?", "-m", tiny_checkpoint, "--max-tokens", 4)
    answer = json.loads(tramontane(*flags, "--passages", 1, "--json"))
    [passage] = answer["passages"]
    assert "Perpignan" in passage["text"]
    shown = tramontane(*flags, "--passages", 1)
    assert shown.startswith(answer["answer"])
    assert "[1] " in shown
    assert "Perpignan" in shown


def test_info(tramontane: Any, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tramontane.cli.machine.STREAM_BYTES", 16 << 20)
    facts = json.loads(tramontane("info", tiny_checkpoint, "--json"))
    assert facts["sliding_windows"] == [64, None, 64]
    assert facts["chat_format"] == "v7"
    assert facts["weights_bytes"] == facts["size_bytes"] == 4 * facts["num_parameters"]
    per_token = 2 * 2 * 8 * 4  # keys and values, 2 heads of 8, float32
    assert facts["kv_cache"] == [{"num_tokens": 2048, "num_bytes": per_token * (2048 + 2 * 64)}]
    halved = json.loads(tramontane("info", tiny_checkpoint, "--kv-dtype", "float16", "--json"))
    assert (facts["kv_dtype"], halved["kv_dtype"]) == ("float32", "float16")
    assert 2 * halved["kv_cache"][0]["num_bytes"] == facts["kv_cache"][0]["num_bytes"]
    text = tramontane("info", tiny_checkpoint, "--threads", 1)
    assert "windows by layer: 64 in 2, full in 1" in text
    assert f"native {facts['instruction_set']} kernels, computing in float32" in text
    assert "for weights in f32" in text
    smaller = json.loads(tramontane("info", tiny_checkpoint, "--weight-format", "bf16", "--json"))
    assert smaller["weight_format"] == "bf16"
    assert smaller["weights_bytes"] < 0.6 * facts["weights_bytes"]
    plain = json.loads(tramontane("info", tiny_checkpoint, "--dtype", "bfloat16", "--json"))
    assert (plain["kernels"], plain["instruction_set"], plain["weight_format"]) == ("torch", None, "bfloat16")
    assert json.loads(tramontane("info", tiny_checkpoint, "--json", "--measure"))["read_bytes_per_s"] > 1e8


def test_convert_there_and_back_gives_the_same_answers(tramontane: Any, tiny_checkpoint: Path, tmp_path: Path) -> None:
    def answer(model: Path) -> Any:
        return json.loads(tramontane("generate", "The wind", "-m", model, "--max-tokens", 8, "--json"))["token_ids"]

    gguf, consolidated = tmp_path / "tiny.gguf", tmp_path / "consolidated"
    written = json.loads(tramontane("convert", tiny_checkpoint, gguf, "--json"))
    assert (written["layout"], written["stored"], written["out"]) == ("gguf", "F32", str(gguf))
    assert "consolidated, F32" in tramontane("convert", gguf, consolidated, "--layout", "consolidated")
    assert answer(tiny_checkpoint) == answer(gguf) == answer(consolidated)


def test_synth_writes_what_generate_runs(tramontane: Any, tmp_path: Path) -> None:
    out = tmp_path / "tiny.gguf"
    written = json.loads(tramontane("synth", "tiny", out, "--n-layers", 1, "--stored", "q8_0", "--json"))
    assert written["stored"] == "Q8_0"
    facts = json.loads(tramontane("info", out, "--json"))
    assert facts["n_layers"] == 1
    answer = json.loads(tramontane("generate", "x", "-m", out, "--max-tokens", 3, "--json"))
    assert answer["completion_tokens"] == 3


def test_bench_decodes_without_guesses(tiny_checkpoint: Path) -> None:
    """A greedy answer of a tiny random model repeats itself, so that guesses are right; plain steps make none."""
    llm = LLM(str(tiny_checkpoint), threads=1)
    prompt, params = [1, *[300, 301, 302] * 10], SamplingParams(max_tokens=20, ignore_eos=True)
    guessed = llm.generate([prompt], params)
    assert (drafted := llm.engine.stats().num_drafted_tokens) > 0
    with llm.engine.plain_decoding():
        assert llm.generate([prompt], params)[0].token_ids == guessed[0].token_ids
    assert llm.engine.stats().num_drafted_tokens == drafted


def test_bench_ends_with_json(tramontane: Any, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tramontane.cli.machine.STREAM_BYTES", 16 << 20)
    flags = ("--prompt-tokens", 16, "--answer-tokens", 4, "--streams", 2, "--repeats", 1)
    lines = tramontane("bench", "-m", tiny_checkpoint, *flags).splitlines()
    result = json.loads(lines[-1])
    assert result["streams"] == 2
    assert all(result[name] > 0 for name in ("prefill_tokens_per_s", "decode_tokens_per_s", "read_gb_per_s"))
    assert "GB/s" in lines[0] or "cache" in lines[0]
    assert "with guesses" in lines[0]
    [only] = tramontane("bench", "-m", tiny_checkpoint, *flags, "--json").splitlines()
    assert json.loads(only).keys() == result.keys()


def test_pull_prints_where_the_model_lies(
    tramontane: Any, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pull(name: str, *, progress: Any) -> Path:
        progress("model.safetensors", 1, 2)
        assert name == "org/name"
        return tiny_checkpoint

    monkeypatch.setattr("tramontane.hub.pull", pull)
    assert tramontane("pull", "org/name") == f"{tiny_checkpoint}\n"
    assert json.loads(tramontane("pull", "org/name", "--json"))["path"] == str(tiny_checkpoint)


def test_bench_shows_no_share_above_the_whole(
    tramontane: Any, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where something else ran while the machine's limits were measured."""
    monkeypatch.setattr("tramontane.cli.machine.timed", lambda work, device: 1000.0)
    monkeypatch.setattr("tramontane.cli.machine.cache_bytes", lambda device: 0)
    flags = ("--prompt-tokens", 16, "--answer-tokens", 4, "--repeats", 1)
    text, figures = tramontane("bench", "-m", tiny_checkpoint, *flags).splitlines()
    found = json.loads(figures)
    assert found["prefill_share"] == found["decode_share"] == 1
    assert text.count("(100% of ") == 2


@pytest.mark.parametrize("verb", ["generate", "info", "convert", "bench"])
def test_an_unknown_model_names_the_remedy(verb: str, refused: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = {"generate": ["x", "-m"], "bench": ["-m"]}.get(verb, [])
    after = [out] if verb == "convert" else []
    assert "tramontane pull nobody/nothing" in refused(verb, *arguments, "nobody/nothing", *after)
    assert "does not exist" in refused(verb, *arguments, tmp_path / "none", *after)
    assert not out.exists()


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "no config", "text"])
def test_a_corrupt_checkpoint_is_named_and_nothing_is_written(
    damage: str, refused: Any, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "bad"
    shutil.copytree(tiny_checkpoint, folder)
    weights = folder / "model.safetensors"
    data = weights.read_bytes()
    if damage == "no config":
        (folder / "config.json").unlink()
    else:
        spoilt = {"cut": data[:-7], "flipped": b"\xff" * 8 + data[8:], "empty": b"", "text": b"not weights" * 99}
        weights.write_bytes(spoilt[damage])
    before = sorted(tmp_path.rglob("*"))
    assert str(folder) in refused("generate", "x", "-m", folder)
    assert str(folder) in refused("info", folder)
    assert str(folder) in refused("convert", folder, tmp_path / "out.gguf")
    assert sorted(tmp_path.rglob("*")) == before


def test_requests_that_can_never_be_served(
    refused: Any, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / "long.txt"
    long.write_text("word " * 3000)
    assert "2048" in refused("generate", "word " * 3000, "-m", tiny_checkpoint)
    assert "words=3" in refused("summarize", long, "--words", 3, "-m", tiny_checkpoint)
    assert "the question is empty" in refused("ask", long, " ", "-m", tiny_checkpoint)
    type_in(monkeypatch, b" \n")
    assert "stdin holds no message" in refused("chat", "-m", tiny_checkpoint)
    type_in(monkeypatch, b"caf\xe9")
    assert "stdin is not UTF-8" in refused("generate", "-m", tiny_checkpoint)
    assert "int9" in refused("generate", "x", "-m", tiny_checkpoint, "--dtype", "int9")
    assert "abacus" in refused("info", tiny_checkpoint, "--device", "abacus")
    assert "threads=0" in refused("info", tiny_checkpoint, "--threads", 0)
    assert "q3_x" in refused("info", tiny_checkpoint, "--weight-format", "q3_x")
    assert "needs heads of a multiple of 32" in refused("info", tiny_checkpoint, "--kv-dtype", "q8_0")
    assert "kv_cache_gib" in refused("generate", "x", "-m", tiny_checkpoint, "--kv-cache-gib", -1)
    assert "--repeats 0" in refused("bench", "-m", tiny_checkpoint, "--repeats", 0)
    assert "--answer-tokens 1" in refused("bench", "-m", tiny_checkpoint, "--answer-tokens", 1)


def test_output_that_exists_is_kept(refused: Any, tramontane: Any, tiny_checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    out.write_text("precious")
    assert "out.gguf" in refused("convert", tiny_checkpoint, out)
    assert "out.gguf" in refused("synth", "tiny", out, "--n-layers", 1)
    assert out.read_text() == "precious"
    tramontane("convert", tiny_checkpoint, out, "--overwrite")
    assert "gguf" in tramontane("info", out)


def test_types_and_shapes_that_do_not_exist(refused: Any, tiny_checkpoint: Path, tmp_path: Path) -> None:
    assert "Q9_9" in refused("convert", tiny_checkpoint, tmp_path / "x.gguf", "--stored", "q9_9")
    assert "Q8_0" in refused("convert", tiny_checkpoint, tmp_path / "x", "--stored", "q8_0")
    assert "mistral-7b" in refused("synth", "nonsense", tmp_path / "x")
    assert "n_layers=0" in refused("synth", "tiny", tmp_path / "x", "--n-layers", 0)
    assert list(tmp_path.iterdir()) == []


def test_the_help_names_every_weight_format() -> None:
    assert all(name in WEIGHT_FORMAT_HELP for name in (*WEIGHT_FORMATS, "auto", "torch"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["create"], "keys create needs a name for the new key"),
        (["revoke"], "keys revoke needs the id of a key (tramontane keys list)"),
        (["list", "x"], "keys list takes no name; leave out 'x'"),
        (["list", "--owner", "x"], "keys list takes no --owner, which is for keys create"),
        (["revoke", "x", "--scope", "files"], "keys revoke takes no --scope, which is for keys create"),
        (
            ["limit", "x", "--max-files", "1", "--expires-days", "3"],
            "keys limit takes no --expires-days, which is for keys create",
        ),
    ],
)
def test_keys_say_what_is_missing(refused: Any, arguments: list[str], message: str, tmp_path: Path) -> None:
    assert refused("keys", *arguments, "--state-dir", tmp_path) == message


@pytest.mark.parametrize(
    "arguments", [["keys", "list"], ["keys", "revoke", "x"], ["keys", "limit", "x", "--max-files", "1"], ["usage"]]
)
def test_a_state_folder_that_is_not_there_is_not_made(refused: Any, arguments: list[str], tmp_path: Path) -> None:
    place = tmp_path / "mistyped"
    said = refused(*arguments, "--state-dir", place)
    assert said == f"there is no {place}/state.db; --state-dir names the folder that a server has used"
    assert not place.exists()
