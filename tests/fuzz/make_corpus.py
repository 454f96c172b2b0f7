"""`python -m tests.fuzz.make_corpus`: what each target begins with, written by our own writers and a few libraries.

Inputs that have found a fault lie in the same folders, under names that say which, and are left alone.
"""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import safetensors.torch
import torch

from tests.fuzz.__main__ import CORPUS, ROOT
from tests.fuzz.targets import CONFIG
from tests.fuzz.targets import bodies as known_bodies
from tests.fuzz.vocabularies import sentencepiece, tekken
from tramontane.config import to_gguf_metadata, to_hf_config, to_params_json
from tramontane.tokenizer import load_tokenizer
from tramontane.tokenizer.sentencepiece import SentencePieceTokenizer, write_model

TENSORS = {"norm.weight": torch.arange(32.0), "output.weight": torch.ones(2, 32)}
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer", "minimum": 1}, "b": {"enum": ["x", "y"]}, "c": {"$ref": "#/$defs/c"}},
    "$defs": {"c": {"type": "array", "items": {"anyOf": [{"type": "string", "maxLength": 9}, {"type": "null"}]}}},
    "required": ["a"],
}
TOOLS = [{"type": "function", "function": {"name": "f", "description": "d", "parameters": SCHEMA}}]
CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "How warm is it?"}]},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "21", "tool_call_id": "abcdefghi", "name": "f"},
    {"role": "assistant", "content": "21 degrees."},
    {"role": "user", "content": "And tomorrow?"},
]

PACKAGE = "http://schemas.openxmlformats.org/package/2006"
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006"
RELATIONS = "application/vnd.openxmlformats-package.relationships+xml"
WORD_TYPE = "application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"
WORD = {
    "[Content_Types].xml": f'<Types xmlns="{PACKAGE}/content-types">'
    f'<Default Extension="rels" ContentType="{RELATIONS}"/>'
    f'<Override PartName="/word/document.xml" ContentType="{WORD_TYPE}"/></Types>',
    "_rels/.rels": f'<Relationships xmlns="{PACKAGE}/relationships"><Relationship Id="r1" '
    f'Type="{OFFICE}/relationships/officeDocument" Target="word/document.xml"/></Relationships>',
    "word/document.xml": '<w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"><w:body>'
    "<w:p><w:r><w:t>Hello</w:t></w:r></w:p><w:tbl><w:tr><w:tc><w:p/></w:tc></w:tr></w:tbl></w:body></w:document>",
}


def main() -> None:
    for target, name, data in seeds():
        path = CORPUS / target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def seeds() -> Iterator[tuple[str, str, bytes]]:
    """(target, name, bytes)"""
    for part in (of_models, of_text, of_the_server, of_documents):
        yield from part()


def of_models() -> Iterator[tuple[str, str, bytes]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        writer = gguf.GGUFWriter(folder / "x.gguf", "llama")
        metadata = (
            to_gguf_metadata(CONFIG) | SentencePieceTokenizer(sentencepiece(), bos_id=1, eos_id=2).gguf_metadata()
        )
        for key, value in metadata.items():
            if key != "general.architecture":
                _add(writer, key, value)
        for tensor_name, tensor in TENSORS.items():
            writer.add_tensor(tensor_name, tensor.numpy())
        for step in (
            writer.write_header_to_file,
            writer.write_kv_data_to_file,
            writer.write_tensors_to_file,
            writer.close,
        ):
            step()
        yield "gguf", "sentencepiece", (folder / "x.gguf").read_bytes()
        yield "safetensors", "two-tensors", safetensors.torch.save(TENSORS, {"format": "pt"})
        torch.save(TENSORS, folder / "x.pth")
        yield "torch_pickle", "zip", (folder / "x.pth").read_bytes()
        yield "sentencepiece_model", "bytes", write_model(sentencepiece())
        (folder / "tekken.json").write_text(json.dumps(tekken()))
        saved = folder / "saved"
        saved.mkdir()
        load_tokenizer(folder / "tekken.json").save(saved)
        yield "tokenizer_json", "byte-level", (saved / "tokenizer.json").read_bytes()
        yield "tekken_json", "v7", _json(tekken())
    yield "pre_tokenizer", "mistral", f"{tekken()['config']['pattern']}\nIt isn't 12 degrees, ".encode()
    yield "pre_tokenizer", "nested", b"(a|aa)+(?!a)b|.\naaaaaaaaaaaaaaaaaaaa!"
    peft = {
        "peft_type": "LORA",
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj", "down_proj"],
        "lora_dropout": 0.1,
    }
    yield (
        "adapter_config",
        "lora",
        _json(peft | {"rank_pattern": {"layers.0.q_proj": 2}, "bias": "none"}),
    )
    yield "model_config", "hf", b"hf\n" + _json(to_hf_config(CONFIG))
    yield "model_config", "params", b"params\n" + _json(to_params_json(CONFIG))
    yield (
        "model_config",
        "generation",
        b"generation\n" + _json({"temperature": 0.7, "eos_token_id": [2, 3]}),
    )
    yield "model_config", "stop-ids", b"stop-ids\n" + _json({"eos_token_id": [2, 3]})


def of_text() -> Iterator[tuple[str, str, bytes]]:
    yield "messages", "tools", _json({"messages": TALK, "tools": TOOLS})
    thinking = {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "1"}]}
    yield "messages", "thinking", _json({"messages": [TALK[1], thinking, TALK[1]]})
    calls = b'[{"name": "f", "arguments": {"a": [1, "x\\u00e9"]}, "id": "abcdefghi"}]'
    for version in ("v7", "v13"):
        names = [token["token_str"] for token in tekken(version)["special_tokens"]]
        yield "answer", f"calls-{version}", bytes([names.index("[TOOL_CALLS]")]) + calls + bytes([names.index("</s>")])
    mark = {name: bytes([place]) for place, name in enumerate(names)}
    yield (
        "answer",
        "thinks",
        mark["[THINK]"] + b"hm" + mark["[/THINK]"] + b"so" + mark["[TOOL_CALLS]"] + b"f" + mark["[ARGS]"] + b"{}",
    )
    for recipe in ("default_data", "petit_chat_cpu"):
        yield "recipe", recipe, (ROOT / "recipes" / f"{recipe}.toml").read_bytes()


def of_the_server() -> Iterator[tuple[str, str, bytes]]:
    body: dict[str, Any] = {
        "model": "m",
        "messages": TALK,
        "tools": TOOLS,
        "max_tokens": 9,
        "temperature": 0.5,
        "stop": ["x"],
    }
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, "strict": True}}
    bodies: dict[str, dict[str, Any]] = {
        "ChatRequest": body | {"response_format": form, "tool_choice": "any", "logit_bias": {"5": 1}, "n": 2},
        "CompletionRequest": {"model": "m", "prompt": ["a", "b"], "echo": True, "logprobs": 2},
        "ResponseRequest": {"model": "m", "input": [{"type": "message", "role": "user", "content": "x"}]},
    }
    for kind_name, kind in known_bodies().items():
        default = {"model": "m", "input": ["a"], "prompt": "a", "messages": TALK[:2]}
        known = {key: value for key, value in default.items() if key in kind.model_fields}
        yield "json_body", kind_name, kind_name.encode() + b"\n" + _json(bodies.get(kind_name, known))
    disposition = b'Content-Disposition: form-data; name="%s"%s\r\n\r\n'
    parts = [disposition % (b"purpose", b"") + b"batch", disposition % (b"file", b'; filename="a.jsonl"') + b"{}\n"]
    upload = b"".join(b"--B\r\n" + part + b"\r\n" for part in parts) + b"--B--\r\n"
    yield "multipart", "upload", b"multipart/form-data; boundary=B\n" + upload
    line = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": TALK[:2]}}
    yield "batch_lines", "batch", b"batch\n" + _json(line) + b"\n" + _json({"body": {}}) + b"\n"
    shapes = [
        {"messages": TALK, "tools": TOOLS},
        {"instruction": "a", "output": "b"},
        {"text": "t"},
        {"prompt": "a", "chosen": "b", "rejected": "c"},
    ]
    yield "batch_lines", "samples", b"fine-tune\n" + b"\n".join(map(_json, shapes)) + b"\n"
    yield "schema", "json", b"json\n" + _json(SCHEMA)
    yield "schema", "json-strict", b"json-strict\n" + _json({"type": "array", "items": {"type": "number"}})
    yield "schema", "regex", b"regex\n" + rb"(a|b){1,9}[^c]\d+/?"
    yield "schema", "lark", b"grammar\n" + b'start: "a" e?\ne: /[0-9]+/ | "(" e ")"\n'
    yield "schema", "gbnf", b"grammar\n" + b'root ::= "a" e{1,3}\ne ::= [0-9]+ | "(" e ")"\n'
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    for name, rest in (
        ("length", b"Content-Length: 2\r\n\r\n{}"),
        ("chunked", b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX-A: b\r\n\r\n"),
        ("pipelined", b"Content-Length: 0\r\n\r\nGET /health HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\r\n"),
    ):
        whole = head + rest
        yield "http", name, b"".join(b"\x05" + whole[start : start + 21] for start in range(0, len(whole), 21))


def of_documents() -> Iterator[tuple[str, str, bytes]]:
    yield (
        "html",
        "page",
        b"<!doctype html><title>t</title><article><h1>H</h1><p>Text <b>of</b> a page.</p><ul><li>1</ul></article>",
    )
    yield "html", "table", b"<html><meta charset=latin1><table><tr><td>a<td>\xe9</table><p>" + b"word " * 30
    content = b"BT /F 12 Tf 10 10 Td (Hello) Tj ET"
    yield (
        "pdf",
        "hello",
        (
            b"%%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n"
            b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]/Contents 4 0 R/Resources<<"
            b"/Font<</F 5 0 R>>>>>>endobj\n"
            b"4 0 obj<</Length %d>>stream\n%s\nendstream endobj\n"
            b"5 0 obj<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>endobj\ntrailer<</Root 1 0 R>>\n%%%%EOF\n"
            % (len(content), content)
        ),
    )
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, text in WORD.items():
            archive.writestr(zipfile.ZipInfo(name), text)
    yield "docx", "hello", stream.getvalue()
    yield "document_text", "utf-8", "Über den Wolken".encode()
    yield "document_text", "utf-16", "Über".encode("utf-16")


def _add(writer: Any, key: str, value: Any) -> None:
    """Of the type that the format has for it."""
    if isinstance(value, bool | str):
        (writer.add_bool if isinstance(value, bool) else writer.add_string)(key, value)
    elif isinstance(value, int | float):
        (writer.add_uint32 if isinstance(value, int) else writer.add_float32)(key, value)
    else:
        writer.add_array(key, list(value))


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


if __name__ == "__main__":
    main()
