"""The norms of the layers of a kernel, beside that of the flattened kernel in the same row."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bigspec.certificate.rounding import UNIT_ROUNDOFF
from bigspec.errors import ArgumentError, MemoryLimitError
from bigspec.networks.forms import Part, Read
from bigspec.networks.layer import Layer
from bigspec.networks.norms import Asked, Limit, by_passes
from bigspec.networks.row import Row
from bigspec.results import Interval

if TYPE_CHECKING:
    from bigspec.networks.work import Request

__all__ = ["with_layers"]

Array = np.ndarray[Any, Any]


def with_layers(row: Row, request: Request, read: Read, asked: Asked, limit: Limit) -> Row:
    """Return the row with the largest norm of the layers that use its kernel.

    The difference of two layers is the layer of the difference of their kernels. Each entry of that
    is rounded once, and a layer has at most the sum of the norms of its taps, which is at most
    ``taps^(1/2)`` times the Frobenius norm of its kernel.
    """
    form, slack = request.entry.form, 0.0
    assert isinstance(form, Part)
    kernel = _kernel(form, read)
    if request.other is not None:
        assert isinstance(request.other, Part)
        kernel = kernel.astype(np.float64) - _kernel(request.other, read)
        taps = math.prod(kernel.shape[2:])
        slack = 2 * UNIT_ROUNDOFF * math.sqrt(taps) * float(np.linalg.norm(kernel.ravel()))
    found: list[tuple[Interval, str]] = []
    for layer in request.entry.layers:
        limit.check()
        try:
            found.append(_norm(layer, kernel, request.entropy, asked, limit))
        except ArgumentError as error:  # a geometry that its own graph would refuse
            return replace(row, note="; ".join(filter(None, (row.note, f"as a layer: {error}"))))
    lower = max(max(one.lower for one, _ in found) - slack, 0.0)
    upper, text = max((one.upper, text) for one, text in found)
    upper += slack
    more = f", the largest of {len(found)} uses" if len(found) > 1 else ""
    certain = all(one.deterministic for one, _ in found)
    return replace(
        row, layer=text + more, layer_lower=lower, layer_upper=upper, layer_certain=certain
    )


def _kernel(form: Part, read: Read) -> Array:
    kernel = np.asarray(read(form.tensor))
    if form.first:  # (taps.., in, out) becomes (out, in, taps..)
        kernel = np.moveaxis(kernel, (-1, -2), (0, 1))
    if kernel.dtype.itemsize == 1 and kernel.dtype.kind not in "biu":
        kernel = kernel.astype(np.float32)
    return kernel


def _norm(
    layer: Layer, kernel: Array, entropy: int, asked: Asked, limit: Limit
) -> tuple[Interval, str]:
    if not layer.sized:
        found = layer.of_all_sizes(kernel)
        # Strides and groups that are not known only make it smaller.
        return (found if layer.known else replace(found, lower=0.0)), layer.text
    matrix = layer.matrix(kernel)
    try:
        norm = by_passes(matrix, asked, entropy=entropy, gate=None, limit=limit)
    except MemoryLimitError:
        claims = matrix.claims
        upper = Interval(0.0, claims.upper, claims.upper_name, "none", deterministic=True)
        return upper, f"{layer.text}; no memory for a pass"
    return norm.interval, layer.text
