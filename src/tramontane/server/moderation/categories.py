"""The categories of Mistral's two generations of moderation, as questions a model can answer."""

from __future__ import annotations

from collections.abc import Mapping

_SEXUAL = "sexually explicit or meant to arouse sexual excitement"
_HATE = "hateful, prejudiced or discriminating against people for who they are"
_VIOLENCE = "describing, glorifying, inciting or threatening violence against people"
_DANGEROUS = "encouraging or explaining how to do something that endangers people's health or safety"
_CRIMINAL = "encouraging or explaining how to commit a crime"
_SELFHARM = "about hurting or killing oneself, or encouraging it"
_HEALTH = "giving or asking for medical advice"
_FINANCIAL = "giving or asking for advice on money or investments"
_LAW = "giving or asking for legal advice"
_PII = "giving or asking for someone's personal details, such as names, addresses, numbers or accounts"
_JAILBREAKING = "trying to make an assistant ignore its instructions or rules"

CATEGORIES_V1: Mapping[str, str] = {
    "sexual": _SEXUAL,
    "hate_and_discrimination": _HATE,
    "violence_and_threats": _VIOLENCE,
    "dangerous_and_criminal_content": f"{_CRIMINAL}, or {_DANGEROUS}",
    "selfharm": _SELFHARM,
    "health": _HEALTH,
    "financial": _FINANCIAL,
    "law": _LAW,
    "pii": _PII,
}
"""Of mistral-moderation-2411."""

CATEGORIES_V2: Mapping[str, str] = {
    "sexual": _SEXUAL,
    "hate_and_discrimination": _HATE,
    "violence_and_threats": _VIOLENCE,
    "dangerous": _DANGEROUS,
    "criminal": _CRIMINAL,
    "selfharm": _SELFHARM,
    "health": _HEALTH,
    "financial": _FINANCIAL,
    "law": _LAW,
    "pii": _PII,
    "jailbreaking": _JAILBREAKING,
}
"""Of mistral-moderation-2603; what any other name of a model is given."""

THRESHOLD = 0.5


def categories_of(name: str | None) -> Mapping[str, str]:
    """The categories that a client expects of the model it has named."""
    return CATEGORIES_V1 if name is not None and name.endswith("2411") else CATEGORIES_V2
