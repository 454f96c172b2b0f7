from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from mistral_common.protocol.fim.request import FIMRequest
from mistral_common.protocol.instruct.messages import AssistantMessage, SystemMessage, ToolMessage, UserMessage
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.protocol.instruct.tool_calls import Function, FunctionCall, Tool, ToolCall
from mistral_common.tokens.tokenizers.base import SpecialTokenPolicy
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from mistral_common.tokens.tokenizers.tekken import Tekkenizer
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from tramontane.data.tokenizer_training import (
    CONTROL_TOKENS,
    InstructVersion,
    compression_report,
    train_vocabulary,
    write_tekken,
)
from tramontane.errors import DataError, TokenizerError
from tramontane.tokenizer.tekken import TEKKEN_PATTERN, load_tekken

SYLLABLES = (
    "wi",
    "nd",
    "the",
    "hil",
    "chi",
    "sto",
    "ry",
    "lan",
    "tern",
    "blu",
    "over",
    "hou",
    "ses",
    "tel",
    "ling",
    "mo",
)


def corpus(num_lines: int = 800) -> list[str]:
    rng = random.Random(7)
    lines = []
    for _ in range(num_lines):
        words = ["".join(rng.choices(SYLLABLES, k=rng.randint(1, 3))) for _ in range(rng.randint(3, 12))]
        lines.append(" ".join(words).capitalize() + rng.choice([".", "!", "?", " — café.\n", " 42 times.\n\n"]))
    return lines


@pytest.fixture(scope="module")
def tekken_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tekken.json"
    write_tekken(path, train_vocabulary(corpus(), 480))
    return path


@pytest.fixture(scope="module")
def tokenizer(tekken_path: Path) -> MistralTokenizer:  # type: ignore[type-arg]
    return MistralTokenizer.from_file(str(tekken_path))


def text_with_controls(tokenizer: MistralTokenizer, token_ids: list[int]) -> str:  # type: ignore[type-arg]
    return str(tokenizer.decode(token_ids, special_token_policy=SpecialTokenPolicy.KEEP))


def test_the_first_twenty_control_tokens_keep_their_ids() -> None:
    expected = tuple(token["token_str"] for token in Tekkenizer.DEPRECATED_SPECIAL_TOKENS)
    assert CONTROL_TOKENS["v7"] == expected


def test_vocabulary_size_counts_control_tokens(tokenizer: MistralTokenizer) -> None:  # type: ignore[type-arg]
    inner = tokenizer.instruct_tokenizer.tokenizer
    assert inner.n_words == 480
    assert inner.num_special_tokens == 20


@pytest.mark.parametrize("text", ["", " ", "Ünïcode 日本語 🦊\r\n\ttabs", "\x00\x01", "the wind blows", "</s>[INST]"])
def test_round_trip_and_no_control_id_from_text(tokenizer: MistralTokenizer, text: str) -> None:  # type: ignore[type-arg]
    inner = tokenizer.instruct_tokenizer.tokenizer
    token_ids = inner.encode(text, bos=False, eos=False)
    assert inner.decode(token_ids) == text
    assert all(token_id >= 20 for token_id in token_ids)


def test_chat_with_system_prompt_and_tools(tokenizer: MistralTokenizer) -> None:  # type: ignore[type-arg]
    tool = Tool(function=Function(name="weather", parameters={"type": "object", "properties": {}}))
    call = ToolCall(id="abcdefghi", function=FunctionCall(name="weather", arguments='{"town": "Nice"}'))
    request: ChatCompletionRequest[Any] = ChatCompletionRequest(
        messages=[
            SystemMessage(content="Be brief."),
            UserMessage(content="Is it windy?"),
            AssistantMessage(tool_calls=[call]),
            ToolMessage(tool_call_id="abcdefghi", content="yes"),
            AssistantMessage(content="Yes."),
            UserMessage(content="Thanks"),
        ],
        tools=[tool],
    )
    text = text_with_controls(tokenizer, tokenizer.encode_chat_completion(request).tokens)
    assert text.startswith("<s>[SYSTEM_PROMPT]Be brief.[/SYSTEM_PROMPT]")
    for part in ("[INST]Is it windy?[/INST]", "[TOOL_CALLS][{", "[TOOL_CONTENT]yes[/TOOL_RESULTS]Yes.</s>"):
        assert part in text
    assert "[AVAILABLE_TOOLS][{" in text
    assert text.endswith("[INST]Thanks[/INST]")


@pytest.mark.parametrize("suffix", ["hills", " hills", "\nhills", "(x)", "☺", "é"])
def test_fill_in_the_middle(tokenizer: MistralTokenizer, suffix: str) -> None:  # type: ignore[type-arg]
    token_ids = tokenizer.encode_fim(FIMRequest(prompt="the wind", suffix=suffix)).tokens
    assert text_with_controls(tokenizer, token_ids) == f"<s>[SUFFIX]{suffix}[PREFIX]the wind"


def test_fill_in_the_middle_survives_a_corpus_full_of_the_sign_it_relies_on(tmp_path: Path) -> None:
    path = tmp_path / "tekken.json"
    write_tekken(path, train_vocabulary([*corpus(), *["☺☺ smile ☺ ☹"] * 99], 400))
    loaded = MistralTokenizer.from_file(str(path))
    token_ids = loaded.encode_fim(FIMRequest(prompt="a", suffix="smile")).tokens
    assert text_with_controls(loaded, token_ids) == "<s>[SUFFIX]smile[PREFIX]a"


@pytest.mark.parametrize("version", ["v7", "v11", "v13"])
def test_every_instruct_version_loads(version: InstructVersion, tmp_path: Path) -> None:
    path = tmp_path / "tekken.json"
    write_tekken(path, train_vocabulary(corpus(), 400, version=version), version=version)
    request: ChatCompletionRequest[UserMessage] = ChatCompletionRequest(messages=[UserMessage(content="Hello")])
    loaded = MistralTokenizer.from_file(str(path))
    assert loaded.instruct_tokenizer.tokenizer.n_words == 400
    assert text_with_controls(loaded, loaded.encode_chat_completion(request).tokens) == "<s>[INST]Hello[/INST]"


def test_tiktoken_ranks_reproduce_the_merges(tokenizer: MistralTokenizer) -> None:  # type: ignore[type-arg]
    """The same corpus through the training library's own merges: rank order must be merge order."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(TEKKEN_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=459,  # and the one forced merge, of bytes that this corpus lacks
        min_frequency=2,
        max_token_length=24,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    trained.train_from_iterator(corpus(), trainer)
    inner: Any = tokenizer.instruct_tokenizer.tokenizer
    for text in [*corpus(60), "Never seen: zephyr, quartz & ½ litre\n\n  twice"]:
        ours = [inner.id_to_byte_piece(token_id) for token_id in inner.encode(text, bos=False, eos=False)]
        theirs = [text.encode()[start:end] for start, end in byte_spans(trained, text)]
        assert ours == theirs


def byte_spans(trained: Tokenizer, text: str) -> list[tuple[int, int]]:
    spans, place = [], 0
    for token in trained.encode(text).tokens:
        spans.append((place, place + len(token)))  # one stand-in character is one byte
        place += len(token)
    return spans


def test_our_own_tokenizer_reads_it_alike(
    tekken_path: Path,
    tokenizer: MistralTokenizer,  # type: ignore[type-arg]
) -> None:
    inner = tokenizer.instruct_tokenizer.tokenizer
    ours = load_tekken(tekken_path)
    assert (ours.vocab_size, ours.bos_id, ours.eos_id) == (inner.n_words, inner.bos_id, inner.eos_id)
    for text in corpus(40):
        assert ours.encode(text) == inner.encode(text, bos=False, eos=False)


def test_training_is_deterministic() -> None:
    assert train_vocabulary(iter(corpus()), 450) == train_vocabulary(corpus(), 450)


def test_own_vocabulary_packs_its_corpus_denser_than_a_general_one_of_bytes(tekken_path: Path, tmp_path: Path) -> None:
    nearly_bytes = tmp_path / "tekken_small.json"
    write_tekken(nearly_bytes, train_vocabulary(corpus(), 280))
    rows = compression_report(corpus(50), {"small": nearly_bytes, "large": tekken_path})
    assert [row.name for row in rows] == ["large", "small"]
    assert rows[0].num_bytes == rows[1].num_bytes == sum(len(text.encode()) for text in corpus(50))
    assert rows[0].bytes_per_token > 1.2 * rows[1].bytes_per_token > 1.2


def test_too_little_text_is_refused() -> None:
    with pytest.raises(DataError, match="supports only"):
        train_vocabulary(["abc abc"], 1000)


def test_too_small_a_vocabulary_is_refused() -> None:
    with pytest.raises(DataError, match="leaves no room"):
        train_vocabulary(corpus(), 276)


def test_another_file_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="must be named"):
        write_tekken(tmp_path / "vocab.json", train_vocabulary(corpus(), 300))
