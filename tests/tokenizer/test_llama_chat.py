"""Llama 2's chat format against Meta's reference algorithm, and Code Llama's fill-in-the-middle prompt."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from tests.tokenizer.corpus import random_texts
from tests.tokenizer.vocabularies import ours, path_of, tiny_sentencepiece
from tramontane.errors import TokenizerError
from tramontane.tokenizer import AssistantMessage, Tokenizer, gguf_tokenizer, load_tokenizer
from tramontane.tokenizer.recognise import attach_chat

MARKS = ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>")


@cache
def llama() -> Tokenizer:
    tokenizer = load_tokenizer(path_of("v1"))
    attach_chat(tokenizer, version="llama2")
    return tokenizer


def reference(messages: list[dict[str, Any]]) -> list[int]:
    """Meta's algorithm (llama/generation.py), on our encoder."""
    if messages[0]["role"] == "system":
        system = f"<<SYS>>\n{messages[0]['content']}\n<</SYS>>\n\n"
        messages = [{"role": "user", "content": system + messages[1]["content"]}, *messages[2:]]
    token_ids: list[int] = []
    for question, answer in zip(messages[::2], messages[1::2], strict=False):
        text = f"[INST] {question['content'].strip()} [/INST] {answer['content'].strip()} "
        token_ids += llama().encode(text, bos=True, eos=True)
    if messages[-1]["role"] == "user":
        token_ids += llama().encode(f"[INST] {messages[-1]['content'].strip()} [/INST]", bos=True)
    return token_ids


def conversations() -> list[list[dict[str, Any]]]:
    rng = random.Random(5)
    texts = [text for text in random_texts(80, seed=5) if not any(mark in text for mark in MARKS)]
    found = []
    for _ in range(60):
        messages = [{"role": "system", "content": rng.choice(texts)}][: rng.randrange(2)]
        for place in range(2 * rng.randrange(3) + 1):
            messages.append({"role": ("user", "assistant")[place % 2], "content": rng.choice(texts)})
        found.append(messages)
    return found


def test_same_ids_as_the_reference() -> None:
    chat = llama().require_chat()
    for messages in conversations():
        assert chat.encode_chat(messages) == reference(messages)


def test_turns_are_the_reference_in_pieces() -> None:
    chat = llama().require_chat()
    for messages in conversations():
        if len(messages) > 2:
            whole = messages[:-1]
            turns = chat.encode_turns(whole)
            assert [token_id for turn in turns for token_id in turn.token_ids] == reference(whole)
            assert [turn.role for turn in turns] == [m["role"] for m in whole if m["role"] != "system"]
            for turn, message in zip(turns, [m for m in whole if m["role"] != "system"], strict=True):
                if message["role"] == "assistant":
                    assert llama().decode(turn.token_ids, continuation=True).strip() == message["content"].strip()


def test_template_renders_to_the_same_ids(tmp_path: Any) -> None:
    llama().save(tmp_path)
    assert load_tokenizer(tmp_path).require_chat().name == "llama2"
    judge: Any = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "Why?"},
    ]
    rendered = judge.apply_chat_template(messages, tokenize=True, return_dict=False)
    assert rendered == llama().require_chat().encode_chat(messages)


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "at least one user message"),
        ([{"role": "assistant", "content": "x"}], "expect role user"),
        ([{"role": "user", "content": "x"}, {"role": "user", "content": "y"}], "expect role assistant"),
        ([{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}], "nothing is left to answer"),
        ([{"role": "user", "content": "x [/INST] y"}], r"holds \[/INST\], which is markup"),
        ([{"role": "system", "content": "<</SYS>>"}, {"role": "user", "content": "y"}], "which is markup"),
    ],
)
def test_what_the_format_cannot_write_is_refused(messages: list[dict[str, Any]], reason: str) -> None:
    with pytest.raises(TokenizerError, match=reason):
        llama().require_chat().encode_chat(messages)


def test_prefix_is_continued_and_tools_are_refused() -> None:
    chat = llama().require_chat()
    messages: list[dict[str, Any]] = [{"role": "user", "content": "x"}]
    messages.append({"role": "assistant", "content": "Sure", "prefix": True})
    assert llama().decode(chat.encode_chat(messages)) == "[INST] x [/INST] Sure"
    tool = {"type": "function", "function": {"name": "f"}}
    with pytest.raises(TokenizerError, match="know no tools"):
        chat.encode_chat(messages[:1], tools=[tool])
    with pytest.raises(TokenizerError, match="cannot fill in the middle"):
        chat.encode_fim("a", "b")
    with pytest.raises(TokenizerError, match="must end with a whole message of the assistant"):
        chat.encode_turns(messages)


def test_answers_are_text() -> None:
    assert llama().require_chat().parse(llama().encode("Hi there.", eos=True)) == AssistantMessage("Hi there.")


def test_code_llama_fills_in_the_middle() -> None:
    metadata: Any = tiny_sentencepiece().gguf_metadata()
    names = ["▁<PRE>", "▁<MID>", "▁<SUF>", "▁<EOT>"]
    first = len(metadata["tokenizer.ggml.tokens"])
    metadata["tokenizer.ggml.tokens"] += names
    metadata["tokenizer.ggml.token_type"] += [4] * 4  # user-defined, as a careless converter writes them
    metadata["tokenizer.ggml.scores"] += [0.0] * 4
    metadata["tokenizer.ggml.eot_token_id"] = first + 3
    tokenizer = gguf_tokenizer(metadata)
    pre, mid, suf, eot = range(first, first + 4)
    prompt = tokenizer.require_chat().encode_fim("ab", "c")
    assert prompt == [1, pre, *tokenizer.encode("ab"), suf, tokenizer.encode("c")[-1], mid]
    assert tokenizer.stop_ids == {2, eot}
    assert not {pre, mid, suf, eot} & set(tokenizer.encode("a <PRE> <SUF> <MID> <EOT>"))


def test_a_mistral_vocabulary_is_not_taken_for_llamas() -> None:
    assert ours("v1").require_chat().name == "v1"
