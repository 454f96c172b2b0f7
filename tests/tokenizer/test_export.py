"""What `save` and `gguf_metadata` write, read by transformers, mistral-common and ourselves."""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from transformers import AutoTokenizer, LlamaTokenizerFast, PreTrainedTokenizerFast
from transformers.tokenization_mistral_common import MistralCommonBackend

from tests.tokenizer.conversations import TOOLS
from tests.tokenizer.corpus import EVERYTHING
from tests.tokenizer.vocabularies import (
    COPIED,
    from_gguf,
    from_tokenizer_json,
    ours,
    path_of,
    saved,
    small_tekken,
    tiny_sentencepiece,
)
from tramontane.errors import TokenizerError
from tramontane.tokenizer import gguf_tokenizer, load_tokenizer
from tramontane.tokenizer.byte_pair import BytePairTokenizer
from tramontane.tokenizer.recognise import attach_chat
from tramontane.tokenizer.tekken import TekkenTokenizer, read_tekken

PLAIN_TEXTS = ("Hello", "naïve 日本語", "a  b", "if x:\n\treturn 1", "👩‍👩‍👧‍👦!", "end.")


@cache
def in_transformers(name: str) -> Any:
    return PreTrainedTokenizerFast.from_pretrained(saved(name))


@pytest.mark.parametrize("name", ["v1", "v3", "v3-tekken", "v13-small"])
def test_transformers_reads_tokenizer_json_to_the_same_ids(name: str) -> None:
    judge = in_transformers(name)
    assert (judge.bos_token_id, judge.eos_token_id, len(judge)) == (
        ours(name).bos_id,
        ours(name).eos_id,
        ours(name).vocab_size,
    )
    for text in EVERYTHING:
        token_ids = ours(name).encode(text)
        assert judge.encode(text, add_special_tokens=False, split_special_tokens=True) == token_ids, text
        assert judge.decode(token_ids) == text
    assert judge.encode("hi") == ours(name).encode("hi", bos=True)


@pytest.mark.parametrize("name", ["v3", "v7-small"])
def test_auto_tokenizer_finds_the_files(name: str) -> None:
    judge: Any = AutoTokenizer.from_pretrained(saved(name))
    assert judge.encode("naïve text") == ours(name).encode("naïve text", bos=True)


@pytest.mark.parametrize("name", ["v1", "v3"])
def test_llama_tokenizer_agrees_where_it_agrees_with_sentencepiece(name: str) -> None:
    """transformers' LlamaTokenizer puts no space before a text that opens with one; sentencepiece always does."""
    judge: Any = LlamaTokenizerFast.from_pretrained(saved(name))
    for text in EVERYTHING:
        if not text.startswith(" "):
            expected = judge.encode(text, add_special_tokens=False, split_special_tokens=True)
            assert ours(name).encode(text) == expected, text


@pytest.mark.parametrize("name", ["v7-small", "v13-small"])
def test_transformers_mistral_backend_reads_tekken_json(name: str) -> None:
    judge: Any = MistralCommonBackend.from_pretrained(saved(name))
    for text in EVERYTHING[:150]:
        assert judge.encode(text, add_special_tokens=False) == ours(name).encode(text), text


@pytest.mark.parametrize("name", [*COPIED, "v2", "v7"])
def test_mistral_common_reads_the_native_file_back(name: str) -> None:
    version = name.partition("-")[0]
    native = saved(name) / ("tekken.json" if "-" in name else "tokenizer.model")
    if native.name == "tokenizer.model" and version != "v1":
        native = native.with_name(f"tokenizer.model.{version}")
    judge: MistralTokenizer[Any, Any, Any, Any, Any] = MistralTokenizer.from_file(native)
    assert judge.version.value == version
    for text in EVERYTHING[:150]:
        assert judge.instruct_tokenizer.tokenizer.encode(text, bos=False, eos=False) == ours(name).encode(text)


@pytest.mark.parametrize("name", COPIED)
def test_we_read_the_folder_back(name: str) -> None:
    again = load_tokenizer(saved(name))
    assert type(again) is BytePairTokenizer  # tokenizer.json speaks, as for transformers
    assert again.encode_prompt("") == ours(name).encode_prompt("") == [again.bos_id]
    assert again.require_chat().name == ours(name).require_chat().name
    for text in EVERYTHING[:150]:
        assert again.encode(text) == ours(name).encode(text)


@pytest.mark.parametrize("name", [name for name in COPIED if name != "v3-tekken"])
@pytest.mark.parametrize("with_tools", [False, True])
def test_chat_template_renders_to_the_ids_of_the_chat_format(name: str, with_tools: bool) -> None:
    """By transformers' own Jinja, on conversations without neighbours of one role."""
    if with_tools and name == "v1":
        with pytest.raises(TokenizerError, match="know no tools"):
            ours(name).require_chat().encode_chat([{"role": "user", "content": "x"}], tools=TOOLS)
        return
    judge = in_transformers(name)
    rng = random.Random(name)
    for num_rounds in (0, 1, 2):
        messages: list[dict[str, Any]] = [{"role": "system", "content": "Be kind."}][: num_rounds + 1]
        for _ in range(num_rounds):
            messages.append({"role": "user", "content": rng.choice(PLAIN_TEXTS)})
            if with_tools:
                call = {"name": "get_weather", "arguments": {"city": "Zürich", "days": 3}}
                messages += [
                    {"role": "assistant", "tool_calls": [{"id": "abcdef123", "type": "function", "function": call}]},
                    {"role": "tool", "tool_call_id": "abcdef123", "content": "sunny"},
                ]
            messages.append({"role": "assistant", "content": rng.choice(PLAIN_TEXTS)})
        messages.append({"role": "user", "content": rng.choice(PLAIN_TEXTS)})
        tools = TOOLS if with_tools else None
        rendered = judge.apply_chat_template(messages, tools=tools, tokenize=True, return_dict=False)
        assert rendered == ours(name).require_chat().encode_chat(messages, tools=tools)


def test_gguf_of_a_gguf_and_of_a_tokenizer_json_is_the_same() -> None:
    for name in ("v3", "v7-small"):
        assert from_gguf(name).gguf_metadata() == ours(name).gguf_metadata()
    metadata = from_tokenizer_json("v7-small").gguf_metadata()
    assert (
        metadata.items()
        >= {
            key: value for key, value in ours("v7-small").gguf_metadata().items() if key != "tokenizer.ggml.token_type"
        }.items()
    )


@pytest.mark.parametrize("name", ["v1", "v3"])
def test_scores_are_found_again_from_merges(name: str) -> None:
    """tokenizer.json has merges and no scores; the GGUF made of it gives the same ids."""
    tokenizer = gguf_tokenizer(from_tokenizer_json(name).gguf_metadata())
    for text in EVERYTHING:
        assert tokenizer.encode(text) == ours(name).encode(text), text


def test_a_gguf_is_saved_as_files(tmp_path: Path) -> None:
    for name, native in (("v3", "tokenizer.model.v3"), ("v7-small", "tokenizer.json")):
        folder = tmp_path / name
        folder.mkdir()
        paths = from_gguf(name).save(folder)
        assert folder / native in paths
        again = load_tokenizer(folder)
        assert again.require_chat().name == ours(name).require_chat().name
        assert all(again.encode(text) == ours(name).encode(text) for text in EVERYTHING[:150])


def test_files_of_tokenizer_json_are_copied_with_their_companions(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (source / name).write_bytes((saved("v3") / name).read_bytes())
    (source / "special_tokens_map.json").write_text('{"bos_token": "<s>"}')
    paths = load_tokenizer(source).save(target)
    assert sorted(path.name for path in paths) == [
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert all(path.read_bytes() == (source / path.name).read_bytes() for path in paths)
    assert load_tokenizer(target).save(target) == paths  # onto itself


def test_a_tekken_vocabulary_made_in_memory_is_saved_like_a_file(tmp_path: Path) -> None:
    tokenizer = TekkenTokenizer(read_tekken(small_tekken("v13")))
    attach_chat(tokenizer, version="v13")
    tokenizer.save(tmp_path)
    again = json.loads((tmp_path / "tekken.json").read_text())
    assert read_tekken(again) == read_tekken(json.loads(path_of("v13-small").read_text()))


def test_what_llama_cpp_cannot_run_is_refused() -> None:
    data = small_tekken("v7")
    other = {**data, "config": {**data["config"], "pattern": r"\s+|\S+"}}
    with pytest.raises(TokenizerError, match=r"config\.pattern is not that of tekken"):
        TekkenTokenizer(read_tekken(other)).gguf_metadata()


def test_a_vocabulary_without_chat_has_no_template(tmp_path: Path) -> None:
    tokenizer = tiny_sentencepiece()
    assert tokenizer.chat is None
    assert "tokenizer.chat_template" not in tokenizer.gguf_metadata()
    tokenizer.save(tmp_path)
    assert "chat_template" not in json.loads((tmp_path / "tokenizer_config.json").read_text())
    again = load_tokenizer(tmp_path)
    assert again.encode("abc") == tokenizer.encode("abc")
    with pytest.raises(TokenizerError, match="no chat template, and its vocabulary is of no known family"):
        again.require_chat()
