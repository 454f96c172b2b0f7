"""Words: what of a tokenizer a grammar depends on, apart from its vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Words:
    adds_space: bool  # as sentencepiece does before a text, which decoding takes off
    controls: Mapping[str, int]  # control tokens by name
    call_form: str | None = None  # how the chat format writes tool calls; None: it knows no tools

    def control(self, name: str) -> str:
        """A control token in a Lark rule, by its id: no text can be mistaken for it."""
        return f"<[{self.controls[name]}]>"

    @property
    def space(self) -> str:
        return '" "?' if self.adds_space else ""
