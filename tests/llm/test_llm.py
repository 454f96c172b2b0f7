from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest
import torch

from tests.tiny_checkpoint import write_tiny_checkpoint
from tramontane import LLM, AsyncLLM, SamplingParams
from tramontane.errors import RequestError, TokenizerError
from tramontane.llm import Completion

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who are you?"}]
SAMPLED = SamplingParams(max_tokens=24, temperature=1.5, seed=3, ignore_eos=True)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("llm") / "tiny", sliding_windows=24)


@pytest.fixture(scope="module")
def llm(checkpoint: Path) -> LLM:
    return LLM(str(checkpoint), kv_cache_gib=0.01)


def test_a_call_without_sampling_follows_the_makers_advice(tmp_path: Path) -> None:
    folder = write_tiny_checkpoint(tmp_path / "tiny", sliding_windows=24)
    (folder / "generation_config.json").write_text('{"temperature": 1.5, "top_k": 7}')
    assert LLM(str(folder), kv_cache_gib=0.01).default_sampling == SamplingParams(temperature=1.5, top_k=7)


def test_a_batch_of_prompts_equals_each_alone(llm: LLM) -> None:
    prompts = ["The wind", "", "Über den Wolken 🌬️ " * 10, "a"]
    together = llm.generate(prompts, SAMPLED)
    alone = [llm.generate([prompt], SAMPLED)[0] for prompt in prompts]
    assert [completion.text for completion in together] == [completion.text for completion in alone]
    assert len({completion.text for completion in together}) == len(prompts)
    for completion in together:
        assert len(completion.token_ids) == 24
        assert completion.finish_reason == "length"
        assert completion.text == llm.tokenizer.decode(completion.token_ids, continuation=True)


def test_text_and_its_token_ids_are_the_same_prompt(llm: LLM) -> None:
    text = "The wind beside the Mistral"
    by_text, by_ids = llm.generate([text, llm.tokenizer.encode(text, bos=True)], SAMPLED)
    assert by_text.prompt_token_ids == by_ids.prompt_token_ids
    assert by_text.text == by_ids.text


def test_a_draft_model_leaves_every_answer_as_it_is(llm: LLM, checkpoint: Path) -> None:
    guessing = LLM(str(checkpoint), kv_cache_gib=0.01, draft_model=str(checkpoint))
    for params in (SAMPLED, SamplingParams(max_tokens=24, stop=("e",), n=2)):
        assert guessing.generate(["The wind", "a"], params) == llm.generate(["The wind", "a"], params)
    assert guessing.engine.stats().num_drafted_tokens > 0


def test_streamed_pieces_make_the_whole(llm: LLM) -> None:
    whole = llm.generate("The wind", SAMPLED)[0]
    assert "".join(llm.stream("The wind", SAMPLED)) == whole.text
    deltas = list(llm.stream_deltas("The wind", SAMPLED))
    assert [token for delta in deltas for token in delta.token_ids] == list(whole.token_ids)
    assert [delta.finish_reason for delta in deltas if delta.finish_reason] == ["length"]


def test_a_stop_string_ends_the_text_before_it(llm: LLM) -> None:
    text = llm.generate("The wind", SAMPLED)[0].text
    stop = text[len(text) // 2 :][:3]
    params = SamplingParams(max_tokens=24, temperature=1.5, seed=3, ignore_eos=True, stop=(stop,))
    completion = llm.generate("The wind", params)[0]
    assert completion.text == text[: text.index(stop)]
    assert completion.finish_reason == "stop"
    assert completion.choices[0].stopped_by == stop
    assert len(completion.token_ids) < 24
    assert "".join(llm.stream("The wind", params)) == completion.text
    assert llm.engine.stats().num_running == 0


def test_n_answers_are_those_of_each_index(llm: LLM) -> None:
    params = SamplingParams(max_tokens=12, temperature=1.5, seed=3, n=3, ignore_eos=True, logprobs=2)
    completion = llm.generate("The wind", params)[0]
    assert [choice.index for choice in completion.choices] == [0, 1, 2]
    assert len({choice.text for choice in completion.choices}) == 3
    single = llm.generate("The wind", SamplingParams(max_tokens=12, temperature=1.5, seed=3, ignore_eos=True))[0]
    assert completion.choices[0].text == single.text
    for choice in completion.choices:
        assert choice.logprobs is not None
        assert [entry.token_id for entry in choice.logprobs] == list(choice.token_ids)
        assert all(len(entry.top) == 2 for entry in choice.logprobs)


def test_chat_uses_the_template_and_returns_a_message(llm: LLM) -> None:
    completion = llm.chat(CHAT, SAMPLED)
    assert llm.tokenizer.chat is not None
    assert list(completion.prompt_token_ids) == llm.tokenizer.chat.encode_chat(CHAT)
    assert completion.message is not None
    assert completion.message.content == completion.text == "".join(llm.stream(CHAT, SAMPLED))
    assert completion.message.as_message()["role"] == "assistant"


def test_two_streams_of_one_llm_may_be_read_in_turns(llm: LLM) -> None:
    one, two = llm.stream("The wind", SAMPLED), llm.stream(CHAT, SAMPLED)
    pieces: tuple[list[str], list[str]] = ([], [])
    for piece in one:
        pieces[0].append(piece)
        pieces[1].extend(next(two, ""))
    pieces[1].extend(two)
    assert "".join(pieces[0]) == llm.generate("The wind", SAMPLED)[0].text
    assert "".join(pieces[1]) == llm.chat(CHAT, SAMPLED).text


def test_leaving_a_stream_ends_its_request(llm: LLM) -> None:
    stream = llm.stream("The wind", SamplingParams(max_tokens=200, ignore_eos=True))
    next(stream)
    assert llm.engine.stats().num_running == 1
    stream.close()
    assert llm.engine.stats().num_running == 0
    llm.engine.check_integrity()


def test_score_equals_the_logits(llm: LLM) -> None:
    token_ids = llm.tokenizer.encode("The wind beside the Mistral", bos=True)
    logits = llm.logits(token_ids)
    assert logits.shape == (len(token_ids), llm.tokenizer.vocab_size)
    assert logits.dtype == torch.float32
    logprobs = logits.log_softmax(-1)
    scores = llm.score(token_ids)
    assert scores[0] is None
    for place in range(1, len(token_ids)):
        assert scores[place] == pytest.approx(logprobs[place - 1, token_ids[place]].item(), abs=1e-5)


def test_embeddings_have_length_one_and_do_not_depend_on_company(llm: LLM) -> None:
    texts = ["The wind", "A ship on the sea", "The wind"]
    vectors = llm.embed(texts)
    assert vectors.shape == (3, 48)
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(3))
    torch.testing.assert_close(vectors[0], vectors[2], rtol=0, atol=1e-6)
    torch.testing.assert_close(vectors[1:2], llm.embed(texts[1:2]), rtol=0, atol=1e-5)
    assert (vectors[0] - vectors[1]).abs().max() > 1e-3


def test_impossible_requests_are_refused_and_leave_nothing_behind(llm: LLM) -> None:
    with pytest.raises(RequestError, match="maximum context length is 512"):
        llm.generate(["short", "long " * 600], SAMPLED)
    with pytest.raises(RequestError, match="list of token ids"):
        llm.generate([["a", "b"]], SAMPLED)  # type: ignore[list-item]
    with pytest.raises(RequestError, match="no token id"):
        llm.generate([[1, 10**6]], SAMPLED)
    with pytest.raises(TokenizerError, match="lone surrogate"):
        llm.generate(["\ud800"], SAMPLED)
    with pytest.raises(RequestError, match="tools go with a conversation"):
        next(iter(llm.stream("text", SAMPLED, tools=[{}])))
    with pytest.raises(TokenizerError):
        llm.chat([{"role": "assistant", "content": "I begin"}], SAMPLED)
    assert not llm.engine.scheduler.has_work
    llm.engine.check_integrity()


def test_a_full_queue_is_worked_off_first(checkpoint: Path) -> None:
    llm = LLM(str(checkpoint), kv_cache_gib=0.01)
    prompts = [[1, 30 + place % 900, 40 + place // 900] for place in range(1100)]
    completions = llm.generate(prompts, SamplingParams(max_tokens=1))
    assert len(completions) == 1100
    assert completions[1000].prompt_token_ids == (1, 130, 41)


def test_async_equals_sync_and_cancelling_frees_the_pages(checkpoint: Path, llm: LLM) -> None:
    async def scenario() -> tuple[list[Completion], str, list[float | None], torch.Tensor]:
        model = AsyncLLM(str(checkpoint), kv_cache_gib=0.01)
        try:
            prompts = ["The wind", "The sea", "The hills"]
            completions = await asyncio.gather(*(model.generate(prompt, SAMPLED) for prompt in prompts))
            stream = model.stream(CHAT, SAMPLED)
            text = "".join([delta.text async for delta in stream])
            long = model.stream("The wind", SamplingParams(max_tokens=400, ignore_eos=True))
            async with contextlib.aclosing(long):
                await anext(long)
            await asyncio.sleep(0.05)
            stats = await model.engine.inspect(lambda engine: engine.stats())
            assert stats.num_running == stats.num_waiting == 0
            assert model.health().is_alive
            scores = await model.score([1, 50, 60])
            assert (await model.embed(["a"] * 1100)).shape[0] == 1100  # more than may wait at once
            return completions, text, scores, await model.embed(["The wind", "The sea"])
        finally:
            model.shutdown()

    completions, text, scores, vectors = asyncio.run(scenario())
    for completion, prompt in zip(completions, ["The wind", "The sea", "The hills"], strict=True):
        assert completion.text == llm.generate(prompt, SAMPLED)[0].text
    assert text == llm.chat(CHAT, SAMPLED).text
    assert scores[0] is None
    assert scores[1:] == pytest.approx(llm.score([1, 50, 60])[1:], abs=1e-5)
    torch.testing.assert_close(vectors, llm.embed(["The wind", "The sea"]), rtol=0, atol=1e-5)


def test_an_answer_depends_on_as_much_of_a_prompt_as_the_model_reaches(tmp_path: Path) -> None:
    windowed = LLM(str(write_tiny_checkpoint(tmp_path / "windowed", sliding_windows=24)), kv_cache_gib=0.01)
    reach = 1 + windowed.checkpoint.config.n_layers * 23
    assert windowed.reach == reach
    token_ids = windowed.tokenizer.encode("The wind blows over the hills and far away. " * 20)[: reach + 10]
    last = windowed.logits(token_ids)[-1]
    for distance, is_seen in ((reach - 1, True), (reach, False)):
        place = len(token_ids) - 1 - distance
        changed = [*token_ids[:place], token_ids[place] + 1, *token_ids[place + 1 :]]
        assert torch.equal(windowed.logits(changed)[-1], last) is not is_seen
    whole = LLM(str(write_tiny_checkpoint(tmp_path / "whole", sliding_windows=(24, None, 24))), kv_cache_gib=0.01)
    assert whole.reach == whole.max_seq_len


def test_the_default_model_reads_as_much_as_its_card_says() -> None:
    llm = LLM("default", kv_cache_gib=0.05)
    card = (llm.checkpoint.path / "README.md").read_text("utf-8")
    assert llm.max_seq_len == 32768
    assert f"for up to {llm.max_seq_len:,} tokens" in card
    assert f"on the {llm.reach:,} up to itself" in card
