"""The shapes that rows of training samples come in, told apart by their keys and turned into those of `chat_samples`.

A row is of the first shape whose keys it has. Keys that a shape does not use stay, to be counted as passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tramontane.data.chat_samples import (
    ChatSample,
    ClassifierSample,
    PreferencePair,
    parse_chat,
    parse_classifier,
    parse_preference,
    parse_text,
)
from tramontane.data.conversations import (
    decoded,
    from_chatgpt,
    from_sharegpt,
    from_transcript,
    parted,
    tools_of,
    turns_in,
)
from tramontane.data.sample_notes import SampleNotes
from tramontane.errors import DataError

SampleKind = Literal["chat", "preference", "classifier"]
Row = Mapping[str, Any]
Sample = ChatSample | PreferencePair | ClassifierSample | str
"""A text (`str`) is to be learned whole."""

_TASKS: Mapping[SampleKind, str] = {
    "chat": "conversations or texts; use --task chat",
    "preference": "preferences; use --task preference (over HTTP method dpo)",
    "classifier": "labels; use --task classify (over HTTP job type classifier)",
}
_PAIRS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("question", "answer"),
    ("question", "response"),
    ("query", "response"),
    ("query", "answer"),
    ("input", "output"),
    ("inputs", "targets"),
    ("problem", "solution"),
    ("user", "assistant"),
)
_QUESTIONS = ("prompt", "question", "instruction", "query", "input")
_TEXTS = ("text", "sentence", "content", "review")
_LABELS = ("label", "labels")


@dataclass(frozen=True, slots=True)
class Shape:
    """One way to write a sample. `turn` makes the row of `chat_samples` of it, None for one to be left out."""

    name: str
    kind: SampleKind
    keys: str  # as shown to a user
    fits: Callable[[Row], bool]
    turn: Callable[[Row, SampleNotes], Row | None]


def parse_row(row: Row, kind: SampleKind | None, notes: SampleNotes, *, thinks: bool = True) -> Sample | None:
    """The sample that a row holds; `kind` None takes any. None for a row that is left out, as `notes` then tell.
    Raises DataError saying what is wrong, or which keys were found and which are known."""
    shape = shape_of(row, kind)
    turned = shape.turn(row, notes)
    if turned is None:
        return None
    if shape.name:
        notes.tell(f"read as {shape.name}")
    if shape.kind == "preference":
        return parse_preference(turned, notes, thinks=thinks)
    if shape.kind == "classifier":
        return parse_classifier(turned, notes)
    return parse_chat(turned, notes, thinks=thinks) if "messages" in turned else parse_text(turned, notes)


def conversation_row(row: Row, notes: SampleNotes) -> Row | None:
    """A row of any shape of conversation with its `messages` in the form of the chat API; None for one to be left out.
    Raises DataError for another row."""
    shape = shape_of(row, "chat")
    turned = shape.turn(row, notes)
    if turned is not None and not (isinstance(turned.get("messages"), list) and turned["messages"]):
        raise DataError("holds no conversation")
    if turned is not None and shape.name:
        notes.tell(f"read as {shape.name}")
    return turned


def shape_of(row: Row, kind: SampleKind | None = None) -> Shape:
    """Raises DataError for a row of no shape that is known for `kind`."""
    fitting = [shape for shape in SHAPES if shape.fits(row)]
    for shape in fitting:
        if kind in (None, shape.kind):
            return shape
    if kind == "preference" and _is_unpaired(row):
        raise DataError(
            "prompt, completion and label are unpaired preferences, which no loss here takes; give chosen and rejected "
            "of each prompt, or learn the completions labelled true with --task chat"
        )
    if fitting:
        raise DataError(f"holds {_TASKS[fitting[0].kind]}")
    known = "; ".join(dict.fromkeys(shape.keys for shape in SHAPES if kind in (None, shape.kind)))
    found = ", ".join(map(repr, list(row)[:12])) or "none"
    raise DataError(f"keys {found} are of no shape that is known; known are {known}")


def _has(*keys: str) -> Callable[[Row], bool]:
    return lambda row: all(row.get(key) is not None for key in keys)


def _without(row: Row, *keys: str) -> dict[str, Any]:
    return {key: item for key, item in row.items() if key not in keys}


def _with_context(row: Row, messages: Sequence[Any]) -> dict[str, Any]:
    """`messages` in a row, after the system prompt and beside the tools that stand in columns of their own."""
    rest = _without(row, "messages")
    system = next((row[key] for key in ("system", "system_prompt") if isinstance(row.get(key), str)), None)
    if system and not (isinstance(messages[0], Mapping) and messages[0].get("role") in ("system", "developer")):
        messages = [{"role": "system", "content": system}, *messages]
        rest = _without(rest, "system", "system_prompt")
    if "tools" in rest:
        rest["tools"] = tools_of(rest["tools"])
    return {**rest, "messages": list(messages)}


def _asked(question: Any, answer: Any) -> list[Any]:
    """A question and its answer, each a text or messages; of messages, only those of the answer are learned."""
    asked = turns_in(question) or [{"role": "user", "content": question}]
    answered = turns_in(answer) or [{"role": "assistant", "content": answer}]
    silent = [{**each, "weight": 0} if _is_assistant(each) else each for each in asked]
    return [*silent, *answered]


def _is_assistant(message: Any) -> bool:
    return isinstance(message, Mapping) and message.get("role") == "assistant"


def _messages(row: Row, notes: SampleNotes) -> Row:
    messages = decoded(row["messages"])
    return _with_context(row, messages) if isinstance(messages, list) and messages else row


def _conversations(row: Row) -> Any:
    return decoded(row["conversations"] if row.get("conversations") is not None else row.get("conversation"))


def _sharegpt(row: Row, notes: SampleNotes) -> Row:
    messages = from_sharegpt(_conversations(row), with_tools=tools_of(row.get("tools")) is not None)
    if not messages:
        raise DataError("conversations is empty; write a question and an answer")
    last = max((place for place, message in enumerate(messages) if _is_assistant(message)), default=None)
    if last is not None and last + 1 < len(messages):  # as those that were broken off often end
        notes.tell("questions at the end without an answer, left out")
        messages = messages[: last + 1]
    return _with_context(_without(row, "conversations", "conversation"), messages)


def _alpaca_answer(row: Row) -> str | None:
    return next((key for key in ("output", "response", "answer", "completion") if row.get(key) is not None), None)


def _alpaca(row: Row, notes: SampleNotes) -> Row:
    answer = _alpaca_answer(row) or "output"
    given = next((key for key in ("input", "context") if row.get(key)), "input")
    if not isinstance(row.get(given) or "", str):
        raise DataError(f"{given} must be text")
    question = "\n\n".join(part for part in (row["instruction"], row.get(given)) if part)
    history = decoded(row.get("history")) or []
    if not isinstance(history, list) or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in history):
        raise DataError("history must be a list of pairs of a question and its answer")
    messages = [message for pair in history for message in _asked(*pair)] + _asked(question, row[answer])
    return _with_context(_without(row, "instruction", given, answer, "history"), messages)


def _pair_of(row: Row) -> tuple[str, str] | None:
    if row.get("chosen") is not None or row.get("rejected") is not None:
        return None
    return next((pair for pair in _PAIRS if _has(*pair)(row)), None)


def _is_unpaired(row: Row) -> bool:
    is_flag = str(row.get("label")).lower() in ("true", "false", "0", "1")
    return _has("prompt", "completion", "label")(row) and is_flag


def _unpaired(row: Row, notes: SampleNotes) -> Row | None:
    if str(row["label"]).lower() in ("false", "0"):
        notes.tell("completions labelled false, left out")
        return None
    return _with_context(_without(row, "prompt", "completion", "label"), _asked(row["prompt"], row["completion"]))


def _pair(row: Row, notes: SampleNotes) -> Row:
    question, answer = _pair_of(row) or _PAIRS[0]
    return _with_context(_without(row, question, answer), _asked(row[question], row[answer]))


def _chatgpt(row: Row, notes: SampleNotes) -> Row | None:
    messages = from_chatgpt(row)
    if not messages:
        notes.tell("conversations without an answer, left out")
        return None
    return {"messages": messages}


def _text(row: Row, notes: SampleNotes) -> Row:
    return row


def _openai_pair(row: Row, notes: SampleNotes) -> Row:
    given = row["input"]
    rest = _without(row, "input", "preferred_output", "non_preferred_output")
    return {
        **rest,
        **_with_context(given, turns_in(given.get("messages")) or []),
        "chosen": row["preferred_output"],
        "rejected": row["non_preferred_output"],
    }


def _question_of(row: Row) -> str | None:
    return next((key for key in _QUESTIONS if row.get(key) not in (None, "", [])), None)


def _preference(row: Row, notes: SampleNotes) -> Row:
    """Chosen and rejected with a question beside them, or as whole conversations that share it."""
    chosen, rejected = _answer(row["chosen"]), _answer(row["rejected"])
    question = _question_of(row)
    if row.get("conversations") is not None:
        notes.tell("read as ShareGPT with two answers (conversations, chosen, rejected)")
        context = from_sharegpt(_conversations(row), with_tools=tools_of(row.get("tools")) is not None)
        return _with_pair(_without(row, "conversations"), context, chosen, rejected)
    if _is_whole(chosen) and _is_whole(rejected):  # what stands beside them repeats their beginning
        notes.tell("read as two conversations that begin alike (chosen, rejected)")
        context, chosen, rejected = parted(chosen, rejected)
        return _with_pair(_without(row, "messages", question or ""), context, chosen, rejected)
    if row.get("messages") is not None:
        return _with_pair(row, turns_in(row["messages"]) or [], chosen, rejected)
    if question is None:
        raise DataError("chosen and rejected need a prompt, or must be whole conversations that begin alike")
    notes.tell(f"read as a question and two answers ({question}, chosen, rejected)")
    context = turns_in(row[question]) or [{"role": "user", "content": row[question]}]
    return _with_pair(_without(row, question), context, chosen, rejected)


def _answer(value: Any) -> Any:
    """Text, or messages, of an answer; whole conversations of transcripts too."""
    turns = turns_in(value)
    if turns is None and isinstance(value, str):
        turns = from_transcript(value)
    return value if turns is None else turns


def _is_whole(answer: Any) -> bool:
    return isinstance(answer, list) and bool(answer) and not _is_assistant(answer[0])


def _with_pair(row: Row, context: Sequence[Any], chosen: Any, rejected: Any) -> Row:
    if not context:
        raise DataError("the conversation before chosen and rejected is empty")
    return {**_with_context(row, context), "chosen": chosen, "rejected": rejected}


def _scored(row: Row, notes: SampleNotes) -> Row:
    """UltraFeedback: the best and the worst of several completions."""
    scored = [
        (float(each.get("overall_score", each.get("fine-grained_score"))), place, each["response"])
        for place, each in enumerate(row["completions"])
    ]
    best, worst = max(scored), min(scored)
    if best[0] == worst[0]:
        raise DataError("completions are all of the same score; a pair must differ")
    rest = _without(row, "instruction", "completions")
    return _with_pair(rest, [{"role": "user", "content": row["instruction"]}], best[2], worst[2])


def _is_scored(row: Row) -> bool:
    completions = row.get("completions")
    return (
        _has("instruction")(row)
        and isinstance(completions, list)
        and all(
            isinstance(each, Mapping)
            and isinstance(each.get("response"), str)
            and isinstance(each.get("overall_score", each.get("fine-grained_score")), int | float)
            for each in completions
        )
        and len(completions) > 1
    )


def _labelled_text(row: Row) -> tuple[str, str] | None:
    text = next((key for key in _TEXTS if isinstance(row.get(key), str)), None)
    label = next((key for key in _LABELS if row.get(key) is not None), None)
    return None if text is None or label is None or isinstance(row[label], Mapping) else (text, label)


def _classification(row: Row, notes: SampleNotes) -> Row:
    text, label = _labelled_text(row) or ("text", "label")
    name = next((key for key in ("label_text", "label_name") if isinstance(row.get(key), str)), None)
    value = row[name] if name else row[label]
    several = [_label(each) for each in value] if isinstance(value, list) else _label(value)
    rest = _without(row, text, label, name or "")
    return {**rest, "text": row[text], "labels": {label: several}}


def _label(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int) else value


def _native(row: Row, notes: SampleNotes) -> Row:
    return row


SHAPES: Sequence[Shape] = (
    Shape(
        "OpenAI's preferences (input, preferred_output, non_preferred_output)",
        "preference",
        "input, preferred_output, non_preferred_output",
        lambda row: isinstance(row.get("input"), Mapping) and _has("preferred_output", "non_preferred_output")(row),
        _openai_pair,
    ),
    Shape("", "preference", "messages or prompt, chosen, rejected", _has("chosen", "rejected"), _preference),
    Shape(
        "UltraFeedback (the best and the worst of completions)",
        "preference",
        "instruction, completions with overall_score",
        _is_scored,
        _scored,
    ),
    Shape("", "classifier", "text or messages, labels", lambda row: isinstance(row.get("labels"), Mapping), _native),
    Shape("", "chat", "messages", _has("messages"), _messages),
    Shape(
        "ShareGPT (conversations of from and value)",
        "chat",
        "conversations",
        lambda row: isinstance(_conversations(row), list) if {"conversations", "conversation"} & row.keys() else False,
        _sharegpt,
    ),
    Shape(
        "an export of ChatGPT (the branch seen last of each conversation)",
        "chat",
        "mapping",
        lambda row: isinstance(row.get("mapping"), Mapping),
        _chatgpt,
    ),
    Shape(
        "Alpaca (instruction, input, output)",
        "chat",
        "instruction, input, output",
        lambda row: isinstance(row.get("instruction"), str) and _alpaca_answer(row) is not None,
        _alpaca,
    ),
    Shape(
        "completions with a verdict (prompt, completion, label); those labelled true are learned",
        "chat",
        "prompt, completion, label",
        _is_unpaired,
        _unpaired,
    ),
    Shape(
        "questions and answers (columns such as prompt and completion)",
        "chat",
        "; ".join(f"{question}, {answer}" for question, answer in _PAIRS),
        lambda row: _pair_of(row) is not None,
        _pair,
    ),
    Shape(
        "texts to learn whole (text)",
        "chat",
        "text",
        lambda row: _has("text")(row) and not any(key in row for key in ("label", "labels")),
        _text,
    ),
    Shape(
        "labelled texts (text, label)",
        "classifier",
        "text, label",
        lambda row: _labelled_text(row) is not None,
        _classification,
    ),
)
