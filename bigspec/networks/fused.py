"""Weights with several matrices one above the other, and where they are cut."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from bigspec.errors import ArgumentError

__all__ = ["Cut", "Split", "cut_of", "fits", "split_of"]


def fits(name: str, pattern: str) -> bool:
    """Whether a pattern is a name or fits it; as a pattern alone, ``w[q]`` would mean ``wq``."""
    return name == pattern or fnmatchcase(name, pattern)


@dataclass(frozen=True)
class Cut:
    """Where a fused weight is cut.

    Attributes
    ----------
    axis : int
    names : tuple of str
        Names of the parts.
    ends : tuple of int
        The end of each part along the axis.
    """

    axis: int
    names: tuple[str, ...]
    ends: tuple[int, ...]

    @property
    def slices(self) -> tuple[slice, ...]:
        """The ranges along the axis."""
        starts = (0, *self.ends[:-1])
        return tuple(slice(a, b) for a, b in zip(starts, self.ends, strict=True))


@dataclass(frozen=True)
class Split:
    """A cut that a user asks for, for every matrix whose name matches.

    Attributes
    ----------
    pattern : str
        With ``*``, ``?`` or ``[`` a pattern for the whole name, else a part of the name.
    counts : tuple of int
        One number is the number of equal parts; several are the rows of each part.
    """

    pattern: str
    counts: tuple[int, ...]

    def takes(self, name: str) -> bool:
        """Whether the name matches."""
        if any(sign in self.pattern for sign in "*?["):
            return fits(name, self.pattern)
        return self.pattern in name

    def cut(self, name: str, rows: int) -> Cut:
        """Return the cut of a matrix with this number of rows.

        Raises
        ------
        ArgumentError
            The rows cannot be cut like this.
        """
        counts = self.counts
        if len(counts) == 1:
            counts = (rows // counts[0],) * counts[0] if rows % counts[0] == 0 else ()
        if sum(counts) != rows:
            asked = ",".join(map(str, self.counts))
            msg = (
                f"split: expected parts that together have the {rows} rows of {name}, got "
                f"{self.pattern}={asked}; give the rows of each part, such as {self.pattern}="
                "4096,1024,1024"
            )
            raise ArgumentError(msg)
        ends = tuple(sum(counts[: k + 1]) for k in range(len(counts)))
        return Cut(0, tuple(map(str, range(len(counts)))), ends)


def split_of(split: str | Sequence[str] | Mapping[str, int | Sequence[int]] | None) -> list[Split]:
    """Read the argument `split`: ``"qkv=3"``, several of these, or a mapping.

    Raises
    ------
    ArgumentError
    """
    if split is None:
        return []
    if isinstance(split, Mapping):
        pairs: list[tuple[str, int | str | Sequence[int]]] = list(split.items())
    else:
        texts = [split] if isinstance(split, str) else list(split)
        pairs = [(name, counts) for name, _, counts in (text.rpartition("=") for text in texts)]
    return [_split(name, counts) for name, counts in pairs]


def _split(name: str, counts: int | str | Sequence[int]) -> Split:
    given = counts.split(",") if isinstance(counts, str) else counts
    items: list[int | str] = [given] if isinstance(given, int) else list(given)
    try:
        numbers = tuple(int(item) for item in items)
    except (TypeError, ValueError):
        numbers = ()
    whole = len(numbers) == 1 and numbers[0] < 2
    if not name or not numbers or whole or min(numbers) < 1:
        msg = (
            f"split: expected PATTERN=N with N >= 2, or the rows of each part, got "
            f"{name}={counts}; such as qkv=3 or qkv=4096,1024,1024"
        )
        raise ArgumentError(msg)
    return Split(name, numbers)


QKV = re.compile(
    r"(?:^|[._/])(?:qkv|Wqkv|in_proj_weight|c_attn|to_qkv|attn_qkv|self_attn[._/]qkv_proj)"
    r"(?=$|[./])"
)
"""Query, key and value as equal thirds. Not `query_key_value` nor a bare `qkv_proj`: some models
interleave them head by head or rank by rank, and no header says so."""
GATE_UP = re.compile(r"(?:^|[._/])(?:gate_up_proj|w12)(?=$|[._/])")
RECURRENT = re.compile(r"(?:^|[._/])weight_(?:ih|hh)(?:_l\d+)?(?:_reverse)?$")
GATES = {3: ("r", "z", "n"), 4: ("i", "f", "g", "o")}  # PyTorch's order, of a GRU and of an LSTM


def cut_of(name: str, shape: tuple[int, int], shapes: Mapping[str, tuple[int, ...]]) -> Cut | None:
    """Return the cut that a well-known name stands for, if the shape agrees; else None.

    Parameters
    ----------
    name : str
    shape : tuple of int
    shapes : mapping
        Shapes of all tensors; the other weight of a recurrent layer shows its number of gates.
    """
    m, n = shape
    if QKV.search(name):
        if m == 3 * n:
            return _equal(0, ("q", "k", "v"), m)
        if n == 3 * m and "c_attn" in name:  # GPT-2 keeps the transposed weight
            return _equal(1, ("q", "k", "v"), n)
        return None
    if GATE_UP.search(name) and m % 2 == 0:
        return _equal(0, ("gate", "up"), m)
    if RECURRENT.search(name):
        hidden = shapes.get(name.replace("weight_ih", "weight_hh"), ())
        if len(hidden) == 2 and hidden[0] == m and hidden[1]:
            gates, rest = divmod(m, hidden[1])
            if gates in GATES and not rest:
                return _equal(0, GATES[gates], m)
    return None


def _equal(axis: int, names: tuple[str, ...], length: int) -> Cut:
    step = length // len(names)
    return Cut(axis, names, tuple(step * (k + 1) for k in range(len(names))))
