"""The files beside an ONNX file in which it keeps its tensors: found by reading the protobuf, with no package for that.

https://onnx.ai/onnx/repo-docs/ExternalData.html; numbers of the fields: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from i2i.errors import ModelError

_INSIDE = {
    "model": {7: "graph", 25: "function"},
    "function": {7: "node"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
"""What lies in a field of a message, as far as it leads to tensors."""
_VARINT, _EIGHT, _LENGTH, _FOUR = 0, 1, 2, 5


def external_names(path: Path) -> tuple[str, ...]:
    """The names of the files, in order and each once, as the ONNX file has them: below its folder, if it is to be trusted.

    Raises ``ModelError`` for what is no ONNX file.
    """
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return tuple(sorted({_text(data, *place) for place in _entries(data) if place}))
    except (OSError, ValueError, IndexError) as error:
        raise ModelError(f"{path}: cannot be read as ONNX: {error}") from error


def _entries(data: mmap.mmap) -> Iterator[tuple[int, int]]:
    """Begin and end of the value of each tensor's entry ``location``."""
    todo = [("model", 0, len(data))]
    while todo:
        kind, begin, end = todo.pop()
        if kind == "entry":
            fields = {number: (first, last) for number, first, last in _fields(data, begin, end)}
            if _text(data, *fields.get(1, (0, 0))) == "location" and 2 in fields:
                yield fields[2]
            continue
        for number, first, last in _fields(data, begin, end):
            if number in _INSIDE[kind]:
                todo.append((_INSIDE[kind][number], first, last))


def _text(data: mmap.mmap, begin: int, end: int) -> str:
    return data[begin:end].decode("utf-8")


def _fields(data: mmap.mmap, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, begin and end of the fields of a message that have a length. Raises ``ValueError`` for what is no message."""
    while begin < end:
        key, begin = _varint(data, begin)
        kind = key & 7
        if kind == _VARINT:
            _, begin = _varint(data, begin)
        elif kind in (_EIGHT, _FOUR):
            begin += 8 if kind == _EIGHT else 4
        elif kind == _LENGTH:
            length, begin = _varint(data, begin)
            if begin + length > end:
                raise ValueError("it is cut short, or damaged")
            yield key >> 3, begin, begin + length
            begin += length
        else:
            raise ValueError("it is something else, or damaged")


def _varint(data: mmap.mmap, place: int) -> tuple[int, int]:
    """A number of up to 64 bits, and the place behind it."""
    number = 0
    for shift in range(0, 70, 7):
        byte = data[place + shift // 7]
        number |= (byte & 127) << shift
        if byte < 128:
            return number, place + shift // 7 + 1
    raise ValueError("it is something else, or damaged")
