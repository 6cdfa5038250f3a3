"""The arguments and the results of a pass, on every executor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bigspec.certificate import Facts
from bigspec.kernels.partials import Partial

__all__ = [
    "Accuracy",
    "DeadlinePassed",
    "FirstRounds",
    "Forward",
    "Hooks",
    "PassCost",
    "PassResult",
]

Array = np.ndarray[Any, Any]


class DeadlinePassed(Exception):  # noqa: N818
    """The time limit ended a pass before it was complete."""


@dataclass(frozen=True)
class FirstRounds:
    """The sum of the first rounds of a pass, from which a run can go on.

    Attributes
    ----------
    rounds : int
    total : Partial or None
    seconds : float
        Wall time that they took.
    """

    rounds: int = 0
    total: Partial | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Hooks:
    """The listeners of a pass, and its deadline.

    Attributes
    ----------
    on_panels : callable or None
        Called with (panels summed so far, panels, bytes read so far, seconds of this pass).
    on_rounds : callable or None
        Called with `FirstRounds` when this process holds a sum: after every round where that costs
        little, on a cluster with large blocks some times a pass. An exception from it ends the
        pass.
    deadline : float or None
        In the clock of `time.monotonic`. A pass that is not complete by then raises
        `DeadlinePassed`.
    wanted : callable or None
        Asked after every round whether the sum is wanted now, to be saved. None if nobody saves.
    """

    on_panels: Callable[[int, int, int, float], None] | None = None
    on_rounds: Callable[[FirstRounds], None] | None = None
    deadline: float | None = None
    wanted: Callable[[], bool] | None = None


@dataclass(frozen=True)
class Accuracy:
    """The interval that a run asks for, which limits the error that a pass over a chain may make.

    Attributes
    ----------
    width : float
        Relative width, in units of the norm. With 0 a pass over a chain saves no reads.
    failure_probability : float
    """

    width: float = 0.0
    failure_probability: float = 1.0


@dataclass(frozen=True)
class PassCost:
    """The cost of a pass.

    Attributes
    ----------
    bytes_read : int
        Decoded bytes of the matrix that came from its source.
    seconds : float
        Wall time.
    seconds_reading, seconds_multiplying : float
        Summed over all threads.
    panels : int
    retries : int
        Reads that failed and were tried again.
    chunks, missing_chunks : int
        Chunks of stores that the entries came from, and how many of them are not in the store.
    bytes_pinned : int
        Decoded bytes that came from memory, where an earlier pass left them.
    """

    bytes_read: int = 0
    seconds: float = 0.0
    seconds_reading: float = 0.0
    seconds_multiplying: float = 0.0
    panels: int = 0
    retries: int = 0
    chunks: int = 0
    missing_chunks: int = 0
    bytes_pinned: int = 0


@dataclass(frozen=True)
class PassResult:
    """``Z = H V`` and the facts from a pass, all scaled by ``2**-exponent`` per factor of A.

    Attributes
    ----------
    Z : ndarray (n, b)
    gram : ndarray (b, b)
        ``(S V)^H (S V)``.
    defect : float
        ``||V^H Z - (S V)^H (S V)||_2``, which is rounding unless the adjoint is wrong. For a chain
        it includes the error of an image that was not read.
    exponent : int
    facts : Facts or None
        In the first pass over a matrix with entries.
    cost : PassCost
    tokens : ndarray of uint32
        Content tokens of the panels, for later passes to compare with.
    carried : object or None
        The images that a pass over a chain leaves for the next one.
    """

    Z: Array
    gram: Array
    defect: float
    exponent: int
    facts: Facts | None
    cost: PassCost
    tokens: Array = field(default_factory=lambda: np.zeros(0, np.uint32))
    carried: Any = None


@dataclass(frozen=True)
class Forward:
    """``Y = S V`` and the facts from the pass.

    Attributes
    ----------
    Y : ndarray (rows of S, b) or None
        None if it was written to a target.
    R : ndarray (b, b)
        Triangular factor of a QR factorisation of Y, through those of its panels.
    checksums : tuple of tuple of int
        Of the chunks that each panel wrote to the target.
    cost : PassCost
    tokens : ndarray of uint32
        Content tokens of the panels.
    Z : ndarray (n, b) or None
        ``S^H Y``, if the pass was asked for it.
    """

    Y: Array | None
    R: Array
    checksums: tuple[tuple[int, ...], ...]
    cost: PassCost
    tokens: Array
    Z: Array | None = None
