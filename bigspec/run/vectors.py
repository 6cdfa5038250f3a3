"""The last pass of `svds`, which makes the vectors."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

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
from bigspec.sources.targets import complete_target, create_target, write_rows
from bigspec.watch import Observer

__all__ = []

Array = np.ndarray[Any, Any]


CHUNK_BYTES = 16 << 20


@dataclass(frozen=True)
class _Made:
    """The triplets of the last pass; `forward` is None if there was no time for one."""

    u: Any
    s: Array
    vh: Array | None
    forward: Forward | None


class _Vectors:
    """Makes the vectors in one last pass ``Y = S V`` over orthonormal iterates V.

    With ``Y = P diag(s) W^H``, the triplets of the matrix on span(V) are ``(P, s, V W)`` (Rayleigh
    and Ritz once more). P comes from Y itself where it is in memory; written to a store it is
    ``Y W diag(1/s)``, orthonormal to rounding times ``s_1 / s_i``, with W and s from the triangular
    factor of Y.
    """

    def __init__(self, passes: Pass, u_store: str | os.PathLike[str] | None, *, left: bool) -> None:
        self.passes, self.u_store, self.left = passes, u_store, left
        self.rows = passes.layout.orientation == "rows"

    def check(self) -> None:
        """Refuse a target that panels cannot fill chunk by chunk."""
        if self.u_store is None or not self.rows or self.passes.target_rows(1 << 62) is not None:
            return
        msg = (
            f"u_store: expected panels of equal height in {self.passes.matrix.name}, so that no "
            "two write one chunk, got irregular chunks; rechunk its rows to equal sizes"
        )
        raise ArgumentError(msg)

    def make(self, outcome: Outcome, observer: Observer) -> _Made:
        """Make the last pass, unless the time is up, and return the triplets."""
        lower = np.array([interval.lower for interval in outcome.intervals])
        V = outcome.vector
        if V is None:
            return _Made(None, lower, None, None)
        if outcome.stopped_by != "time" and (self.left or not self.rows):
            observer.pass_started(len(outcome.history) + 1, self.passes.layout.panels)
            with suppress(DeadlinePassed):
                if self.u_store is not None and self.rows:
                    return self._stored(V, outcome, observer)
                return self._in_memory(V, outcome, observer)
        return _Made(None, lower, (V * _phases(V)).conj().T if self.rows else None, None)

    def _forward(
        self, V: Array, outcome: Outcome, observer: Observer, target: Any = None
    ) -> Forward:
        return self.passes.forward(
            V,
            exponent=outcome.exponent,
            target=target,
            tokens=outcome.tokens,
            hooks=Hooks(observer.panels_done, deadline=outcome.deadline),
        )

    def _in_memory(self, V: Array, outcome: Outcome, observer: Observer) -> _Made:
        done = self._forward(V, outcome, observer)
        assert done.Y is not None
        P, s, Wh = np.linalg.svd(done.Y, full_matrices=False)
        others = V @ Wh.conj().T
        u, v = (P, others) if self.rows else (others, P)
        phases = _phases(v)
        u, v = u * phases, v * phases
        if self.u_store is not None:
            u = self._written(u)
        return _Made(u if self.left else None, _inside(s, outcome), v.conj().T, done)

    def _stored(self, V: Array, outcome: Outcome, observer: Observer) -> _Made:
        assert self.u_store is not None
        m, k = self.passes.layout.swept.extent, V.shape[1]
        dtype = working_dtype(self.passes.matrix.dtype)
        height = self.passes.target_rows(max(1, CHUNK_BYTES // (k * dtype.itemsize)))
        assert height is not None
        target = create_target(self.u_store, (m, k), height, dtype, "u_store")
        done = self._forward(V, outcome, observer, target)
        _, s, Wh = np.linalg.svd(done.R)
        W = Wh.conj().T
        v = V @ W
        phases = _phases(v)
        least = 2 * UNIT_ROUNDOFF * np.sqrt(m) * s[0]
        inverse = np.divide(1.0, s, out=np.zeros_like(s), where=s > least)
        self.passes.multiply_target(target, W * (inverse * phases), done)
        u = complete_target(target)
        return _Made(u, _inside(s, outcome), (v * phases).conj().T, done)

    def _written(self, u: Array) -> Any:
        assert self.u_store is not None
        height = max(1, CHUNK_BYTES // (u.shape[1] * u.itemsize))
        target = create_target(self.u_store, u.shape, height, u.dtype, "u_store")
        for first in range(0, len(u), height):
            stop = min(first + height, len(u))
            write_rows(target, first, stop, u[first:stop])
        return complete_target(target)


def _phases(v: Array) -> Array:
    """Return factors that make the entry of largest magnitude of each column positive."""
    largest = v[np.argmax(np.abs(v), axis=0), np.arange(v.shape[1])]
    size = np.abs(largest)
    return np.asarray(np.where(size > 0, largest.conj() / np.where(size > 0, size, 1.0), 1.0))


def _inside(s: Array, outcome: Outcome) -> Array:
    """Bring values into the units of the matrix; rounding must not take one out of its interval."""
    lower = np.array([interval.lower for interval in outcome.intervals])
    upper = np.array([interval.upper for interval in outcome.intervals])
    return np.clip(np.ldexp(s, outcome.exponent), lower, upper)
