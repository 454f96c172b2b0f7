"""Pickle programs that run code when unpickled, by every means the format has. Each would create the canary file."""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch


class _Call:
    """Pickles as a call of `function`."""

    def __init__(self, function: object, *arguments: object) -> None:
        self._call = function, arguments

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self._call


def _text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def payloads(canary: Path) -> Iterator[bytes]:
    """Hand-assembled programs, without PROTO and STOP, leaving one value; all open the canary for writing."""
    touch = f"open({str(canary)!r}, 'w').close()"
    shell = f"touch {canary}"
    calls: list[tuple[str, str, list[object]]] = [
        ("os", "system", [shell]),
        ("posix", "system", [shell]),
        ("os", "popen", [shell]),
        ("subprocess", "getoutput", [shell]),
        ("subprocess", "check_output", [["touch", str(canary)]]),
        ("builtins", "exec", [touch]),
        ("builtins", "eval", [touch]),
        ("__builtin__", "eval", [touch]),
        ("builtins", "open", [str(canary), "w"]),
        ("io", "open", [str(canary), "w"]),
        ("_io", "FileIO", [str(canary), "w"]),
        ("pathlib", "Path.touch", [str(canary)]),
        ("runpy", "_run_code", [touch, {}]),
        ("code", "InteractiveInterpreter.runcode", [touch]),
        ("timeit", "timeit", [touch, "pass", 0, 1]),
        ("pty", "spawn", [["touch", str(canary)]]),
        ("cProfile", "run", [touch]),
        ("shutil", "copyfile", ["/dev/null", str(canary)]),
        ("logging", "FileHandler", [str(canary)]),
        ("torch", "save", [0, str(canary)]),
        ("numpy", "save", [str(canary), 0]),
        ("torch.serialization", "load", [str(canary)]),
        ("torch.storage", "_load_from_bytes", [b"x"]),
        ("torch.hub", "load_state_dict_from_url", ["file:///x"]),
        ("torch._utils", "_rebuild_tensor_v2.__globals__", [shell]),
        ("torch", "FloatStorage.from_file", [str(canary), True, 1]),
        ("collections", "OrderedDict.__init__.__globals__", [shell]),
        ("functools", "partial", [shell]),
        ("operator", "methodcaller", [shell]),
        ("tramontane.errors", "CheckpointError", [shell]),
    ]
    for module, name, arguments in calls:
        packed = pickle.dumps((*arguments,), protocol=2)[2:-1]
        by_name = f"c{module}\n{name}\n".encode()
        by_stack = _text(module) + _text(name) + b"\x93"
        for function in (by_name, by_stack):
            yield function + packed + b"R"  # REDUCE
            yield function + packed + b"\x81"  # NEWOBJ
            yield function + packed + b"}" + b"\x92"  # NEWOBJ_EX
            yield b"(" + function + _text(shell) + b"o"  # OBJ
            yield function + b")R" + packed + b"b"  # BUILD on what a call made
            yield b"}" + _text("w") + function + packed + b"Rs"  # inside the dictionary of tensors
            yield function + packed + b"R" + b"0}"  # run, dropped, and a harmless dictionary left
            yield function + packed + b"RQ"  # as a storage
        yield b"(" + _text(shell) + f"i{module}\n{name}\n".encode()  # INST
        yield f"P{module} {name}\n".encode()  # PERSID
    for code in (b"\x82\x01", b"\x83\x01\x00", b"\x84\x01\x00\x00\x00"):  # the extension registry
        yield code + _text(shell) + b"\x85R"
    ordered = b"ccollections\nOrderedDict\n"
    yield ordered + b")R" + _text("x") + b"b"
    yield ordered + b"]\x85R"
    yield ordered + b")R}" + _text("__setstate__") + b"cos\nsystem\nsb" + _text(shell) + b"b"
    yield b"ctorch._utils\n_rebuild_tensor_v2\n" + b"(" + _text(shell) + b"tR"
    yield b"ctorch._utils\n_rebuild_parameter\ncos\nsystem\n\x85R"
    yield b"ctorch\nFloatStorage\n" + _text(shell) + b"\x85R"
    yield b"ctorch\nFloatStorage\n)\x81}b"


def programs(canary: Path) -> Iterator[bytes]:
    """Whole pickle programs: the payloads, and what Python's own pickler makes of such objects."""
    for payload in payloads(canary):
        yield b"\x80\x02" + payload + b"."
        yield b"\x80\x04\x95" + struct.pack("<Q", len(payload) + 1) + payload + b"."
    import os
    import subprocess

    hostile: list[tuple[object, ...]] = [
        (os.system, f"touch {canary}"),
        (subprocess.getoutput, f"touch {canary}"),
        (exec, f"open({str(canary)!r}, 'w')"),
        (open, str(canary), "w"),
    ]
    for function, *arguments in hostile:
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            call = _Call(function, *arguments)
            for value in (call, {"w": call}, {"w": torch.zeros(2), "x": call}, [call], (call,), {"w": [call]}):
                if protocol >= 2 or not isinstance(value, dict) or "x" not in value:
                    yield pickle.dumps(value, protocol=protocol)


def as_zip(program: bytes, **records: bytes) -> bytes:
    """A checkpoint as torch.save lays it out, with `program` for its data.pkl."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        for name, content in {"byteorder": b"little", "data/0": bytes(16), "version": b"3\n", **records}.items():
            archive.writestr(f"archive/{name}", content)
    return out.getvalue()


def as_legacy(program: bytes) -> bytes:
    """torch < 1.6: magic number, protocol, system information and the object, one pickle after the other."""
    magic = 0x1950A86A20F9469CFC6C
    info = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    return b"".join(pickle.dumps(part, protocol=2) for part in (magic, 1001, info)) + program


def as_tar(program: bytes) -> bytes:
    """torch < 0.1.10."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name in ("storages", "tensors", "pickle"):
            entry = tarfile.TarInfo(name)
            entry.size = len(program)
            archive.addfile(entry, io.BytesIO(program))
    return out.getvalue()


def as_nested(program: bytes) -> bytes:
    """Innocent on the surface, the program in further records."""
    return as_zip(b"\x80\x02}.", **{"data/1": program, "extra.pkl": program})


def as_hidden(program: bytes) -> bytes:
    """Behind the STOP of an innocent program."""
    return as_zip(b"\x80\x02}." + program)


def as_torchscript(program: bytes) -> bytes:
    return as_zip(b"\x80\x02}.", **{"constants.pkl": program, "code/__torch__.py": b"import os"})


CONTAINERS: dict[str, Callable[[bytes], bytes]] = {
    "zip": as_zip,
    "bare": bytes,
    "legacy": as_legacy,
    "tar": as_tar,
    "nested": as_nested,
    "hidden": as_hidden,
    "torchscript": as_torchscript,
}
