"""Which chat format a vocabulary was trained with, from its control tokens and plain features of its template.

A template is text to search in, never a program to run: Jinja from a checkpoint has been a way to run code in other
engines (CVE-2024-34359). A template without any feature of Mistral's or Llama 2's formats means another format, which
is not guessed at.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, cast

from tramontane.errors import TokenizerError
from tramontane.tokenizer.chat import FEATURES, MistralChat
from tramontane.tokenizer.llama_chat import LlamaChat

if TYPE_CHECKING:
    from tramontane.tokenizer.base import Tokenizer
    from tramontane.tokenizer.chat import MistralVersion

# Marks of other formats: a template that has them too is a fine-tune's own, not one of Mistral's or Llama 2's.
_FOREIGN = re.compile(r"<\|\w+\|>|<(start|end)_of_turn>|### ?(Instruction|Human|User|Response)|\b(USER|ASSISTANT) ?:")

_LLAMA2_SYSTEM = "<<SYS>>"

# Where the two 32,000-piece vocabularies without control tokens have their single space.
_SPACE_ID_LLAMA = 29871
_SPACE_ID_MISTRAL_V1 = 28705


def attach_chat(tokenizer: Tokenizer, *, template: str | None = None, version: str | None = None) -> None:
    """Give `tokenizer` its chat format: by its template, else the declared `version`, else by its control tokens."""
    name = version if version is not None and template is None else recognise(tokenizer, template)
    if name == "llama2":
        tokenizer.chat = LlamaChat(tokenizer)
    elif name in FEATURES:
        try:
            tokenizer.chat = MistralChat(tokenizer, cast("MistralVersion", name))
        except TokenizerError as error:
            tokenizer.chat_reason = f"its format {name} asks for more: {error}"
    elif name is not None:
        tokenizer.chat_reason = f"its format {name} is not supported (known: {', '.join(FEATURES)}, llama2)"
    elif template is not None:
        tokenizer.chat_reason = "its chat template is of a format that is not known here"
    else:
        tokenizer.chat_reason = "it has no chat template, and its vocabulary is of no known family"
    if tokenizer.chat is None:
        tokenizer.foreign_template = template


def recognise(tokenizer: Tokenizer, template: str | None) -> str | None:
    """Name of the format, None when there are no features to tell."""
    names = tokenizer.control_names
    if template is not None and ("[INST]" not in template or _FOREIGN.search(template)):
        return None
    if "[INST]" not in names:
        return _without_control_tokens(tokenizer, template)
    if template is not None and _LLAMA2_SYSTEM in template:  # Llama 2's words around Mistral's control tokens
        return None
    if "[MODEL_SETTINGS]" in names and (template is None or "[MODEL_SETTINGS]" in template):
        return "v15"
    return _from_template(template) if template is not None else _from_control_tokens(names)


def _without_control_tokens(tokenizer: Tokenizer, template: str | None) -> str | None:
    if template is not None:
        return "llama2" if _LLAMA2_SYSTEM in template else "v1"
    if "▁<PRE>" in tokenizer.control_names or _is_space(tokenizer, _SPACE_ID_LLAMA):
        return "llama2"
    return "v1" if _is_space(tokenizer, _SPACE_ID_MISTRAL_V1) else None


def _from_template(template: str) -> str:
    if "[SYSTEM_PROMPT]" not in template:
        return "v3"
    if "[ARGS]" in template:
        return "v11" if "[CALL_ID]" in template else "v13"
    return "v7"


def _from_control_tokens(names: frozenset[str]) -> str:
    """v2 has the control tokens of v3; no checkpoint of it was published, so v3 it is unless declared."""
    if "[ARGS]" in names:
        return "v13" if "[THINK]" in names or "[CALL_ID]" not in names else "v11"
    return "v7" if "[SYSTEM_PROMPT]" in names else "v3"


def _is_space(tokenizer: Tokenizer, token_id: int) -> bool:
    return tokenizer.vocab_size > token_id and tokenizer.token_bytes(token_id) == b" "
