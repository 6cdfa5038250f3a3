"""One matrix in memory, tile by tile in float64: what its entries are, and its Gram matrix."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from bigspec.certificate.rounding import UNIT_ROUNDOFF
from bigspec.kernels.entries import safe_exponent, scale_entries, working_dtype

__all__ = ["Difference", "Entries", "Stored", "Survey", "ends_in_units", "in_units", "look"]

Array = np.ndarray[Any, Any]

FLOATS = np.finfo(float)
TILE_BYTES = 2 << 20  # of float64: stays in the cache of one core
LEAST_VARIANCE = 1e-12
GRAM_ROWS = 2  # times the order of the Gram matrix: a tile of fewer rows would wait for memory


class Entries(ABC):
    """The entries of a matrix, in tiles across its shorter side.

    Attributes
    ----------
    shape : tuple of int
    dtype : numpy.dtype
        As stored.
    rounding : float
        Relative error of a single entry.
    """

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    rounding = 0.0

    @abstractmethod
    def fill(self, place: tuple[slice, slice], out: Array) -> None:
        """Write a rectangle to `out`, of the working type."""

    @property
    def work(self) -> np.dtype[Any]:
        """The type of products: float64 or complex128."""
        return np.dtype(working_dtype(self.dtype))

    @property
    def tall(self) -> bool:
        """Whether tiles are ranges of rows."""
        return self.shape[0] >= self.shape[1]

    def tiles(self, exponent: int = 0, least: int = 1) -> Iterator[tuple[slice, Array]]:
        """Yield ranges of the longer side and their entries times ``2**-exponent``.

        A tile is valid until the next one; it has at least `least` rows, or columns of a wide
        matrix.
        """
        m, n = self.shape
        short, long = min(m, n), max(m, n)
        step = max(least, TILE_BYTES // (self.work.itemsize * short), 1)
        step = min(step, long)
        buffer = np.empty(step * short, self.work)
        for start in range(0, long, step):
            span = slice(start, min(start + step, long))
            size = span.stop - span.start
            shape = (size, n) if m >= n else (m, size)
            tile = buffer[: size * short].reshape(shape)
            self.fill((span, slice(None)) if m >= n else (slice(None), span), tile)
            scale_entries(tile, exponent)
            yield span, tile


@dataclass(frozen=True)
class Stored(Entries):
    """An array as it lies there."""

    array: Array

    @property
    def shape(self) -> tuple[int, int]:  # type: ignore[override]
        """Rows and columns."""
        return self.array.shape[0], self.array.shape[1]

    @property
    def dtype(self) -> np.dtype[Any]:  # type: ignore[override]
        """As stored."""
        stored: np.dtype[Any] = self.array.dtype
        return stored

    def fill(self, place: tuple[slice, slice], out: Array) -> None:
        """Convert a rectangle."""
        np.copyto(out, self.array[place], casting="unsafe")


@dataclass(frozen=True)
class Difference(Entries):
    """One array minus another one of the same shape, each entry rounded once."""

    first: Array
    second: Array
    rounding = UNIT_ROUNDOFF

    @property
    def shape(self) -> tuple[int, int]:  # type: ignore[override]
        """Rows and columns."""
        return self.first.shape[0], self.first.shape[1]

    @property
    def dtype(self) -> np.dtype[Any]:  # type: ignore[override]
        """A type that has room for both."""
        complex_ = "c" in (self.first.dtype.kind, self.second.dtype.kind)
        return np.dtype(np.complex128 if complex_ else np.float64)

    def fill(self, place: tuple[slice, slice], out: Array) -> None:
        """Convert a rectangle of both, and subtract."""
        np.copyto(out, self.first[place], casting="unsafe")
        other = np.empty(out.shape, out.dtype)
        np.copyto(other, self.second[place], casting="unsafe")
        np.subtract(out, other, out=out)


@dataclass(frozen=True)
class Survey:
    """What one look at all entries shows.

    Attributes
    ----------
    shape : tuple of int
    non_finite : int
        NaN and infinities. The other numbers are of no use if there are any.
    exponent : int
        `frobenius_squared` and `gram` are of ``2**-exponent`` times the entries.
    largest : float
        Largest magnitude of an entry.
    largest_row, largest_column : float
        Largest Euclidean norm of a row and of a column.
    frobenius_squared : float
    deviation : float
        Standard deviation of the entries.
    gram : ndarray or None
        ``A^H A`` or ``A A^H``, whichever is smaller, exactly Hermitian; if it was asked for.
    """

    shape: tuple[int, int]
    non_finite: int
    exponent: int
    largest: float
    largest_row: float
    largest_column: float
    frobenius_squared: float
    deviation: float
    gram: Array | None

    @property
    def frobenius(self) -> float:
        """The Frobenius norm."""
        return in_units(math.sqrt(self.frobenius_squared), self.exponent)

    @property
    def edge(self) -> float:
        """Marchenko-Pastur: where the norm of noise of this size and deviation lies."""
        m, n = self.shape
        return self.deviation * (math.sqrt(m) + math.sqrt(n))


def in_units(value: float, exponent: int) -> float:
    """Return ``value * 2**exponent``, infinite where that is too large for a float."""
    try:
        return math.ldexp(value, exponent)
    except OverflowError:
        return math.inf


def ends_in_units(lower: float, upper: float, exponent: int) -> tuple[float, float]:
    """Return both ends times ``2**exponent``, rounded outward where a float cannot hold them."""
    if exponent == 0:
        return lower, upper
    low, high = in_units(lower, exponent), in_units(upper, exponent)
    if low < FLOATS.tiny:  # ldexp rounds to nearest among subnormal numbers
        low = math.nextafter(low, 0.0)
    if high < FLOATS.tiny and upper > 0.0:
        high = math.nextafter(high, math.inf)
    return min(low, float(FLOATS.max)), high


def look(entries: Entries, *, gram: bool) -> Survey:
    """Look at all entries once, or twice where their squares need a scale.

    Parameters
    ----------
    entries : Entries
    gram : bool
        Also make the smaller Gram matrix.
    """
    exponent = 0
    if entries.dtype.kind in "fc" and entries.work.itemsize <= entries.dtype.itemsize:
        with np.errstate(invalid="ignore", over="ignore"):
            peaks = [_peak(tile) for _, tile in entries.tiles()]
        exponent = safe_exponent(max(peaks)) if all(map(math.isfinite, peaks)) else 0
    tall = entries.tall
    short = entries.shape[1 if tall else 0]
    sums = _Sums(short, entries.work if gram else None, tall=tall)
    bad = 0
    with np.errstate(invalid="ignore", over="ignore"):
        for _, tile in entries.tiles(exponent, least=GRAM_ROWS * short if gram else 1):
            peak = _peak(tile)
            if not math.isfinite(peak):
                bad += int(tile.size - np.count_nonzero(np.isfinite(tile)))
            if not bad:
                sums.add(tile, peak)
    if bad:
        return Survey(entries.shape, bad, 0, *(math.nan,) * 5, None)
    return sums.survey(entries.shape, exponent)


class _Sums:
    """The sums over tiles."""

    def __init__(self, short: int, gram: np.dtype[Any] | None, *, tall: bool) -> None:
        self.tall = tall
        self.along, self.across = np.zeros(short), 0.0  # squares along the longer side, across it
        self.total: complex = 0.0
        self.largest = self.squares = 0.0
        self.gram = None if gram is None else np.zeros((short, short), gram)
        self.product = None if gram is None else np.empty((short, short), gram)

    def add(self, tile: Array, peak: float) -> None:
        """Add a tile of finite entries."""
        self.largest = max(self.largest, peak)
        sizes = np.abs(tile) if tile.dtype.kind == "c" else tile
        lengths = np.einsum("ij,ij->i" if self.tall else "ij,ij->j", sizes, sizes)
        self.across = max(self.across, float(lengths.max(initial=0.0)))
        self.squares += float(np.sum(lengths))
        self.total += complex(np.sum(np.ones(len(tile)) @ tile))
        if self.gram is None:
            self.along += np.einsum("ij,ij->j" if self.tall else "ij,ij->i", sizes, sizes)
        else:
            first = tile.conj().T if self.tall else tile
            np.matmul(first, tile if self.tall else tile.conj().T, out=self.product)
            self.gram += self.product

    def survey(self, shape: tuple[int, int], exponent: int) -> Survey:
        """Return what the sums say."""
        count, gram = shape[0] * shape[1], self.gram
        if gram is not None:
            gram = (gram + gram.conj().T) / 2
            self.along = gram.diagonal().real
        mean_square = self.squares / count
        variance = mean_square - abs(self.total / count) ** 2
        if variance <= LEAST_VARIANCE * mean_square:  # only rounding is left of the difference
            variance = 0.0
        lengths = self.across, float(self.along.max(initial=0.0))
        row, column = lengths if self.tall else lengths[::-1]
        return Survey(
            shape=shape,
            non_finite=0,
            exponent=exponent,
            largest=in_units(self.largest, exponent),
            largest_row=in_units(math.sqrt(row), exponent),
            largest_column=in_units(math.sqrt(column), exponent),
            frobenius_squared=self.squares,
            deviation=in_units(math.sqrt(variance), exponent),
            gram=gram,
        )


def _peak(tile: Array) -> float:
    """Return the largest magnitude, NaN if there is one."""
    if tile.dtype.kind == "c":
        return float(np.abs(tile).max(initial=0.0))
    return float(max(tile.max(initial=0.0), -tile.min(initial=0.0)))
