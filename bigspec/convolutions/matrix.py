"""A convolution as a matrix: its products, its content, and what it knows of itself."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from bigspec.convolutions.bounds import norm_bound, of_small_groups
from bigspec.convolutions.counts import count, most_uses
from bigspec.convolutions.geometry import Axis
from bigspec.convolutions.peak import Peak, affordable, over_all
from bigspec.convolutions.products import WORK_BYTES, correlate, scatter
from bigspec.convolutions.symbol import WIDTH, Symbol
from bigspec.convolutions.waves import waves
from bigspec.kernels import working_dtype
from bigspec.matrices import Claims, Grid, Matrix, OperatorMatrix

__all__ = ["SYMBOL", "Convolution", "convolution", "norm_of_all_sizes"]

Array = np.ndarray[Any, Any]

SYMBOL = "Fourier symbol"
"""What results call the bound."""
FLATTENED = "flattened kernel"
"""The same of a kernel with so many taps that its symbol would take hours."""

GRAM = "Gram matrix of each group"
"""The same of small groups on small images."""

WAVES = 2  # places of the symbol from which a run starts


@dataclass(frozen=True)
class Convolution(OperatorMatrix):
    """The matrix of a convolution, or its adjoint.

    Attributes
    ----------
    kernel : ndarray (groups, outputs, inputs, taps..)
        Channels are those of a group.
    axes : tuple of Axis
        The spatial axes, from the input of the convolution to its output.
    flipped : bool
        Whether the matrix is the adjoint of that.
    """

    kernel: Array = field(repr=False, compare=False)
    axes: tuple[Axis, ...]
    flipped: bool = False

    @property
    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Channels and positions of what it takes, and of what it gives."""
        groups, outputs, inputs = self.kernel.shape[:3]
        given = (groups * inputs, *(axis.size for axis in self.axes))
        made = (groups * outputs, *(axis.out for axis in self.axes))
        return (made, given) if self.flipped else (given, made)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Channels and positions of a vector that it multiplies."""
        return self.shapes[0]

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Channels and positions of a product."""
        return self.shapes[1]

    @property
    def nbytes(self) -> int:
        """Bytes of the kernel, which is all there is to read."""
        return int(self.kernel.nbytes)

    @property
    def carried_nbytes(self) -> int:
        """The kernel travels with the matrix."""
        return int(self.kernel.nbytes)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The geometry, and a digest of the kernel's values."""
        digest = hashlib.sha256(np.ascontiguousarray(self.kernel).tobytes())
        digest.update(repr((self.kernel.dtype.str, self.kernel.shape)).encode())
        return {
            "where": "convolution" + (" (adjoint)" if self.flipped else ""),
            "shape": list(self.shape),
            "dtype": self.dtype.str,
            "chunks": list(self.shape),
            "axes": [axis.to_dict() for axis in self.axes],
            "token": digest.hexdigest()[:32],
        }

    def apply(self, V: Array) -> Array:
        """Return ``A @ V`` for V (n, b)."""
        multiply = scatter if self.flipped else correlate
        return multiply(self._entries, self.axes, V)

    def apply_adjoint(self, Y: Array) -> Array:
        """Return ``A.conj().T @ Y`` for Y (m, b)."""
        multiply = correlate if self.flipped else scatter
        return multiply(self._entries, self.axes, Y)

    def matvec(self, v: Array) -> Array:
        """Return ``A @ v``: with `rmatvec`, what SciPy's `aslinearoperator` asks for."""
        return self.matmat(np.reshape(v, (-1, 1)))[:, 0]

    def rmatvec(self, y: Array) -> Array:
        """Return ``A.conj().T @ y``."""
        return self.rmatmat(np.reshape(y, (-1, 1)))[:, 0]

    def matmat(self, V: Array) -> Array:
        """Return ``A @ V`` in float64 or complex128."""
        V = np.asarray(V)
        return self.apply(V.astype(working_dtype(V.dtype), copy=False))

    def rmatmat(self, Y: Array) -> Array:
        """Return ``A.conj().T @ Y`` in float64 or complex128."""
        Y = np.asarray(Y)
        return self.apply_adjoint(Y.astype(working_dtype(Y.dtype), copy=False))

    def adjoint(self) -> Convolution:
        """Return the adjoint, which shares the kernel."""
        name = self.name.removesuffix(".H") if self.name.endswith(".H") else f"{self.name}.H"
        return replace(
            self,
            shape=self.shape[::-1],
            grids=self.grids[::-1],
            name=name,
            flipped=not self.flipped,
        )

    def weighted(self, rows: Any, columns: Any) -> Matrix | None:
        """Scale output and input channels; None if the weights differ within a channel."""
        groups, outputs, inputs = self.kernel.shape[:3]
        given, made = (columns, rows) if not self.flipped else (rows, columns)
        parts = [
            _of_channels(weights, shape)
            for weights, shape in zip((made, given), self.shapes[:: -1 if not self.flipped else 1],
                                      strict=True)
        ]  # fmt: skip
        left, right = parts
        if left is None or right is None:
            return None
        if self.flipped:  # (diag(l) A^H diag(r))^H = diag(r*) A diag(l*)
            left, right = np.conj(left), np.conj(right)
        ones = (1,) * len(self.axes)
        kernel = self._entries * left.reshape(groups, outputs, 1, *ones)
        kernel = kernel * right.reshape(groups, 1, inputs, *ones)
        return replace(self, kernel=kernel, dtype=kernel.dtype, name=f"scaled({self.name})")

    @cached_property
    def claims(self) -> Claims:
        """Norms in closed form, and the bound from the symbol. Takes no pass."""
        known = count(self._scaled, self.axes, self._exponent)
        if self.flipped:
            known = replace(known, one_norm=known.inf_norm, inf_norm=known.one_norm)
        if known.largest == 0.0:
            return replace(known, upper=0.0, upper_name=SYMBOL)
        if not affordable(self._symbol):
            uses = math.prod(most_uses(axis) for axis in self.axes)
            above = self._symbol.flattened() * math.sqrt(uses) * (1 + 1e-15)
            upper = _unscaled(above, self._exponent, up=True)
            return replace(known, upper=upper, upper_name=FLATTENED)
        above, name = self._bound.upper, SYMBOL
        small = of_small_groups(self._scaled, self.axes)
        if small is not None and small < above:
            above, name = small, GRAM
        return replace(known, upper=_unscaled(above, self._exponent, up=True), upper_name=name)

    @property
    def start_columns(self) -> int:
        """Two waves, each of which has two real columns for a real kernel."""
        if not self._entries.any() or not affordable(self._symbol):
            return 0
        return WAVES * (1 if self.dtype.kind == "c" else 2)

    def start_vectors(self, *, rows: bool) -> Array | None:
        """Return waves where the symbol is largest."""
        if not self.start_columns:
            return None
        places = self._bound.places[:WAVES]
        return waves(self._symbol, self.axes, places, left=rows == self.flipped)

    @cached_property
    def _entries(self) -> Array:
        return np.ascontiguousarray(self.kernel, working_dtype(self.kernel.dtype))

    @cached_property
    def _exponent(self) -> int:
        return _exponent(self._entries)

    @cached_property
    def _scaled(self) -> Array:
        return _scaled(self._entries, self._exponent)

    @cached_property
    def _symbol(self) -> Symbol:
        return Symbol.of(self._scaled, self.axes)

    @cached_property
    def _bound(self) -> Peak:
        return norm_bound(self._symbol)


def convolution(
    kernel: Array, axes: tuple[Axis, ...], groups: int, *, flipped: bool, name: str
) -> Convolution:
    """Build the matrix of a kernel (out, in / groups, taps..); arguments are checked elsewhere."""
    kernel = kernel.reshape(groups, kernel.shape[0] // groups, *kernel.shape[1:])
    kernel = np.array(kernel)  # a copy: a caller may train on
    kernel.flags.writeable = False
    made = groups * kernel.shape[1] * math.prod(axis.out for axis in axes)
    given = groups * kernel.shape[2] * math.prod(axis.size for axis in axes)
    shape = (given, made) if flipped else (made, given)
    return Convolution(
        shape,
        kernel.dtype,
        name,
        (Grid(shape[0], shape[0]), Grid(shape[1], shape[1])),
        kernel,
        axes,
        flipped,
        resident=True,
        transient_nbytes=WORK_BYTES,
    )


def norm_of_all_sizes(kernel: Array, axes: tuple[Axis, ...], groups: int) -> tuple[float, float]:
    """Bracket the largest norm of a kernel (out, in / groups, taps..) over all sizes of image."""
    kernel = kernel.reshape(groups, kernel.shape[0] // groups, *kernel.shape[1:])
    entries = kernel.astype(working_dtype(kernel.dtype))
    if not entries.any():
        return 0.0, 0.0
    exponent = _exponent(entries)
    symbol = Symbol.of(_scaled(entries, exponent), axes)
    if affordable(symbol):
        peak = over_all(symbol)
        lower, upper = peak.lower, peak.upper
    else:
        # Of an output that sees the whole kernel, and with the most outputs that see one position.
        above = symbol.flattened()
        lower = above * (1 - WIDTH)
        upper = above * math.sqrt(math.prod(axis.longest for axis in symbol.axes)) * (1 + 1e-15)
    return _unscaled(lower, exponent, up=False), _unscaled(upper, exponent, up=True)


def _exponent(entries: Array) -> int:
    return int(np.frexp(np.abs(entries).max(initial=0.0))[1])


def _scaled(entries: Array, exponent: int) -> Array:
    """Return ``2**-exponent`` times the entries, in two steps that neither over- nor underflow."""
    half = -exponent // 2
    return np.asarray(entries * math.ldexp(1.0, half) * math.ldexp(1.0, -exponent - half))


def _unscaled(value: float, exponent: int, *, up: bool) -> float:
    """Return ``2**exponent`` times a bound, rounded outwards."""
    toward = math.inf if up else 0.0
    try:
        return math.nextafter(math.ldexp(math.nextafter(value, toward), exponent), toward)
    except OverflowError:
        return math.inf if up else float(np.finfo(float).max)


def _of_channels(weights: Any, shape: tuple[int, ...]) -> Array | None:
    """Return one weight for each channel; None if positions of one channel differ."""
    if weights is None:
        return np.ones(shape[0])
    if np.ndim(weights) == 0:
        return np.full(shape[0], weights)
    table = np.reshape(weights, (shape[0], -1))
    return table[:, 0] if np.all(table == table[:, :1]) else None
