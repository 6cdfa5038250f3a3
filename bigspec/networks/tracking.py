"""The norm of a weight that moves: certified once, then bounded at every step from one pass.

The state and the step are free of any framework. Arrays are NumPy's, or those of a namespace with
the same few functions (PyTorch's), on any device. A pass is two products with a block of a few
columns in float64. Only matrices of the order of the block come back to this process.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from bigspec.api.svds import svds
from bigspec.certificate.drift import Anchor, Bracket, Grams, bound_after, gram_errors, grown
from bigspec.certificate.rounding import UNIT_ROUNDOFF
from bigspec.errors import ArgumentError, NonFiniteError

__all__ = ["DenseWeight", "State", "Step", "Wishes", "advance", "all_values", "begin", "look"]

Array = Any
"""Of NumPy, or of a namespace like it."""

DENSE = 1536
"""Smaller side up to which all eigenvalues of a Gram matrix cost less than a run of `svds`."""
WARM_UP = 15  # passes before the first certificate, as PyTorch makes
LEAST, MOST = 1e-60, 1e60  # Frobenius norms whose fourth powers neither overflow nor vanish
DRIFTED = 8.0  # a drift below this share of the tolerance is no reason to certify again


@dataclass(frozen=True)
class Wishes:
    """How surely, and how tightly, the norm must be known.

    Attributes
    ----------
    rtol : float
        A bound is too loose where ``upper / lower - 1`` exceeds it: then W is certified again.
    every : int or None
        Certify again after so many steps in any case.
    failure_probability : float
        Of all certificates together: the j-th gets ``1 / (j (j + 1))`` of it.
    """

    rtol: float = 1e-2
    every: int | None = None
    failure_probability: float = 1e-6


@dataclass(frozen=True)
class State:
    """All that a step needs of the steps before.

    Attributes
    ----------
    vectors : array (n, b)
        The block of the next pass.
    reference : array (m, n)
        W_0, the matrix that was certified last, in its own type.
    anchor : Anchor
        Of W_0.
    certificates : int
        How many runs have drawn random vectors so far.
    steps : int
        Steps since the last certificate.
    entropy : int
        What all random vectors are drawn from.
    """

    vectors: Array
    reference: Array
    anchor: Anchor
    certificates: int
    steps: int
    entropy: int


@dataclass(frozen=True)
class Step:
    """What one step says of the norm.

    Attributes
    ----------
    lower, upper : float
        ``lower <= ||W||_2 <= upper``.
    name : str
        Of the bound behind `upper`: "Lehmann", "Weyl", "certificate" or "norms".
    left, right : array (m,), (n,)
        Unit vectors, ``left^H W right`` close to the norm from below; zero for a zero matrix.
    size : float
        A bound of ``|| |W| ||_2``.
    certified : bool
        Whether W was certified anew in this step.
    """

    lower: float
    upper: float
    name: str
    left: Array = field(repr=False)
    right: Array = field(repr=False)
    size: float = field(repr=False)
    certified: bool


class DenseWeight:
    """A matrix in memory, multiplied in float64 (complex128).

    Parameters
    ----------
    matrix : array (m, n)
        In its own type. It is not changed.
    xp : namespace
        `numpy` or `torch`.
    wide : callable
        Converts an array of `xp` to float64 or complex128.
    host : callable
        Returns an array of `xp` as a NumPy array.
    name : str
        For messages.
    """

    def __init__(self, matrix: Array, xp: Any, wide: Any, host: Any, name: str) -> None:
        self.own, self.xp, self.wide, self.host, self.name = matrix, xp, wide, host, name
        self.shape = (int(matrix.shape[0]), int(matrix.shape[1]))
        entries = wide(matrix)
        size = self._length(entries)
        if not math.isfinite(size):
            largest = float(host(abs(entries).max()))
            if not math.isfinite(largest):
                msg = (
                    f"{name}: expected finite entries, got a NaN or an infinity; the step before "
                    "has diverged (is the learning rate too large?)"
                )
                raise NonFiniteError(msg)
            entries, self.scale = entries * 2.0**-600, 2.0**-600
        else:
            self.scale = 1.0 if LEAST < size < MOST or size == 0.0 else 2.0 ** -math.frexp(size)[1]
            entries = entries if self.scale == 1.0 else entries * self.scale
        self.entries = entries
        self.complex_ = "complex" in str(matrix.dtype)
        self.frobenius = self._length(entries) * (1 + self._fine(self.shape[0] * self.shape[1]))

    @classmethod
    def of(cls, matrix: np.ndarray[Any, Any], name: str = "weight") -> DenseWeight:
        """Wrap a NumPy array."""
        kind = np.complex128 if matrix.dtype.kind == "c" else np.float64
        return cls(matrix, np, lambda a: np.asarray(a).astype(kind), np.asarray, name)

    def products(self, V: Array) -> tuple[Array, Array]:
        """Return ``W V`` and ``W^H W V``."""
        Y = self.entries @ V
        return Y, self.adjoint @ Y

    @property
    def adjoint(self) -> Array:
        """``W^H``, a view."""
        return (self.entries.conj() if self.complex_ else self.entries).T

    def drift(self, reference: Array) -> float:
        """Bound ``||W - W_0||_2`` by the Frobenius norm.

        The root of the largest sums of rows and of columns takes three times as long, and is no
        less for noise.
        """
        # What is narrower is promoted as it is subtracted, which is exact.
        old = reference if self.scale == 1.0 else self.wide(reference) * self.scale
        size = self._length(self.entries - old)
        return size * (1 + self._fine(self.shape[0] * self.shape[1])) * (1 + 8 * UNIT_ROUNDOFF)

    def start(self, b: int, entropy: int) -> Array:
        """Return an orthonormal block of random columns, the same on every device."""
        rng = np.random.default_rng([entropy, 0])
        V = rng.standard_normal((self.shape[1], b))
        if self.complex_:
            V = V + 1j * rng.standard_normal(V.shape)
        return self.orthonormal(self.like(V))

    def orthonormal(self, V: Array) -> Array:
        """Return an orthonormal basis, by Householder's QR: also of a block of lower rank."""
        return self.xp.linalg.qr(V)[0]

    def like(self, V: np.ndarray[Any, Any]) -> Array:
        """Return a NumPy array in this namespace, and on this device."""
        if self.xp is np:
            return V
        return self.xp.as_tensor(V, device=self.entries.device)

    def copy(self) -> Array:
        """Return a copy of the entries in their own type, to be kept."""
        return self.own.copy() if self.xp is np else self.own.detach().clone()

    def certificate(self, k: int, delta: float, seed: int) -> tuple[Anchor, bool]:
        """Bound sigma_1 .. sigma_k afresh.

        Returns
        -------
        Anchor
        bool
            Whether random vectors were drawn.
        """
        if min(self.shape) <= DENSE:
            return all_values(self.entries, k, self.frobenius, self.xp, self.host), False
        host = np.asarray(self.host(self.entries))
        found = svds(host, k, rtol=1e-3, failure_probability=delta, seed=seed)
        return Anchor(float(found.lower[0]), np.asarray(found.upper)), True

    def digest(self) -> bytes:
        """Return a hash of the entries."""
        return hashlib.sha256(np.ascontiguousarray(self.host(self.entries)).data).digest()

    def _length(self, entries: Array) -> float:
        with np.errstate(over="ignore"):  # infinite, and then scaled
            return float(self.host(self.xp.linalg.vector_norm(entries)))

    def _fine(self, count: int) -> float:
        return grown(count, complex_=self.complex_)


def all_values(W: Array, k: int, frobenius: float, xp: Any = np, host: Any = np.asarray) -> Anchor:
    """Bound sigma_1 .. sigma_k by all eigenvalues of the smaller Gram matrix, with certainty.

    Forming it errs by at most ``g ||W||_F^2``, the eigenvalue solver by the order times 8 u times
    the largest one (its backward error, LAPACK Users' Guide, 4.7, with a factor of the order).

    Parameters
    ----------
    W : array (m, n)
        float64 or complex128.
    k : int
    frobenius : float
        Its Frobenius norm at least.
    xp, host
        As of `DenseWeight`.
    """
    m, n = W.shape
    complex_ = "complex" in str(W.dtype)
    A = (W.conj() if complex_ else W).T
    values = np.asarray(host(xp.linalg.eigvalsh(W @ A if m <= n else A @ W)))[::-1]
    order, terms = min(m, n), max(m, n)
    formed = grown(terms, complex_=complex_) * frobenius**2
    error = formed + 8 * order * UNIT_ROUNDOFF * (float(values[0]) + formed)
    uppers = np.sqrt(np.maximum(values[:k], 0.0) + error) * (1 + 4 * UNIT_ROUNDOFF)
    lower = math.sqrt(max(float(values[0]) - error, 0.0)) * (1 - 4 * UNIT_ROUNDOFF)
    return Anchor(lower, uppers)


def begin(weight: Any, block: int, wishes: Wishes, entropy: int) -> tuple[State, Step]:
    """Make the state of a matrix: a few passes from random vectors, and a first certificate.

    Parameters
    ----------
    weight : DenseWeight
        Or another object with its methods.
    block : int
        Columns of a pass, at most the smaller side.
    wishes : Wishes
    entropy : int
        Of all random vectors of this state, together with the entries that they are used for.
    """
    if block < 1:
        msg = f"block: expected at least one column, got {block!r}"
        raise ArgumentError(msg)
    V = weight.start(min(block, *weight.shape), entropy)
    for _ in range(WARM_UP - 1):
        V = weight.orthonormal(weight.products(V)[1])
    blank = State(V, weight.copy(), Anchor(0.0, np.zeros(1)), 0, 0, entropy)
    state, V, grams, parts = _pass(weight, blank)
    return _certified(weight, state, grams, parts, wishes)


def advance(weight: Any, state: State, wishes: Wishes, passes: int = 1) -> tuple[State, Step]:
    """Make one step: a pass (or several), and a certificate where the bound is too loose.

    Parameters
    ----------
    weight : DenseWeight
    state : State
    wishes : Wishes
    passes : int
        Each costs two products with the block.
    """
    for _ in range(max(passes, 1) - 1):
        state = replace(state, vectors=weight.orthonormal(weight.products(state.vectors)[1]))
    state, _, grams, parts = _pass(weight, state)
    state = replace(state, steps=state.steps + 1)
    drift = weight.drift(state.reference)
    moved = _bounded(weight, grams, state.anchor, drift)
    due = wishes.every is not None and state.steps >= wishes.every
    if drift > 0.0 and (due or _loose(moved, drift, wishes)):
        return _certified(weight, state, grams, parts, wishes)
    return state, _step(weight, moved, parts, certified=False)


def look(weight: Any, state: State, wishes: Wishes) -> Step:
    """Bound the norm without a change of the state.

    Where its bound is too loose, the matrix is certified for this once.
    """
    _, _, grams, parts = _pass(weight, state)
    drift = weight.drift(state.reference)
    moved = _bounded(weight, grams, state.anchor, drift)
    if drift > 0.0 and _loose(moved, drift, wishes):
        return _certified(weight, state, grams, parts, wishes)[1]
    return _step(weight, moved, parts, certified=False)


def _loose(moved: Bracket, drift: float, wishes: Wishes) -> bool:
    """Whether the bound is too loose, and the drift has a share in that worth a certificate."""
    wide = not moved.upper <= moved.lower * (1 + wishes.rtol)
    return wide and drift >= wishes.rtol * moved.lower / DRIFTED


def _pass(weight: Any, state: State) -> tuple[State, Array, Grams, tuple[Array, Array]]:
    """Return the state with the next block, this block, its Gram matrices, and the products."""
    V = state.vectors
    Y, Z = weight.products(V)
    host, length = weight.host, weight.xp.linalg.vector_norm
    grams = [np.asarray(host((a.conj() if weight.complex_ else a).T @ a)) for a in (V, Y, Z)]
    sizes = tuple(float(host(length(a))) for a in (V, Y, Z))
    errors = gram_errors(weight.shape, sizes, weight.frobenius, complex_=weight.complex_)  # type: ignore[arg-type]
    return (
        replace(state, vectors=weight.orthonormal(Z)),
        V,
        Grams(grams[0], grams[1], grams[2], errors),
        (Y, Z),
    )


def _bounded(weight: Any, grams: Grams, anchor: Anchor, drift: float) -> Bracket:
    """Bound the scaled matrix; an anchor is kept in the units of W."""
    scaled = Anchor(anchor.lower * weight.scale, anchor.uppers * weight.scale)
    return bound_after(grams, scaled, drift, weight.frobenius)


def _certified(
    weight: Any, state: State, grams: Grams, parts: tuple[Array, Array], wishes: Wishes
) -> tuple[State, Step]:
    j = state.certificates + 1
    delta = wishes.failure_probability / (j * (j + 1))
    k = int(state.vectors.shape[1]) + 1
    # Fresh for every certificate and every matrix, and the same if the run is repeated.
    seed = int.from_bytes(
        hashlib.sha256(repr((state.entropy, j)).encode() + weight.digest()).digest()[:16], "little"
    )
    anchor, drawn = weight.certificate(min(k, *weight.shape), delta, seed)
    uppers = np.append(anchor.uppers, np.zeros(max(0, k - len(anchor.uppers))))
    moved = bound_after(grams, Anchor(anchor.lower, uppers), 0.0, weight.frobenius)
    if moved.name == "Weyl":  # of a drift of 0
        moved = moved._replace(name="certificate")
    state = replace(
        state,
        reference=weight.copy(),
        anchor=Anchor(anchor.lower / weight.scale, uppers / weight.scale),
        certificates=j if drawn else state.certificates,
        steps=0,
    )
    return state, _step(weight, moved, parts, certified=True)


def _step(weight: Any, moved: Bracket, parts: tuple[Array, Array], *, certified: bool) -> Step:
    """Return the bounds in the units of W, and the vectors."""
    y = weight.like(moved.y)
    left, right = parts[0] @ y, parts[1] @ y
    length = weight.xp.linalg.vector_norm
    sizes = [float(weight.host(length(part))) for part in (left, right)]
    left, right = (
        part / size if size > 0.0 else part for part, size in zip((left, right), sizes, strict=True)
    )
    unit = 1.0 / weight.scale
    return Step(
        lower=moved.lower * unit,
        upper=moved.upper * unit,
        name=moved.name,
        left=left,
        right=right,
        size=weight.frobenius * unit,
        certified=certified,
    )
