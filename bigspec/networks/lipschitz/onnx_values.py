"""What flows through an ONNX graph: constants, and values that steps make of one input."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.sparse as sp

from bigspec.api.matrices import open_matrix
from bigspec.errors import SourceError
from bigspec.networks.formats.types import as_dtype
from bigspec.networks.lipschitz.formulas import Formula
from bigspec.networks.lipschitz.steps import Linear, Step

__all__ = ["Flow", "Mark", "Node", "Unbounded", "branches_of", "constant", "moved", "sizes_of"]

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]
Mark = tuple[Any, ...]
"""What a step is in a formula: a name or a sign, and its numbers."""


@dataclass(frozen=True, eq=False)
class Flow:
    """A value that depends on the input: steps after another one.

    Attributes
    ----------
    shape : tuple of int
        With the batch of 1 in front, as the graph has it.
    parent : Flow or None
        None for the input.
    steps : tuple of Step
        From the parent to here; numbers lie as ``reshape(-1)`` has them.
    mark : Mark
        What these steps are in a formula such as ``x * sigmoid(x)``.
    """

    shape: Shape
    parent: Flow | None = field(default=None, repr=False)
    steps: tuple[Step, ...] = ()
    mark: Mark = ()

    @property
    def size(self) -> int:
        """How many numbers there are."""
        return math.prod(self.shape)

    def then(self, shape: Sequence[int], *steps: Step, mark: Mark = ()) -> Flow:
        """Return what steps make of it."""
        return Flow(tuple(map(int, shape)), self, steps, mark)

    def line(self) -> list[Flow]:
        """Return this value and all that it was made of, the newest first."""
        found, flow = [], self
        while True:
            found.append(flow)
            if flow.parent is None:
                return found
            flow = flow.parent


@dataclass(frozen=True, eq=False)
class Unbounded:
    """A value without a bound on its slope so far.

    Attributes
    ----------
    base : Flow
        What the formula is of.
    formula : Formula
    shape : tuple of int
    error : SourceError
        About the first node without a bound.
    """

    base: Flow
    formula: Formula
    shape: Shape
    error: SourceError


def branches_of(values: Sequence[Flow]) -> tuple[Flow, list[list[Flow]]]:
    """Return the newest value that all come from, and the values from there to each.

    The input is one of them, for there is only one.
    """
    lines = [flow.line() for flow in values]
    common = next(
        flow for flow in lines[0] if all(any(flow is other for other in line) for line in lines[1:])
    )
    paths = []
    for line in lines:
        place = next(k for k, flow in enumerate(line) if flow is common)
        paths.append(line[:place][::-1])
    return common, paths


def moved(flow: Flow, made: Array, label: str) -> Flow:
    """Return numbers of a value at other places: `made` has the place of each, -1 for a zero."""
    places = made.reshape(-1)
    if np.array_equal(places, np.arange(flow.size)):
        return flow.then(made.shape)
    kept = np.flatnonzero(places >= 0)
    matrix = sp.csr_array(
        (np.ones(len(kept)), (kept, places[kept])), shape=(len(places), flow.size)
    )
    return flow.then(made.shape, Linear(open_matrix(matrix), label))


@dataclass(frozen=True)
class Node:
    """A node: its type, its attributes, and what goes into it.

    Attributes
    ----------
    op, name, domain : str
    inputs : tuple
        Of `Flow`, ndarray, or None for one that is left out.
    attributes : mapping
    opset : int
    names : tuple of str
        Of the inputs.
    outputs : int
        How many it has.
    """

    op: str
    name: str
    domain: str
    inputs: tuple[Any, ...]
    attributes: Mapping[str, Any]
    opset: int
    names: tuple[str, ...]
    outputs: int = 1

    def refuse(self, reason: str) -> SourceError:
        """Return the error that names this node."""
        return SourceError(f"node {self.name!r} ({self.op}): {reason}")

    def unfit(self, error: Exception) -> SourceError:
        """Return the error of sizes that do not fit, from what NumPy said."""
        return self.refuse(f"its sizes do not fit ({error}); export the model again")

    @property
    def flow(self) -> Flow:
        """Its first input, which must depend on the input of the stack."""
        if not self.inputs or not isinstance(self.inputs[0], Flow):
            msg = "expected its first input to depend on the input of the stack, got a constant"
            raise self.refuse(msg)
        return self.inputs[0]

    def array(self, place: int, what: str, *, needed: bool = True) -> Any:
        """Return an input that must be a constant."""
        value = self.inputs[place] if place < len(self.inputs) else None
        if isinstance(value, (Flow, Unbounded)) or (value is None and needed):
            got = "nothing" if value is None else "a value that depends on the input"
            msg = f"expected {what} as a constant, got {got}"
            raise self.refuse(msg)
        return value

    def number(self, place: int, key: str, default: float) -> float:
        """Return one number that is an input, or an attribute in older files."""
        value = self.array(place, f"{key} as a number", needed=False)
        value = self.get(key, default) if value is None else np.asarray(value).reshape(-1)[0]
        return float(value)

    def axes(self, rank: int) -> tuple[int, ...] | None:
        """Return the axes that a mean is taken over; None where it is the value itself."""
        axes = self.array(1, "axes", needed=False)
        axes = self.get("axes") if axes is None else axes
        axes = None if axes is not None and not np.size(axes) else axes
        if axes is None and self.get("noop_with_empty_axes", 0):
            return None
        given = range(rank) if axes is None else np.atleast_1d(axes)
        return tuple(sorted(int(axis) % rank for axis in given))

    def get(self, key: str, default: Any = None) -> Any:
        """Return an attribute."""
        return self.attributes.get(key, default)


def _axes(node: Node, place: int = 1) -> Any:
    if len(node.inputs) > place and node.inputs[place] is not None:
        return tuple(int(a) for a in np.atleast_1d(node.inputs[place]))
    axes = node.get("axes")
    return None if axes is None else tuple(axes)


def _slice(node: Node) -> Array:
    data, starts, ends = (np.asarray(value) for value in node.inputs[:3])
    axes = np.arange(len(starts)) if len(node.inputs) < 4 else np.asarray(node.inputs[3])
    steps = np.ones_like(starts) if len(node.inputs) < 5 else np.asarray(node.inputs[4])
    return sliced(data, starts, ends, axes, steps)


def sliced(data: Array, starts: Any, ends: Any, axes: Any, steps: Any) -> Array:
    """Return a slice as ONNX means it: ends beyond the data are cut."""
    key = [slice(None)] * data.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        first, last = int(start), int(end)
        n = data.shape[int(axis)]
        stop: int | None = last if last < 0 and last >= -n else min(max(last, -n - 1), n)
        if step < 0 and last < -n:
            stop = None
        key[int(axis)] = slice(first, stop, int(step))
    return data[tuple(key)]


FOLDED: dict[str, Callable[[Node], Any]] = {
    "Add": lambda node: node.inputs[0] + node.inputs[1],
    "Cast": lambda node: _cast(node),
    "Concat": lambda node: np.concatenate(
        [np.atleast_1d(v) for v in node.inputs], axis=node.get("axis", 0)
    ),
    "Div": lambda node: _quotient(*node.inputs),
    "Gather": lambda node: np.take(node.inputs[0], node.inputs[1], axis=node.get("axis", 0)),
    "Identity": lambda node: node.inputs[0],
    "Mul": lambda node: node.inputs[0] * node.inputs[1],
    "Neg": lambda node: -node.inputs[0],
    "Reshape": lambda node: np.reshape(node.inputs[0], node.inputs[1].tolist()),
    "Shape": lambda node: sizes_of(node, np.shape(node.inputs[0])),
    "Slice": _slice,
    "Sqrt": lambda node: np.sqrt(node.inputs[0]),
    "Squeeze": lambda node: np.squeeze(node.inputs[0], _axes(node)),
    "Sub": lambda node: node.inputs[0] - node.inputs[1],
    "Transpose": lambda node: np.transpose(node.inputs[0], node.get("perm")),
    "Unsqueeze": lambda node: np.expand_dims(node.inputs[0], _axes(node)),
}
"""What is computed of constants, sizes of reshapes most of all."""


def _quotient(first: Any, second: Any) -> Any:
    first, second = np.asarray(first), np.asarray(second)
    if first.dtype.kind not in "iu" or second.dtype.kind not in "iu":
        return first / second
    if not second.all():
        msg = "a division of whole numbers by 0"
        raise ValueError(msg)
    down, rest = np.divmod(first, second)
    return down + ((rest != 0) & ((first < 0) != (second < 0)))  # ONNX cuts towards 0, as C does


def sizes_of(node: Node, shape: Shape) -> Array:
    """Return what a node Shape makes: all sizes, or those from `start` to `end`."""
    return np.asarray(shape[node.get("start", 0) : node.get("end")], np.int64)


def _cast(node: Node) -> Array:
    """Return a constant in another type, with what that loses."""
    values, wanted = np.asarray(node.inputs[0]), TYPES.get(node.get("to"))
    if wanted is None:
        msg = f"a cast to type {node.get('to')!r} of ONNX is not computed here"
        raise TypeError(msg)
    if "int" in wanted and not np.isfinite(values).all():
        msg = "a cast of a NaN or an infinity to whole numbers"
        raise ValueError(msg)
    with np.errstate(over="ignore"):
        made = values.astype(as_dtype(wanted, node.name))
    return made.astype(np.float32) if wanted == "bfloat16" else made


TYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64",
    9: "bool", 10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 16: "bfloat16",
}  # fmt: skip
"""`TensorProto.DataType`, of constants that are cast."""


def constant(node: Node) -> Any:
    """Compute a node whose inputs are constants.

    Raises
    ------
    SourceError
        Its type is not one of those that are computed here.
    """
    if node.op not in FOLDED:
        msg = (
            f"a constant is made of constants here by {', '.join(sorted(FOLDED))} alone; fold the "
            "constants when you export"
        )
        raise node.refuse(msg)
    try:
        return np.asarray(FOLDED[node.op](node))
    except (ValueError, IndexError, TypeError) as error:
        msg = f"its constants do not fit ({error}); export the model again"
        raise node.refuse(msg) from error
