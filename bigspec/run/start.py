"""Warm starts: old vectors from an estimate, an array, a file or another run's checkpoint."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import zarr

from bigspec.algorithms import REGISTRY, Algorithm, iterates
from bigspec.checkpoint import load_latest
from bigspec.errors import ArgumentError, MissingSourceError
from bigspec.kernels.entries import plain_array
from bigspec.matrices import Matrix
from bigspec.passes import one_blas_thread
from bigspec.results import Estimate
from bigspec.results.triplets import Triplets
from bigspec.run import SAVED_TYPES
from bigspec.run.checks import check_run_state
from bigspec.run.plan import Plan
from bigspec.sources.locations import locate, open_node
from bigspec.sources.storage_options import Options

__all__ = [
    "OwnStart",
    "Start",
    "entropy_of",
    "leading_vectors",
    "load_start",
    "start_of",
    "start_vectors",
    "vectors_when_asked",
]

Array = np.ndarray[Any, Any]

MOST = 8  # old vectors in a start block
KEPT_BYTES = 16 << 20  # a state of at most this size stays, to form vectors when asked


@dataclass(frozen=True)
class Start:
    """Old vectors to start from, and the entropy of the runs they came from.

    Attributes
    ----------
    right, left : ndarray (n, s), (m, s) or None
        `right` serves panels of rows, `left` panels of columns.
    seeds : frozenset of int
        Seeds of the runs that made them; the next run must not use any of these.
    optional : bool
        Whether a run that they do not fit starts without them, and says so.
    """

    right: Array | None
    left: Array | None
    seeds: frozenset[int] = frozenset()
    optional: bool = False

    @property
    def columns(self) -> int:
        """The number of columns that they add to a start block, at most."""
        return max(0 if part is None else part.shape[1] for part in (self.right, self.left))

    def side(self, *, rows: bool) -> Array | None:
        """Return the vectors for panels of rows or columns; None if optional ones are missing."""
        if self.optional and (self.right if rows else self.left) is None:
            return None
        return self.vectors(rows=rows)

    def vectors(self, *, rows: bool) -> Array:
        """Return the vectors for panels of rows or of columns.

        Raises
        ------
        ArgumentError
            There are none.
        """
        part = self.right if rows else self.left
        if part is None:
            side = "right" if rows else "left"
            msg = f"start: expected an estimate with a {side} vector, got one without it"
            raise ArgumentError(msg)
        return part


@dataclass(frozen=True)
class OwnStart(Start):
    """Vectors that the matrix itself offers, made when they are asked for.

    They depend on the matrix alone, and the random columns beside them do not.
    """

    matrix: Matrix | None = None

    @property
    def columns(self) -> int:
        """The most columns that they add to a start block."""
        return 0 if self.matrix is None else self.matrix.start_columns

    def side(self, *, rows: bool) -> Array | None:
        """Return the vectors for panels of rows or columns."""
        return None if self.matrix is None else self.matrix.start_vectors(rows=rows)

    def vectors(self, *, rows: bool) -> Array:
        """Return the vectors for panels of rows or columns."""
        made = self.side(rows=rows)
        assert made is not None, "a matrix with start columns has start vectors"
        return made


def start_of(start: Start | None, matrix: Matrix) -> Start | None:
    """Return the caller's start, or if there is none the matrix's own."""
    if start is None and matrix.start_columns:
        return OwnStart(None, None, optional=True, matrix=matrix)
    return start


def entropy_of(seed: int | None, start: Start | None) -> int:
    """Return the entropy of a new run: the seed given, or fresh."""
    if seed is None:
        return int(np.random.SeedSequence().entropy)  # type: ignore[arg-type]
    if start is not None and seed in start.seeds:
        msg = (
            f"seed: {seed} is the seed of the run given as start. The start block must be "
            "independent of the matrix, which may depend on the old run. Give another seed, or "
            "none for a fresh one."
        )
        raise ArgumentError(msg)
    return seed


def load_start(start: Any, storage: Options | None = None) -> Start | None:
    """Read `start`: an estimate, vectors, a file of vectors, or the checkpoint of another run.

    Nothing is unpickled. `storage` has credentials and settings of a URL.
    """
    if start is None:
        return None
    if isinstance(start, Start):
        return start
    if isinstance(start, Estimate):
        return _of_estimate(start)
    if isinstance(start, Triplets):
        left = start.u if isinstance(start.u, np.ndarray) else None
        return Start(None if start.vh is None else start.vh.conj().T, left, frozenset({start.seed}))
    if isinstance(start, (str, os.PathLike)):
        text = os.fspath(start)
        if text.endswith((".npz", ".npy")):
            start = _load_numpy(Path(text))
        else:
            node = open_node(locate(text, storage))
            if isinstance(node, zarr.Array):
                start = _entries(node, text)
            elif str(node.attrs.get("schema", "")).startswith("bigspec.checkpoint/"):
                return _of_checkpoint(text, storage)
            else:
                start = _in_group(node, text)
    W = plain_array(start, "start")
    W = W[:, None] if W.ndim == 1 else W
    if W.ndim != 2 or W.dtype.kind not in "biufc" or not iterates.finite(W):
        msg = f"start: expected finite numbers of shape (n, s), got {W.dtype} of shape {W.shape}"
        raise ArgumentError(msg)
    return Start(W, W)


def _of_estimate(estimate: Estimate) -> Start:
    def column(vector: Array | None) -> Array | None:
        return None if vector is None else vector[:, None]

    right, left, block = column(estimate.right), column(estimate.left), estimate.ritz_vectors
    if block is not None and estimate.layout["orientation"] == "rows":
        right = block
    elif block is not None:
        left = block
    return Start(right, left, frozenset({estimate.seed}))


def leading_vectors(algorithm: Algorithm[Any], state: Any, block_size: int) -> Array | None:
    """Return a few leading Ritz vectors for the warm start of a later run, if the state has them.

    They are at most half the columns of the block, because each widens the later block by one. On
    matrices that had changed by a thousandth, 8 vectors beside 16 random columns reached 1e-3 in
    one pass, and 1 vector needed two.
    """
    return None if state is None else algorithm.leading(state, max(1, min(MOST, block_size // 2)))


def vectors_when_asked(algorithm: Any, state: Any, block_size: int) -> Any:
    """Return `leading_vectors`, or for small states a function that forms them when asked."""

    def form() -> Array | None:
        with one_blas_thread():  # as in the run, so that the bits are the same
            return leading_vectors(algorithm, state, block_size)

    held = () if state is None else vars(state).values()
    blocks = [part for value in held for part in (value if isinstance(value, tuple) else (value,))]
    size = sum(part.nbytes for part in blocks if isinstance(part, np.ndarray))
    return form if size <= KEPT_BYTES else form()


def _of_checkpoint(where: str, storage: Options | None) -> Start:
    progress = load_latest(where, SAVED_TYPES, storage)
    check_run_state(progress, f"start: {where}")
    run, state = progress.run, progress.state
    if state is None:
        msg = f"start: the checkpoint {where} has no complete pass yet, so it has no vectors"
        raise ArgumentError(msg)
    k = run.get("count") or 0
    try:
        row = REGISTRY.named(run["algorithm"], several=k > 0)
    except KeyError as error:
        msg = f"start: expected a run of an algorithm of bigspec's own, got {run['algorithm']!r}"
        raise ArgumentError(msg) from error
    assert row.make is not None
    algorithm = row.make(run["block_size"], 0, k)
    block = (
        algorithm.leading(state, k) if k else leading_vectors(algorithm, state, run["block_size"])
    )
    return _for_panels(state.V_last if block is None else block, run)  # lanczos kept no basis


def _for_panels(block: Array, run: dict[str, Any]) -> Start:
    if run["cut"]["orientation"] == "rows":
        return Start(block, None, frozenset({run["entropy"]}))
    return Start(None, block, frozenset({run["entropy"]}))


def _entries(array: Any, text: str) -> Any:
    if np.dtype(array.dtype).kind not in "biufc":  # objects may be pickled
        msg = f"start: expected numbers in {text!r}, got {array.dtype}"
        raise ArgumentError(msg)
    return array[...]


def _in_group(group: zarr.Group, text: str) -> Any:
    if "right" not in group:
        msg = (
            f"start: expected a Zarr array of vectors, a group with an array 'right', or a "
            f"checkpoint, got the group {text!r} with {sorted(group.array_keys())}"
        )
        raise ArgumentError(msg)
    return _entries(group["right"], text)


def _load_numpy(path: Path) -> Array:
    if not path.exists():
        msg = f"start: expected an .npz or .npy file, got {str(path)!r}, which does not exist"
        raise MissingSourceError(msg)
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return content
        with content as archive:
            names = list(archive.keys())
            if "vh" in names:  # as `bigspec svds --v` writes it
                return np.asarray(archive["vh"]).conj().T
            return np.asarray(archive["right" if "right" in names else names[0]])
    except (ValueError, OSError, TypeError, AttributeError, IndexError, BadZipFile) as error:
        msg = f"start: cannot read {str(path)!r} as vectors: {error}"
        raise ArgumentError(msg) from error


def start_vectors(start: Start | None, chosen: Plan) -> Array | None:
    """Check that the old vectors fit the blocks of the plan."""
    if start is None:
        return None
    rows, length = chosen.layout.orientation == "rows", chosen.layout.iterate_length
    W = start.vectors(rows=rows)
    if W.shape[0] != length:
        msg = (
            f"start: the old vectors have length {W.shape[0]}, {chosen.matrix.name} needs "
            f"{'right' if rows else 'left'} vectors of length {length}"
        )
        raise ArgumentError(msg)
    if np.iscomplexobj(W) and chosen.matrix.dtype.kind != "c":
        msg = "start: the old vectors are complex, the matrix is real; pass their real parts"
        raise ArgumentError(msg)
    return W
