"""The interval of one matrix in memory: by its Gram matrix, or by Lanczos steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from bigspec.certificate import Facts, product_error
from bigspec.certificate.definite import largest_eigenvalue
from bigspec.certificate.rounding import UNIT_ROUNDOFF
from bigspec.matrices import Matrix
from bigspec.networks.dense import Entries, Survey, ends_in_units
from bigspec.passes import InlineExecutor, passes_over
from bigspec.results import Interval
from bigspec.results.gate import Gate
from bigspec.run import Budget, Known, RunState, solve
from bigspec.run.plan import Wishes
from bigspec.run.planner import make_plan
from bigspec.run.start import start_of, start_vectors
from bigspec.watch import Observer

__all__ = ["Asked", "Limit", "Norm", "by_gram", "by_passes", "norm_of", "takes_gram"]

Array = np.ndarray[Any, Any]

ALWAYS = 512  # order of a Gram matrix that is made whatever else there is
MOST = 2048
BLOCK = 16
# Measured on one core: 4096 x 4096 float32, products of a tile with itself and with 16 columns.
GRAM_FLOPS, BLOCK_FLOPS = 5e10, 1.3e10
TYPICAL, STEP = 8, 8e-3  # passes to a width of 1e-2, and seconds of the certificate in each


class Limit(Protocol):
    """What raises when nobody waits any more; see `bigspec.passes.map_jobs`."""

    def check(self) -> None:
        """Raise, or return."""


@dataclass(frozen=True)
class Asked:
    """What is asked of each interval.

    Attributes
    ----------
    rtol : float
    failure_probability : float
        Of one interval, if it needs one.
    memory : int
        Bytes that one process may hold.
    share : int
        Bytes of these for one of the tasks that run at once.
    pin : bool
        Whether parts of a tensor that is read in each pass may stay in memory.
    """

    rtol: float
    failure_probability: float
    memory: int
    share: int = 0
    pin: bool = True


@dataclass(frozen=True)
class Norm:
    """An interval, and how it came about."""

    interval: Interval
    passes: int
    converged: bool


def takes_gram(shape: tuple[int, int]) -> bool:
    """Whether the Gram matrix is made: its order is small, or it costs less than passes would.

    The shape alone decides, so that it is known before the first entry is read which rows need a
    share of the failure probability.
    """
    m, n = max(shape), min(shape)
    if n <= ALWAYS:
        return True
    gram = (1.0 * m * n**2 + n**3 / 3) / GRAM_FLOPS
    passes = TYPICAL * (4.0 * m * n * BLOCK / BLOCK_FLOPS + STEP)
    return n <= MOST and gram <= passes


def norm_of(
    entries: Entries,
    survey: Survey,
    matrix: Callable[[], Matrix],
    asked: Asked,
    *,
    entropy: Callable[[], int],
    gate: Gate | None,
    limit: Limit,
) -> Norm:
    """Bracket the norm of a matrix whose entries have been looked at.

    Parameters
    ----------
    entries : Entries
    survey : Survey
        With a Gram matrix if `takes_gram` says so.
    matrix : callable
        Opens it for passes.
    asked : Asked
    entropy : callable
        Returns that of the start block.
    gate : Gate or None
        Passes end as soon as it is decided.
    limit : Limit
        Checked between panels.
    """
    if survey.largest == 0.0:
        return Norm(Interval(0.0, 0.0, "zero", "zero", deterministic=True), 1, converged=True)
    if survey.gram is not None:
        return by_gram(survey, asked.rtol, entries.rounding)
    return by_passes(matrix(), asked, entropy=entropy(), gate=gate, limit=limit)


def by_gram(survey: Survey, rtol: float, rounding: float = 0.0) -> Norm:
    """Bracket the root of the largest eigenvalue of the Gram matrix: certain, in one pass.

    Parameters
    ----------
    survey : Survey
    rtol : float
    rounding : float
        Relative error of each entry, in the Frobenius norm.
    """
    assert survey.gram is not None
    squares = survey.frobenius_squared
    facts = Facts(squares, math.inf, math.inf, survey.largest, nonnegative=False)
    complex_ = survey.gram.dtype.kind == "c"
    eps = product_error(facts, 1, float(max(survey.shape)), complex_=complex_)
    inside = largest_eigenvalue(survey.gram, 2.0 * rtol)
    error = rounding * math.sqrt(squares)
    lower = math.sqrt(max(inside.lower - eps, 0.0)) * (1 - 4 * UNIT_ROUNDOFF) - error
    upper = math.sqrt(inside.upper + eps) * (1 + 4 * UNIT_ROUNDOFF) + error
    ends = ends_in_units(max(lower, 0.0), upper, survey.exponent)
    name = "Gram Cholesky" if inside.method == "Cholesky" else "Gram eigenvalue"
    share = 2 * eps / inside.lower if inside.lower > 0.0 else math.inf
    interval = Interval(*ends, name, "Rayleigh quotient", deterministic=True, rounding=share)
    if name == "Gram eigenvalue":
        interval = replace(interval, lower_bound=name)
    return Norm(interval, 1, converged=ends[1] <= ends[0] * (1 + rtol))


class _Checking(Observer):
    """Looks between panels whether anybody still waits."""

    def __init__(self, limit: Limit) -> None:
        self.limit = limit

    def panels_done(self, done: int, panels: int, bytes_read: int, seconds: float) -> None:
        """Raise if not."""
        self.limit.check()

    def warned(self, message: str) -> None:
        """There is nothing to warn of: no checkpoint."""


def by_passes(
    matrix: Matrix, asked: Asked, *, entropy: int, gate: Gate | None, limit: Limit
) -> Norm:
    """Bracket the norm by block Lanczos in this thread, as `bigspec.norm` does on several.

    The basis is kept within `asked.share`. To be called within `one_blas_thread`.
    """
    executor = InlineExecutor()
    block = min(BLOCK, *matrix.shape)
    wishes = Wishes("lanczos", block, matrix.start_columns, asked.share)
    plan = make_plan(matrix, executor, wishes, look=False)
    passes, claims = passes_over(matrix, plan.layout, executor, block), matrix.claims
    known = Known.begin(0, (claims.upper, claims.upper_name))
    outcome = solve(
        passes,
        plan.algorithm,
        Budget(asked.rtol, gate=gate),
        entropy=entropy,
        failure_probability=asked.failure_probability,
        start=start_vectors(start_of(None, matrix), plan),
        observer=_Checking(limit),
        progress=RunState(known=known),
    )
    limit.check()
    return Norm(outcome.interval, len(outcome.history), outcome.converged)
