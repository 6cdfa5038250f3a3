"""The answer of `bigspec.norm`: the interval, its proof and its cost, as text, JSON and HTML."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from bigspec.results import figures, files, html, text
from bigspec.results.gate import Verdict
from bigspec.results.records import (
    Interval,
    PassRecord,
    Range,
    chunk_counts,
    document,
    json_text,
    relative_width,
    stable_rank,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


__all__ = ["SCHEMA", "Estimate"]

SCHEMA = "bigspec.estimate/1"
"""Name and version of the JSON layout of `Estimate.to_dict`."""


class _Lazy:
    """An attribute that may be given as a function, which is called at the first access.

    After that the function, and all that it refers to, can be freed.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        value = vars(instance)[self.name]
        if callable(value):
            value = vars(instance)[self.name] = value()
        return value

    def __set__(self, instance: Any, value: Any) -> None:
        vars(instance)[self.name] = None if value is self else value


@dataclass(frozen=True, eq=False)
class Estimate:
    """The spectral norm of a matrix, as an interval.

    ``float(est)`` is `value`, ``format(est, ".4g")`` formats it, and ``print(est)`` prints the
    interval in one line. The interval holds with probability at least
    ``1 - failure_probability`` over the random start, for every matrix; if `deterministic`
    is true, it holds for every start.

    Attributes
    ----------
    lower, upper : float
        ``lower <= sigma_1 <= upper``, rounding margin included.
    failure_probability : float
        Probability, over the random start alone, that the interval misses.
    converged : bool
        Whether ``upper / lower - 1 <= rtol``.
    stopped_by : str
        ``"converged"``, ``"gate"`` (the gate is decided), ``"exhausted"`` (the rounding margin is
        reached), ``"passes"`` or ``"time"`` (the budget is used up), or ``"interrupted"``.
    checkpoint : str or None
        Where the end of the run is saved; None if it is not.
    status : str
        One or two sentences about what the run reached, or what stopped it.
    rtol : float
        The relative width that the caller asked for.
    right : ndarray (n,) or None
        Unit vector v with ``||A v|| >= value`` up to rounding. None if the basis did not fit in
        memory. Panels of columns give the left vector instead; this one takes one more pass (see
        `norm`).
    left : ndarray (m,) or None
        For panels of columns: unit vector u with ``||A^H u|| >= value``.
    frobenius : float or None
        Frobenius norm; None for operators, whose entries nobody sees.
    upper_bound, lower_bound : str
        Names of the active bounds.
    deterministic : bool
        Whether the active upper bound holds with certainty.
    rounding : float
        The share of the relative width that covers floating-point error.
    algorithm : str
        ``"lanczos"``, ``"power"`` or ``"gram"``.
    block_size : int
        Random columns of the start block.
    choices : tuple of str
        The choices of bigspec, each a sentence with its reason.
    seed : int
        The entropy of the start block.
    matrix : dict
        Identity of the matrix.
    layout : dict
        How the matrix was read: orientation, panels, reads a pass, where the passes ran.
    history : tuple of PassRecord
        One record a pass.
    seconds : float
        Wall time of the whole run.
    bytes_read : int
        Decoded bytes read from the matrix in the whole run, measurements included.
    versions : dict
        Versions of Python and of the libraries in use.
    start_columns : int
        Old vectors in the start block (a warm start).
    gate : Verdict or None
        The gate's decision; None without a gate.
    run_id : str
        Names the run in logs, checkpoint and history; a run that goes on keeps it.
    ritz_vectors : ndarray (n, s) or None
        Leading Ritz vectors for the start of later runs, at most 8 and half of `block_size`; the
        first one is `right` (or `left`). From a small state they are formed at the first access.
    missing_as : str
        The value that entries of missing chunks count as, such as ``"0"``; see `missing_chunks`.
    vector_missing_chunks : int
        Chunks that were not in the store in the pass for the vectors.
    """

    lower: float
    upper: float
    failure_probability: float
    converged: bool
    stopped_by: str
    checkpoint: str | None
    status: str
    rtol: float
    right: np.ndarray[Any, Any] | None = field(repr=False)
    left: np.ndarray[Any, Any] | None = field(repr=False)
    frobenius: float | None
    upper_bound: str
    lower_bound: str
    deterministic: bool
    rounding: float
    algorithm: str
    block_size: int
    choices: tuple[str, ...]
    seed: int
    matrix: dict[str, Any] = field(repr=False)
    layout: dict[str, Any] = field(repr=False)
    history: tuple[PassRecord, ...] = field(repr=False)
    seconds: float
    bytes_read: int
    versions: dict[str, str] = field(repr=False)
    gate: Verdict | None = None
    run_id: str = ""
    start_columns: int = 0
    ritz_vectors: np.ndarray[Any, Any] | None = field(default=cast(Any, _Lazy()), repr=False)
    missing_as: str = field(default="0", repr=False)
    vector_missing_chunks: int = field(default=0, repr=False)

    @property
    def value(self) -> float:
        """The lower end of the interval, which a vector attains."""
        return self.lower

    @property
    def width(self) -> float:
        """Relative width ``upper / lower - 1``."""
        return relative_width(self.lower, self.upper)

    @property
    def passes(self) -> int:
        """Complete passes over the matrix."""
        return len(self.history)

    @property
    def chunks(self) -> int:
        """Chunks of stores that a pass reads; 0 if nothing lies in a store."""
        return chunk_counts(self.history)[0]

    @property
    def missing_chunks(self) -> int:
        """Chunks that are not in the store, in the pass where most were missing."""
        return max(chunk_counts(self.history)[1], self.vector_missing_chunks)

    @property
    def stable_rank(self) -> Range | None:
        """``||A||_F^2 / sigma_1^2`` as a range; None for operators; ``(0, 0)`` for zero."""
        return stable_rank(self.frobenius, self.lower, self.upper, self.rounding)

    @property
    def intervals(self) -> tuple[Interval, ...]:
        """The interval in a tuple, as `Triplets` has k of them."""
        return (
            Interval(
                self.lower,
                self.upper,
                self.upper_bound,
                self.lower_bound,
                self.deterministic,
                self.rounding,
            ),
        )

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        return text.headline(self)

    def __format__(self, spec: str) -> str:
        return format(self.value, spec) if spec else str(self)

    def __repr__(self) -> str:
        ends = f"lower={self.lower!r}, upper={self.upper!r}"
        told = f"converged={self.converged}, deterministic={self.deterministic}"
        return f"<Estimate {ends}, {told}, passes={self.passes}>"

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"ritz_vectors": self.ritz_vectors}

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the vectors as JSON-ready values; ``schema`` names the layout.

        Infinite numbers become None, so that strict JSON parsers accept the result.
        """
        derived = {
            "schema": SCHEMA,
            "value": self.value,
            "width": self.width,
            "passes": self.passes,
            "chunks": self.chunks,
            "missing_chunks": self.missing_chunks,
            "stable_rank": self.stable_rank,
        }
        return document(self, derived, {"right", "left", "ritz_vectors"})

    def to_json(self, path: str | Path | None = None) -> str:
        """Return `to_dict` as JSON text; with `path`, write it there as well."""
        return json_text(self.to_dict(), path)

    def summary(self) -> str:
        """Return a short text block: the interval, the status, the cost and the choices.

        The printed interval is rounded outward: it is never narrower than the true one.
        """
        return text.summary(self)

    def to_html(self, path: str | Path | None = None) -> str:
        """Return one self-contained HTML page; with `path`, write it there as well."""
        text = html.page(self)
        if path is not None:
            files.write_text(path, text)
        return text

    def _repr_html_(self) -> str:
        return html.fragment(self)

    def plot(self) -> Figure:
        """Return a matplotlib figure of the interval closing over the passes.

        Its three axes show the relative width, both ends, and the largest Ritz values.

        Raises
        ------
        ImportError
            Matplotlib is missing: ``pip install matplotlib``.

        Examples
        --------
        >>> import numpy as np, bigspec
        >>> bigspec.norm(np.eye(3)).plot().savefig("run.svg")
        """
        return figures.figure(self)
