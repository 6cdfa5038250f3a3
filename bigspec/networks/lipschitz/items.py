"""What a list says of a stack: matrices, names of activations, and tuples of a name and more."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bigspec.api.matrices import open_within
from bigspec.convolutions import Convolution
from bigspec.errors import ArgumentError, DataError
from bigspec.matrices import Matrix, OperatorMatrix
from bigspec.networks.lipschitz.activations import ACTIVATIONS, activation
from bigspec.networks.lipschitz.folding import folded, one_matrix
from bigspec.networks.lipschitz.grouped import GroupSort, Maxima, Normalised, Softmax
from bigspec.networks.lipschitz.images import (
    CONV,
    POOL,
    conv_layer,
    image_after,
    per_channel,
    pool_layer,
)
from bigspec.networks.lipschitz.parameters import (
    by_name,
    group_size,
    in_order,
    needed,
    nonnegative,
    optional,
    parameters,
    vector,
)
from bigspec.networks.lipschitz.refused import refuse
from bigspec.networks.lipschitz.stack import Branches, Stack
from bigspec.networks.lipschitz.steps import Elementwise, Linear, Scaling, Step

__all__ = ["BRANCHES", "GROUPED", "KNOWN", "Reader", "as_stack", "is_place"]

Array = np.ndarray[Any, Any]

IMAGES = {"conv": CONV, "avg_pool": POOL, "max_pool": POOL, "global_avg_pool": ("input_shape",)}
BRANCHES = {"residual": 1, "sum": 2, "concat": 2}
"""Kinds of branches, and how many there are at least."""
NOTHING = {"identity", "dropout", "flatten"}
"""What is the identity once a network is trained: a flat vector is what every step takes."""
GROUPED: dict[str, tuple[str, ...]] = {
    "batch_norm": ("gamma", "variance", "epsilon", "beta", "mean"),
    "group_sort": ("size",),
    "layer_norm": ("epsilon", "gamma", "beta", "size"),
    "maxmin": (),
    "maxout": ("size",),
    "rms_norm": ("epsilon", "gamma", "size"),
    "scale": ("weights", "bias"),
    "softmax": ("size",),
}
"""Names that are not in the table of activations, with the names of their parameters in order."""


def as_stack(items: Any, memory: int | None) -> Stack:
    """Read a list of layers.

    Raises
    ------
    ArgumentError
        An item is not understood, or has no Lipschitz constant; the message says which one.
    """
    listed = isinstance(items, Sequence) and not isinstance(items, (str, bytes, Mapping))
    if not listed and not isinstance(items, Stack):
        msg = (
            f"layers: expected a list such as [A, 'relu', B], got {type(items).__name__}; a single "
            "matrix has its own norm: bigspec.norm(A)"
        )
        raise ArgumentError(msg)
    stack = items if isinstance(items, Stack) else Reader(memory).stack(items, "layers")
    if not any(isinstance(step, Linear) for step in stack.every):
        msg = "layers: expected at least one matrix, got none"
        raise ArgumentError(msg)
    return stack


class Reader:
    """Turns items into steps.

    Parameters
    ----------
    memory : int or None
        Bytes that one process may hold.
    """

    def __init__(self, memory: int | None) -> None:
        self.memory, self.count = memory, 0
        self._open: dict[int, tuple[Any, Matrix]] = {}
        self._image: tuple[int, ...] | None = None

    def stack(self, items: Sequence[Any], where: str) -> Stack:
        """Read a list of layers."""
        steps: list[Step] = []
        for number, item in enumerate(items):
            for step in self._steps(item, f"{where}[{number}]"):
                self._image = image_after(step, self._image)
                steps.append(step)
        return Stack(folded(steps), where)

    def _steps(self, item: Any, where: str) -> list[Step]:
        name, given = item, ()
        if isinstance(item, (tuple, list)) and len(item) and isinstance(item[0], str):
            name, given = item[0], tuple(item[1:])
        if isinstance(name, str) and not is_place(name):
            return self._named(name.replace("-", "_").lower(), given, where)
        if isinstance(item, tuple) and len(item) == 2:
            return [self.matrix(item[0], where, bias=item[1])]
        if isinstance(item, Step):
            return [item]
        return [self.matrix(item, where)]

    def matrix(self, source: Any, where: str, bias: Any = None, label: str = "") -> Linear:
        """Open a matrix.

        Raises
        ------
        ArgumentError
            It has complex entries, or its bias another length.
        """
        _, opened = self._open.get(id(source), (None, None))
        if opened is None:
            opened = self._opened(source, where)
            if not isinstance(opened, OperatorMatrix):  # messages about entries say which layer
                opened = replace(opened, name=f"{where}: {opened.name}")
            self._open[id(source)] = source, opened
        if opened.dtype.kind == "c":
            msg = (
                f"{where}: expected real entries, for activations act on real numbers, got complex"
            )
            raise ArgumentError(msg)
        image = opened.output_shape if isinstance(opened, Convolution) else None
        values = per_channel(bias, image, f"{where}: bias")
        if values is not None and len(values) != opened.shape[0]:
            msg = f"{where}: expected a bias of length {opened.shape[0]}, got {len(values)}"
            raise ArgumentError(msg)
        self.count += 1
        return Linear(opened, label or f"W{self.count}", values)

    def _opened(self, source: Any, where: str) -> Matrix:
        try:
            return open_within(source, self.memory, multiplied=True)
        except DataError as error:
            msg = (
                f"{where}: expected a matrix, the name of an activation, or a tuple such as "
                f"('leaky_relu', 0.1) or (matrix, bias), got another: {error}"
            )
            raise type(error)(msg) from error

    def _named(self, name: str, given: tuple[Any, ...], where: str) -> list[Step]:
        label = f"{where} {name}"
        refuse(name, where)
        if name in NOTHING:
            return []
        if name in ACTIVATIONS:
            names = ACTIVATIONS[name][0]
            values = in_order(parameters(given, names, where), names, label)
            if name == "prelu" and values and np.ndim(values[0]):
                values = (per_channel(values[0], self._image, label),)
            return [Elementwise(activation(name, *values), label)]
        if name in BRANCHES:
            return self._branches(name, given, label)
        if name in GROUPED:
            return _grouped(name, parameters(given, GROUPED[name], where), label, self._image)
        if name in IMAGES:
            get = by_name(parameters(given, IMAGES[name], where), IMAGES[name])
            if name == "conv":
                return [conv_layer(get, self._image, label)]
            return [pool_layer(name, get, self._image, label)]
        near = difflib.get_close_matches(name, KNOWN, n=1, cutoff=0.6)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(KNOWN))}"
        msg = f"{where}: expected an activation or the path of a matrix, got {name!r}; {hint}"
        raise ArgumentError(msg)

    def _branches(self, kind: str, given: tuple[Any, ...], label: str) -> list[Step]:
        least = BRANCHES[kind]
        lists = [part for part in given if isinstance(part, (list, tuple))]
        if len(lists) != len(given) or len(given) < least:
            msg = f"{label}: expected at least {least} lists of layers, got {given!r}"
            raise ArgumentError(msg)
        stacks, image = [], self._image
        for k, part in enumerate(lists):
            self._image = image
            stacks.append(self.stack(part, f"{label}[{k}]"))
        self._image = image if kind == "residual" else self._image if kind == "sum" else None
        branches = Branches(kind, stacks, label)
        return [one_matrix(branches) or branches]


def _grouped(name: str, values: Any, label: str, image: tuple[int, ...] | None) -> list[Step]:
    get = by_name(values, GROUPED[name])
    size = group_size(get.get("size"), label)
    if name == "softmax":
        return [Softmax(label, size)]
    if name in {"group_sort", "maxmin", "maxout"}:
        if name != "maxmin" and size is None:
            msg = f"{label}: expected the numbers in a group, as in ('{name}', 2), got none"
            raise ArgumentError(msg)
        return [(Maxima if name == "maxout" else GroupSort)(label, size or 2)]
    if name == "scale":
        weights = vector(needed(get, "weights", label), f"{label}: weights")
        return [
            _spread_out(Scaling(weights, label, optional(get, "bias", label, len(weights))), image)
        ]
    if name == "batch_norm":
        return [_spread_out(_batch_norm(get, label), image)]
    epsilon = needed(get, "epsilon", label)
    steps: list[Step] = [Normalised(label, size, epsilon, centred=name == "layer_norm")]
    if get.get("gamma") is not None:
        gamma = vector(get["gamma"], f"{label}: gamma")
        steps.append(Scaling(gamma, label, optional(get, "beta", label, len(gamma))))
    return steps


def _spread_out(step: Scaling, image: tuple[int, ...] | None) -> Scaling:
    """Return weights a channel as weights a position."""
    weights = per_channel(step.weights, image, step.label)
    assert weights is not None
    return replace(step, weights=weights, bias=per_channel(step.bias, image, step.label))


def _batch_norm(get: Mapping[str, Any], label: str) -> Scaling:
    gamma = vector(needed(get, "gamma", label), f"{label}: gamma")
    n = len(gamma)
    variance = optional({"variance": needed(get, "variance", label)}, "variance", label, n)
    epsilon = nonnegative(needed(get, "epsilon", label), f"{label}: epsilon")
    assert variance is not None
    if not (variance + epsilon > 0).all():
        msg = f"{label}: expected variances and epsilon whose sums are > 0, got others"
        raise ArgumentError(msg)
    weights = gamma / np.sqrt(variance + epsilon)
    beta, mean = (optional(get, key, label, n) for key in ("beta", "mean"))
    bias = np.zeros(n) if beta is None else beta
    bias = bias if mean is None else bias - weights * mean
    return Scaling(weights, label, bias, rounded=1)


def is_place(text: str) -> bool:
    """Whether a text looks like a path or a URL and not like a name."""
    return any(sign in text for sign in "/\\.:")


KNOWN = {*ACTIVATIONS, *BRANCHES, *GROUPED, *IMAGES, *NOTHING}
