"""What it costs to refuse files of models that are not what they should be: seconds and memory, each in a child.

    python -m benchmarks.malformed_files [--mutants 200] [--only NAME]

`built` are files made to cost much for their size, at the largest size that is read; `mutants` are those of the
fuzzers' corpus with a few bytes changed, removed, repeated or cut. Seconds are of the processor. The goal is a p99 of
0.1 s and 64 MiB; what is as large as the largest vocabularies costs as much as they do.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import random
import resource
import struct
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.formats.hostile import peak_memory
from tests.fuzz.__main__ import CORPUS

from benchmarks._results import record
from tramontane.config import read_generation_config, read_gguf_config, read_hf_config, read_params_json
from tramontane.config import read_json as read_config
from tramontane.errors import TramontaneError
from tramontane.formats import gguf_file
from tramontane.formats.open_tensors import open_tensors
from tramontane.tokenizer import gguf_tokenizer, load_tokenizer

MIB = 2**20
LONG = struct.pack("<I", 4 * MIB - 20)
GOAL_S, GOAL_BYTES = 0.1, 64 * MIB

Read = Callable[[Path], object]


def gguf(path: Path) -> None:
    with open_tensors(path) as source:
        assert isinstance(source, gguf_file.GgufSource)
        read_gguf_config(source.metadata)
        gguf_tokenizer(source.metadata)


def weights(path: Path) -> None:
    with open_tensors(path) as source:
        for name in source.names():
            source.info(name)


def folder_of(path: Path) -> None:
    weights(path.parent)


READERS: dict[str, tuple[str, Read]] = {
    "gguf": ("x.gguf", gguf),
    "safetensors": ("x.safetensors", weights),
    "index": ("model.safetensors.index.json", folder_of),
    "torch_pickle": ("x.pth", weights),
    "tokenizer_json": ("tokenizer.json", load_tokenizer),
    "tekken_json": ("tekken.json", load_tokenizer),
    "sentencepiece_model": ("tokenizer.model", load_tokenizer),
    "config": ("config.json", lambda path: read_hf_config(read_config(path))),
    "params": ("params.json", lambda path: read_params_json(read_config(path))),
    "generation_config": ("generation_config.json", lambda path: read_generation_config(read_config(path))),
}
"""The name under which a kind of file is read, and its reader."""


# ---- files that are built ----


def gguf_of(num_tensors: int, body: bytes, num_keys: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, num_tensors, num_keys) + body


def gguf_records(count: int, *, step: int, tail: int = 0) -> bytes:
    """Tensors of 8 values each, `step` bytes apart."""
    names = (f"t{number}".encode() for number in range(count))
    records = (
        struct.pack("<Q", len(name)) + name + struct.pack("<IQIQ", 1, 8, 0, number * step)
        for number, name in enumerate(names)
    )
    return gguf_of(count, b"".join(records) + bytes(tail))


def gguf_array(kind: int, count: int, item: bytes) -> bytes:
    return gguf_of(0, struct.pack("<Q1sIIQ", 1, b"k", 9, kind, count) + item * count, 1)


def gguf_string(num_bytes: int) -> bytes:
    return gguf_of(0, struct.pack("<Q1sIQ", 1, b"k", 8, num_bytes) + b"x" * num_bytes, 1)


def pth(program: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02" + program + b".")
    return out.getvalue()


def zip_of_records(count: int) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}.")
        for number in range(count):
            archive.writestr(f"a/data/{number}", b"")
    return out.getvalue()


def tensors_of_text(count: int) -> bytes:
    """Every tensor is a name and no tensor."""
    return pth(pickle.dumps({f"t{number}": f"v{number}" for number in range(count)}, protocol=2)[2:-1])


def safetensors(header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header


def safetensors_records(count: int, *, stop: int = 0) -> bytes:
    entry = {"dtype": "U8", "shape": [0], "data_offsets": [0, stop]}
    return safetensors(json.dumps({f"t{number}": entry for number in range(count)}).encode())


def pieces(count: int, piece: bytes) -> bytes:
    return (b"\x0a" + bytes([len(piece)]) + piece) * count


def json_kinds() -> Iterator[tuple[str, bytes]]:
    yield "114 MiB of {}", b'{"a": [' + b"{}," * (38 * MIB) + b"{}]}"
    yield "60 MiB of []", b'{"a": [' + b"[]," * (20 * MIB) + b"[]]}"
    yield "290,000 objects", b'{"a": [' + b"{}," * 290_000 + b"{}]}"
    yield "700,000 lists", b'{"a": [' + b"[]," * 700_000 + b"[]]}"
    yield "numbers", b'{"a": [' + b"1.5," * 2_900_000 + b"1]}"
    yield "keys", json.dumps({f"{number:x}": number for number in range(700_000)}).encode()
    yield "one string of 60 MiB", b'{"a": "' + b"x" * (60 * MIB) + b'"}'
    yield "one string of escapes", b'{"a": "' + rb"\u00e9" * (10 * MIB) + b'"}'
    yield "spaces", b"{" + b" " * (60 * MIB) + b"}"
    yield "depth", b'{"a": ' + b"[" * 700_000
    yield "digits", b'{"a": ' + b"9" * (8 * MIB) + b"}"


def built() -> Iterator[tuple[str, str, Callable[[], bytes]]]:
    """Kind, name, and what writes it."""
    yield "gguf", "1,000,000 bogus tensors", lambda: gguf_records(1_000_000, step=1 << 40)
    yield "gguf", "65,000 bogus tensors", lambda: gguf_records(65_000, step=1 << 40)
    yield "gguf", "65,000 tensors over each other", lambda: gguf_records(65_000, step=0, tail=4 * MIB)
    yield "gguf", "65,000 tensors with gaps", lambda: gguf_records(65_000, step=64, tail=8 * MIB)
    yield "gguf", "20,000 tensors with gaps", lambda: gguf_records(20_000, step=64, tail=8 * MIB)
    yield "gguf", "4 M empty strings", lambda: gguf_array(8, 4_000_000, bytes(8))
    yield "gguf", "1 M empty strings", lambda: gguf_array(8, 1_000_000, bytes(8))
    yield "gguf", "4 M numbers", lambda: gguf_array(10, 4_000_000, b"\x77" * 8)
    yield "gguf", "1 M numbers", lambda: gguf_array(10, 1_000_000, b"\x77" * 8)
    yield "gguf", "a string of 250 MiB", lambda: gguf_string(250 * MIB)
    yield "torch_pickle", "4 M memos", lambda: pth(b"}" + b"\x94" * (4 * MIB - 10))
    yield "torch_pickle", "4 M tuples", lambda: pth(b")" + b"\x85" * (4 * MIB - 10))
    yield "torch_pickle", "2 M builds", lambda: pth(b"}" + b"}b" * (2 * MIB - 10))
    yield "torch_pickle", "2 M empty fillings", lambda: pth(b"}" + b"(u" * (2 * MIB - 10))
    yield "torch_pickle", "2 M protocols", lambda: pth(b"\x80\x02" * (2 * MIB - 10))
    yield (
        "torch_pickle",
        "one name of 4 MiB",
        lambda: pth(b"X" + struct.pack("<I", 4 * MIB - 20) + b"x" * (4 * MIB - 20)),
    )
    yield (
        "torch_pickle",
        "a whole number of 4 MiB",
        lambda: pth(b"\x8b" + struct.pack("<I", 4 * MIB - 20) + b"\x77" * (4 * MIB - 20)),
    )
    yield "torch_pickle", "100,000 names", lambda: tensors_of_text(100_000)
    yield "torch_pickle", "100,000 records", lambda: zip_of_records(100_000)
    yield "safetensors", "200,000 tensors beyond the end", lambda: safetensors_records(200_000, stop=1)
    yield "safetensors", "20,000 tensors beyond the end", lambda: safetensors_records(20_000, stop=1)
    yield "sentencepiece_model", "8 M empty pieces", lambda: pieces(8 * MIB, b"")
    yield "sentencepiece_model", "1 M pieces", lambda: pieces(1_000_000, b"\x0a\x02xy")
    yield "sentencepiece_model", "one piece of 8 M fields", lambda: b"\x0a\x80\x80\x80\x08" + b"\x18\x01" * (8 * MIB)
    for name, text in json_kinds():
        for kind in ("config", "index", "tokenizer_json", "tekken_json"):
            yield kind, name, lambda text=text: text  # type: ignore[misc]  # bound as it is now
        yield "safetensors", name, lambda text=text: safetensors(text)  # type: ignore[misc]


# ---- measuring ----


def cost(read: Read, path: Path) -> dict[str, Any]:
    """In a child of its own: what it answers, seconds of the processor, and most memory beyond what it began with."""
    into, out = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(into)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with peak_memory() as growth:
            started = time.process_time()
            try:
                read(path)
                told = "read"
            except TramontaneError as error:
                told = str(error)
            except BaseException as error:
                told = f"UNTYPED {error!r}"
            seconds = time.process_time() - started
        os.write(out, json.dumps({"seconds": seconds, "mib": growth.extra_bytes / MIB, "told": told[:400]}).encode())
        os._exit(0)
    os.close(out)
    with os.fdopen(into, "rb") as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return dict(json.loads(text)) if text else {"seconds": 0.0, "mib": 0.0, "told": "DIED"}


def mutant(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.randrange(1, 5)):
        place = draw.randrange(len(changed) + 1)
        match draw.randrange(5):
            case 0:
                changed[place : place + 1] = draw.randbytes(1)
            case 1:
                del changed[place : place + draw.randrange(1, 17)]
            case 2:
                changed[place:place] = changed[place : place + draw.randrange(1, 65)]
            case 3:
                changed[place : place + 8] = draw.choice((0, 2**31, 2**32 - 1, 2**63, 2**64 - 1)).to_bytes(8, "little")
            case _:
                del changed[place:]
    return bytes(changed)


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def mutants(kind: str, count: int, folder: Path) -> dict[str, Any]:
    name, read = READERS[kind]
    sources = [path.read_bytes() for path in sorted((CORPUS / kind).iterdir())]
    draw = random.Random(kind)
    costs = []
    for _ in range(count):
        path = folder / name
        path.write_bytes(mutant(draw.choice(sources), draw))
        costs.append(cost(read, path))
        path.unlink()
    return {
        "kind": kind,
        "mutants": count,
        "refused": sum(entry["told"] != "read" for entry in costs),
        "untyped": sum(entry["told"].startswith(("UNTYPED", "DIED")) for entry in costs),
        "p99_s": quantile([entry["seconds"] for entry in costs], 0.99),
        "most_mib": max(entry["mib"] for entry in costs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=200)
    parser.add_argument("--only", default="", help="kinds and files with this in their name")
    wanted = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for kind, name, write in built():
            if wanted.only not in f"{kind} {name}":
                continue
            file_name, read = READERS[kind]
            path = folder / file_name
            path.write_bytes(write())
            size = path.stat().st_size
            rows.append({"kind": kind, "built": name, "file_mib": size / MIB} | cost(read, path))
            path.unlink()
        over = [row for row in rows if row["seconds"] > GOAL_S or row["mib"] * MIB > GOAL_BYTES]
        summary = {"built": len(rows), "over_the_goal": len(over)}
        rows += [
            mutants(kind, wanted.mutants, folder) for kind in READERS if (CORPUS / kind).is_dir() and wanted.mutants
        ]
        record("malformed_files", [*rows, summary])


if __name__ == "__main__":
    main()
