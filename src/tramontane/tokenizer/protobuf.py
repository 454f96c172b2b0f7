"""The protobuf wire format, as much of it as `tokenizer.model` needs (developers.google.com/protocol-buffers).

The protobuf package would bring a code generator and a parser in C for one message of three fields.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from tramontane.errors import TokenizerError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def fields(data: bytes, most: int) -> Iterator[tuple[int, bytes | int]]:
    """(field number, value) of a message in file order: int for varints, bytes for everything else.

    Raises TokenizerError when a length leaves the message, the wire type is unknown, or there are more than `most`.
    """
    place = num_read = 0
    while place < len(data):
        if num_read == most:
            raise TokenizerError(f"a message in it has more than {most:,} fields, which no vocabulary needs")
        num_read += 1
        key, place = _varint(data, place)
        number, wire_type = key >> 3, key & 7
        if wire_type == _VARINT:
            value, place = _varint(data, place)
            yield number, value
            continue
        if wire_type == _BYTES:
            size, place = _varint(data, place)
        elif wire_type in (_FIXED32, _FIXED64):
            size = 4 if wire_type == _FIXED32 else 8
        else:
            raise TokenizerError(f"damaged protobuf: wire type {wire_type} at byte {place}")
        if size > len(data) - place:
            raise TokenizerError(f"damaged protobuf: {size} bytes announced at byte {place}, {len(data) - place} left")
        yield number, data[place : place + size]
        place += size


def float32(value: bytes | int) -> float:
    """Raises TokenizerError when the field is not four bytes."""
    if not isinstance(value, bytes) or len(value) != 4:
        raise TokenizerError("damaged protobuf: a 32-bit float is expected")
    number: float = struct.unpack("<f", value)[0]
    return number


def write_varint(number: int, value: int) -> bytes:
    return _varint_bytes(number << 3 | _VARINT) + _varint_bytes(value)


def write_float32(number: int, value: float) -> bytes:
    return _varint_bytes(number << 3 | _FIXED32) + struct.pack("<f", value)


def write_bytes(number: int, value: bytes) -> bytes:
    return _varint_bytes(number << 3 | _BYTES) + _varint_bytes(len(value)) + value


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            raise TokenizerError("damaged protobuf: the file ends inside a number")
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise TokenizerError(f"damaged protobuf: number of more than 64 bits at byte {place}")


def _varint_bytes(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
