"""The stack that an ONNX graph is, from one value to another.

Every value is known as steps after an earlier one. Where two of them meet (a residual, a
concatenation), the newest value that both come from is their common input, and the ways from there
are branches. ``x * sigmoid(x)`` and the like are in `onnx_patterns`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bigspec.errors import ArgumentError, SourceError, needs
from bigspec.names import shown
from bigspec.networks.formats import open_model
from bigspec.networks.formats.protobuf import without_numbers
from bigspec.networks.lipschitz.folding import folded, one_matrix
from bigspec.networks.lipschitz.onnx_layers import layer, scaled_by
from bigspec.networks.lipschitz.onnx_patterns import pattern
from bigspec.networks.lipschitz.onnx_values import (
    Flow,
    Mark,
    Node,
    Unbounded,
    branches_of,
    constant,
    moved,
    sizes_of,
)
from bigspec.networks.lipschitz.stack import Branches, Stack
from bigspec.sources.file_bytes import LocalContent

__all__ = ["read_onnx"]

STANDARD = {"", "ai.onnx"}
"""Domains of ONNX's own nodes."""


def read_onnx(
    path: str | os.PathLike[str],
    shape: Sequence[int] | None = None,
    begin: str | None = None,
    end: str | None = None,
) -> Stack:
    """Read the stack between two values of a graph.

    Parameters
    ----------
    path : str or path
    shape : sequence of int, optional
        Of the value that it begins with, a batch of 1 in front. By default what the file says.
    begin, end : str, optional
        Names of values. By default the input and the output of the graph.

    Raises
    ------
    SourceError
        A node is not understood: the message has its name and its type.
    ArgumentError
        There is no such value, or a size that the file leaves open.
    """
    text = os.fspath(path)
    model = open_model(text)  # which says what is wrong with the file
    try:
        import onnx
    except ImportError as error:
        msg = f"{text}: {needs('ONNX', 'onnx', 'onnx')}"
        raise SourceError(msg) from error
    content = LocalContent(Path(text), text)
    proto = onnx.ModelProto.FromString(
        without_numbers(content.at(0, content.size, "its graph").data)
    )
    walk = _Walk(proto, model, text)
    walk.begin(begin, shape)
    return walk.stack(end)


class _Walk:
    """The values of a graph so far."""

    def __init__(self, proto: Any, model: Any, text: str) -> None:
        self.graph, self.model, self.file = proto.graph, model, shown(text)
        self.opset = max((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")),
                         default=1)  # fmt: skip
        self.values: dict[str, Any] = {}
        self.stopped: dict[str, SourceError] = {}
        self.held = {t.name for t in self.graph.initializer}
        self.input: Flow | None = None

    def begin(self, name: str | None, shape: Sequence[int] | None) -> None:
        """Choose the value that the stack begins with."""
        inputs = {one.name: one for one in self.graph.input if one.name not in self.held}
        if name is None:
            if len(inputs) != 1:
                msg = (
                    f"{self.file}: expected one input, got {len(inputs)}: "
                    f"{', '.join(map(shown, inputs))}; name the one to begin with (begin)"
                )
                raise ArgumentError(msg)
            name = next(iter(inputs))
        made = {value for node in self.graph.node for value in node.output if value}
        if name not in inputs and name not in made:
            msg = f"{self.file}: begin: expected a value of the graph, got {name!r}"
            raise ArgumentError(msg)
        said = self._said(inputs.get(name))
        sizes = list(shape) if shape is not None else said
        if sizes[:1] in ([0], [None]):
            sizes[0] = 1
        whole = all(isinstance(n, (int, np.integer)) and n > 0 for n in sizes)
        if not sizes or not whole or sizes[0] != 1:
            got = "x".join(str(n or "?") for n in sizes) or "no size"
            msg = (
                f"{self.file}: input_shape: expected the sizes of {name!r} with a batch of 1 in "
                f"front, such as 1,3,224,224, got {got}; give them"
            )
            raise ArgumentError(msg)
        if said and (len(said) != len(sizes) or any(
            there not in (None, 0, n) for there, n in zip(said[1:], sizes[1:], strict=True)
        )):  # fmt: skip
            fixed = "x".join(str(n or "?") for n in said)
            msg = (
                f"{self.file}: input_shape: expected sizes that fit those of the file, {fixed}, "
                f"got {'x'.join(map(str, sizes))}; another size is another network"
            )
            raise ArgumentError(msg)
        self.input = Flow(tuple(int(n) for n in sizes))
        self.values[name] = self.input

    @staticmethod
    def _said(value: Any) -> list[Any]:
        if value is None or not value.type.tensor_type.HasField("shape"):
            return []
        dims = value.type.tensor_type.shape.dim
        return [d.dim_value if d.HasField("dim_value") else None for d in dims]

    def stack(self, end: str | None) -> Stack:
        """Walk the graph, and return the stack that ends with a value."""
        outputs = [one.name for one in self.graph.output]
        if end is None and len(outputs) != 1:
            msg = (
                f"{self.file}: expected one output, got {len(outputs)}: "
                f"{', '.join(map(shown, outputs))}; name the one to end with (end)"
            )
            raise ArgumentError(msg)
        name = outputs[0] if end is None else end
        needed = self._needed(name)
        for number, node in enumerate(self.graph.node):
            if number in needed:
                self._node(node, number)
        found = self.values.get(name)
        if isinstance(found, Unbounded):
            msg = f"{self.file}: {found.error}"
            raise SourceError(msg)
        if not isinstance(found, Flow):
            msg = f"{self.file}: end: expected a value that depends on the input, got {name!r}"
            raise ArgumentError(msg)
        steps = [step for flow in reversed(found.line()) for step in flow.steps]
        return Stack(folded(steps), self.file)

    def _needed(self, name: str) -> set[int]:
        """Return the nodes that a value is made by, up to where the stack begins."""
        maker = {value: k for k, node in enumerate(self.graph.node) for value in node.output}
        wanted, needed = [name], set()
        while wanted:
            value = wanted.pop()
            number = maker.get(value)
            if number is None or number in needed or value in self.values:
                continue
            needed.add(number)
            wanted += list(self.graph.node[number].input)
        return needed

    def _constant(self, name: str) -> Any:
        """Return a tensor of the file."""
        if name not in self.model:
            return None
        values = self.model[name].read()
        return values if values.dtype.kind in "iufb" else values.astype(np.float32)

    def _value(self, name: str, node: Any) -> Any:
        if not name:
            return None
        if name not in self.values:
            found = self._constant(name)
            if found is None:
                msg = (
                    f"{self.file}: node {shown(node.name)!r} ({node.op_type}): expected inputs "
                    f"made from the beginning of the stack, got {shown(name)!r}, which is not"
                )
                raise SourceError(msg)
            self.values[name] = found
        return self.values[name]

    def _node(self, proto: Any, number: int) -> None:
        label = shown(proto.name) or f"{proto.op_type}_{number}"
        if proto.op_type == "Constant" and proto.domain in STANDARD:
            return  # a tensor of the file, by the name of its output
        if proto.output[0] in self.values:
            return
        inputs = tuple(self._value(name, proto) for name in proto.input)
        attributes = {a.name: _attribute(a) for a in proto.attribute}
        node = Node(proto.op_type, label, proto.domain, inputs, attributes, self.opset,
                    tuple(map(shown, proto.input)), sum(map(bool, proto.output)))  # fmt: skip
        try:
            made = _made(node, len(proto.output))
        except SourceError as error:
            msg = f"{self.file}: {error}"
            raise SourceError(msg) from error
        self.values.update(zip(proto.output, made, strict=False))


def _made(node: Node, count: int) -> Sequence[Any]:
    """Return what a node makes, by its outputs."""
    values = [value for value in node.inputs if isinstance(value, (Flow, Unbounded))]
    if node.domain not in STANDARD:
        return [layer(node)]  # which refuses it
    if not values:
        return [constant(node)]
    if node.op == "Shape":
        return [sizes_of(node, values[0].shape)]
    first = next((value.error for value in values if isinstance(value, Unbounded)), None)
    if first is not None:
        return [pattern(node, first)]
    try:
        if node.op == "Split":
            return _split(node, count)
        return [_joined(node) if node.op in JOINS else layer(node)]
    except SourceError as error:
        return [pattern(node, error)]


def _attribute(attribute: Any) -> Any:
    """Return the value of an attribute; of text, a text. An empty list is one of no numbers."""
    if attribute.type == attribute.INTS or attribute.ints:
        return list(attribute.ints)
    if attribute.type == attribute.FLOATS or attribute.floats:
        return list(attribute.floats)
    if attribute.HasField("s"):
        return attribute.s.decode("latin-1")
    return attribute.f if attribute.HasField("f") else attribute.i


def _join(
    node: Node, kind: str, flows: Sequence[Flow], shape: tuple[int, ...], mark: Mark = ()
) -> Flow:
    common, paths = branches_of(flows)
    stacks = []
    for path in paths:
        steps = [step for flow in path for step in flow.steps]
        stacks.append(Stack(folded(steps), node.name))
    branches = Branches(kind, stacks, node.name, common.size)
    return common.then(shape, one_matrix(branches) or branches, mark=mark)


def _add(node: Node) -> Flow:
    first, second = node.inputs
    if isinstance(first, Flow) and isinstance(second, Flow):
        if node.op == "Sub" and second.parent is first and second.mark[:1] == ("mean",):
            return _centred(node, first, second)
        if first.shape != second.shape:
            msg = f"shapes {first.shape} and {second.shape} differ"
            raise node.refuse(msg)
        if node.op == "Sub":
            second = scaled_by(node, second, -1.0, None)
        return _join(node, "sum", [first, second], first.shape)
    if isinstance(first, Flow):
        sign = -1.0 if node.op == "Sub" else 1.0
        return scaled_by(node, first, None, sign * np.asarray(second, float))
    if node.op == "Sub":
        second = scaled_by(node, second, -1.0, None)
    return scaled_by(node, second, None, first)


def _centred(node: Node, flow: Flow, mean: Flow) -> Flow:
    """Return a value without its mean along some axes: a projection."""
    places = np.arange(mean.size).reshape(mean.shape)
    widened = moved(mean, np.broadcast_to(places, flow.shape), node.name)
    negative = scaled_by(node, widened, -1.0, None)
    return _join(node, "sum", [flow, negative], flow.shape, ("centred", *mean.mark[1:]))


def _sum(node: Node) -> Flow:
    flows = [value for value in node.inputs if isinstance(value, Flow)]
    if len(flows) != len(node.inputs) or len({flow.shape for flow in flows}) != 1:
        msg = "expected values of one shape that all depend on the input"
        raise node.refuse(msg)
    return flows[0] if len(flows) == 1 else _join(node, "sum", flows, flows[0].shape)


def _multiply(node: Node) -> Flow:
    first, second = node.inputs
    if not isinstance(second, Flow):
        return scaled_by(node, first, second, None)
    if not isinstance(first, Flow):
        return scaled_by(node, second, first, None)
    msg = (
        "a product of two values that depend on the input grows like a square (GLU, attention, "
        "squeeze-and-excitation), so its slope has no bound; bound the parts before and after it, "
        "with begin and end"
    )
    raise node.refuse(msg)


def _divide(node: Node) -> Flow:
    first, second = node.inputs
    if isinstance(second, Flow):
        msg = "a quotient by a value that depends on the input has no bound"
        raise node.refuse(msg)
    return scaled_by(node, first, 1.0 / np.asarray(second, float), None, rounded=1)


def _concat(node: Node) -> Flow:
    flows = [value for value in node.inputs if isinstance(value, Flow)]
    if len(flows) != len(node.inputs):
        msg = "expected values that all depend on the input, got a constant"
        raise node.refuse(msg)
    axis = node.get("axis", 0) % len(flows[0].shape)
    parts, first = [], 0
    for flow in flows:
        parts.append(np.arange(first, first + flow.size).reshape(flow.shape))
        first += flow.size
    made = np.concatenate(parts, axis=axis)
    joined = _join(node, "concat", flows, (1, first))
    return moved(joined, made, node.name)


def _split(node: Node, count: int) -> list[Flow]:
    flow, axis = node.flow, node.get("axis", 0)
    sizes = node.array(1, "sizes", needed=False)
    sizes = node.get("split") if sizes is None else sizes
    places = np.arange(flow.size).reshape(flow.shape)
    n = places.shape[axis]
    each = [-(-n // count)] * count if sizes is None else [int(s) for s in sizes]
    return [
        moved(flow, part, node.name) for part in np.split(places, np.cumsum(each)[:-1], axis=axis)
    ]


def _joined(node: Node) -> Flow:
    if node.opset < 7 and node.get("axis") is not None and node.op != "Concat":
        msg = (
            "it is broadcast along an axis, as opsets before 7 had it, which is not understood; "
            "convert the model with onnx.version_converter"
        )
        raise node.refuse(msg)
    try:
        return JOINS[node.op](node)
    except (ValueError, IndexError, TypeError) as error:
        raise node.unfit(error) from error


JOINS = {
    "Add": _add,
    "Concat": _concat,
    "Div": _divide,
    "Mul": _multiply,
    "Sub": _add,
    "Sum": _sum,
}
