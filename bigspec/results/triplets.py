"""The answer of `bigspec.svds`: k singular triplets, with an interval for each value."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

__all__ = ["SCHEMA", "Triplets"]

SCHEMA = "bigspec.triplets/1"
"""Name and version of the JSON layout of `Triplets.to_dict`."""

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Triplets:
    """The k largest singular triplets of a matrix; ``u, s, vh = tri``.

    All k intervals hold together with probability at least ``1 - failure_probability`` over the
    random start, for every matrix. The vectors are orthonormal (see `u` and `vh`), and satisfy
    ``A vh^H = u diag(s)`` to rounding. If panels are columns (``layout["orientation"]``), they
    satisfy ``A^H u = vh^H diag(s)`` instead, and the other equation as far as the run converged.
    How near a vector is to a singular vector depends on the gaps around its value, and is not
    certified.

    Attributes
    ----------
    u : ndarray (m, k) or zarr.Array (m, k) or None
        Left vectors; a Zarr array if they were written to `u_store`; None without `left`, or if
        `time_limit` ended the run before its last pass. In memory they are orthonormal to
        rounding. In a store column i is so to about ``1e-16 s[0] / s[i]``, and zero if ``s[i]`` is
        rounding (below ``1e-16 sqrt(m) s[0]``).
    s : ndarray (k,)
        Values, descending, ``lower <= s <= upper``.
    vh : ndarray (k, n) or None
        Right vectors, conjugated, as rows; orthonormal to rounding. None for panels of columns
        if `time_limit` ended the run before its last pass. The sign (phase) of each triplet makes
        the largest entry of its right vector positive.
    lower, upper : ndarray (k,)
        ``lower[i] <= sigma_{i+1} <= upper[i]``, rounding margin included.
    failure_probability : float
        Probability, over the random start alone, that any of the k intervals misses.
    converged : bool
        Whether ``upper / lower - 1 <= rtol`` for all k.
    stopped_by : str
        ``"converged"``, ``"gate"`` (the gate is decided), ``"exhausted"`` (rounding keeps the
        intervals of zero or very small values wide), ``"memory"`` (the basis no longer fits),
        ``"passes"``, ``"time"`` or ``"interrupted"``.
    checkpoint : str or None
        Where the end of the run is saved; None if it is not.
    status : str
        One or two sentences about what the run reached, or what stopped it.
    rtol : float
        The relative width that the caller asked for.
    u_store : str or None
        The place of `u`, if it was written to a store.
    upper_bounds, lower_bounds : tuple of str
        Names of the active bounds, one a value.
    certain : tuple of bool
        Whether the active upper bound of each value needs no probability.
    rounding : tuple of float
        Share of each relative width that covers floating-point error.
    frobenius : float or None
        Frobenius norm; None for operators, whose entries nobody sees.
    algorithm : str
        ``"lanczos"``.
    block_size : int
        Random columns of the start block.
    choices : tuple of str
        The choices of bigspec, each a sentence with its reason.
    seed : int
        The entropy of the start block.
    matrix, layout : dict
        Identity of the matrix, and how it was cut.
    history : tuple of PassRecord
        One record a pass; the last pass, which makes the vectors, has none.
    vector_passes : int
        Passes for the vectors: 1, or 0 if none was made.
    seconds : float
        Wall time of the whole run.
    bytes_read : int
        Decoded bytes read from the matrix in the whole run, the last pass included.
    versions : dict
        Versions of Python and of the libraries in use.
    gate : Verdict or None
        The gate's decision on the interval of sigma_1; None without a gate.
    run_id : str
        Names the run in logs, checkpoint and history; a run that goes on keeps it.
    start_columns : int
        Old vectors in the start block (a warm start).
    iterates : ndarray (m, k) or None
        Orthonormal left vectors of the run, for panels of columns if `u` is not in memory.
    missing_as : str
        The value that entries of missing chunks count as, such as ``"0"``; see `missing_chunks`.
    vector_missing_chunks : int
        Chunks that were not in the store in the pass for the vectors.
    """

    u: Any = field(repr=False)
    s: Array
    vh: Array | None = field(repr=False)
    lower: Array
    upper: Array
    failure_probability: float
    converged: bool
    stopped_by: str
    checkpoint: str | None
    status: str
    rtol: float
    u_store: str | None
    upper_bounds: tuple[str, ...] = field(repr=False)
    lower_bounds: tuple[str, ...] = field(repr=False)
    certain: tuple[bool, ...] = field(repr=False)
    rounding: tuple[float, ...] = field(repr=False)
    frobenius: float | None
    algorithm: str
    block_size: int
    choices: tuple[str, ...] = field(repr=False)
    seed: int
    matrix: dict[str, Any] = field(repr=False)
    layout: dict[str, Any] = field(repr=False)
    history: tuple[PassRecord, ...] = field(repr=False)
    vector_passes: int
    seconds: float
    bytes_read: int
    versions: dict[str, str] = field(repr=False)
    gate: Verdict | None = None
    run_id: str = ""
    start_columns: int = 0
    iterates: Array | None = field(default=None, repr=False)
    missing_as: str = field(default="0", repr=False)
    vector_missing_chunks: int = field(default=0, repr=False)

    def __iter__(self) -> Iterator[Any]:
        return iter((self.u, self.s, self.vh))

    def __str__(self) -> str:
        return text.triplets_headline(self)

    def __repr__(self) -> str:
        values = np.array2string(self.s, precision=6, threshold=6, edgeitems=2, separator=", ")
        told = f"width={self.width:.2g}, converged={self.converged}, passes={self.passes}"
        return f"<Triplets k={self.k}, s={values}, {told}>"

    @property
    def k(self) -> int:
        """Number of triplets."""
        return len(self.s)

    @property
    def passes(self) -> int:
        """Complete passes over the matrix, without the one for the vectors."""
        return len(self.history)

    @property
    def widths(self) -> tuple[float, ...]:
        """Relative widths ``upper / lower - 1``, one a value."""
        return tuple(map(relative_width, self.lower.tolist(), self.upper.tolist()))

    @property
    def width(self) -> float:
        """Largest of the relative widths."""
        return max(self.widths)

    @property
    def intervals(self) -> tuple[Interval, ...]:
        """The intervals of all values, largest first."""
        rows = zip(
            self.lower.tolist(), self.upper.tolist(), self.upper_bounds, self.lower_bounds,
            self.certain, self.rounding, strict=True,
        )  # fmt: skip
        return tuple(Interval(*row) for row in rows)

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
        first = self.intervals[0]
        return stable_rank(self.frobenius, first.lower, first.upper, first.rounding)

    @property
    def ritz_vectors(self) -> Array | None:
        """Vectors for the start of a later run: right for panels of rows, left for columns."""
        if self.layout["orientation"] == "rows":
            return None if self.vh is None else self.vh.conj().T
        return self.u if isinstance(self.u, np.ndarray) else self.iterates

    @property
    def deterministic(self) -> bool:
        """Whether all upper ends hold for every random start."""
        return all(self.certain)

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the vectors as JSON-ready values; ``schema`` names the layout.

        Infinite numbers become None, so that strict JSON parsers accept the result.
        """
        derived = {
            "schema": SCHEMA,
            "k": self.k,
            "widths": self.widths,
            "width": self.width,
            "deterministic": self.deterministic,
            "passes": self.passes,
            "chunks": self.chunks,
            "missing_chunks": self.missing_chunks,
        }
        return document(self, derived, {"u", "vh", "iterates"})

    def to_json(self, path: str | Path | None = None) -> str:
        """Return `to_dict` as JSON text; with `path`, write it there as well."""
        return json_text(self.to_dict(), path)

    def summary(self) -> str:
        """Return a text block: each interval, rounded outward, the status, the cost."""
        return text.triplets_summary(self)

    def to_html(self, path: str | Path | None = None) -> str:
        """Return one self-contained HTML page; with `path`, write it there as well."""
        text = html.triplets_page(self)
        if path is not None:
            files.write_text(path, text)
        return text

    def _repr_html_(self) -> str:
        return html.triplets_fragment(self)

    def plot(self) -> Figure:
        """Return a matplotlib figure of the largest width, the values, and the Ritz values.

        Raises
        ------
        ImportError
            Matplotlib is missing: ``pip install matplotlib``.
        """
        return figures.triplets_figure(self)
