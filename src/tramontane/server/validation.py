"""What pydantic finds wrong with a request, said of the fields that the client has sent.

Where a field may have several shapes, pydantic tells what is wrong with it as each of them. Here only that shape speaks
which the client has meant: the one that what was sent comes nearest to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tramontane.server.errors import MAX_ECHO_CHARS, ApiError, shortened_entry

Wrong = Mapping[str, Any]
"""An error of pydantic's: `type`, `loc`, `msg`, `input` and for some `ctx`."""
OTHER_KIND = frozenset(("model_type", "model_attributes_type", "dataclass_type"))
EXPECTED = "Input should be "
NOT_SHOWN = object()
MAX_ERRORS = 20
"""That are looked at: the work grows with their square."""


def validation_error(errors: Sequence[Wrong], data: Any = NOT_SHOWN, prefix: Sequence[str] = ()) -> ApiError:
    """422. The message names one field of `data` and how many more are wrong; `detail` keeps pydantic's places, but for
    the names of types in them."""
    errors = errors[:MAX_ERRORS]
    found = _meant([(_path(error, data), error) for error in errors])
    detail = []
    for path, error in found:
        entry = {"type": error["type"], "loc": [*prefix, *_place(error, path)], "msg": _words(error)}
        value = error.get("input")
        if isinstance(value, bool | int | str) and len(str(value)) <= MAX_ECHO_CHARS:
            entry["input"] = value
        detail.append(shortened_entry(entry))
    place = ".".join(map(str, found[0][0]))
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    message = f"{place}: {detail[0]['msg']}{more}" if place else f"{detail[0]['msg']}{more}"
    return ApiError(422, message, param=place or None, code=detail[0]["type"], detail=detail)


Path = tuple[str | int, ...]


def _path(error: Wrong, data: Any) -> Path:
    """Where in `data` the error lies: pydantic's place without the branches of unions, which no client has sent."""
    path: list[str | int] = []
    is_tagged = False  # the tag of this object was passed
    for number, part in enumerate(error["loc"], 1):
        is_last = number == len(error["loc"])
        if isinstance(data, dict):
            is_tag = part in (data.get("role"), data.get("type")) and not is_last
            is_missing = error["type"] == "missing" and number + 1 == len(error["loc"])
            if is_tag and not is_tagged and not _holds(data, part, error["loc"][number], is_missing=is_missing):
                is_tagged = True
                continue
            if part not in data and not (is_last and error["type"] == "missing"):
                continue
            data = data.get(part)
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        elif data is not NOT_SHOWN:
            continue
        is_tagged = False
        path.append(part)
    return tuple(path)


def _holds(data: Mapping[str, Any], name: str | int, inner: str | int, *, is_missing: bool) -> bool:
    """Whether `inner` is a field of `data[name]` rather than of `data`, whose tag has the name of a field."""
    value = data.get(name) if isinstance(name, str) else None
    return isinstance(value, Mapping) and inner not in data and (inner in value) != is_missing


def _place(error: Wrong, path: Path) -> list[str | int]:
    """Tags such as a role are kept; names of types are not."""
    return [part for part in error["loc"] if part in path or isinstance(part, int) or not _is_type_name(part)]


def _is_type_name(part: str) -> bool:
    """pydantic's names of branches, such as NamedTool or constrained-str[...]."""
    return part[:1].isupper() or bool(set("[(<") & set(part))


def _meant(found: list[tuple[Path, Wrong]]) -> list[tuple[Path, Wrong]]:
    """Without the errors of branches that were not meant. Errors at one field are those of its branches."""
    by_path: dict[Path, list[Wrong]] = {}
    for path, error in found:
        by_path.setdefault(path, []).append(error)
    kept: list[tuple[Path, Wrong]] = []
    for path, errors in by_path.items():
        has_deeper = any(other[: len(path)] == path and len(other) > len(path) for other in by_path)
        wrong_values = [error for error in errors if not _is_of_other_kind(error)]
        if has_deeper and not wrong_values:
            continue  # as this shape it is another kind of thing altogether; as another it is nearly right
        kept.append((path, _one(wrong_values or errors)))
    return kept or found


def _is_of_other_kind(error: Wrong) -> bool:
    if error["type"] == "literal_error":
        return not isinstance(error.get("input"), str)
    return error["type"] in OTHER_KIND or error["type"].endswith("_type")


def _one(errors: Sequence[Wrong]) -> Wrong:
    """All that a field may be, as one error."""
    words = list(dict.fromkeys(_words(error) for error in errors))
    if len(words) > 1 and all(word.startswith(EXPECTED) for word in words):
        return {**errors[0], "msg": EXPECTED + " or ".join(word.removeprefix(EXPECTED) for word in words)}
    return errors[0]


def _words(error: Wrong) -> str:
    """pydantic's, but where they name what is in our code."""
    context = error.get("ctx") or {}
    match error["type"]:
        case "union_tag_invalid":
            return f"{context['tag']!r} is not known; use one of {context['expected_tags']}"
        case "union_tag_not_found":
            return "Input should say of which kind it is (role or type)"
        case kind if kind in OTHER_KIND:
            return f"{EXPECTED}an object"
        case "none_required":
            return "this server does not have it; leave it out"
    return str(error["msg"]).removeprefix("Value error, ")
