"""LLM and AsyncLLM: text in, text out; the one place where tokenizer and engine meet."""

from tramontane.llm.async_llm import AsyncLLM
from tramontane.llm.completion import Choice, Completion, Delta
from tramontane.llm.llm import LLM

__all__ = ["LLM", "AsyncLLM", "Choice", "Completion", "Delta"]
