"""Text to ids and back: round trips, and the same ids as mistral-common, sentencepiece and llama.cpp."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import pytest
from sentencepiece import SentencePieceProcessor

from tests.tokenizer.corpus import EVERYTHING
from tests.tokenizer.vocabularies import (
    COPIED,
    EVERY_FORMAT,
    FILES,
    from_gguf,
    from_tokenizer_json,
    metadata_of,
    ours,
    path_of,
    theirs,
    tiny_sentencepiece,
)
from tramontane.errors import TokenizerError
from tramontane.tokenizer import base


@pytest.mark.parametrize("name", EVERY_FORMAT)
def test_round_trip(name: str) -> None:
    tokenizer = ours(name)
    for text in EVERYTHING:
        assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("name", EVERY_FORMAT)
def test_same_ids_as_mistral_common(name: str) -> None:
    judge = theirs(name).instruct_tokenizer.tokenizer
    tokenizer = ours(name)
    assert (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id) == (judge.n_words, judge.bos_id, judge.eos_id)
    for text in EVERYTHING:
        expected = judge.encode(text, bos=True, eos=True)
        assert tokenizer.encode(text, bos=True, eos=True) == expected, text
        assert tokenizer.decode(expected) == judge.decode(expected), text


@pytest.mark.parametrize("name", COPIED)
def test_same_ids_by_way_of_gguf_and_tokenizer_json(name: str) -> None:
    for text in EVERYTHING:
        expected = ours(name).encode(text)
        assert from_gguf(name).encode(text) == expected, text
        assert from_tokenizer_json(name).encode(text) == expected, text
        assert from_gguf(name).decode(expected) == from_tokenizer_json(name).decode(expected) == text


@pytest.mark.parametrize("name", [name for name in FILES if "tekken" not in name])
def test_same_ids_as_the_sentencepiece_library_on_the_file_itself(name: str) -> None:
    judge: Any = SentencePieceProcessor(model_file=str(path_of(name)))
    tokenizer = ours(name)
    for text in (*EVERYTHING, "▁ and ▁▁x"):
        assert tokenizer.encode(text) == judge.encode(text), text
    for token_id in range(tokenizer.vocab_size):
        assert tokenizer.is_control(token_id) == (judge.is_control(token_id) or judge.is_unknown(token_id))


@pytest.mark.parametrize("name", ["v1", "v3", "v3-tekken"])
def test_same_ids_as_llama_cpp_on_our_gguf(name: str, tmp_path: Path) -> None:
    path = write_vocabulary_gguf(metadata_of(name), tmp_path / "vocabulary.gguf")
    judge = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    tokenizer = ours(name)
    assert (judge.n_vocab(), judge.token_bos(), judge.token_eos()) == (
        tokenizer.vocab_size,
        tokenizer.bos_id,
        tokenizer.eos_id,
    )
    # llama.cpp's tekken expression knows letters only: it splits words before combining marks, Mistral's does not.
    texts = [text for text in EVERYTHING if name in ("v1", "v3") or not has_combining_marks(text)]
    assert len(texts) > 200
    for text in texts:
        assert tokenizer.encode(text) == judge.tokenize(text.encode(), add_bos=False, special=False), text
    assert judge.tokenize(b"hi", add_bos=True, special=True) == tokenizer.encode("hi", bos=True)
    assert judge.tokenize(b"</s>", add_bos=False, special=True)[-1:] == [tokenizer.eos_id]
    judge.close()


def has_combining_marks(text: str) -> bool:
    return any(unicodedata.category(char).startswith("M") for char in text)


def write_vocabulary_gguf(metadata: dict[str, Any], path: Path) -> Path:
    """A GGUF file without tensors, by llama.cpp's own writer."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(1024)
    writer.add_embedding_length(8)
    writer.add_feed_forward_length(8)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(metadata["tokenizer.ggml.tokens"]))
    for key, value in metadata.items():
        match value:
            case bool():
                writer.add_bool(key, value)
            case int():
                writer.add_uint32(key, value)
            case str():
                writer.add_string(key, value)
            case _:
                writer.add_array(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_token_bytes_put_together_are_the_text() -> None:
    for name in ("v3", "v3-tekken"):
        tokenizer = ours(name)
        text = "naïve 日本語 👩‍👩‍👧‍👦\n\x00"
        joined = b"".join(tokenizer.token_bytes(token_id) for token_id in tokenizer.encode(text))
        assert joined.decode() == (" " if tokenizer.adds_space else "") + text


def test_every_token_of_a_gguf_has_the_bytes_of_the_original() -> None:
    for name in ("v3", "v7-small"):
        for copy in (from_gguf(name), from_tokenizer_json(name)):
            assert copy.vocab_size == ours(name).vocab_size
            assert copy.control_names == ours(name).control_names
            for token_id in range(copy.vocab_size):
                assert copy.token_bytes(token_id) == ours(name).token_bytes(token_id)
                assert copy.control_name(token_id) == ours(name).control_name(token_id)


def test_sentencepiece_merges_the_best_score_first_and_leftmost_of_equals() -> None:
    tokenizer = tiny_sentencepiece()
    pieces = tokenizer.vocabulary.pieces
    assert [pieces[token_id] for token_id in tokenizer.encode("bc")] == ["▁", "b", "c"]
    assert [pieces[token_id] for token_id in tokenizer.encode("abc")] == ["▁abc"]  # by ▁a and ▁ab
    assert [pieces[token_id] for token_id in tokenizer.encode("caaa")] == ["▁", "c", "aa", "a"]
    assert [pieces[token_id] for token_id in tokenizer.encode("caab")] == ["▁", "c", "a", "ab"]  # ab before aa
    assert [pieces[token_id] for token_id in tokenizer.encode("é")] == ["▁", "<0xC3>", "<0xA9>"]


def test_continuation_keeps_the_space_that_decode_takes_off() -> None:
    tokenizer = ours("v3")
    token_ids = tokenizer.encode("Paris")
    assert tokenizer.decode(token_ids) == "Paris"
    assert tokenizer.decode(token_ids, continuation=True) == " Paris"
    assert tokenizer.decode([1, *token_ids]) == "Paris"
    assert ours("v3-tekken").decode(ours("v3-tekken").encode(" Paris")) == " Paris"


def test_control_tokens_are_dropped_or_named() -> None:
    tokenizer = ours("v3")
    token_ids = [1, tokenizer.control_id("[INST]"), *tokenizer.encode("hi"), tokenizer.control_id("[/INST]"), 2]
    assert tokenizer.decode(token_ids) == "hi"
    assert tokenizer.decode(token_ids, keep_control=True) == "<s>[INST]hi[/INST]</s>"
    assert tokenizer.stop_ids == {2}
    with pytest.raises(TokenizerError, match=r"no control token \[THINK\]"):
        tokenizer.control_id("[THINK]")


def test_ids_beyond_the_vocabulary_are_padding_and_negative_ones_an_error() -> None:
    tokenizer = ours("v1")
    assert tokenizer.decode([tokenizer.vocab_size, *tokenizer.encode("x"), 10**9]) == "x"
    for call in (tokenizer.token_bytes, lambda token_id: tokenizer.decode([token_id])):
        with pytest.raises(TokenizerError, match="-1 is negative"):
            call(-1)


@pytest.mark.parametrize("name", ["v3", "v3-tekken"])
def test_half_a_character_becomes_the_replacement_character(name: str) -> None:
    tokenizer = ours(name)
    byte_id = next(i for i in range(tokenizer.vocab_size) if tokenizer.token_bytes(i) == b"\xe2")
    assert tokenizer.decode([byte_id]) == "\ufffd"


@pytest.mark.parametrize("name", ["v3", "v3-tekken"])
@pytest.mark.parametrize("copy", [ours, from_gguf, from_tokenizer_json])
def test_lone_surrogates_are_refused_by_name(name: str, copy: Any) -> None:
    with pytest.raises(TokenizerError, match=r"character 2 is the lone surrogate U\+DC80"):
        copy(name).encode("ab\udc80")


@pytest.mark.parametrize("name", ["v3", "v3-tekken"])
def test_text_without_measure_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "MAX_TEXT_CHARS", 1000)
    with pytest.raises(TokenizerError, match="1,001 characters is too long"):
        ours(name).encode("x" * 1001)
    with pytest.raises(TokenizerError, match="must be a str, not bytes"):
        ours(name).encode(b"x")  # type: ignore[arg-type]


@pytest.mark.parametrize("copy", [ours, from_gguf])
def test_white_space_that_would_overflow_the_regular_expression_is_refused(copy: Any) -> None:
    tokenizer = copy("v7-small")
    for char in (" ", "\t", "\u00a0"):
        with pytest.raises(TokenizerError, match="500,000 white-space characters in a row"):
            tokenizer.encode("x" + char * 500_001)
    assert tokenizer.decode(tokenizer.encode("\n" * 400_000)) == "\n" * 400_000
