"""Vocabulary files made to do harm: every one ends in a TokenizerError of one line."""

from __future__ import annotations

import base64
import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tokenizer.vocabularies import FILES, metadata_of, path_of, saved, small_tekken, tiny_sentencepiece
from tramontane.errors import TokenizerError
from tramontane.tokenizer import gguf_tokenizer, load_tokenizer
from tramontane.tokenizer.sentencepiece import read_model, write_model
from tramontane.tokenizer.tekken import TekkenTokenizer, read_tekken

WRONG_VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    2**31,
    2**63,
    1.5,
    float("nan"),
    "",
    "text",
    b"bytes",
    [],
    {},
    [None],
    [[1]],
    ["x"] * 3,
)


def refused(call: Any, *args: Any) -> str:
    with pytest.raises(TokenizerError) as refusal:
        call(*args)
    message = str(refusal.value)
    assert "\n" not in message
    assert 10 < len(message) < 1000
    return message


OPTIONAL = {"add_bos_token", "add_eos_token", "add_space_prefix", "unknown_token_id"}


@pytest.mark.parametrize("name", ["tiny", "v7-small"])
def test_each_gguf_key_missing_or_of_every_wrong_type(name: str) -> None:
    metadata = metadata_of(name)
    for key in metadata:
        short = key.removeprefix("tokenizer.ggml.")
        if short == "pre" and name == "tiny":
            continue  # only model gpt2 has one
        if short not in OPTIONAL and key != "tokenizer.chat_template":
            without = {other: value for other, value in metadata.items() if other != key}
            assert short in refused(gguf_tokenizer, without)
        for value in WRONG_VALUES:
            if short == "merges" and value == []:
                continue  # a vocabulary of single bytes
            if short in OPTIONAL or (type(value) is type(metadata[key]) and not isinstance(value, list)):
                continue
            if key == "tokenizer.chat_template" and value is None:
                continue
            refused(gguf_tokenizer, {**metadata, key: value})


@pytest.mark.parametrize("name", ["tiny", "v7-small"])
@pytest.mark.parametrize("key", ["bos_token_id", "eos_token_id", "eot_token_id"])
@pytest.mark.parametrize("value", [-1, 2**31, 2**32, 2**63])
def test_gguf_ids_out_of_range(name: str, key: str, value: int) -> None:
    assert key in refused(gguf_tokenizer, {**metadata_of(name), f"tokenizer.ggml.{key}": value})


@pytest.mark.parametrize(
    ("key", "place", "value"),
    [
        ("tokens", 300, "a"),  # twice
        ("tokens", 300, ""),
        ("tokens", 300, "x" * 5000),
        ("tokens", 300, "lone \ud800"),
        ("tokens", 300, 7),
        ("tokens", 20, "\x00\x00"),
        ("token_type", 300, 0),
        ("token_type", 300, 7),
        ("token_type", 300, 6),
        ("token_type", 300, -1),
        ("token_type", 300, "1"),
        ("merges", 0, "ab"),
        ("merges", 0, " a"),
        ("merges", 0, "a b c"),
        ("merges", 0, "no such"),
        ("merges", 0, 3),
    ],
)
def test_gguf_entries(key: str, place: int, value: Any) -> None:
    metadata = metadata_of("v7-small")
    entries: list[Any] = list(metadata[f"tokenizer.ggml.{key}"])
    entries[place] = value
    if (key, value) == ("tokens", "a"):
        entries[place] = entries[400]
    refused(gguf_tokenizer, {**metadata, f"tokenizer.ggml.{key}": entries})


@pytest.mark.parametrize("score", [float("nan"), float("inf"), 1e300, "0", None])
def test_gguf_scores(score: Any) -> None:
    metadata = metadata_of("tiny")
    scores = [*metadata["tokenizer.ggml.scores"][:-1], score]
    assert "score" in refused(gguf_tokenizer, {**metadata, "tokenizer.ggml.scores": scores})


def test_gguf_lists_of_unequal_length_and_without_measure() -> None:
    for key in ("tokens", "scores", "token_type"):
        metadata = metadata_of("tiny")
        refused(gguf_tokenizer, {**metadata, f"tokenizer.ggml.{key}": metadata[f"tokenizer.ggml.{key}"][:-1]})
    many = ["x"] * (2**20 + 1)
    assert "at most" in refused(gguf_tokenizer, {**metadata_of("tiny"), "tokenizer.ggml.tokens": many})


@pytest.mark.parametrize("model", ["bert", "rwkv", "t5", "no_vocab", "LLAMA"])
def test_gguf_kinds_that_are_not_known(model: str) -> None:
    assert model in refused(gguf_tokenizer, {**metadata_of("tiny"), "tokenizer.ggml.model": model})
    changed = {**metadata_of("v7-small"), "tokenizer.ggml.pre": "llama-bpe"}
    assert "llama-bpe" in refused(gguf_tokenizer, changed)


@pytest.mark.parametrize("piece", ["<0x00>", "▁", "abc"])
def test_a_vocabulary_that_lacks_bytes(piece: str) -> None:
    metadata = metadata_of("tiny")
    place = metadata["tokenizer.ggml.tokens"].index(piece)
    types = list(metadata["tokenizer.ggml.token_type"])
    types[place] = 1 if piece == "<0x00>" else 6
    assert "byte" in refused(gguf_tokenizer, {**metadata, "tokenizer.ggml.token_type": types})


def set_path(data: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """A copy of `data` with one value replaced; only the containers on the way are copied."""
    data = copy.copy(data)
    inner: Any = data
    for step in path[:-1]:
        inner[step] = copy.copy(inner[step])
        inner = inner[step]
    inner[path[-1]] = value
    return data


TEKKEN_PATHS: tuple[tuple[Any, ...], ...] = (
    ("config",), ("vocab",), ("config", "pattern"), ("config", "version"), ("config", "default_vocab_size"),
    ("config", "default_num_special_tokens"), ("vocab", 300), ("vocab", 300, "rank"), ("vocab", 300, "token_bytes"),
    ("special_tokens", 3), ("special_tokens", 3, "rank"), ("special_tokens", 3, "token_str"),
)  # fmt: skip


def open_tekken(data: dict[str, Any]) -> TekkenTokenizer:
    return TekkenTokenizer(read_tekken(data))


@pytest.mark.parametrize("path", TEKKEN_PATHS)
def test_each_part_of_a_tekken_file_of_every_wrong_type(path: tuple[Any, ...]) -> None:
    data = small_tekken("v13")
    open_tekken(data)
    for value in WRONG_VALUES:
        if path in (("config", "pattern"), ("config", "version")) and isinstance(value, str):
            continue
        if path[-1] in ("token_str", "token_bytes") and value == "text":
            continue
        refused(open_tekken, set_path(data, path, value))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("config", "pattern"), "("),
        (("config", "pattern"), "a" * 5000),
        (("config", "default_vocab_size"), 2**20 + 1),
        (("config", "default_vocab_size"), 5000),
        (("config", "default_num_special_tokens"), 1),
        (("config", "default_num_special_tokens"), 4095),
        (("vocab", 0, "token_bytes"), "AQ=="),
        (("vocab", 300, "token_bytes"), "AQ=="),
        (("vocab", 300, "token_bytes"), "!"),
        (("vocab", 300, "token_bytes"), base64.b64encode(bytes(2000)).decode()),
        (("special_tokens", 1, "token_str"), "</s>"),
        (("special_tokens", 1, "token_str"), "x" * 300),
        (("special_tokens",), None),
        (("special_tokens",), []),
    ],
)
def test_tekken_files_that_contradict_themselves(path: tuple[Any, ...], value: Any) -> None:
    refused(open_tekken, set_path(small_tekken("v13"), path, value))


def test_a_pattern_of_exponential_time_ends_in_an_error() -> None:
    tokenizer = open_tekken(set_path(small_tekken("v13"), ("config", "pattern"), r"(a|aa)+(?!a)b|."))
    assert "cannot split this text" in refused(tokenizer.encode, "a" * 60 + "!")


TOKENIZER_JSON_PATHS: tuple[tuple[Any, ...], ...] = (
    ("model",), ("model", "type"), ("model", "vocab"), ("model", "vocab", "a"), ("model", "merges"),
    ("model", "merges", 3), ("added_tokens",), ("added_tokens", 1), ("added_tokens", 1, "id"),
    ("added_tokens", 1, "content"), ("added_tokens", 1, "special"), ("normalizer",), ("pre_tokenizer",),
    ("pre_tokenizer", "pretokenizers"), ("pre_tokenizer", "pretokenizers", 0),
    ("pre_tokenizer", "pretokenizers", 0, "pattern"),
)  # fmt: skip


@pytest.mark.parametrize("path", TOKENIZER_JSON_PATHS)
def test_each_part_of_a_tokenizer_json_of_every_wrong_type(path: tuple[Any, ...], tmp_path: Path) -> None:
    data = json.loads((saved("v7-small") / "tokenizer.json").read_text())
    file = tmp_path / "tokenizer.json"
    for value in WRONG_VALUES:
        if isinstance(value, bytes) or (path[-1] in ("added_tokens", "merges") and value == []):
            continue  # not JSON; nothing added, nothing merged
        if (path[-1] == "special" and value is True) or (path == ("normalizer",) and value is None):
            continue  # what was there before
        file.write_text(json.dumps(set_path(data, path, value)))
        assert str(tmp_path) in refused(load_tokenizer, file)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("surprise",), 1),
        (("model", "type"), "Unigram"),
        (("model", "dropout"), 0.1),
        (("model", "end_of_word_suffix"), "</w>"),
        (("model", "vocab", "huge"), 2**32),
        (("model", "vocab", "x" * 3000), 5000),
        (("model", "vocab", "Ω"), 5000),
        (("normalizer",), {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": ""}),
        (("normalizer",), {"type": "NFKC"}),
        (
            ("pre_tokenizer",),
            {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False},
        ),
        (("pre_tokenizer",), {"type": "BertPreTokenizer"}),
        (("pre_tokenizer",), None),
        (("added_tokens", 1, "id"), 7),
    ],
)
def test_tokenizer_json_with_parts_that_cannot_be_honoured(path: tuple[Any, ...], value: Any, tmp_path: Path) -> None:
    data = json.loads((saved("v7-small") / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps(set_path(data, path, value)))
    refused(load_tokenizer, tmp_path)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "[" * 10**6, '{"a":' * 10**6, '{"model": 1' + "0" * 10**5 + "}", "\ud800"]
)
@pytest.mark.parametrize("name", ["tokenizer.json", "tekken.json"])
def test_files_that_are_no_json(name: str, text: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_bytes(text.encode("utf-8", errors="surrogatepass"))
    assert str(file) in refused(load_tokenizer, tmp_path)


def test_auto_map_is_refused(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    (tmp_path / "evil.py").write_text(f"open({str(canary)!r}, 'w')")
    (tmp_path / "tokenizer.json").write_bytes((saved("v7-small") / "tokenizer.json").read_bytes())
    (tmp_path / "tekken.json").write_bytes(path_of("v7-small").read_bytes())
    config = {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", None]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    for path in (tmp_path, tmp_path / "tokenizer.json", tmp_path / "tekken.json"):
        assert "auto_map" in refused(load_tokenizer, path)
    assert not canary.exists()


ESCAPES = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}", "{% for x in range(10**12) %}{% endfor %}",
    "{{ cycler.__init__.__globals__.os.system('touch CANARY') }}", "{{ '%s'.format.__globals__ }}",
    "{{ lipsum.__globals__['os'].popen('touch CANARY').read() }}", "{% include '/etc/passwd' %}", "{{" * 10_000,
)  # fmt: skip


@pytest.mark.parametrize("escape", ESCAPES)
@pytest.mark.parametrize("opening", ["", "[INST] "])
def test_templates_are_never_run(escape: str, opening: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    template = opening + escape.replace("CANARY", str(canary))
    prompt = [{"role": "user", "content": "hi"}]
    tokenizer = gguf_tokenizer({**metadata_of("v7-small"), "tokenizer.chat_template": template})
    (tmp_path / "tokenizer.json").write_bytes((saved("v7-small") / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    for opened in (tokenizer, load_tokenizer(tmp_path)):
        if opening:  # a template of Mistral's shape names the format; its text is not used
            assert opened.decode(opened.require_chat().encode_chat(prompt), keep_control=True) == "<s>[INST]hi[/INST]"
        else:
            assert "not known here" in refused(opened.require_chat)
    assert not canary.exists()


def test_a_template_without_measure_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((saved("v7-small") / "tokenizer.json").read_bytes())
    (tmp_path / "chat_template.jinja").write_bytes(b" " * (2**20 + 1))
    assert "chat_template.jinja" in refused(load_tokenizer, tmp_path)


def test_sentencepiece_file_cut_short() -> None:
    data = write_model(tiny_sentencepiece().vocabulary)
    for end in (*range(400), *range(400, len(data) - 400, 17), *range(len(data) - 400, len(data))):
        refused(read_model, data[:end])


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.integers(0, 2000), st.integers(0, 255), st.integers(0, 3))
def test_sentencepiece_file_with_any_byte_changed(place: int, value: int, repeat: int) -> None:
    """Whatever the reader accepts is a vocabulary that the engine accepts as well."""
    data = bytearray(write_model(tiny_sentencepiece().vocabulary))
    place %= len(data)
    data[place : place + 1] = bytes([value]) * repeat
    try:
        vocabulary = read_model(bytes(data))
    except TokenizerError:
        return
    assert read_model(write_model(vocabulary)) == vocabulary


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.binary(max_size=200))
def test_random_bytes_are_no_sentencepiece_file(data: bytes) -> None:
    refused(read_model, data)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"\x18\x02\x98\x02\x01", b"\x18\x01\x98\x02\x01", "algorithm 1"),
        (b"\x18\x01\x20\x00\x28\x01", b"\x18\x01\x20\x01\x28\x01", "repeated spaces"),
    ],
)
def test_sentencepiece_files_of_another_kind(old: bytes, new: bytes, reason: str) -> None:
    data = write_model(tiny_sentencepiece().vocabulary)
    assert data.count(old) == 1
    assert reason in refused(read_model, data.replace(old, new))


def test_files_that_are_not_there(tmp_path: Path) -> None:
    assert "needs tekken.json, tokenizer.model or tokenizer.json" in refused(load_tokenizer, tmp_path)
    assert "does not exist" in refused(load_tokenizer, tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer.model").write_bytes(b"no protobuf at all, just words")
    assert "tokenizer.model" in refused(load_tokenizer, tmp_path)


def test_checks_hold_under_optimised_python() -> None:
    program = """
import json, sys
from tramontane.errors import TokenizerError
from tramontane.tokenizer.tekken import read_tekken
from tramontane.tokenizer import gguf_tokenizer, load_tokenizer
assert False, "assertions are on"
tokenizer = load_tokenizer(sys.argv[1])
metadata = tokenizer.gguf_metadata()
tokens = metadata["tokenizer.ggml.tokens"]
for key, value in (("bos_token_id", 2**31), ("tokens", [tokens[0], *tokens[:-1]]), ("scores", [0.0]), ("scores", None)):
    try:
        gguf_tokenizer({**metadata, "tokenizer.ggml." + key: value})
    except TokenizerError:
        continue
    sys.exit(f"{key} was accepted")
try:
    tokenizer.require_chat().encode_chat([])
except TokenizerError:
    sys.exit(0)
sys.exit("an empty conversation was accepted")
"""
    for flag in ("-O", "-OO"):
        done = subprocess.run([sys.executable, flag, "-c", program, str(FILES["v3"])], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
