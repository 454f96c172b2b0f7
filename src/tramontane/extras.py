"""What an installation may leave out: the extras of the distribution, and the one line that says how to add one."""

from __future__ import annotations

from typing import Literal

Extra = Literal["documents", "data", "serve", "harness", "wandb"]

DISTRIBUTION = "tramontane-lm"
"""The name to install by; import name and command are `tramontane`, which on PyPI is another project's."""

EXTRA_OF: dict[str, Extra] = {
    **dict.fromkeys(("pypdf", "docx", "trafilatura", "lxml", "lxml_html_clean", "httpx"), "documents"),
    **dict.fromkeys(("datasketch", "py3langid", "pyarrow", "zstandard"), "data"),
    **dict.fromkeys(("fastapi", "starlette", "uvicorn", "uvloop", "httptools", "fastapi_offline"), "serve"),
    **dict.fromkeys(("multipart", "python_multipart", "prometheus_client", "llguidance", "jiter"), "serve"),
    **dict.fromkeys(("pydantic", "pydantic_core", "sqlalchemy", "alembic", "psycopg", "fsspec"), "serve"),
    "lm_eval": "harness",
    "wandb": "wandb",
}
"""Top-level module -> the extra that brings it; `tests/test_extras.py` compares it with pyproject.toml."""


def install_hint(extra: Extra) -> str:
    """The command that adds `extra` to an installation."""
    return f"pip install '{DISTRIBUTION}[{extra}]'"


def missing_extra(error: ImportError) -> str | None:
    """One line about an import that failed because an extra is not installed; None if it failed for another reason."""
    module = (error.name or "").partition(".")[0]
    extra = EXTRA_OF.get(module)
    return None if extra is None else f"this needs the package {module}; {install_hint(extra)}"
