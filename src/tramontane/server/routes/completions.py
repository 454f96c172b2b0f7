"""/v1/completions: OpenAI's text completions."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from fastapi import APIRouter

from tramontane.engine.request import TokenLogprobs
from tramontane.engine.sampling import SamplingParams
from tramontane.llm import Choice, Completion, Delta
from tramontane.llm.async_llm import Stream
from tramontane.llm.prompt import Prompt
from tramontane.server.chat.finish import finish_reason, require_sound
from tramontane.server.chat.logprobs import token_text
from tramontane.server.endpoint import Call, Endpoint
from tramontane.server.errors import ApiError
from tramontane.server.models import ServedModel
from tramontane.server.schema.answers import TextCompletion
from tramontane.server.schema.fim import CompletionRequest
from tramontane.server.stream import DONE, event
from tramontane.tasks import ended, gathered
from tramontane.tokenizer import Tokenizer

router = APIRouter()


async def answer(call: Call, request: CompletionRequest) -> dict[str, Any]:
    model = call.use(request.model)
    params = _params(request, model)
    prompts = await _prompts(model, request)
    completions = await gathered(_complete(call, model, prompt, params) for prompt in prompts)
    choices: list[dict[str, Any]] = []
    for prompt, completion in zip(prompts, completions, strict=True):
        call.count(completion)
        for choice in _best(completion, request.n or 1):
            choices.append(
                {"index": len(choices), **_choice(call, request, model.llm.tokenizer, prompt, completion, choice)}
            )
    return {**_head(call, request), "choices": choices, "usage": call.usage}


async def stream(call: Call, request: CompletionRequest) -> AsyncGenerator[bytes]:
    model = call.use(request.model)
    params = _params(request, model)
    prompts = await _prompts(model, request)
    async with contextlib.AsyncExitStack() as started:
        streams = [await started.enter_async_context(await call.start(model, prompt, params)) for prompt in prompts]
        return _events(call, request, model, streams, started.pop_all())


async def _events(
    call: Call,
    request: CompletionRequest,
    model: ServedModel,
    streams: Sequence[Stream],
    started: contextlib.AsyncExitStack,
) -> AsyncGenerator[bytes]:
    head = _head(call, request)
    n = request.n or 1
    offsets = [0] * (n * len(streams))
    async with started, contextlib.aclosing(_merged(streams)) as merged:
        try:
            async for number, delta in merged:
                index = number * n + delta.index
                call.saw_token()
                call.completion_tokens += len(delta.token_ids)
                choice: dict[str, Any] = {"index": index, "text": delta.text, "finish_reason": None, "logprobs": None}
                if delta.logprobs:
                    logprobs = choice["logprobs"] = _logprobs(model.llm.tokenizer, delta.logprobs, offsets[index])
                    offsets[index] += sum(map(len, logprobs["tokens"]))
                if delta.finish_reason is not None:
                    require_sound(call, delta.finish_reason, delta.error)
                    choice["finish_reason"] = finish_reason(delta.finish_reason, dialect="openai")
                elif not delta.text and choice["logprobs"] is None:
                    continue
                yield event({**head, "choices": [choice]})
            for stream in streams:
                call.count_prompt(stream)
            if request.stream_options is not None and request.stream_options.include_usage:
                yield event({**head, "choices": [], "usage": call.usage})
        except Exception as error:
            failure = call.fail(error)
            ending = {"index": 0, "text": "", "finish_reason": "error", "logprobs": None}
            yield event({**head, "choices": [ending], "error": failure.error})
    yield DONE


async def _merged(streams: Sequence[Stream]) -> AsyncGenerator[tuple[int, Delta]]:
    """What comes of any of them, with its number. To be closed before they are."""
    news: asyncio.Queue[tuple[int, Delta | Exception | None]] = asyncio.Queue()

    async def pump(number: int, stream: Stream) -> None:
        end: Exception | None = None
        try:
            async for delta in stream:
                news.put_nowait((number, delta))
        except Exception as error:
            end = error
        news.put_nowait((number, end))

    tasks = [asyncio.ensure_future(pump(number, stream)) for number, stream in enumerate(streams)]
    num_open = len(streams)
    try:
        while num_open:
            number, item = await news.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                num_open -= 1
            else:
                yield number, item
    finally:
        for task in tasks:
            task.cancel()
        await ended(*tasks)


def _params(request: CompletionRequest, model: ServedModel) -> SamplingParams:
    """Best answers are chosen by their log-probabilities."""
    ranks = (request.best_of or 1) > (request.n or 1)
    logprobs = 0 if ranks and request.logprobs is None else request.logprobs
    more: dict[str, Any] = {"logprobs": logprobs}
    if request.best_of is not None:
        request = request.model_copy(update={"n": request.best_of})
    if request.echo:
        more["prompt_logprobs"] = request.logprobs
    return request.sampling(model.default_sampling, **more)


async def _prompts(model: ServedModel, request: CompletionRequest) -> list[Prompt]:
    if not request.suffix:
        return await model.llm.read_prompts(request.prompts)
    if not model.capabilities.completion_fim:
        raise ApiError(400, f"the model {model.name} cannot fill in the middle; leave suffix out", param="suffix")
    decode = model.llm.tokenizer.decode
    texts = [prompt if isinstance(prompt, str) else decode(prompt) for prompt in request.prompts]
    return [await model.llm.read_gap(text, request.suffix) for text in texts]


async def _complete(call: Call, model: ServedModel, prompt: Prompt, params: SamplingParams) -> Completion:
    async with await call.start(model, prompt, params) as stream:
        async for _ in stream:
            call.saw_token()
        return stream.completion()


def _best(completion: Completion, n: int) -> Sequence[Choice]:
    """The n answers of highest mean log-probability; all of them in their order where there are no more."""
    if len(completion.choices) == n:
        return completion.choices
    return sorted(completion.choices, key=_mean_logprob, reverse=True)[:n]


def _mean_logprob(choice: Choice) -> float:
    entries = choice.logprobs or ()
    return sum(entry.logprob for entry in entries) / max(1, len(entries))


def _head(call: Call, request: CompletionRequest) -> dict[str, Any]:
    return {"id": call.request_id, "object": "text_completion", "created": call.created, "model": request.model}


def _choice(
    call: Call, request: CompletionRequest, tokenizer: Tokenizer, prompt: Prompt, completion: Completion, choice: Choice
) -> dict[str, Any]:
    require_sound(call, choice.finish_reason, choice.error)
    entries = list(choice.logprobs or ())
    text = choice.text
    if request.echo:
        text = tokenizer.decode(prompt.token_ids) + text
        # the beginning of sequence is no part of the text; the token after it has nothing before it to be scored by
        entries = [entry for entry in completion.prompt_logprobs or () if entry is not None] + entries
    logprobs = None if request.logprobs is None else _logprobs(tokenizer, entries, 0)
    return {"text": text, "finish_reason": finish_reason(choice.finish_reason, dialect="openai"), "logprobs": logprobs}


def _logprobs(tokenizer: Tokenizer, entries: Sequence[TokenLogprobs], offset: int) -> dict[str, Any]:
    kept = [entry for entry in entries if entry.token_id not in tokenizer.stop_ids]
    tokens = [token_text(tokenizer, entry.token_id) for entry in kept]
    offsets = [offset]
    for token in tokens[:-1]:
        offsets.append(offsets[-1] + len(token))
    return {
        "tokens": tokens,
        "token_logprobs": [entry.logprob for entry in kept],
        "top_logprobs": [
            {token_text(tokenizer, token_id): logprob for token_id, logprob in entry.top} for entry in kept
        ],
        "text_offset": offsets[: len(tokens)],
    }


Endpoint("/v1/completions", CompletionRequest, answer, stream, TextCompletion, "Continue texts", "completions").add_to(
    router
)
