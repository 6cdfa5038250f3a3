"""The last pass of a run, which makes the vectors: one for `norm`, k for `svds`."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from bigspec.algorithms import iterates
from bigspec.certificate.rounding import UNIT_ROUNDOFF
from bigspec.errors import ArgumentError
from bigspec.kernels import working_dtype
from bigspec.passes import (
    DeadlinePassed,
    Forward,
    Hooks,
    Pass,
)
from bigspec.run import Outcome
from bigspec.run.target import Target
from bigspec.sources.targets import write_rows
from bigspec.watch import Observer

__all__ = ["KVectors", "OneVector", "Vectors"]

Array = np.ndarray[Any, Any]


CHUNK_BYTES = 16 << 20
NO_TIME = {"time", "interrupted"}
"""After these endings there is no last pass."""


@dataclass(frozen=True)
class Vectors:
    """The vectors after the last pass.

    Attributes
    ----------
    right, left : ndarray (n, k), (m, k) or None
        The vectors as columns; for `norm` one vector, (n,) or (m,). `left` is a zarr.Array if it
        was written to a store.
    s : ndarray (k,)
        The values that the vectors attain, in the units of the matrix.
    passes, bytes_read : int
        Their cost: 0, or one pass and its decoded bytes.
    missing_chunks : int
        Chunks that were missing in that pass.
    """

    right: Array | None
    left: Any
    s: Array
    passes: int = 0
    bytes_read: int = 0
    missing_chunks: int = 0


@dataclass(frozen=True)
class OneVector:
    """The vectors of a norm: the run's own, and for panels of columns the right one on demand.

    Parameters
    ----------
    right : bool or None
        Whether to make one more pass, ``A^H u``, if panels are columns; its direction attains at
        least as much. None: only for arrays and sparse matrices in memory, without a gate.
    gated : bool
        Whether the run has a gate.
    """

    right: bool | None
    gated: bool

    def check(self, passes: Pass) -> None:
        """Accept everything: one vector always fits."""

    def make(self, passes: Pass, outcome: Outcome, observer: Observer) -> Vectors:
        """Return the vectors, after one more pass for the right one if the caller wants it."""
        vector, s = outcome.vector, np.array([outcome.interval.lower])
        if passes.layout.orientation == "rows":
            return Vectors(vector, None, s)
        over = outcome.stopped_by in NO_TIME or outcome.interval.lower == 0.0
        if vector is None or over or not self._wants_right(passes):
            return Vectors(None, vector, s)
        observer.pass_started(len(outcome.history) + 1, passes.layout.panels)
        with suppress(DeadlinePassed):
            done = _last_pass(passes, vector[:, None], outcome, observer)
            assert done.Y is not None
            return Vectors(iterates.normalized(done.Y[:, 0]), vector, s, *_cost(done))
        return Vectors(None, vector, s)

    def _wants_right(self, passes: Pass) -> bool:
        if self.right is not None:
            return self.right
        entries = getattr(passes.matrix, "entries", None)
        mapped = isinstance(entries, np.memmap)  # a pass reads it from the disk
        return not self.gated and entries is not None and not mapped


@dataclass(frozen=True)
class KVectors:
    """The vectors of k triplets, from one last pass ``Y = S V`` over orthonormal iterates V.

    With ``Y = P diag(s) W^H``, the triplets of the matrix on span(V) are ``(P, s, V W)`` (Rayleigh
    and Ritz once more). P comes from Y if that is in memory. In a store it is ``Y W diag(1/s)``,
    with W and s from the triangular factor of Y, and orthonormal to rounding times ``s_1 / s_i``.

    Parameters
    ----------
    u_store : Target or None
        The place for the left vectors.
    left : bool
        Whether the caller wants them.
    """

    u_store: Target | None
    left: bool

    def check(self, passes: Pass) -> None:
        """Refuse a store if two panels would write the same chunk of it."""
        rows = passes.layout.orientation == "rows"
        if self.u_store is None or not rows or passes.target_rows(1 << 62) is not None:
            return
        msg = (
            f"u_store: the chunks of {passes.matrix.name} have different heights, so that two "
            "panels would write the same chunk of u_store; rechunk its rows to equal sizes"
        )
        raise ArgumentError(msg)

    def make(self, passes: Pass, outcome: Outcome, observer: Observer) -> Vectors:
        """Make the last pass, if time is left, and return the triplets."""
        lower = np.array([interval.lower for interval in outcome.intervals])
        V, rows = outcome.vector, passes.layout.orientation == "rows"
        if V is None:
            return Vectors(None, None, lower)
        if outcome.stopped_by not in NO_TIME and (self.left or not rows):
            observer.pass_started(len(outcome.history) + 1, passes.layout.panels)
            with suppress(DeadlinePassed):
                if self.u_store is not None and rows:
                    return self._to_store(passes, V, outcome, observer)
                return self._in_memory(passes, V, outcome, observer)
        V = iterates.times_columns(V, iterates.phases(V))
        return Vectors(V if rows else None, None, lower)

    def _in_memory(self, passes: Pass, V: Array, outcome: Outcome, observer: Observer) -> Vectors:
        done = _last_pass(passes, V, outcome, observer)
        assert done.Y is not None
        P, s, Wh = iterates.svd(done.Y)
        others = iterates.apply(V, Wh.conj().T)
        u, v = (P, others) if passes.layout.orientation == "rows" else (others, P)
        phases = iterates.phases(v)
        u, v = iterates.times_columns(u, phases), iterates.times_columns(v, phases)
        if self.u_store is not None:
            u = self._write(u)
        return Vectors(v, u if self.left else None, _inside(s, outcome), *_cost(done))

    def _to_store(self, passes: Pass, V: Array, outcome: Outcome, observer: Observer) -> Vectors:
        assert self.u_store is not None
        m, k = passes.layout.along.extent, V.shape[1]
        dtype = working_dtype(passes.matrix.dtype)
        height = passes.target_rows(max(1, CHUNK_BYTES // (k * dtype.itemsize)))
        assert height is not None
        target = self.u_store.create((m, k), height, dtype)
        done = _last_pass(passes, V, outcome, observer, target)
        _, s, Wh = np.linalg.svd(done.R)
        W = Wh.conj().T
        v = iterates.apply(V, W)
        phases = iterates.phases(v)
        least = 2 * UNIT_ROUNDOFF * np.sqrt(m) * s[0]
        inverse = np.divide(1.0, s, out=np.zeros_like(s), where=s > least)
        self.u_store.check()
        passes.multiply_target(target, W * (inverse * phases), done)
        u = self.u_store.complete(target)
        v = iterates.times_columns(v, phases)
        return Vectors(v, u, _inside(s, outcome), *_cost(done))

    def _write(self, u: Array) -> Any:
        assert self.u_store is not None
        height = max(1, CHUNK_BYTES // (u.shape[1] * u.itemsize))
        target = self.u_store.create(u.shape, height, u.dtype)
        for first in range(0, len(u), height):
            stop = min(first + height, len(u))
            write_rows(target, first, stop, u[first:stop])
        return self.u_store.complete(target)


def _last_pass(
    passes: Pass, V: Array, outcome: Outcome, observer: Observer, target: Any = None
) -> Forward:
    """Multiply forward once more, with the run's time limit and tokens."""
    return passes.forward(
        V,
        exponent=outcome.exponent,
        target=target,
        tokens=outcome.tokens,
        hooks=Hooks(observer.panels_done, deadline=outcome.deadline),
    )


def _cost(done: Forward) -> tuple[int, int, int]:
    """Return the cost of the last pass, as `Vectors` has it."""
    return 1, done.cost.bytes_read, done.cost.missing_chunks


def _inside(s: Array, outcome: Outcome) -> Array:
    """Return values in the units of the matrix, clipped to their intervals against rounding."""
    lower = np.array([interval.lower for interval in outcome.intervals])
    upper = np.array([interval.upper for interval in outcome.intervals])
    return np.clip(np.ldexp(s, outcome.exponent), lower, upper)
