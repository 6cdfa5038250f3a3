"""The shapes of the values of an ONNX graph, by ONNX's own shape inference."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from bigspec.errors import ArgumentError, SourceError, needs
from bigspec.names import shown

__all__ = ["value_shapes"]

Shape = tuple[int | None, ...]


def value_shapes(
    where: str | os.PathLike[str], given: Sequence[int] | Mapping[str, Sequence[int]]
) -> dict[str, Shape]:
    """Return the shape of each value of the main graph, None for an extent that stays open.

    The file is read once, without external data.

    Parameters
    ----------
    where : path
    given : sequence of int, or mapping of str to that
        The shape of the only input, or the shapes of some by name.

    Raises
    ------
    ArgumentError
        No such input, or of another number of axes; names the inputs that there are.
    SourceError
        The file cannot be read, or its shapes contradict these.
    """
    file = shown(os.fspath(where))
    try:
        import onnx
        from onnx import shape_inference
    except ImportError as error:
        msg = f"{file}: {needs('ONNX', 'onnx', 'onnx')}"
        raise SourceError(msg) from error
    model = onnx.load(os.fspath(where), load_external_data=False)
    held = {tensor.name for tensor in model.graph.initializer}
    inputs = {value.name: value for value in model.graph.input if value.name not in held}
    for name, shape in _named(given, inputs, file).items():
        _set(inputs[name], name, shape, file)
    del model.graph.value_info[:]  # what an exporter wrote down may be of another size
    try:
        inferred = shape_inference.infer_shapes(model, data_prop=True)
    except (ValueError, shape_inference.InferenceError) as error:
        msg = f"{file}: expected shapes that fit the input, got a contradiction ({error})"
        raise SourceError(msg) from error
    graph = inferred.graph
    return {
        value.name: _shape(value)
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.HasField("tensor_type")
    }


def _named(
    given: Sequence[int] | Mapping[str, Sequence[int]], inputs: Mapping[str, Any], file: str
) -> dict[str, tuple[int, ...]]:
    """Return the shapes by the names of their inputs, checked."""
    there = ", ".join(f"{shown(name)} {list(_shape(value))}" for name, value in inputs.items())
    if not isinstance(given, Mapping):
        if len(inputs) != 1:
            msg = (
                f"input_shape: expected a name for each shape, because {file} has {len(inputs)} "
                f"inputs ({there}), got {given!r}"
            )
            raise ArgumentError(msg)
        given = {next(iter(inputs)): given}
    found = {}
    for name, shape in given.items():
        if name not in inputs:
            msg = f"input_shape: expected the name of an input of {file} ({there}), got {name!r}"
            raise ArgumentError(msg)
        whole = all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in shape)
        if not whole or not len(shape):
            msg = f"input_shape: expected positive whole numbers for {shown(name)}, got {shape!r}"
            raise ArgumentError(msg)
        found[name] = tuple(shape)
    return found


def _shape(value: Any) -> Shape:
    dims = value.type.tensor_type.shape.dim
    return tuple(dim.dim_value if dim.dim_value > 0 else None for dim in dims)


def _set(value: Any, name: str, shape: tuple[int, ...], file: str) -> None:
    """Write a shape into an input that leaves it open, or has the same."""
    there = _shape(value)
    kind = value.type.tensor_type
    if kind.HasField("shape") and (
        len(there) != len(shape)
        or any(old not in (None, new) for old, new in zip(there, shape, strict=True))
    ):
        msg = (
            f"input_shape: expected a shape that fits input {shown(name)} of {file}, "
            f"{['open' if n is None else n for n in there]}, got {list(shape)}"
        )
        raise ArgumentError(msg)
    del kind.shape.dim[:]
    for extent in shape:
        kind.shape.dim.add().dim_value = extent
