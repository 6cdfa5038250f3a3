"""Matrices whose entries are known exactly, with offsets up to 1e12, and their singular values.

Every case is drawn from a seed. Entries are kept as fractions and rounded once, to extended
precision; what bigspec is given is the same matrix as an expression.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import scipy.sparse as sp

import bigspec

__all__ = ["KINDS", "draw", "extended", "misses", "singular_values", "whole"]


def whole(X: Any) -> Any:
    """Return an array of floats or integers as an array of fractions."""
    X = X.toarray() if sp.issparse(X) else np.asarray(X)
    flat = [Fraction(int(x)) if X.dtype.kind in "iu" else Fraction(float(x)) for x in X.ravel()]
    return np.array(flat, dtype=object).reshape(X.shape)


def extended(X: Any) -> Any:
    """Round an array of fractions to extended precision."""

    def rounded(x: Fraction) -> Any:
        # Scaled, for what float64 adds to its first 53 bits may lie below its range.
        shift = 0 if x == 0 else abs(x.numerator).bit_length() - x.denominator.bit_length()
        y = x / Fraction(2) ** shift
        high = float(y)
        return np.ldexp(np.longdouble(high) + np.longdouble(float(y - Fraction(high))), shift)

    return np.array([rounded(x) for x in X.ravel()]).reshape(X.shape)


def singular_values(A: Any) -> Any:
    """Return the singular values of a matrix in extended precision.

    Rayleigh quotients of float64 vectors: their error is the square of the vectors' own.
    """
    size = np.abs(A).max()
    if size == 0:
        return np.zeros(min(A.shape), np.longdouble)
    B = A / size
    U, s, Vh = np.linalg.svd(B.astype(np.float64), full_matrices=False)
    quotients = np.einsum("ij,ik,kj->j", U.astype(np.longdouble), B, Vh.T.astype(np.longdouble))
    norms = np.sqrt((U.astype(np.longdouble) ** 2).sum(0) * (Vh.astype(np.longdouble) ** 2).sum(1))
    first = quotients / norms
    out = s.astype(np.longdouble)
    out[0] = first[0]
    return out * size


def _entries(rng: np.random.Generator, m: int, n: int) -> Any:
    """Draw entries with an offset, of some type and format."""
    size = 10.0 ** rng.uniform(-3, 12)
    kind = rng.choice(["f8", "f8", "f8", "f4", "i4", "i8", "u8"])
    scale = 10.0 ** rng.uniform(-3, 3)
    base = rng.choice(["signs", "normal", "counts"])
    noise = {
        "signs": rng.choice([-1.0, 1.0], (m, n)),
        "normal": rng.standard_normal((m, n)),
        "counts": rng.poisson(2.0, (m, n)).astype(float),
    }[base]
    offset = np.where(rng.random() < 0.5, size, size * rng.standard_normal(n))
    if kind in ("i8", "u8") and rng.random() < 0.3:
        top = rng.choice([2**62, 2**61 + 12345, 2**54 + 1])
        X = np.full((m, n), top, kind) + (np.abs(noise) * 1000 + 1).astype(kind)
    elif kind in ("i4", "i8", "u8"):
        X = np.abs(np.rint(np.abs(offset) + noise * scale))
        X = np.minimum(X, 2.0**31 - 1 if kind == "i4" else 2.0**60).astype(kind)
    else:
        X = (offset + noise * scale).astype(kind)
    if rng.random() < 0.4:  # entries left out, so that the means are not those of the stored ones
        X = np.where(rng.random((m, n)) < rng.uniform(0.05, 1.0), X, np.zeros((), X.dtype))
    return _format(rng, X)


def _format(rng: np.random.Generator, X: Any) -> Any:
    form = rng.choice(["dense", "csr", "csc"])
    return X if form == "dense" else sp.csr_array(X) if form == "csr" else sp.csc_array(X)


def _shape(rng: np.random.Generator) -> tuple[int, int]:
    m, n = int(rng.integers(2, 40)), int(rng.integers(1, 30))
    return (n, m) if rng.random() < 0.3 else (m, n)


def _given(rng: np.random.Generator) -> tuple[Any, Any]:
    X = _entries(rng, *_shape(rng))
    F = whole(X)
    axis = int(rng.integers(2))
    means = (F.sum(axis=axis) / F.shape[axis]).astype(float)
    if rng.random() < 0.3:
        means = means + rng.standard_normal(len(means))
    held = np.array([Fraction(float(x)) for x in means], dtype=object)
    exact = F - (held[None, :] if axis == 0 else held[:, None])
    return bigspec.centered(X, axis, means=means), exact


def _centred(rng: np.random.Generator) -> tuple[Any, Any]:
    X = _entries(rng, *_shape(rng))
    F = whole(X)
    axis = int(rng.integers(2))
    means = F.sum(axis=axis) / F.shape[axis]
    exact = F - (means[None, :] if axis == 0 else means[:, None])
    return bigspec.centered(X, axis), exact


def _standard(rng: np.random.Generator) -> tuple[Any, Any]:
    m, n = _shape(rng)
    X = _entries(rng, max(m, 3), n)
    F = whole(X)
    m = F.shape[0]
    centre = rng.random() < 0.8
    ddof = int(rng.integers(2)) if centre else 0
    means = F.sum(axis=0) / m if centre else np.array([Fraction(0)] * F.shape[1], dtype=object)
    moved = F - means
    variances = extended((moved * moved).sum(axis=0) / (m - ddof))
    deviations = np.sqrt(variances)
    deviations = np.where(deviations > 0, deviations, 1)
    options = {"ddof": ddof} if centre and ddof != 1 else {}
    return bigspec.standardized(X, center=bool(centre), **options), extended(moved) / deviations


def _low_rank(rng: np.random.Generator) -> tuple[Any, Any]:
    m, n = _shape(rng)
    X = _entries(rng, m, n)
    k = int(rng.integers(1, 4))
    if rng.random() < 0.5:  # of the matrix itself, so that it cancels
        dense = X.toarray() if sp.issparse(X) else X
        U, s, Vh = np.linalg.svd(dense.astype(float), full_matrices=False)
        U, s, Vh = U[:, :k], s[:k], Vh[:k]
        U = U * s
    else:
        U, Vh = rng.standard_normal((m, k)) * 10.0 ** rng.uniform(0, 12), rng.random((k, n))
    exact = whole(X) - whole(U).dot(whole(Vh))
    return bigspec.open_matrix(X) - bigspec.low_rank(U, None, Vh), exact


def _difference(rng: np.random.Generator) -> tuple[Any, Any, Any]:
    """Return a difference that may cancel, and its entries."""
    X = _entries(rng, *_shape(rng))
    F = whole(X)
    dense = X.toarray() if sp.issparse(X) else X
    scalar = float(rng.choice([1.0, 1.0, 1 / 3, -2.0]))
    with np.errstate(over="ignore", invalid="ignore"):
        other = (dense.astype(float) / scalar + rng.standard_normal(dense.shape)).astype(
            "f8" if dense.dtype.kind == "f" or abs(scalar) != 1 else dense.dtype
        )
    if other.dtype.kind in "iu":
        other = dense + rng.integers(0, 3, dense.shape).astype(dense.dtype)
    Y = _format(rng, other)
    if sp.issparse(X) and sp.issparse(Y):
        Y = Y.asformat(X.format)
    made = bigspec.open_matrix(X) - scalar * bigspec.open_matrix(Y)
    return made, F - Fraction(scalar) * whole(other), X


def _differences(rng: np.random.Generator) -> tuple[Any, Any]:
    made, exact, _ = _difference(rng)
    return made, exact


def _product(rng: np.random.Generator) -> tuple[Any, Any]:
    maker = [_differences, _given, _low_rank][int(rng.integers(3))]
    made, exact = maker(rng)
    n = exact.shape[1]
    p = int(rng.integers(1, 12))
    other = np.eye(n) if rng.random() < 0.4 else rng.standard_normal((n, p))
    if rng.random() < 0.2 and n > 1:  # a factor that cancels by itself
        other = np.repeat(np.array([[1.0], [-1.0]]), [1, n - 1], axis=0) / np.array([[n - 1.0]])
    G = whole(other)
    if rng.random() < 0.5:
        return made @ bigspec.open_matrix(other), exact.dot(G)
    return bigspec.open_matrix(np.ascontiguousarray(other.T)) @ made.H, G.T.dot(exact.T)


def _wide_integers(rng: np.random.Generator) -> tuple[Any, Any]:
    """Integers that float64 does not hold, in a product that cancels."""
    m, n = _shape(rng)
    kind = rng.choice(["i8", "u8"])
    X = np.full((m, n), 2**62, kind) + rng.integers(0, 2000, (m, n)).astype(kind)
    weights = rng.integers(-3, 4, (n, int(rng.integers(1, 6)))).astype(float)
    weights[0] -= weights.sum(axis=0)
    return bigspec.open_matrix(X) @ bigspec.open_matrix(weights), whole(X).dot(whole(weights))


def _dyads(rng: np.random.Generator) -> tuple[Any, Any]:
    """A term of low rank whose dyads cancel one another, beside a matrix that may be as small."""
    X = _entries(rng, *_shape(rng))
    dense = (X.toarray() if sp.issparse(X) else X).astype(float)
    m, n = dense.shape
    left, right = rng.standard_normal((m, 1)), rng.standard_normal((n, 1))
    apart = 10.0 ** rng.uniform(-12, -1)
    U = np.hstack([left, -left])
    Vh = np.hstack([right, right + apart * rng.standard_normal((n, 1))]).T
    if rng.random() < 0.5:
        dense = dense * (10.0 ** -rng.uniform(0, 14) / max(np.abs(dense).max(), 1e-300))
    else:
        U = U * np.abs(dense).max()
    exact = whole(dense) + whole(U).dot(whole(Vh))
    return bigspec.open_matrix(_format(rng, dense)) + bigspec.low_rank(U, None, Vh), exact


def _far(rng: np.random.Generator) -> tuple[Any, Any]:
    """Another kind, as small or as large as a double can be."""
    makers = [_given, _low_rank, _differences, _dyads]
    made, exact = makers[int(rng.integers(len(makers)))](rng)
    power = int(rng.integers(-900, 850))
    made, exact = 2.0**power * made, exact * (Fraction(2) ** power)
    if rng.random() < 0.3:
        other = rng.standard_normal((exact.shape[1], int(rng.integers(1, 6))))
        return made @ bigspec.open_matrix(other), exact.dot(whole(other))
    return made, exact


KINDS: dict[str, Callable[[np.random.Generator], tuple[Any, Any]]] = {
    "given means": _given,
    "centred": _centred,
    "standardized": _standard,
    "low rank": _low_rank,
    "difference": _differences,
    "product": _product,
    "wide integers": _wide_integers,
    "cancelling dyads": _dyads,
    "far scales": _far,
}


def draw(kind: str, seed: int) -> tuple[Any, Any]:
    """Return an expression and its exact matrix in extended precision."""
    made, exact = KINDS[kind](np.random.default_rng([seed, list(KINDS).index(kind)]))
    return made, extended(exact) if exact.dtype == object else exact


REFERENCE = 4e-15  # of sigma_1: error of the reference for sigma_2, ...
FIRST = 1e-17  # and for sigma_1


def _interval(answer: Any, exact: Any) -> Iterator[str]:
    sigma = singular_values(exact)
    slack = FIRST * sigma[0]
    for record in answer.history:
        if not record.lower - slack <= sigma[0] <= record.upper + slack:
            yield f"[{record.lower!r}, {record.upper!r}] for {sigma[0]!r} {answer.algorithm}"
    norm = np.sqrt((exact**2).sum())
    if answer.frobenius is not None and answer.lower > 0:  # else all may be rounding
        margin = answer.upper / answer.lower - 1 if answer.lower > 0 else 1e300
        if abs(answer.frobenius - norm) > (1e-9 + 10 * margin) * norm:
            yield f"frobenius {answer.frobenius!r} for {norm!r}"
        rank = answer.stable_rank
        if (
            sigma[0] > 0
            and rank is not None
            and not rank[0] * (1 - 1e-9 - margin) <= (norm / sigma[0]) ** 2 + 1e-9
        ):
            yield f"stable rank {rank} for {(norm / sigma[0]) ** 2!r}"


def _triplets(answer: Any, exact: Any) -> Iterator[str]:
    sigma = singular_values(exact)[: answer.k]
    slack = REFERENCE * sigma[0]
    for i, (low, high) in enumerate(zip(answer.lower, answer.upper, strict=True)):
        if not low - slack <= sigma[i] <= high + slack:
            yield f"sigma_{i + 1} [{low!r}, {high!r}] for {sigma[i]!r}"
    if answer.vh is None:
        return
    v = answer.vh.conj().T
    apart = np.abs(answer.vh @ v - np.eye(answer.k)).max()
    if apart > 1e-12:
        yield f"vh is not orthonormal: {apart:.1e}"
    rows = answer.layout["orientation"] == "rows"
    product = exact @ v if rows else exact.T @ answer.u[:]
    attained = np.linalg.svd(product.astype(float), compute_uv=False)
    width = max(float(answer.rounding[0]), 1e-13)
    if (
        answer.vector_passes
        and width < 1e-3
        and np.any(np.abs(attained - answer.s) > 4 * width * sigma[0])
    ):
        yield f"s {answer.s} where the vectors attain {attained}"


def misses(kind: str, seed: int) -> list[str]:
    """Return what is wrong with the answer to one case, a text each."""
    rng = np.random.default_rng([seed, 7])
    A, exact = draw(kind, seed)
    order = min(A.shape)
    if rng.random() < 0.25:
        k, b = int(rng.integers(1, min(order, 8) + 1)), int(rng.integers(1, 13))
        answer = bigspec.svds(
            A, k, block_size=b, seed=seed, rtol=10.0 ** -rng.integers(2, 13),
            max_passes=int(rng.integers(1, 8)),
        )  # fmt: skip
        return list(_triplets(answer, exact))
    names = ["auto", "lanczos", "power"]
    name = str(rng.choice(names))
    b = None if name == "auto" else int(rng.integers(1, 17))
    answer = bigspec.norm(
        A, algorithm=name, block_size=b, seed=seed, rtol=10.0 ** -rng.integers(2, 15),
        max_passes=int(rng.integers(1, 10)),
    )  # fmt: skip
    return list(_interval(answer, exact))
