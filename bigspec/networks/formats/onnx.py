"""ONNX: every tensor of a graph, wherever its exporter put it.

Weights are initializers, outputs of Constant nodes, or either of these in a graph inside a node
(If, Loop, Scan) or in the body of a function. A tensor of an inner graph is called by the node,
its attribute and its own name: ``If_0/then_branch/weight``; one of a function by the function.

`Model.notes["layers"]` says what is done with a weight: by its name a list of dicts with ``op``
(Conv, ConvTranspose, Gemm, MatMul), ``input`` (which operand it is), and those of ``strides``,
``pads``, ``dilations``, ``group``, ``auto_pad``, ``kernel_shape``, ``output_padding``,
``output_shape``, ``transA``, ``transB``, ``alpha`` and ``beta`` that the node has. Of a convolution
of the main graph, ``data`` is the name of the value that it is given.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable
from typing import Any

import numpy as np

from bigspec.errors import SourceError, needs
from bigspec.networks.formats.file_tensors import MemoryTensor, finished
from bigspec.networks.formats.onnx_tensors import Sparse, TensorReader
from bigspec.networks.formats.protobuf import without_numbers
from bigspec.networks.tensors import Model, Tensor
from bigspec.sources.file_bytes import Content, LocalContent

__all__ = ["open_onnx"]

WEIGHTS = {"Conv": (1,), "ConvTranspose": (1,), "Gemm": (0, 1), "MatMul": (0, 1)}
"""Which inputs of a node may be a weight."""
KEPT = {
    "strides", "pads", "dilations", "group", "auto_pad", "kernel_shape", "output_padding",
    "output_shape",
    "transA", "transB", "alpha", "beta",
}  # fmt: skip

Scope = ChainMap[str, str]
"""From what a graph calls a value to what the model here calls the tensor."""


def open_onnx(content: Content) -> Model:
    """List the tensors of a local file; the numbers stay in it.

    Raises
    ------
    SourceError
        The package is not here, the file is damaged, or external data lies outside its folder.
    """
    file = content.name
    if not isinstance(content, LocalContent):
        msg = f"{file}: ONNX is read from a path; copy it, and its external data, to a disk"
        raise SourceError(msg)
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        msg = f"{file}: {needs('ONNX', 'onnx', 'onnx')}"
        raise SourceError(msg) from error
    try:
        view = content.at(0, content.size, "its graph").data
        model = onnx.ModelProto.FromString(without_numbers(view))
    except (ValueError, DecodeError) as error:
        msg = (
            f"{file}: expected an ONNX model, got a file that cannot be read as one ({error}); it "
            "was cut short or damaged: copy it again"
        )
        raise SourceError(msg) from error
    if not model.HasField("graph"):
        msg = f"{file}: expected an ONNX model with a graph, got one without; export it again"
        raise SourceError(msg)
    graphs = _Graphs(TensorReader(content))
    graphs.graph(model.graph, "", ChainMap())
    for function in model.functions:
        graphs.nodes(function.node, f"{function.domain}.{function.name}/", ChainMap())
    return finished(file, "onnx", graphs.tensors, {"layers": graphs.layers})


class _Graphs:
    """What was found in the graphs so far."""

    def __init__(self, reader: TensorReader) -> None:
        self.reader, self.file = reader, reader.content.name
        self.tensors: list[Tensor] = []
        self.layers: dict[str, list[dict[str, Any]]] = {}
        self.taken: dict[str, int] = {}

    def graph(self, graph: Any, prefix: str, scope: Scope) -> None:
        """Take the initializers and the nodes of a graph."""
        for tensor in graph.initializer:
            self._take(tensor, prefix, tensor.name, scope)
        for tensor in graph.sparse_initializer:
            self._take(tensor, prefix, tensor.values.name, scope)
        self.nodes(graph.node, prefix, scope)

    def nodes(self, nodes: Iterable[Any], prefix: str, scope: Scope) -> None:
        """Take what the nodes of a graph or a function hold."""
        for number, node in enumerate(nodes):
            if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
                self._constant(node, prefix, scope)
            elif node.op_type == "Identity" and len(node.input) == 1 and len(node.output) == 1:
                if node.input[0] in scope:
                    scope[node.output[0]] = scope[node.input[0]]
            elif node.op_type in WEIGHTS:
                self._layer(node, scope, main=not prefix)
            here = f"{prefix}{node.name or f'{node.op_type}_{number}'}/"
            for attribute in node.attribute:
                inner = [attribute.g] if attribute.HasField("g") else []
                for place, graph in enumerate([*inner, *attribute.graphs]):
                    which = f"{attribute.name}{place or ''}"
                    self.graph(graph, f"{here}{which}/", scope.new_child())

    def _constant(self, node: Any, prefix: str, scope: Scope) -> None:
        name = node.output[0] if node.output else node.name
        for attribute in node.attribute:
            if attribute.name == "value" and attribute.HasField("t"):
                self._take(attribute.t, prefix, name, scope)
            elif attribute.name == "sparse_value" and attribute.HasField("sparse_tensor"):
                self._take(attribute.sparse_tensor, prefix, name, scope)
            elif attribute.name in ("value_float", "value_floats"):
                one = attribute.name == "value_float"
                values = np.asarray(attribute.f if one else list(attribute.floats), np.float32)
                self._hold(values, prefix, name, scope)
            elif attribute.name in ("value_int", "value_ints"):
                one = attribute.name == "value_int"
                whole = np.asarray(attribute.i if one else list(attribute.ints), np.int64)
                self._hold(whole, prefix, name, scope)

    def _hold(self, values: np.ndarray[Any, Any], prefix: str, own: str, scope: Scope) -> None:
        name = self._name(prefix, own, scope)
        said = (values.shape, values.dtype.name, values.nbytes)
        shape, dtype, nbytes = said
        self.tensors.append(
            MemoryTensor(
                name=name, file=self.file, shape=shape, dtype=dtype, nbytes=nbytes, values=values
            )
        )

    def _take(self, proto: Any, prefix: str, own: str, scope: Scope) -> None:
        name = self._name(prefix, own, scope)
        if hasattr(proto, "indices"):
            self.tensors.append(Sparse.of(proto, name, self.reader))
        else:
            self.tensors.append(self.reader.tensor(proto, name))

    def _name(self, prefix: str, own: str, scope: Scope) -> str:
        """Return a name that no other tensor has: names of inner graphs may repeat."""
        name = f"{prefix}{own}"
        count = self.taken[name] = self.taken.get(name, 0) + 1
        while count > 1:
            other = f"{name}:{count}"
            if other not in self.taken:
                self.taken[name], self.taken[other] = count, 1
                name = other
                break
            count += 1
        scope[own] = name
        return name

    def _layer(self, node: Any, scope: Scope, *, main: bool) -> None:
        for place in WEIGHTS[node.op_type]:
            name = scope.get(node.input[place]) if place < len(node.input) else None
            if name is not None:
                said = {a.name: _value(a) for a in node.attribute if a.name in KEPT}
                said = {"op": node.op_type, "input": place} | said
                if main and node.op_type.startswith("Conv"):
                    said["data"] = node.input[0]
                self.layers.setdefault(name, []).append(said)


def _value(attribute: Any) -> Any:
    if attribute.ints:
        return list(attribute.ints)
    if attribute.HasField("s"):
        return attribute.s.decode("latin-1")
    return attribute.f if attribute.HasField("f") else attribute.i
