"""safetensors: a small header in JSON, then the numbers, without a gap.

The format is described at https://github.com/huggingface/safetensors#format; types are those of its
reference implementation. `Model.notes["metadata"]` is the `__metadata__` of the header.
"""

from __future__ import annotations

import json
from typing import Any

from bigspec.errors import SourceError
from bigspec.networks.formats.file_tensors import (
    Extent,
    FileTensor,
    brief,
    check_extents,
    check_shape,
    finished,
    stored_nbytes,
)
from bigspec.networks.formats.types import item_bits
from bigspec.networks.tensors import Model, called
from bigspec.sources.file_bytes import Content

__all__ = ["LONGEST", "is_safetensors", "open_safetensors", "parsed"]

LONGEST = 100_000_000
"""Bytes of a header, at most: the limit of the reference implementation."""
MOST = 1 << 18
"""Tensors in a file, at most."""
TYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn", "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2": "float8_e5m2",
    "F8_E5M2FNUZ": "float8_e5m2fnuz", "F8_E8M0": "float8_e8m0fnu", "F6_E2M3": "float6_e2m3fn",
    "F6_E3M2": "float6_e3m2fn", "F4": "float4_e2m1fn", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8",
    "BOOL": "bool", "C64": "complex64",
}  # fmt: skip


def is_safetensors(begin: bytes) -> bool:
    """Whether a file begins with a length and the brace of a header."""
    return len(begin) > 8 and begin[8:9] == b"{" and begin[5:8] == b"\0\0\0"


def open_safetensors(content: Content) -> Model:
    """List the tensors of one file; only its header is read.

    Raises
    ------
    SourceError
        The header is damaged, or says what the file cannot hold; the message names the tensor.
    """
    file = content.name
    length = int.from_bytes(content.at(0, 8, "the length of its header").tobytes(), "little")
    if length > LONGEST:
        msg = f"{file}: expected a header of at most {LONGEST} bytes, got a length of {length}"
        raise SourceError(msg)
    header = parsed(content.at(8, length, "its header").tobytes(), file, "its header")
    notes = {}
    if (metadata := header.pop("__metadata__", None)) is not None:
        if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
            msg = f"{file}: expected texts by name in __metadata__, got something else"
            raise SourceError(msg)
        notes["metadata"] = metadata
    if len(header) > MOST:
        msg = f"{file}: expected at most {MOST} tensors, got {len(header)}"
        raise SourceError(msg)
    begin = 8 + length
    tensors = [_tensor(content, name, entry, begin) for name, entry in header.items()]
    extents = (Extent(t.start, t.start + t.nbytes, t.name) for t in tensors)
    check_extents(extents, begin, content.size, 1, file)
    return finished(file, "safetensors", tensors, notes)


def parsed(raw: bytes, file: str, what: str) -> dict[str, Any]:
    """Return an object in JSON that has no key twice.

    Parameters
    ----------
    raw : bytes
    file, what : str
        For messages.

    Raises
    ------
    SourceError
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            msg = f"the key {twice[:120]!a} is there twice"
            raise ValueError(msg)
        return found

    try:
        document = json.loads(raw, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        msg = f"{file}: {what} cannot be read as JSON ({error}); copy the file again"
        raise SourceError(msg) from error
    if not isinstance(document, dict):
        msg = f"{file}: expected an object in JSON as {what}, got {type(document).__name__}"
        raise SourceError(msg)
    return document


def _tensor(content: Content, name: str, entry: Any, begin: int) -> FileTensor:
    file, what = content.name, called(name)
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        msg = f"{file}: expected dtype, shape and data_offsets of {what}, got something else"
        raise SourceError(msg)
    said, offsets = entry["dtype"], entry["data_offsets"]
    dtype = TYPES.get(said) if isinstance(said, str) else None
    if dtype is None:
        got = said if isinstance(said, str) else type(said).__name__
        msg = f"{file}: expected a type of {what} out of {', '.join(TYPES)}, got {got[:40]!a}"
        raise SourceError(msg)
    shape = check_shape(entry["shape"], name, file)
    fine = isinstance(offsets, list) and len(offsets) == 2
    if not fine or not all(type(place) is int and 0 <= place <= content.size for place in offsets):
        msg = (
            f"{file}: expected two offsets of {what} from 0 to {content.size - begin}, got "
            f"{brief(offsets)}; the file was cut short, or its header is wrong: copy it again"
        )
        raise SourceError(msg)
    nbytes = stored_nbytes(shape, dtype, name, file)
    if offsets[1] - offsets[0] != nbytes:
        msg = (
            f"{file}: expected {nbytes} bytes for {what} of shape {list(shape)} and type {said}, "
            f"got offsets {offsets[0]} to {offsets[1]}"
        )
        raise SourceError(msg)
    refusal = None
    if item_bits(dtype) == 6:
        refusal = f"the format does not say how numbers of type {said} are packed"
    return FileTensor(
        name=name,
        file=file,
        shape=shape,
        dtype=dtype,
        nbytes=nbytes,
        refusal=refusal,
        content=content,
        start=begin + offsets[0],
    )
