"""A pickle by `torch.save`, read as the description of tensors that it is; nothing of it is run.

A pickle is a program. This is a machine for the few instructions and the few names that
`torch.save` writes for tensors in containers. No name is ever looked up in a module: a name is
a `Name`, and `Rebuild` has a rule for each that is known. Everything else is refused.

Instructions are taken apart by `pickletools`, of the standard library; they are those of
https://github.com/python/cpython/blob/main/Lib/pickletools.py.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bigspec.errors import SourceError
from bigspec.networks.formats.rebuild import Name, Opaque, Storage, reduced, storage_of
from bigspec.sources.file_bytes import Content, Reading

__all__ = ["LONGEST", "MOST", "Unpickled", "unpickled"]

LONGEST = 100 << 20
"""Bytes of a pickle without its tensors, at most."""
MOST = 1 << 22
"""Instructions, at most: a tensor takes about forty."""

PUSHED = {
    "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE",
    "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
    "BYTEARRAY8",
}  # fmt: skip
"""Instructions that push the value that follows them."""
FRESH: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False,
    "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_DICT": dict, "EMPTY_SET": list,
}  # fmt: skip
SKIPPED = {"PROTO", "FRAME"}
KEYS = (str, int, float, bool, bytes, type(None))


@dataclass(frozen=True)
class Unpickled:
    """What a pickle holds, the storages that it names, and where it ends in its file."""

    value: Any
    storages: dict[str, Storage]
    stop: int


def unpickled(content: Content, start: int, stop: int, what: str) -> Unpickled:
    """Read one pickle.

    Parameters
    ----------
    content : Content
    start, stop : int
        Where it begins, and where it ends at the latest.
    what : str
        What it is, for messages.

    Returns
    -------
    Unpickled
        Made of dicts, lists, tuples, numbers, texts, and what `bigspec.networks.formats.rebuild`
        has for tensors.

    Raises
    ------
    SourceError
        It names anything else, is damaged, cut short, or too long.
    """
    reading = _Lines(content, start, min(stop, start + LONGEST))
    machine = _Machine(content.name)
    try:
        for number, (code, arg, place) in enumerate(pickletools.genops(reading)):  # type: ignore[arg-type]
            if code.name == "STOP":
                return Unpickled(machine.value(), machine.storages, (place or start) + 1)
            machine.step(code.name, arg, number)
    except SourceError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, RecursionError) as error:
        msg = (
            f"{content.name}: {what} cannot be read as torch.save writes it "
            f"({type(error).__name__}: {str(error)[:120]}); the file is damaged, or of another "
            "kind: save model.state_dict() again"
        )
        raise SourceError(msg) from error
    msg = f"{content.name}: {what} ends in the middle; the file was cut short: copy it again"
    raise SourceError(msg)


class _Lines(Reading):
    """A pickle whose names are what they look like: `pickletools` would read escapes in them."""

    def readline(self) -> bytes:
        line = super().readline()
        if b"\\" in line:
            msg = f"a name with a backslash at byte {self.place - len(line)}"
            raise ValueError(msg)
        return line


class _Machine:
    """The stack, the marks and the memo of a pickle that is read."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}
        self.rules: dict[str, Callable[[Any], None]] = {
            "MARK": lambda _: self.marks.append(len(self.stack)),
            "POP": lambda _: self._drop([self._pop()]),
            "POP_MARK": lambda _: self._drop(self._since_mark()),
            "TUPLE": lambda _: self.stack.append(tuple(self._since_mark())),
            "TUPLE1": lambda _: self.stack.append(self._last(1)),
            "TUPLE2": lambda _: self.stack.append(self._last(2)),
            "TUPLE3": lambda _: self.stack.append(self._last(3)),
            "LIST": lambda _: self.stack.append(self._since_mark()),
            "DICT": lambda _: self.stack.append(_pairs({}, self._since_mark())),
            "FROZENSET": lambda _: self.stack.append(self._since_mark()),
            "APPEND": lambda _: self._extend([self._pop()]),
            "APPENDS": lambda _: self._extend(self._since_mark()),
            "ADDITEMS": lambda _: self._extend(self._since_mark()),
            "SETITEM": lambda _: self._set(list(self._last(2))),
            "SETITEMS": lambda _: self._set(self._since_mark()),
            "BINPUT": self._put,
            "LONG_BINPUT": self._put,
            "MEMOIZE": lambda _: self._put(len(self.memo)),
            "BINGET": lambda key: self.stack.append(self.memo[key]),
            "LONG_BINGET": lambda key: self.stack.append(self.memo[key]),
            "GLOBAL": lambda name: self.stack.append(self._global(*name.split(" ", 1))),
            "STACK_GLOBAL": lambda _: self.stack.append(self._global(*self._last(2))),
            "BINPERSID": lambda _: self.stack.append(self._storage(self._pop())),
            "REDUCE": lambda _: self._call(*self._last(2)),
            "NEWOBJ": lambda _: self._call(*self._last(2)),
            "BUILD": lambda _: self._build(),
        }

    def step(self, name: str, arg: Any, number: int) -> None:
        """Follow instruction `number`."""
        if number >= MOST:
            msg = f"more than {MOST} instructions"
            raise ValueError(msg)
        if name in PUSHED:
            self.stack.append(arg)
        elif (made := FRESH.get(name)) is not None:
            self.stack.append(made())
        elif (rule := self.rules.get(name)) is not None:
            rule(arg)
        elif name not in SKIPPED:
            msg = (
                f"{self.file}: its pickle has the instruction {name}, which torch.save does not "
                "write for tensors; it was not run. Save model.state_dict(), or safetensors"
            )
            raise SourceError(msg)

    def value(self) -> Any:
        """Return what is left at the end."""
        if len(self.stack) != 1 or self.marks:
            msg = f"{len(self.stack)} values at its end"
            raise ValueError(msg)
        return self.stack[0]

    def _drop(self, values: list[Any]) -> None:
        """Take what a set holds, or what is not needed, from the stack."""

    def _storage(self, said: Any) -> Storage:
        """Return the storage of a persistent id, which must say the same of it each time."""
        made = storage_of(said, self.file)
        first = self.storages.setdefault(made.key, made)
        if (first.dtype, first.root) != (made.dtype, made.root):
            msg = f"two storages with the key {made.key[:40]!a}"
            raise ValueError(msg)
        return made

    def _pop(self) -> Any:
        if self.marks and len(self.stack) <= self.marks[-1]:
            msg = "a mark where a value is needed"
            raise ValueError(msg)
        return self.stack.pop()

    def _last(self, count: int) -> tuple[Any, ...]:
        return tuple(reversed([self._pop() for _ in range(count)]))

    def _since_mark(self) -> list[Any]:
        place = self.marks.pop()
        found = self.stack[place:]
        del self.stack[place:]
        return found

    def _top(self, kind: type) -> Any:
        if self.marks and len(self.stack) <= self.marks[-1]:
            msg = "a mark where a value is needed"
            raise ValueError(msg)
        top = self.stack[-1]
        if not isinstance(top, kind):
            msg = f"{type(top).__name__} in the place of {kind.__name__}"
            raise TypeError(msg)
        return top

    def _put(self, key: int) -> None:
        self.memo[key] = self.stack[-1]

    def _extend(self, values: list[Any]) -> None:
        self._top(list).extend(values)

    def _set(self, values: list[Any]) -> None:
        _pairs(self._top(dict), values)

    def _global(self, module: Any, name: Any) -> Name:
        if not isinstance(module, str) or not isinstance(name, str):
            msg = "a global whose name is not a text"
            raise TypeError(msg)
        return Name(module, name, self.file)

    def _call(self, function: Any, arguments: Any) -> None:
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            msg = "a call of something that is not a global"
            raise TypeError(msg)
        self.stack.append(reduced(function, arguments))

    def _build(self) -> None:
        """Drop what is said of a dict besides its items, such as the versions of modules."""
        _, top = self._pop(), self.stack[-1]
        if not isinstance(top, (dict, Opaque)):
            msg = f"a state for {type(top).__name__}"
            raise TypeError(msg)


def _pairs(into: dict[Any, Any], values: list[Any]) -> dict[Any, Any]:
    if len(values) % 2:
        msg = "a key without a value"
        raise ValueError(msg)
    for key, value in zip(values[::2], values[1::2], strict=True):
        # A tuple of tuples of tuples takes for ever to hash; no name of a tensor is one.
        into[key if isinstance(key, KEYS) else f"({type(key).__name__} {len(into)})"] = value
    return into
