"""Moderation and classification, of texts and of conversations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter

from tramontane.server.chat.conversation import chat_messages
from tramontane.server.endpoint import Call, Endpoint
from tramontane.server.errors import ApiError
from tramontane.server.models import ServedModel
from tramontane.server.moderation.categories import THRESHOLD, categories_of
from tramontane.server.moderation.conversation_text import conversation_text
from tramontane.server.moderation.reflection import reflect
from tramontane.server.schema.answers import Classifications, Moderations
from tramontane.server.schema.chat import Message
from tramontane.server.schema.moderations import (
    ChatClassificationRequest,
    ChatModerationRequest,
    ClassificationRequest,
    ModerationRequest,
)
from tramontane.tasks import gathered

router = APIRouter()
DEFAULT_MODEL = "mistral-moderation-latest"  # OpenAI's clients may leave the model out
TARGET = "moderation"  # what a model that was not trained to classify can tell: how it judges the text


async def moderations(call: Call, request: ModerationRequest) -> dict[str, Any]:
    return await _moderate(call, request.model or DEFAULT_MODEL, request.texts, chat=False)


async def chat_moderations(call: Call, request: ChatModerationRequest) -> dict[str, Any]:
    return await _moderate(call, request.model, _texts(request.conversations), chat=True)


async def classifications(call: Call, request: ClassificationRequest) -> dict[str, Any]:
    model = call.use(request.model)
    if model.classifier is None:
        return await _reflect(call, request.model, request.texts, chat=False)
    return await _classify(call, request.model, model, request.texts)


async def chat_classifications(call: Call, request: ChatClassificationRequest) -> dict[str, Any]:
    model = call.use(request.model)
    if model.classifier is None:
        return await _reflect(call, request.model, _texts(request.conversations), chat=True)
    conversations = [chat_messages(messages) for messages in request.conversations]
    return await _classify(call, request.model, model, conversations)


def _texts(conversations: Sequence[Sequence[Message]]) -> list[str]:
    return [conversation_text(chat_messages(messages)) for messages in conversations]


async def _classify(
    call: Call, name: str, model: ServedModel, inputs: Sequence[str] | Sequence[Sequence[Mapping[str, Any]]]
) -> dict[str, Any]:
    """By a model that was trained to; `inputs` are texts or conversations."""
    batch = [prompt.token_ids for prompt in await model.llm.read_prompts(inputs)]
    call.prompt_tokens += sum(map(len, batch))
    found = await gathered(
        model.classify(token_ids, owner=call.caller.owner, salt=call.caller.salt, priority=call.priority, meter=call)
        for token_ids in batch
    )
    results = [{target: {"scores": scores} for target, scores in targets.items()} for targets in found]
    return _answer(call, name, results)


async def _reflect(call: Call, name: str, texts: Sequence[str], *, chat: bool) -> dict[str, Any]:
    """By a model that was not."""
    scores = await _scores(call, name, texts, chat=chat)
    return _answer(call, name, [{TARGET: {"scores": entry}} for entry in scores])


async def _moderate(call: Call, name: str, texts: Sequence[str], *, chat: bool) -> dict[str, Any]:
    scores = await _scores(call, name, texts, chat=chat)
    return _answer(call, name, [_result(entry) for entry in scores])


async def _scores(call: Call, name: str, texts: Sequence[str], *, chat: bool) -> list[dict[str, float]]:
    """One text after the other: the categories of one already fill a batch."""
    model = _judge(call, name)
    return [await reflect(call, model, text, categories_of(name), chat=chat) for text in texts]


def _judge(call: Call, name: str) -> ServedModel:
    model = call.use(name)
    if not model.capabilities.moderation:
        raise ApiError(400, f"the model {model.name} cannot chat, so it cannot be asked about a text", param="model")
    return model


def _answer(call: Call, name: str, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {"id": call.request_id, "model": name, "results": results, "usage": call.usage}


def _result(scores: Mapping[str, float]) -> dict[str, Any]:
    categories = {name: score >= THRESHOLD for name, score in scores.items()}
    return {
        "categories": categories,
        "category_scores": scores,
        "flagged": any(categories.values()),
        "category_applied_input_types": {name: ["text"] for name in categories},
    }


TAG = "classifiers"
for endpoint in (
    Endpoint("/v1/moderations", ModerationRequest, moderations, None, Moderations, "Judge texts", TAG),
    Endpoint(
        "/v1/chat/moderations",
        ChatModerationRequest,
        chat_moderations,
        None,
        Moderations,
        "Judge the last message of conversations",
        TAG,
    ),
    Endpoint(
        "/v1/classifications", ClassificationRequest, classifications, None, Classifications, "Classify texts", TAG
    ),
    Endpoint(
        "/v1/chat/classifications",
        ChatClassificationRequest,
        chat_classifications,
        None,
        Classifications,
        "Classify conversations",
        TAG,
    ),
):
    endpoint.add_to(router)
