"""OpenAI's own client makes its way through the server unchanged, waiting and asynchronously."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.server.blocking import Blocking
from tests.server.live import LiveServer

HELLO: list[Any] = [{"role": "user", "content": "What is the tramontane?"}]
PARAMETERS = {
    "type": "object",
    "properties": {"place": {"type": "string", "maxLength": 12}},
    "required": ["place"],
    "additionalProperties": False,
}
WEATHER: Any = {"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS, "strict": True}}


class Wind(BaseModel):
    is_cold: bool
    months: list[int]


@pytest.fixture(scope="module")
def waiting(server: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module", params=["waiting", "asynchronous"])
def client(request: pytest.FixtureRequest, server: LiveServer, waiting: openai.OpenAI) -> Iterator[Any]:
    if request.param == "waiting":
        yield waiting
        return
    with asyncio.Runner() as loop:
        client = openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        yield Blocking(client, loop.run)
        loop.run(client.close())


def test_models(client: openai.OpenAI) -> None:
    assert {"chat", "thinker", "coder", "mistral-small-latest"} <= {model.id for model in client.models.list()}
    assert client.models.retrieve("chat").id == "chat"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("none")


def test_chat_and_stream_say_the_same(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"model": "chat", "messages": HELLO, "max_completion_tokens": 8, "temperature": 0}
    answer = client.chat.completions.create(**options, user="someone", store=False)
    chunks = list(client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}))
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "length"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert answer.usage is not None
    assert chunks[-1].usage.completion_tokens == answer.usage.completion_tokens == 8
    assert chunks[-1].usage.prompt_tokens == answer.usage.prompt_tokens


def test_several_answers_with_logprobs_and_stop(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="chat", messages=HELLO, n=3, max_tokens=5, seed=3, temperature=1, logprobs=True, top_logprobs=2
    )
    assert len({choice.message.content for choice in answer.choices}) == 3
    for choice in answer.choices:
        assert choice.logprobs is not None
        entries = choice.logprobs.content or []
        spelled = b"".join(bytes(entry.bytes or []) for entry in entries)
        assert spelled.decode(errors="replace") == choice.message.content
        assert all(len(entry.top_logprobs) == 2 for entry in entries)
    whole = client.chat.completions.create(model="chat", messages=HELLO, max_tokens=12, temperature=0)
    text = whole.choices[0].message.content or ""
    stop = text[4:6]
    cut = client.chat.completions.create(model="chat", messages=HELLO, max_tokens=12, temperature=0, stop=stop)
    assert cut.choices[0].message.content == text[: text.index(stop)]
    assert cut.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_forced_call(client: openai.OpenAI, choice: Any) -> None:
    options: dict[str, Any] = {
        "model": "chat", "messages": HELLO, "tools": [WEATHER], "tool_choice": choice, "max_tokens": 200,
        "parallel_tool_calls": False, "seed": 1,
    }  # fmt: skip
    answer = client.chat.completions.create(**options)
    [call] = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert list(json.loads(call.function.arguments)) == ["place"]
    assert answer.choices[0].finish_reason == "tool_calls"
    chunks = [delta for chunk in client.chat.completions.create(**options, stream=True)
              for delta in chunk.choices[0].delta.tool_calls or []]  # fmt: skip
    assert [chunk.function.name for chunk in chunks if chunk.function and chunk.function.name] == ["get_weather"]
    assert "".join(chunk.function.arguments or "" for chunk in chunks if chunk.function) == call.function.arguments
    cut = client.chat.completions.create(**{**options, "max_tokens": 16}).choices[0]
    assert (cut.finish_reason, cut.message.content) == ("length", None)
    [part] = cut.message.tool_calls or []
    assert part.type == "function"
    assert call.function.arguments.startswith(part.function.arguments)
    turns = [*HELLO, answer.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "windy"}]
    assert client.chat.completions.create(model="chat", messages=turns, tools=[WEATHER], max_tokens=2).choices


def test_a_streamed_call_is_added_up_by_the_client(server: LiveServer) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")
    options: dict[str, Any] = {
        "model": "chat", "messages": HELLO, "tools": [WEATHER], "tool_choice": "required", "max_tokens": 200,
        "parallel_tool_calls": False, "seed": 1,
    }  # fmt: skip
    whole = client.chat.completions.create(**options).choices[0].message.tool_calls
    with client.chat.completions.stream(**options) as stream:
        added_up = stream.get_final_completion().choices[0].message.tool_calls
    assert whole and added_up  # noqa: PT018 - for the type checker
    assert (added_up[0].id, added_up[0].function.name) == (whole[0].id, whole[0].function.name)
    assert added_up[0].function.arguments == whole[0].function.arguments


def test_a_choice_among_some_of_the_tools(client: openai.OpenAI) -> None:
    tools = [{"type": "function", "function": {**WEATHER["function"], "name": f"tool_{n}"}} for n in range(4)]

    def some(mode: str, *names: str) -> Any:
        allowed = [{"type": "function", "function": {"name": name}} for name in names]
        return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": allowed}}

    options: dict[str, Any] = {"model": "chat", "messages": HELLO, "tools": tools, "max_tokens": 200}
    for seed in range(4):
        answer = client.chat.completions.create(**options, tool_choice=some("required", "tool_1", "tool_3"), seed=seed)
        calls = answer.choices[0].message.tool_calls or []
        assert calls
        assert {call.function.name for call in calls if call.type == "function"} <= {"tool_1", "tool_3"}
    assert client.chat.completions.create(**options, tool_choice=some("auto", "tool_1")).choices
    with pytest.raises(openai.BadRequestError, match="names 'tool_9', which is not in tools"):
        client.chat.completions.create(**options, tool_choice=some("auto", "tool_9"))


def test_parse(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(
        model="chat", messages=HELLO, response_format=Wind, max_tokens=1500, seed=2, temperature=0.3
    )
    assert answer.choices[0].message.parsed is not None


def test_completions(client: openai.OpenAI) -> None:
    prompts = [[1, 300, 301], [1, 300, 301]]
    answer = client.completions.create(model="coder", prompt=prompts, max_tokens=4, n=2, best_of=3, seed=5)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    options: dict[str, Any] = {"model": "coder", "prompt": "def f", "max_tokens": 3, "temperature": 0}
    echoed = client.completions.create(**options, echo=True, logprobs=1)
    [choice] = echoed.choices
    assert choice.text.startswith("def f")
    assert choice.logprobs is not None
    assert "".join(choice.logprobs.tokens or []) == choice.text
    parts = client.completions.create(**options, stream=True)
    assert "def f" + "".join(part.choices[0].text for part in parts) == choice.text
    assert client.completions.create(**options, suffix="return").choices[0].text


def test_several_prompts_in_one_stream(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"model": "coder", "prompt": ["def f", "class A", "x ="], "max_tokens": 5, "n": 2,
                               "seed": 4, "temperature": 1, "logprobs": 0}  # fmt: skip
    whole = client.completions.create(**options)
    parts = list(client.completions.create(**options, stream=True, stream_options={"include_usage": True}))
    choices = [choice for part in parts for choice in part.choices]
    for choice in whole.choices:
        mine = [part for part in choices if part.index == choice.index]
        assert "".join(part.text for part in mine) == choice.text
        assert mine[-1].finish_reason == choice.finish_reason
        assert choice.logprobs is not None
        offsets = [offset for part in mine if part.logprobs for offset in part.logprobs.text_offset or []]
        assert offsets == choice.logprobs.text_offset
    assert len(whole.choices) == 6
    assert parts[-1].usage is not None
    assert whole.usage is not None
    assert parts[-1].usage.total_tokens == whole.usage.total_tokens


def test_embeddings_default_to_base64_and_agree(client: openai.OpenAI) -> None:
    packed = client.embeddings.create(model="chat", input=["wind", "rain"])
    plain = client.embeddings.create(model="chat", input=["wind", "rain"], encoding_format="float")
    assert [entry.embedding for entry in packed.data] == [entry.embedding for entry in plain.data]
    assert sum(value * value for value in plain.data[0].embedding) == pytest.approx(1, abs=1e-5)
    short = client.embeddings.create(model="chat", input=[[5, 6, 7]], dimensions=8)
    assert len(short.data[0].embedding) == 8


def test_moderation(client: openai.OpenAI) -> None:
    result = client.moderations.create(input="a text").results[0]
    assert isinstance(result.flagged, bool)


def test_responses(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"model": "chat", "input": "What is it?", "max_output_tokens": 6, "temperature": 0}
    response = client.responses.create(**options, instructions="Be brief.")
    assert response.status == "incomplete"
    assert response.output_text
    events = list(client.responses.create(**options, instructions="Be brief.", stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == response.output_text
    last = events[-1]
    assert last.type == "response.incomplete"
    assert last.response.output_text == text
    assert last.response.usage is not None
    assert last.response.usage.output_tokens == 6


def test_responses_with_a_forced_function_and_its_result(client: openai.OpenAI) -> None:
    tool: Any = {"type": "function", "name": "get_weather", "parameters": PARAMETERS, "strict": True}
    options: dict[str, Any] = {"model": "chat", "tools": [tool], "parallel_tool_calls": False, "temperature": 0}
    response = client.responses.create(**options, input="Weather?", tool_choice="required")
    [call] = response.output
    assert call.type == "function_call"
    assert list(json.loads(call.arguments)) == ["place"]
    turns: Any = [
        {"role": "user", "content": "Weather?"},
        call,
        {"type": "function_call_output", "call_id": call.call_id, "output": "windy"},
    ]
    assert client.responses.create(**options, input=turns, tool_choice="none", max_output_tokens=3).output_text
    with client.responses.stream(**options, input="Weather?", tool_choice="required") as stream:
        kinds = [event.type for event in stream]
    assert "response.function_call_arguments.done" in kinds
    assert kinds[-1] == "response.completed"


def test_responses_parse(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"model": "chat", "max_output_tokens": 1500, "temperature": 0}
    response = client.responses.parse(**options, input="Wind?", text_format=Wind)
    assert isinstance(response.output_parsed, Wind)


def test_responses_are_kept_and_gone_on_from(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"model": "chat", "max_output_tokens": 4, "temperature": 0}
    first = client.responses.create(**options, input="What is it?", instructions="Be brief.")
    assert client.responses.retrieve(first.id).output_text == first.output_text
    second = client.responses.create(**options, input="And then?", previous_response_id=first.id)
    whole: Any = [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": first.output_text},
                  {"role": "user", "content": "And then?"}]  # fmt: skip
    assert second.usage is not None
    told = client.responses.create(**options, input=whole, store=False)
    assert told.usage is not None
    assert (told.output_text, told.usage.input_tokens) == (second.output_text, second.usage.input_tokens)
    referred: Any = [whole[0], {"type": "item_reference", "id": first.output[0].id}, whole[2]]
    assert client.responses.create(**options, input=referred).output_text == second.output_text
    items = list(client.responses.input_items.list(second.id, order="asc"))
    assert [getattr(item, "role", None) for item in items] == ["user", "assistant", "user"]
    with pytest.raises(openai.BadRequestError, match="background"):
        client.responses.cancel(second.id)
    client.responses.delete(first.id)
    for gone in (first.id, told.id, "resp_1"):
        with pytest.raises(openai.NotFoundError, match="kept here"):
            client.responses.create(**options, input="x", previous_response_id=gone)
    assert client.responses.retrieve(second.id).id == second.id


def test_what_is_not_kept_or_done_says_what_to_do_instead(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"model": "chat", "input": "x"}
    with pytest.raises(openai.BadRequestError, match=r"background: .*stream"):
        client.responses.create(**options, background=True)
    with pytest.raises(openai.BadRequestError, match=r"conversation: .*previous_response_id"):
        client.responses.create(**options, conversation="conv_1")


def test_errors_are_typed(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="Invalid model"):
        client.chat.completions.create(model="none", messages=HELLO)
    with pytest.raises(openai.UnprocessableEntityError, match="temperature"):
        client.chat.completions.create(model="chat", messages=HELLO, temperature=9)


def test_many_at_once_from_asyncio(server: LiveServer) -> None:
    async def ask() -> set[str | None]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            answers = await asyncio.gather(
                *(client.chat.completions.create(model="chat", messages=HELLO, max_tokens=9, seed=8) for _ in range(20))
            )
            stream = await client.chat.completions.create(
                model="chat", messages=HELLO, max_tokens=9, seed=8, stream=True
            )
            text = ""
            async for chunk in stream:
                text += chunk.choices[0].delta.content or ""
        return {text, *(answer.choices[0].message.content for answer in answers)}

    assert len(asyncio.run(ask())) == 1


def test_files_and_batches(client: openai.OpenAI) -> None:
    lines = [
        {
            "custom_id": f"r{n}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": "chat", "messages": HELLO, "max_completion_tokens": 3, "temperature": temperature},
        }
        for n, temperature in enumerate((0.0, 99.0))
    ]
    content = "\n".join(map(json.dumps, lines)).encode()
    file = client.files.create(file=("batch.jsonl", content), purpose="batch")
    assert client.files.retrieve(file.id).bytes == len(content)
    assert file.id in {entry.id for entry in client.files.list(purpose="batch")}
    options: Any = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
    batch = client.batches.create(**options, input_file_id=file.id, metadata={"by": "wind"})
    while batch.status in ("validating", "in_progress", "finalizing"):
        time.sleep(0.05)
        batch = client.batches.retrieve(batch.id)
    assert batch.status == "completed"
    assert batch.request_counts is not None
    assert (batch.request_counts.completed, batch.request_counts.failed) == (1, 1)
    assert batch.output_file_id is not None
    assert batch.error_file_id is not None
    good = json.loads(client.files.content(batch.output_file_id).text)
    bad = json.loads(client.files.content(batch.error_file_id).text)
    assert good["response"]["body"]["usage"]["completion_tokens"] == 3
    assert (bad["custom_id"], bad["response"]["status_code"]) == ("r1", 422)
    second = client.batches.create(**options, input_file_id=file.id)
    assert [entry.id for entry in client.batches.list(limit=1)][:2] == [second.id, batch.id]  # it turns the pages
    with pytest.raises(openai.ConflictError):
        client.batches.cancel(batch.id)
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.batches.create(**options, input_file_id=file.id)
    with pytest.raises(openai.UnprocessableEntityError, match="line 2: not valid JSON"):
        client.files.create(file=("batch.jsonl", content.splitlines()[0] + b"\n{"), purpose="batch")


def test_fine_tuning(waiting: openai.OpenAI) -> None:
    client = waiting
    jobs = client.fine_tuning.jobs
    lines = [{"messages": [*HELLO, {"role": "assistant", "content": "Ahoy!"}]} for _ in range(16)]
    file = client.files.create(file=("ahoy.jsonl", _lines(lines)), purpose="fine-tune")
    unwanted = jobs.create(model="chat", training_file=file.id)
    assert jobs.cancel(unwanted.id).id == unwanted.id
    made = jobs.create(
        model="chat",
        training_file=file.id,
        validation_file=file.id,
        suffix="ahoy",
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1}}},
        metadata={"crew": "all"},
    )
    assert made.object == "fine_tuning.job"
    assert made.status in ("validating_files", "queued", "running")
    deadline = time.monotonic() + 300
    while (job := jobs.retrieve(made.id)).status in ("validating_files", "queued", "running"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert (job.status, job.error) == ("succeeded", None)
    assert job.fine_tuned_model is not None
    assert job.finished_at is not None
    assert client.chat.completions.create(model=job.fine_tuned_model, messages=HELLO, max_tokens=3).choices
    assert [each.id for each in jobs.list(limit=1, metadata={"crew": "all"}).data] == [made.id]
    events = list(jobs.list_events(made.id, limit=3))  # in pages
    assert events[-1].message == "The job is validating_files"
    assert {event.type for event in events} == {"message", "metrics"}
    newest = jobs.checkpoints.list(made.id).data[0]
    assert newest.fine_tuned_model_checkpoint == job.fine_tuned_model
    assert newest.metrics.valid_loss is not None
    assert client.models.delete(job.fine_tuned_model).deleted


def _lines(values: list[Any]) -> bytes:
    return "".join(json.dumps(value) + "\n" for value in values).encode()
