"""Guardrails of a chat request: its input is judged before it is answered."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from tramontane.errors import TramontaneError
from tramontane.server.endpoint import Call
from tramontane.server.errors import ApiError
from tramontane.server.models import ServedModel
from tramontane.server.moderation.categories import CATEGORIES_V1, CATEGORIES_V2, THRESHOLD
from tramontane.server.moderation.conversation_text import conversation_text
from tramontane.server.moderation.reflection import reflect
from tramontane.server.schema.chat import Guardrail

log = logging.getLogger(__name__)


async def apply_guardrails(
    call: Call, guardrails: Sequence[Guardrail], messages: Sequence[dict[str, Any]], model: ServedModel
) -> list[dict[str, Any]]:
    """What each guardrail found. Raises ApiError 403 where one blocks, and where one fails that is to block then."""
    found: list[dict[str, Any]] = []
    for guardrail in guardrails:
        for version, settings in (("v1", guardrail.moderation_llm_v1), ("v2", guardrail.moderation_llm_v2)):
            if settings is None:
                continue
            categories = CATEGORIES_V1 if version == "v1" else CATEGORIES_V2
            thresholds = settings.custom_category_thresholds or {}
            unknown = sorted(set(thresholds) - set(categories))
            if unknown:
                raise ApiError(
                    400,
                    f"guardrails: unknown category {unknown[0]!r}; known are {', '.join(categories)}",
                    param="guardrails",
                )
            watched = {n: q for n, q in categories.items() if n in thresholds or not settings.ignore_other_categories}
            if not watched:
                raise ApiError(
                    400,
                    "guardrails: with ignore_other_categories, name categories in custom_category_thresholds",
                    param="guardrails",
                )
            judge = model
            if settings.model_name is not None:
                judge = call.services.registry.resolve(settings.model_name, call.caller.owner)
            try:
                scores = await reflect(call, judge, conversation_text(messages), watched, chat=True)
            except TramontaneError as error:
                log.warning("request %s: a guardrail failed: %s", call.request_id, error)
                if guardrail.block_on_error:
                    raise ApiError(403, f"the guardrail could not judge the input: {error}", code="guardrail") from None
                found.append({f"moderation_llm_{version}": {"error": str(error)}})
                continue
            flagged = {name: score >= thresholds.get(name, THRESHOLD) for name, score in scores.items()}
            if any(flagged.values()) and settings.action == "block":
                names = ", ".join(name for name, is_flagged in flagged.items() if is_flagged)
                raise ApiError(403, f"the input was blocked by a guardrail: {names}", code="guardrail")
            found.append({f"moderation_llm_{version}": {"categories": flagged, "category_scores": scores}})
    return found
