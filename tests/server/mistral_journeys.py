"""What users do with Mistral's own client, waiting and asynchronously, against the server at the URL given. Run as a
module: each version of the client lives in an environment of its own, and their types differ, hence `Any`.

    python -m tests.server.mistral_journeys URL
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import urllib.request
from typing import Any

import pytest
from mistralai.client import Mistral
from pydantic import BaseModel

from tests.server.blocking import Blocking

HELLO: list[Any] = [{"role": "user", "content": "What is the tramontane?"}]
SMALL = "mistral-small-latest"
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a place",
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "maxLength": 12},
                "days": {"type": "integer", "minimum": 0, "maximum": 9},
            },
            "required": ["place", "days"],
            "additionalProperties": False,
        },
    },
}


class Wind(BaseModel):
    name: str
    is_cold: bool


def list_models(client: Any) -> None:
    models = client.models.list().data or []
    ids = [model.id for model in models]
    assert SMALL in ids
    assert "mistral-embed" in ids
    card = client.models.retrieve(model_id="thinker")
    assert card.capabilities.completion_chat
    assert card.max_context_length == 2048


def chat(client: Any) -> None:
    first = client.chat.complete(model=SMALL, messages=HELLO, max_tokens=6, random_seed=7)
    again = client.chat.complete(model=SMALL, messages=HELLO, max_tokens=6, random_seed=7)
    assert first.choices[0].message.content == again.choices[0].message.content
    assert first.choices[0].finish_reason == "length"
    assert first.usage.completion_tokens == 6
    turns = [*HELLO, {"role": "assistant", "content": "A wind."}, {"role": "user", "content": "From where?"}]
    assert client.chat.complete(model=SMALL, messages=turns, max_tokens=3, safe_prompt=True).choices


def stream(client: Any) -> None:
    options: dict[str, Any] = {"model": SMALL, "messages": HELLO, "max_tokens": 8, "temperature": 0.0}
    whole = client.chat.complete(**options).choices[0].message.content
    chunks = [event.data for event in client.chat.stream(**options)]
    assert "".join(str(chunk.choices[0].delta.content or "") for chunk in chunks) == whole
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == "length"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 8


def call_functions(client: Any) -> None:
    for model in (SMALL, "thinker", "coder"):
        answer = client.chat.complete(model=model, messages=HELLO, tools=[WEATHER], tool_choice="any", max_tokens=400,
                                      parallel_tool_calls=False, random_seed=1)  # fmt: skip
        [call] = answer.choices[0].message.tool_calls
        assert answer.choices[0].finish_reason == "tool_calls"
        assert set(json.loads(call.function.arguments)) == {"place", "days"}
        turns = [
            *HELLO,
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "name": call.function.name, "content": "windy", "tool_call_id": call.id},
        ]
        assert client.chat.complete(model=model, messages=turns, tools=[WEATHER], max_tokens=3, tool_choice="none")
        calls = [
            call
            for event in client.chat.stream(
                model=model,
                messages=HELLO,
                tools=[WEATHER],
                tool_choice="any",
                max_tokens=400,
                parallel_tool_calls=False,
                random_seed=1,
            )
            for call in event.data.choices[0].delta.tool_calls or []
        ]
        assert [call.function.name for call in calls] == ["get_weather"]
        if model == "thinker":
            continue  # the limit below would cut its thoughts
        cut = client.chat.complete(model=model, messages=HELLO, tools=[WEATHER], tool_choice="any", max_tokens=16,
                                   parallel_tool_calls=False, random_seed=1).choices[0]  # fmt: skip
        assert (cut.finish_reason, cut.message.content) == ("length", "")
        assert str(calls[0].function.arguments).startswith(str(cut.message.tool_calls[0].function.arguments))


def structured(client: Any) -> None:
    answer = client.chat.complete(
        model=SMALL, messages=HELLO, response_format={"type": "json_object"}, max_tokens=800, random_seed=3
    )
    if answer.choices[0].finish_reason == "stop":
        json.loads(str(answer.choices[0].message.content))
    parsed = client.chat.parse(Wind, model=SMALL, messages=HELLO, max_tokens=800, random_seed=4)
    if parsed.choices[0].finish_reason == "stop":
        assert isinstance(parsed.choices[0].message.parsed, Wind)
    text = ""
    for event in client.chat.parse_stream(Wind, model=SMALL, messages=HELLO, max_tokens=800, random_seed=4):
        text += str(event.data.choices[0].delta.content or "")
    assert text == parsed.choices[0].message.content


def prefix_and_prediction(client: Any) -> None:
    turns = [*HELLO, {"role": "assistant", "content": "It is a", "prefix": True}]
    answer = client.chat.complete(model=SMALL, messages=turns, max_tokens=3)
    assert str(answer.choices[0].message.content).startswith("It is a")
    options: dict[str, Any] = {"model": SMALL, "messages": HELLO, "max_tokens": 8, "temperature": 0.0}
    plain = client.chat.complete(**options)
    hinted = client.chat.complete(**options, prediction={"type": "content", "content": "A cold wind from the north."})
    assert plain.choices[0].message.content == hinted.choices[0].message.content


def reason(client: Any) -> None:
    answer = client.chat.complete(model="thinker", messages=HELLO, prompt_mode="reasoning", max_tokens=6)
    assert answer.choices[0].message.content is not None


def fill_in_the_middle(client: Any) -> None:
    options: dict[str, Any] = {"model": "codestral-latest", "prompt": "def add(a, b):", "suffix": "return c"}
    whole = client.fim.complete(**options, max_tokens=5, temperature=0.0)
    parts = [event.data for event in client.fim.stream(**options, max_tokens=5, temperature=0.0)]
    assert "".join(str(part.choices[0].delta.content or "") for part in parts) == whole.choices[0].message.content
    assert client.fim.complete(model="codestral-latest", prompt="def add", max_tokens=2).choices


def embed(client: Any) -> None:
    answer = client.embeddings.create(model="mistral-embed", inputs=["wind", "rain"])
    assert [len(entry.embedding or []) for entry in answer.data] == [48, 48]
    small = client.embeddings.create(model="mistral-embed", inputs="wind", output_dimension=16, output_dtype="ubinary")
    assert len(small.data[0].embedding or []) == 2


def moderate(client: Any) -> None:
    answer = client.classifiers.moderate(model="mistral-moderation-latest", inputs=["a", "b"])
    assert len(answer.results) == 2
    assert 0 <= (answer.results[0].category_scores or {})["jailbreaking"] <= 1
    chat = client.classifiers.moderate_chat(model="mistral-moderation-2411", inputs=HELLO)
    assert "dangerous_and_criminal_content" in (chat.results[0].categories or {})
    classes = client.classifiers.classify(model="mistral-moderation-latest", inputs=["a"])
    assert classes.results
    assert client.classifiers.classify_chat(model=SMALL, input={"messages": HELLO}).results


def respond(client: Any) -> None:
    if not hasattr(client, "responses"):  # the older client has none
        return
    options: dict[str, Any] = {"model": SMALL, "input": "What is it?", "max_output_tokens": 6, "temperature": 0.0}
    answer = client.responses.create(**options)
    assert answer.status == "incomplete"
    frames = list(client.responses.create(**options, stream=True))
    text = "".join(frame.data.delta for frame in frames if frame.event == "response.output_text.delta")
    assert text == answer.output[0].content[0].text
    assert client.responses.count_input_tokens(model=SMALL, input="What is it?").input_tokens > 3


def keep_files(client: Any) -> None:
    line = json.dumps({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})
    made = client.files.upload(file={"file_name": "chats.jsonl", "content": line.encode()}, purpose="fine-tune")
    assert (made.size_bytes, made.num_lines, made.sample_type) == (len(line), 1, "instruct")
    assert made.id in [file.id for file in client.files.list(page_size=5).data]
    assert client.files.retrieve(file_id=made.id).filename == "chats.jsonl"
    assert client.files.download(file_id=made.id).read().decode() == line
    url = client.files.get_signed_url(file_id=made.id, expiry=1).url
    with urllib.request.urlopen(url) as answer:
        assert answer.read().decode() == line
    assert client.files.delete(file_id=made.id).deleted


def run_batches(client: Any) -> None:
    requests = [{"custom_id": str(n), "body": {"messages": HELLO, "max_tokens": 3}} for n in range(3)]
    content = "\n".join(map(json.dumps, requests)).encode()
    file = client.files.upload(file={"file_name": "batch.jsonl", "content": content}, purpose="batch")
    options = {"model": SMALL, "endpoint": "/v1/chat/completions", "metadata": {"job_type": "testing"}}
    jobs = [
        client.batch.jobs.create(**options, input_files=[file.id]),
        client.batch.jobs.create(**options, requests=requests),
    ]
    for job in jobs:
        while job.status in ("QUEUED", "RUNNING"):
            time.sleep(0.05)
            job = client.batch.jobs.get(job_id=job.id)
        assert (job.status, job.succeeded_requests, job.total_requests) == ("SUCCESS", 3, 3)
        text = client.files.download(file_id=job.output_file).read().decode()
        assert [json.loads(line)["custom_id"] for line in text.splitlines()] == ["0", "1", "2"]
        outputs = client.batch.jobs.get(job_id=job.id, inline=True).outputs or []
        assert outputs[2]["response"]["body"]["choices"][0]["message"]["role"] == "assistant"
    listed = client.batch.jobs.list(metadata={"job_type": "testing"}, status=["SUCCESS"], page_size=2)
    assert [job.id for job in listed.data or []] == [job.id for job in reversed(jobs)]
    long = [{"body": {"messages": HELLO, "max_tokens": 1000}}] * 200
    job = client.batch.jobs.create(model=SMALL, endpoint="/v1/chat/completions", requests=long, timeout_hours=1)
    job = client.batch.jobs.cancel(job_id=job.id)
    while job.status != "CANCELLED":
        assert job.status == "CANCELLATION_REQUESTED"
        time.sleep(0.05)
        job = client.batch.jobs.get(job_id=job.id)
    assert job.completed_requests < 200


def fail(client: Any) -> None:
    from mistralai.client import errors

    options: dict[str, Any] = {"messages": HELLO}
    with pytest.raises(errors.SDKError) as unknown:
        client.chat.complete(**options, model="none")
    assert unknown.value.status_code == 400
    with pytest.raises(errors.HTTPValidationError) as wrong:
        client.chat.complete(**options, model=SMALL, top_p=2.0)
    assert (wrong.value.data.detail or [])[0].loc == ["body", "top_p"]


def fine_tune(client: Any) -> None:
    """With the last client that can: from conversations to a model, and all that can be done with job and model."""
    if not hasattr(client, "fine_tuning"):
        return
    jobs, models = client.fine_tuning.jobs, client.models
    pair = {"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Ahoy!"}]}
    lines = "".join(json.dumps(pair) + "\n" for _ in range(16)).encode()
    file = client.files.upload(file={"file_name": "ahoy.jsonl", "content": lines}, purpose="fine-tune")
    options: dict[str, Any] = {
        "model": "chat",
        "training_files": [{"file_id": file.id, "weight": 1}],
        "hyperparameters": {"training_steps": 3, "learning_rate": 0.001},
    }
    estimated = jobs.create(**options, suffix="ahoy", auto_start=False)
    assert estimated.status == "VALIDATED"
    assert estimated.metadata.train_tokens == 3 * estimated.metadata.train_tokens_per_step
    assert estimated.id in [job.id for job in jobs.list(suffix="ahoy", model="chat").data]
    assert jobs.start(job_id=estimated.id).status in ("STARTED", "RUNNING")
    unwanted = jobs.create(**options)
    assert jobs.cancel(job_id=unwanted.id).status in ("CANCELLED", "CANCELLATION_REQUESTED")
    deadline = time.monotonic() + 300
    while (job := jobs.get(job_id=estimated.id)).status in ("STARTED", "RUNNING"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert job.status == "SUCCESS"
    assert job.trained_tokens == estimated.metadata.train_tokens
    assert job.events[-1].data["status"] == "SUCCESS"
    assert job.checkpoints[-1].step_number == 3
    name = job.fine_tuned_model
    assert client.chat.complete(model=name, messages=HELLO, max_tokens=3).choices
    assert models.update(model_id=name, name="Sailor", description="Says ahoy").description == "Says ahoy"
    assert models.archive(model_id=name).archived
    assert not models.unarchive(model_id=name).archived
    card = client.models.retrieve(model_id=name)
    assert (card.root, card.job, card.name) == ("chat", estimated.id, "Sailor")
    assert client.models.delete(model_id=name).deleted


def at_once(client: Any) -> None:
    """Only the asynchronous client can."""

    async def ask() -> set[str]:
        options: dict[str, Any] = {"model": SMALL, "messages": HELLO, "max_tokens": 4, "random_seed": 5}
        answers = await asyncio.gather(*(client.chat.complete_async(**options) for _ in range(4)))
        return {str(answer.choices[0].message.content) for answer in answers}

    with asyncio.Runner() as runner:
        assert len(runner.run(ask())) == 1


JOURNEYS = (
    *(list_models, chat, stream, call_functions, structured, prefix_and_prediction, reason, fill_in_the_middle),
    *(embed, moderate, respond, keep_files, run_batches, fine_tune, fail),
)


def main(url: str) -> None:
    with Mistral(api_key="none", server_url=url) as client:
        go(client)
    with asyncio.Runner() as runner:
        go(Blocking(Mistral(api_key="none", server_url=url), runner.run))
    at_once(Mistral(api_key="none", server_url=url))


def go(client: Any) -> None:
    for journey in JOURNEYS:
        journey(client)
        print(journey.__name__, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
