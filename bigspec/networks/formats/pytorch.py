"""PyTorch's files, without PyTorch: `.pt`, `.pth`, `.bin`, `.ckpt` as `torch.save` writes them.

The zip form (PyTorch 1.6 on) holds a pickle, `data.pkl`, and a record for each storage; the old
form is five pickles, then the storages. The pickle is read by `bigspec.networks.formats.pickles`.

Which of the tensors are the model? All of them are listed. A dict inside a dict makes dotted names:
`{"state_dict": {"fc.weight": W}, "epoch": 3}` has the tensor `state_dict.fc.weight`. A single
tensor has the name of its file, without the ending.
"""

from __future__ import annotations

import math
import posixpath
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

from bigspec.errors import SourceError
from bigspec.networks.formats.file_tensors import FileTensor, brief, check_shape, finished
from bigspec.networks.formats.pickles import LONGEST, Unpickled, unpickled
from bigspec.networks.formats.rebuild import Rebuilt, Storage
from bigspec.networks.formats.types import BITS, item_bits
from bigspec.networks.tensors import Model, called
from bigspec.sources.file_bytes import Content
from bigspec.sources.members import check_sum, place_of_member

__all__ = ["MAGIC", "is_torch_zip", "open_pytorch", "open_pytorch_zip", "stem"]

MAGIC = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""The first pickle of the old form, after its protocol: a number."""
PROTOCOL = 1001
DEEPEST = 64
MOST_VALUES = 1 << 20
SAVE = "save model.state_dict() with torch.save, or safetensors"

Places = Callable[[Storage], int]
"""From a storage to where its numbers begin in the file."""


def is_torch_zip(names: Any) -> bool:
    """Whether these are members of an archive by `torch.save` or `torch.jit.save`."""
    return any(posixpath.basename(name) == "data.pkl" for name in names)


def open_pytorch_zip(content: Content, members: dict[str, zipfile.ZipInfo]) -> Model:
    """List the tensors of the zip form.

    Raises
    ------
    SourceError
        It is TorchScript, its pickle names something that is not a tensor, or a record is not what
        it should be.
    """
    file = content.name
    root = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(root) != 1:
        msg = f"{file}: expected one data.pkl, got {len(root)}; {SAVE}"
        raise SourceError(msg)
    prefix = root[0].removesuffix("data.pkl")
    script = f"{prefix}constants.pkl"
    if script in members or any(name.startswith(f"{prefix}code/") for name in members):
        msg = (
            f"{file}: it is a TorchScript archive, which holds a program; save its tensors: "
            "torch.save(torch.jit.load(file).state_dict(), 'weights.pt')"
        )
        raise SourceError(msg)
    info = _as_it_is(members[root[0]], file)
    start = place_of_member(content, info)
    if info.file_size <= LONGEST:
        check_sum(content, info, content.at(start, info.file_size, "data.pkl"))
    read = unpickled(content, start, start + info.file_size, "its data.pkl")
    order = _byte_order(content, members.get(f"{prefix}byteorder"))
    known: dict[str, int] = {}

    def place(storage: Storage) -> int:
        if storage.key not in known:
            record = members.get(f"{prefix}data/{storage.key}")
            if record is None:
                msg = f"{file}: the record data/{storage.key[:40]} is not there; copy it again"
                raise SourceError(msg)
            expected = storage.root * _unit(storage)
            if _as_it_is(record, file).file_size != expected:
                msg = (
                    f"{file}: expected {expected} bytes in the record data/{storage.key[:40]}, got "
                    f"{record.file_size}; the file is damaged: copy it again"
                )
                raise SourceError(msg)
            known[storage.key] = place_of_member(content, record)
        return known[storage.key]

    return _model(content, read, place, order)


def open_pytorch(content: Content) -> Model:
    """List the tensors of the old form.

    Raises
    ------
    SourceError
        It is another pickle, names something that is not a tensor, or ends before its storages do.
    """
    file, place = content.name, 0
    head: list[Any] = []
    for what in ("its number", "its version", "what it says of the machine"):
        read = unpickled(content, place, content.size, what)
        head.append(read.value)
        place = read.stop
        if len(head) == 1 and content.at(0, place, what).tobytes()[2:] != MAGIC:
            msg = f"{file}: expected a file by torch.save, got another pickle; nothing was run"
            raise SourceError(msg)
    if head[1] != PROTOCOL or not isinstance(head[2], dict):
        msg = f"{file}: expected version {PROTOCOL} of the old form, got another; {SAVE}"
        raise SourceError(msg)
    order = "<" if head[2].get("little_endian", True) is True else ">"
    value = unpickled(content, place, content.size, "its pickle")
    keys = unpickled(content, value.stop, content.size, "its list of storages")
    known = _places(content, value.storages, keys)

    def found(storage: Storage) -> int:
        if storage.key not in known:
            msg = f"{file}: the storage {storage.key[:40]!a} is not in its list; copy it again"
            raise SourceError(msg)
        return known[storage.key]

    return _model(content, value, found, order)


def stem(file: str) -> str:
    """Return the name of a file without folders, query and ending."""
    return posixpath.splitext(posixpath.basename(file.partition("?")[0].rstrip("/")))[0]


def _places(content: Content, storages: dict[str, Storage], keys: Unpickled) -> dict[str, int]:
    """Return where each storage of the old form begins: its length comes before its numbers."""
    place, known = keys.stop, {}
    for key in keys.value if isinstance(keys.value, list) else [None]:
        storage = storages.get(str(key)) if isinstance(key, (str, int)) else None
        if storage is None:
            msg = (
                f"{content.name}: its list of storages has one that no tensor needs; copy it again"
            )
            raise SourceError(msg)
        what = f"the storage {storage.key[:40]!a}"
        count = int.from_bytes(content.at(place, 8, what).tobytes(), "little")
        if count != storage.root:
            msg = (
                f"{content.name}: expected {storage.root} numbers in {what}, got {count}; the file "
                "is damaged: copy it again"
            )
            raise SourceError(msg)
        content.check(place + 8, count * _unit(storage), what)
        known[storage.key] = place + 8
        place += 8 + count * _unit(storage)
    return known


def _as_it_is(info: zipfile.ZipInfo, file: str) -> zipfile.ZipInfo:
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        msg = (
            f"{file}: expected the member {info.filename!a:.80} stored as it is, as torch.save "
            "writes it, got a packed one; load it and save it again"
        )
        raise SourceError(msg)
    return info


def _byte_order(content: Content, info: zipfile.ZipInfo | None) -> str:
    if info is None:
        return "<"  # before PyTorch 2.1 only such machines wrote files
    start = place_of_member(content, _as_it_is(info, content.name))
    said = content.at(start, min(info.file_size, 16), "byteorder").tobytes()
    if said not in (b"little", b"big"):
        msg = f"{content.name}: expected little or big as its byteorder, got {said!r}"
        raise SourceError(msg)
    return "<" if said == b"little" else ">"


def _unit(storage: Storage) -> int:
    return item_bits(storage.dtype) // 8 if storage.dtype else 1


def _model(content: Content, read: Unpickled, place: Places, order: str) -> Model:
    found = _flat(read.value, content)
    tensors = [_stored(content, name, rebuilt, place, order) for name, rebuilt in found]
    if not tensors:
        msg = f"{content.name}: expected tensors, got a pickle that holds none; {SAVE}"
        raise SourceError(msg)
    return finished(content.name, "pytorch", tensors)


def _flat(value: Any, content: Content) -> Iterator[tuple[str, Rebuilt]]:
    """Return every tensor with its dotted name, in the order of the file."""
    stack: list[tuple[str, int, Any]] = [("", 0, value)]
    count = 0
    while stack:
        name, depth, held = stack.pop()
        count += 1
        if isinstance(held, Rebuilt):
            yield name or stem(content.name), held
            continue
        inner: list[tuple[Any, Any]] = []
        if isinstance(held, dict):
            inner = list(held.items())
        elif isinstance(held, (list, tuple)):
            inner = list(enumerate(held))
        if count + len(stack) + len(inner) > MOST_VALUES or depth > DEEPEST:
            msg = (
                f"{content.name}: expected at most {MOST_VALUES} values in {DEEPEST} levels, got "
                f"more, at {name[:80]!a}; {SAVE}"
            )
            raise SourceError(msg)
        for key, each in reversed(inner):
            if isinstance(each, (dict, list, tuple, Rebuilt)):
                text = key.decode("latin-1") if isinstance(key, bytes) else _text(key)
                stack.append((f"{name}.{text}" if name else text, depth + 1, each))


def _text(key: Any) -> str:
    return key if isinstance(key, str) else brief(key)


def _stored(content: Content, name: str, made: Rebuilt, place: Places, order: str) -> FileTensor:
    file, storage = content.name, made.storage
    shape = check_shape(made.shape, name, file)
    strides, offset = _strides(made, shape, name, file)
    if made.dtype not in BITS:  # nothing is known of its bytes
        return FileTensor(
            name=name,
            file=file,
            shape=shape,
            dtype=made.dtype,
            nbytes=0,
            refusal=made.refusal,
            content=content,
            start=0,
        )
    item = item_bits(made.dtype) // 8
    there = storage.count * _unit(storage) // item
    reach = sum((extent - 1) * step for extent, step in zip(shape, strides, strict=True)) + 1
    reach = reach if all(shape) else 0
    if offset + reach > there:
        msg = (
            f"{file}: {called(name)} reaches entry {offset + reach - 1} of a storage of {there}; "
            "the file is damaged: copy it again"
        )
        raise SourceError(msg)
    if math.prod(shape) > there:
        msg = (
            f"{file}: {called(name)} of shape {brief(shape)} repeats the {there} numbers of its "
            "storage; save a copy of it, tensor.contiguous()"
        )
        raise SourceError(msg)
    begin = place(storage) + storage.offset * _unit(storage) + offset * item
    return FileTensor(
        name=name,
        file=file,
        shape=shape,
        dtype=made.dtype,
        nbytes=reach * item,
        storage=f"{file}:{begin}:{made.dtype}:{shape}:{strides}",
        refusal=made.refusal,
        content=content,
        start=begin,
        strides=None if _plain(shape, strides) else strides,
        order=order,
    )


def _strides(
    made: Rebuilt, shape: tuple[int, ...], name: str, file: str
) -> tuple[tuple[int, ...], int]:
    steps, offset, view = made.strides, made.offset, made.storage
    whole = isinstance(steps, (list, tuple)) and len(steps) == len(shape)
    whole = whole and all(type(step) is int and 0 <= step < 1 << 62 for step in (*steps, offset))
    if not whole or view.offset + view.count > view.root:
        msg = (
            f"{file}: expected a stride from 0 on for each of {len(shape)} dimensions of "
            f"{called(name)}, and a place in its storage, got strides {brief(steps)} and offset "
            f"{brief(offset)}; the file is damaged: copy it again"
        )
        raise SourceError(msg)
    return tuple(steps), offset


def _plain(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether the last dimension runs fastest, and nothing lies between."""
    if not all(shape):
        return True
    step = 1
    for extent, stride in zip(reversed(shape), reversed(strides), strict=True):
        if extent > 1 and stride != step:
            return False
        step *= extent
    return True
