"""Every parser of what comes from outside, as a function of bytes that returns or raises only what users are told.

The kernels' C++ parses nothing: blocks and sizes reach it proved by the readers here.
"""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.fuzz.vocabularies import tekken
from tests.temporary import temporary_folder
from tramontane.config import (
    ModelConfig,
    MoeConfig,
    read_generation_config,
    read_gguf_config,
    read_hf_config,
    read_params_json,
    read_stop_ids,
)
from tramontane.config import read_json as read_config_json
from tramontane.data.recipe import read_data_recipe
from tramontane.errors import TramontaneError
from tramontane.formats import gguf_file, safetensors_file
from tramontane.formats.open_tensors import open_tensors
from tramontane.tokenizer import AnswerParser, gguf_tokenizer, load_tokenizer
from tramontane.tokenizer.messages import read_messages, read_tools
from tramontane.tokenizer.sentencepiece import SentencePieceTokenizer, read_model, write_model
from tramontane.training.recipe import read_recipe

if TYPE_CHECKING:
    from tramontane.server.threads import FairThreads

Target = Callable[[bytes], None]
TARGETS: dict[str, Target] = {}
"""By name, which is also that of the folder of its corpus."""

CHOOSING = frozenset(("json_body", "model_config", "schema", "batch_lines"))
"""Those of which the first line of an input chooses a reader for the rest."""

JSON_TARGETS = CHOOSING | {"messages", "tokenizer_json", "tekken_json", "adapter_config"}
"""Those whose inputs are mostly JSON."""

MAX_ERROR_CHARS = 1000
SAMPLE = "Über den Wolken 12345\n\n  the wind [INST] </s> 🌬️ don't"
CONFIG = ModelConfig(
    family="mixtral", dim=64, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=8, hidden_dim=96, vocab_size=96,
    norm_eps=1e-5, rope_theta=10000.0, max_seq_len=128, sliding_windows=(16, 16),
    moe=MoeConfig(num_experts=3, num_experts_per_tok=2),
)  # fmt: skip


def target(function: Target) -> Target:
    TARGETS[function.__name__] = function
    return function


@contextmanager
def refusals() -> Iterator[None]:
    """What users may be told: an error type of ours, short, on one line; of the server no failure of its own."""
    from tramontane.server.errors import ApiError

    try:
        yield
    except (TramontaneError, ApiError) as error:
        refusal = error
    else:
        return
    text = str(refusal)
    assert getattr(refusal, "status", 400) < 500, text
    assert text
    assert "\n" not in text, text
    assert len(text) <= MAX_ERROR_CHARS, text


def run(work: Any) -> Any:
    """The result of a coroutine."""
    return _loop().run_until_complete(work)


@cache
def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


@cache
def _folder() -> Path:
    return temporary_folder()


def _file(name: str, data: bytes) -> Path:
    """Alone in its folder: what lies beside a file is read too."""
    folder = _folder() / name
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_bytes(data)
    return path


def _request(data: bytes, content_type: str) -> Any:
    from fastapi import Request

    parts = iter([data[: len(data) // 2], data[len(data) // 2 :]])

    async def receive() -> dict[str, Any]:
        part = next(parts, None)
        return {"type": "http.request", "body": part or b"", "more_body": part is not None}

    headers = [(b"content-type", content_type.encode("latin-1", "replace"))]
    return Request({"type": "http", "method": "POST", "path": "/", "headers": headers, "query_string": b""}, receive)


def _chosen(data: bytes, names: Sequence[str]) -> tuple[str, bytes]:
    """The name in the first line, and the rest; where there is no such name, any, the same for the same line."""
    line, _, rest = data.partition(b"\n")
    name = line.decode("latin-1")
    return (name if name in names else names[zlib.crc32(line) % len(names)]), rest


def _json(data: bytes) -> Any:
    """Any JSON at all, from a reader that is not under test; None for what is none."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


# ---- files of models ----


@target
def gguf(data: bytes) -> None:
    with refusals():
        header = gguf_file.read_header(data, len(data))
        for read in (read_gguf_config, gguf_tokenizer):
            with refusals():
                read(header.metadata)


@target
def safetensors(data: bytes) -> None:
    with refusals():
        safetensors_file.read_header(data, len(data))


@target
def torch_pickle(data: bytes) -> None:
    with refusals(), open_tensors(_file("weights.pth", data)) as source:
        for name in source.names():
            source.info(name)
            source.read(name)


@target
def tokenizer_json(data: bytes) -> None:
    with refusals():
        load_tokenizer(_file("tokenizer.json", data)).encode(SAMPLE)


@target
def tekken_json(data: bytes) -> None:
    with refusals():
        load_tokenizer(_file("tekken.json", data)).encode(SAMPLE)


@target
def sentencepiece_model(data: bytes) -> None:
    with refusals():
        vocabulary = read_model(data)
        assert read_model(write_model(vocabulary)) == vocabulary
        SentencePieceTokenizer(vocabulary, bos_id=1, eos_id=2).encode(SAMPLE)


@target
def pre_tokenizer(data: bytes) -> None:
    """A pattern, a line break, and the text that it has to split."""
    from tramontane.tokenizer.tekken import TekkenTokenizer, read_tekken

    pattern, _, text = data.decode("utf-8", "replace").partition("\n")
    contents = tekken()
    with refusals():
        TekkenTokenizer(read_tekken({**contents, "config": {**contents["config"], "pattern": pattern}})).encode(text)


@target
def adapter_config(data: bytes) -> None:
    from tramontane.loading.peft_config import read_peft_config

    if isinstance(document := _json(data), dict):
        with refusals():
            read_peft_config(document, "adapter_config.json", CONFIG, "model.")


@target
def model_config(data: bytes) -> None:
    kind, text = _chosen(data, ("hf", "params", "generation", "stop-ids"))
    with refusals():
        document = read_config_json(_file("config.json", text))
        match kind:
            case "hf":
                read_hf_config(document)
            case "params":
                read_params_json(document)
            case "generation":
                read_generation_config(document)
            case _:
                read_stop_ids(document, "generation_config.json", 96)


@target
def recipe(data: bytes) -> None:
    path = _file("recipe.toml", data)
    for read in (read_recipe, read_data_recipe):
        with refusals():
            read(path)


# ---- text that models and users write ----


@target
def messages(data: bytes) -> None:
    """A conversation and its tools, and the prompt that each format of ours makes of them."""
    body = _json(data)
    if not isinstance(body, dict):
        return
    with refusals():
        read_messages(body.get("messages"))  # type: ignore[arg-type]
    with refusals():
        read_tools(body.get("tools"))
    for version in ("v3", "v7", "v13"):
        with refusals():
            _tekken(version).require_chat().encode_chat(body.get("messages"), tools=body.get("tools"))


@cache
def _tekken(version: str) -> Any:
    return load_tokenizer(_file("tekken.json", json.dumps(tekken(version)).encode()))


@target
def answer(data: bytes) -> None:
    """What models write, calls of tools above all: a byte below 32 is that control token, others are text."""
    for version in ("v3", "v7", "v13"):
        tokenizer = _tekken(version)
        num_control = len(tokenizer.control_names)
        parser = AnswerParser(tokenizer, call_seed="seed")
        for byte in data:
            parser.push(byte if byte < 32 and byte < num_control else num_control + byte)
        parser.finish()


# ---- the server ----


@target
def json_body(data: bytes) -> None:
    from tramontane.server.body_bounds import BodyBounds
    from tramontane.server.notes import Notes
    from tramontane.server.schema.base import parse_json, validate

    name, text = _chosen(data, sorted(bodies()))
    kind = bodies()[name]
    for notes in (None, Notes()):
        with refusals():
            BodyBounds(2**20, 2**20, max_values=1000, max_objects=1000).check(text)
            validate(kind, parse_json(text), notes=notes)


@cache
def bodies() -> dict[str, Any]:
    """Bodies of requests by name."""
    import tramontane.server.app
    from tramontane.server.endpoint import BODIES

    assert tramontane.server.app
    return BODIES


@target
def multipart(data: bytes) -> None:
    """The content type, a line break, and the form."""
    from tramontane.server.files.upload import read_upload
    from tramontane.server.store.contents import Incoming

    content_type, _, form = data.partition(b"\n")
    with refusals(), Incoming(_folder(), has_room=lambda: True) as incoming:
        run(read_upload(_request(form, content_type.decode("latin-1")), incoming, _threads(), "local"))


@cache
def _threads() -> FairThreads:
    from tramontane.server.threads import FairThreads

    return FairThreads(1, "fuzz", per_owner=1)


@target
def batch_lines(data: bytes) -> None:
    from tramontane.server.files.formats import check_format

    purpose, lines = _chosen(data, ("batch", "fine-tune"))
    with refusals():
        check_format(_file("lines.jsonl", lines), purpose)


@target
def schema(data: bytes) -> None:
    """A response format, as the child process translates it and the server compiles it."""
    from tramontane.server.notes import Notes
    from tramontane.server.structured.compiler import GrammarCompiler
    from tramontane.server.structured.constraints import words
    from tramontane.server.structured.schema_text import require_small
    from tramontane.server.structured.translation import Job, translate

    tokenizer = _tekken("v7")
    kind, wanted = _chosen(data, ("json", "json-strict", "regex", "grammar"))
    fields: dict[str, Any] = {kind: wanted.decode("utf-8", "replace")}
    with refusals(), suppress(RecursionError):  # which the child reports in one line
        if kind.startswith("json"):
            if not isinstance(document := _json(wanted), dict):
                return
            require_small(document, "schema")
            fields = {"schema": document, "is_strict": kind == "json-strict"}
        grammar = translate(Job(words(tokenizer), **fields), Notes())
        run(GrammarCompiler(tokenizer, tokenizer.vocab_size).compile(grammar))


@target
def http(data: bytes) -> None:
    """Bytes on a connection, in pieces whose sizes are theirs too. An answer is a status and the connection's end."""
    connection = _Transport()
    protocol = _http_protocol()
    protocol.connection_made(connection)
    while data and not connection.is_closing():
        size = 1 + data[0] * 4
        protocol.data_received(data[1 : 1 + size])
        data = data[1 + size :]
        run(asyncio.sleep(0))  # the app answers what is whole
    protocol.connection_lost(None)
    run(asyncio.sleep(0))
    if connection.written:
        assert connection.written.startswith((b"HTTP/1.1 4", b"HTTP/1.1 200", b"HTTP/1.1 100")), connection.written


class _Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self._is_closing = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("127.0.0.1", 50000), "sockname": ("127.0.0.1", 8000)}.get(name, default)

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def close(self) -> None:
        self._is_closing = True

    def is_closing(self) -> bool:
        return self._is_closing

    def abort(self) -> None:
        self._is_closing = True

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self._is_closing = True

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


def _http_protocol() -> Any:
    from uvicorn.config import Config
    from uvicorn.server import ServerState

    from tramontane.server.connections import ConnectionLimits, Connections
    from tramontane.server.http_protocol import HttpProtocol

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    config = Config(app, http=HttpProtocol, log_config=None)
    config.load()
    state = ServerState()
    return HttpProtocol(
        config=config, server_state=state, app_state={}, _loop=_loop(), connections=Connections(ConnectionLimits())
    )


# ---- documents ----


def _document(task: str, data: bytes) -> None:
    """As the child process reads it, which ends for too much time or memory: here that is the fuzzer's to see."""
    from tramontane.documents.child import reply_to
    from tramontane.documents.sandbox import limits_for

    reply = reply_to(task, data, limits_for(len(data)))
    if reply[:1] == b"-":
        assert b"\n" not in reply
        assert 1 < len(reply) <= MAX_ERROR_CHARS, reply
    else:
        assert reply[:1] == b"+"
        reply.decode()


@target
def html(data: bytes) -> None:
    _document("html", data)


@target
def pdf(data: bytes) -> None:
    _document("pdf", data)


@target
def docx(data: bytes) -> None:
    _document("docx", data)


@target
def document_text(data: bytes) -> None:
    from tramontane.documents.document import decode_text, kind_of

    with refusals():
        if kind_of(data, "notes.txt") == "text":
            decode_text(data, "notes.txt")
