"""An ONNX file without its numbers: each `raw_data` becomes the place where it lies.

A model of a gigabyte is nearly all `raw_data`. Parsed as it is, all of that would be copied, and
once more for each tensor that is taken out. Here the messages on the way to a tensor are copied
field by field. Its numbers become 16 bytes, a start and a length, and protobuf parses the result.

The encoding: https://protobuf.dev/programming-guides/encoding. The numbers of fields: onnx.proto3.
"""

from __future__ import annotations

import struct

__all__ = ["PLACE", "without_numbers"]

PLACE = struct.Struct("<QQ")
"""Start and length in the file, in the place of `raw_data`."""
DEEPEST = 100
"""Messages inside messages: the limit of protobuf itself."""

INSIDE = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {
        5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse",
    },
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {9: "numbers"},
}  # fmt: skip
"""Which fields of a message lead to numbers, and what kind of message each is."""
FIXED = {1: 8, 5: 4}
"""Bytes of a field, by its wire type."""


def without_numbers(view: memoryview) -> bytes:
    """Return a model in which each `raw_data` is its place in `view`.

    Parameters
    ----------
    view : memoryview of bytes

    Raises
    ------
    ValueError
        It is no message of protobuf, or its messages are nested too deeply.
    """
    return _message(view, (0, len(view)), "model", 0)


def _message(view: memoryview, extent: tuple[int, int], kind: str, depth: int) -> bytes:
    if depth > DEEPEST:
        msg = f"messages in {depth} levels"
        raise ValueError(msg)
    inside, out = INSIDE[kind], bytearray()
    place, stop = extent
    kept = place  # from here on, everything is copied as it is
    while place < stop:
        begin = place
        tag, place = _number(view, place, stop)
        wire, number = tag & 7, tag >> 3
        if wire == 0:
            _, place = _number(view, place, stop)
        elif wire in FIXED:
            place += FIXED[wire]
        elif wire == 2:
            length, place = _number(view, place, stop)
            end = place + length
            if end > stop:
                msg = f"a field of {length} bytes at byte {begin}, where {stop - place} are left"
                raise ValueError(msg)
            if number in inside:
                out += view[kept:begin]
                part = (
                    PLACE.pack(place, length)
                    if inside[number] == "numbers"
                    else _message(view, (place, end), inside[number], depth + 1)
                )
                out += _written(tag) + _written(len(part)) + part
                kept = end
            place = end
        else:
            msg = f"a field of wire type {wire} at byte {begin}"
            raise ValueError(msg)
        if place > stop or number == 0:
            msg = f"a field at byte {begin} that ends outside its message"
            raise ValueError(msg)
    return bytes(out + view[kept:stop])


def _number(view: memoryview, place: int, stop: int) -> tuple[int, int]:
    """Return a number of varying length, and the place after it."""
    value = shift = 0
    while place < stop and shift < 70:
        byte = view[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
    msg = f"a number at byte {place} that does not end"
    raise ValueError(msg)


def _written(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
