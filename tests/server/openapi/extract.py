"""Cuts the answers of the routes we implement out of Mistral's published OpenAPI files, for tests to judge ours by.

python -m tests.server.openapi.extract PUBLISHED.yaml OUT.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

ROUTES = (
    *(("get", "/v1/models"), ("get", "/v1/models/{model_id}"), ("post", "/v1/chat/completions")),
    *(("post", "/v1/fim/completions"), ("post", "/v1/embeddings"), ("post", "/v1/moderations")),
    *(("post", "/v1/chat/moderations"), ("post", "/v1/classifications"), ("post", "/v1/chat/classifications")),
    *(("post", "/v1/files"), ("get", "/v1/files"), ("get", "/v1/files/{file_id}"), ("delete", "/v1/files/{file_id}")),
    *(("get", "/v1/files/{file_id}/url"), ("post", "/v1/batch/jobs"), ("get", "/v1/batch/jobs")),
    *(("get", "/v1/batch/jobs/{job_id}"), ("post", "/v1/batch/jobs/{job_id}/cancel")),
)
CHUNKS = "CompletionChunk"


def extract(spec: dict[str, Any]) -> dict[str, Any]:
    """`{"answers": {"METHOD path": schema}, "$defs": {...}}` with nothing that is not referred to."""
    answers = {
        f"{method} {path}": spec["paths"][path][method]["responses"]["200"]["content"]["application/json"]["schema"]
        for method, path in ROUTES
    }
    answers["chunk"] = {"$ref": f"#/components/schemas/{CHUNKS}"}
    definitions: dict[str, Any] = {}
    pending = list(answers.values())
    while pending:
        for name in names(pending.pop()):
            if name not in definitions:
                definitions[name] = spec["components"]["schemas"][name]
                pending.append(definitions[name])
    text = json.dumps({"answers": answers, "$defs": definitions}).replace("#/components/schemas/", "#/$defs/")
    cut: dict[str, Any] = without_prose(json.loads(text))
    return cut


def names(schema: Any) -> set[str]:
    """Of the definitions a schema refers to."""
    if isinstance(schema, list):
        return set().union(*map(names, schema))
    if not isinstance(schema, dict):
        return set()
    found = set().union(*map(names, schema.values()))
    reference = schema.get("$ref")
    return found | {reference.rpartition("/")[2]} if isinstance(reference, str) else found


def without_prose(schema: Any) -> Any:
    """Without what no validator reads."""
    if isinstance(schema, list):
        return [without_prose(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    prose = ("description", "examples", "example", "title", "default", "x-speakeasy-unknown-values")
    return {
        name: {key: without_prose(entry) for key, entry in value.items()}
        if name in ("properties", "$defs", "answers")
        else without_prose(value)
        for name, value in schema.items()
        if name not in prose
    }


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    cut = extract(yaml.safe_load(source.read_text(encoding="utf-8")))
    target.write_text(json.dumps(cut, indent=1, sort_keys=True) + "\n", encoding="utf-8")
