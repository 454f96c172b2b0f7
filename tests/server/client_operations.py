"""What the official clients can ask for, read off their sources, for the list that unknown requests are told apart by.

python -m tests.server.client_operations   # writes it anew
"""

from __future__ import annotations

import re
from pathlib import Path

import mistralai
import openai

from tramontane.server.unknown_route import OPERATIONS

MISTRAL = re.compile(r'method="(\w+)",\s*path="(/v\d/[^"]+)"')
OPENAI = re.compile(r'self\._(get|post|put|patch|delete|get_api_list)\(\s*(?:path_template\(\s*)?f?"([^"]+)"')


def operations() -> dict[str, set[str]]:
    """Methods by path, with {} for its parameters."""
    found: dict[str, set[str]] = {}
    for package, pattern, root in ((mistralai, MISTRAL, ""), (openai, OPENAI, "/v1")):
        for folder in package.__path__:
            for source in Path(folder).rglob("*.py"):
                for method, path in pattern.findall(source.read_text(encoding="utf-8")):
                    name = "GET" if method == "get_api_list" else method.upper()
                    found.setdefault(root + re.sub(r"\{[^}]*\}", "{}", re.split("[?#]", path)[0]), set()).add(name)
    return found


if __name__ == "__main__":
    lines = (f"{path} {' '.join(sorted(names))}\n" for path, names in sorted(operations().items()))
    OPERATIONS.write_text("".join(lines), encoding="utf-8")
