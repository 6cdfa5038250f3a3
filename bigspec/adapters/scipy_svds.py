"""SciPy's `svds`: its signature, its ascending order, its errors, over `bigspec.svds`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.sparse.linalg import ArpackNoConvergence

from bigspec.api.arguments import as_bytes, as_count, as_whole
from bigspec.api.matrices import open_within
from bigspec.api.norm import plan
from bigspec.api.svds import svds as bigspec_svds
from bigspec.errors import ArgumentError
from bigspec.kernels.entries import plain_array
from bigspec.matrices import Matrix
from bigspec.results.triplets import Triplets

__all__ = ["svds"]

Array = np.ndarray[Any, Any]

LEAST_TOL, MOST_TOL = 1e-15, 0.5
"""The range of `rtol`; SciPy's `tol` may lie outside."""
SOLVERS = ("arpack", "lobpcg", "propack")
OPTIONS = {
    "block_size", "checkpoint", "failure_probability", "memory_limit", "progress", "time_limit",
}  # fmt: skip


def svds(
    A: Any,
    k: int = 6,
    ncv: int | None = None,
    tol: float = 0,
    which: str = "LM",
    v0: Any = None,
    maxiter: int | None = None,
    return_singular_vectors: bool | str = True,
    solver: str = "arpack",
    rng: Any = None,
    options: Mapping[str, Any] | None = None,
    *,
    random_state: Any = None,
) -> Any:
    """Compute the k largest singular triplets as `scipy.sparse.linalg.svds` does.

    Parameters
    ----------
    A : path, URL or object
        Anything that `bigspec.open_matrix` takes, also a NumPy array, a SciPy sparse array or a
        LinearOperator.
    k : int
        Triplets, ``1 <= k <= min(M, N)``.
    ncv : int, optional
        Number of vectors to iterate, more than k: the `block_size` of `bigspec.svds`.
    tol : float
        Relative width of the intervals of the singular values; 0 means as narrow as rounding
        allows. A vector is good to about the square root of it.
    which : {"LM"}
        The largest ones. Passes over a matrix cannot find the smallest; use SciPy for them.
    v0 : ndarray (min(M, N),), optional
        A vector to start from. The certificate needs random columns beside it.
    maxiter : int, optional
        Most passes over the matrix.
    return_singular_vectors : {True, False, "u", "vh"}
        The vectors to return; the others are None.
    solver : {"arpack", "lobpcg", "propack"}
        Accepted so that calls can stay as they are; `bigspec.svds` does the work for all of them.
    rng : int, Generator or SeedSequence, optional
        Source of the random start block.
    options : dict, optional
        `block_size`, `checkpoint`, `failure_probability`, `memory_limit`, `progress` or
        `time_limit` of `bigspec.svds`.
    random_state : int, Generator or RandomState, optional
        The older name of `rng`.

    Returns
    -------
    u : ndarray (M, k)
    s : ndarray (k,)
        Ascending, in float64.
    vh : ndarray (k, N)
        Orthonormal; in float64 or complex128.

    Raises
    ------
    ArpackNoConvergence
        `maxiter`, memory or time ended the run before every interval was as narrow as `tol`. It
        holds the converged triplets, like SciPy's.
    ArgumentError
        An argument is wrong. It is a ValueError, like SciPy's.

    Notes
    -----
    Cost: the passes of `bigspec.svds`, which also returns the interval of each value. With
    `return_singular_vectors` False or "vh" there is no last pass, if that is possible.
    """
    k = as_count(k)
    _check(which, solver, return_singular_vectors)
    more = dict(options or {})
    if unknown := sorted(set(more) - OPTIONS):
        msg = f"options: expected {', '.join(sorted(OPTIONS))}, got {', '.join(unknown)}"
        raise ArgumentError(msg)
    if ncv is not None:
        more["block_size"] = _block_size(ncv, k, more)
    matrix = open_within(A, as_bytes(more.get("memory_limit")))
    tri = bigspec_svds(
        matrix,
        k,
        rtol=_rtol(tol),
        seed=_seed(rng, random_state),
        start=None if v0 is None else _start(v0, matrix, k, more),
        max_passes=maxiter,
        left=return_singular_vectors in (True, "u"),
        **more,
    )
    if not tri.converged and tri.stopped_by != "exhausted":
        raise _no_convergence(tri)
    if return_singular_vectors is False:
        return tri.s[::-1]
    u = None if return_singular_vectors == "vh" else tri.u[:, ::-1]
    vh = None if return_singular_vectors == "u" or tri.vh is None else tri.vh[::-1]
    return u, tri.s[::-1], vh


def _check(which: Any, solver: Any, wanted: Any) -> None:
    if which != "LM":
        msg = (
            f"which: expected 'LM', the largest, got {which!r}; the smallest singular values are "
            "lost in the rounding of A^H A: ask scipy.sparse.linalg.svds for them"
        )
        raise ArgumentError(msg)
    if solver not in SOLVERS:
        msg = f"solver: expected one of {SOLVERS}, which all mean bigspec's own, got {solver!r}"
        raise ArgumentError(msg)
    if wanted not in (True, False, "u", "vh"):
        msg = f"return_singular_vectors: expected True, False, 'u' or 'vh', got {wanted!r}"
        raise ArgumentError(msg)


def _block_size(ncv: Any, k: int, more: Mapping[str, Any]) -> int:
    width = as_whole("ncv", ncv)
    if width is None or width <= k:
        msg = f"ncv: expected more vectors than k = {k}, got {ncv!r}"
        raise ArgumentError(msg)
    if "block_size" in more:
        msg = "ncv: expected it or block_size among options, got both; they are the same"
        raise ArgumentError(msg)
    return width


def _rtol(tol: Any) -> float:
    try:
        value = float(tol)
    except (TypeError, ValueError):
        value = -1.0
    if not value >= 0.0:
        msg = f"tol: expected a number of at least 0, got {tol!r}"
        raise ArgumentError(msg)
    return min(max(value, LEAST_TOL), MOST_TOL)


def _seed(rng: Any, random_state: Any) -> int | None:
    """Draw the seed of the run from the caller's generator; None for a fresh one."""
    if rng is not None and random_state is not None:
        msg = "rng: expected it or random_state, its older name, got both"
        raise ArgumentError(msg)
    source = random_state if rng is None else rng
    if source is None:
        return None
    if isinstance(source, np.random.RandomState):
        return int(source.randint(1 << 32, dtype=np.uint64))
    try:
        return int(np.random.default_rng(source).integers(1 << 32))
    except (TypeError, ValueError) as error:
        msg = f"rng: expected an integer or a numpy.random.Generator, got {source!r}"
        raise ArgumentError(msg) from error


def _start(v0: Any, matrix: Matrix, k: int, more: Mapping[str, Any]) -> Array:
    """Return the start vector for the side that is iterated; SciPy's has the shorter side's length.

    For a sparse matrix in memory that may be the other side; then one product brings it over.
    """
    v, shorter = plain_array(v0, "v0"), min(matrix.shape)
    if v.shape != (shorter,):
        msg = f"v0: expected shape ({shorter},), the smaller of {matrix.shape}, got {v.shape}"
        raise ArgumentError(msg)
    sizes = {name: more[name] for name in ("block_size", "memory_limit") if name in more}
    length = plan(matrix, k=k, **sizes).layout.iterate_length
    entries = getattr(matrix, "entries", None)
    if length == shorter or entries is None:
        return v
    wide = matrix.shape[0] == shorter
    return np.asarray(entries.conj().T @ v if wide else entries @ v)


def _no_convergence(tri: Triplets) -> ArpackNoConvergence:
    """Make SciPy's error, with the converged eigenvalues and vectors of A^H A."""
    done = np.array(tri.widths) <= tri.rtol
    vectors = tri.ritz_vectors
    block = np.empty((0, int(done.sum()))) if vectors is None else vectors[:, done]
    msg = (
        f"No convergence ({done.sum()}/{tri.k} intervals are narrower than tol; the run was ended "
        f"by {tri.stopped_by} after {tri.passes} passes over the matrix, and bigspec.svds returns "
        f"all values of such a run with their intervals)"
    )
    return ArpackNoConvergence(msg, tri.s[done][::-1] ** 2, block[:, ::-1])
