"""Tramontane: run, train and serve Mistral-family language models on your own machines."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tramontane.engine.sampling import SamplingParams
    from tramontane.llm import LLM, AsyncLLM

__version__ = "0.2.0"
__all__ = ["LLM", "AsyncLLM", "SamplingParams", "__version__"]

_HOMES = {"LLM": "tramontane.llm", "AsyncLLM": "tramontane.llm", "SamplingParams": "tramontane.engine.sampling"}


def __getattr__(name: str) -> Any:
    """Import the public names on first use, so that `import tramontane` stays free of torch."""
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'tramontane' has no attribute {name!r}")
