"""Dividing a matrix by its certified norm: a run, then one copy."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from bigspec.api.arguments import as_budget, as_bytes, as_probability, as_seed, as_whole
from bigspec.api.matrices import open_within
from bigspec.api.norm import norm
from bigspec.certificate.scaling import Storage, factor_above, factor_below, scaled_interval
from bigspec.conversion.entries import MatrixStream
from bigspec.conversion.identity import digest
from bigspec.conversion.normal_target import Destination
from bigspec.conversion.normalization import Normalization
from bigspec.conversion.scaling import Scaling
from bigspec.conversion.work import Work, working
from bigspec.errors import ArgumentError, DataError, UnsupportedTypeError
from bigspec.matrices import Matrix, OperatorMatrix
from bigspec.passes import find_executor
from bigspec.results import Estimate
from bigspec.watch import Observer
from bigspec.watch.live import make_observer

__all__ = ["normalize"]

FACTS = 1e-10  # relative error of a Frobenius norm (`bigspec.certificate.rounding`)
SMALL_INTEGERS = 2  # bytes; float32 holds every one of them


@dataclass(frozen=True)
class Aim:
    """The norm that is wanted, and how surely it must be known."""

    to: float
    by: str
    rtol: float
    failure_probability: float
    block_size: int | None
    seed: int | None


def normalize(
    src: Any,
    dst: str | os.PathLike[str] | None = None,
    *,
    to: float = 1.0,
    by: str = "upper",
    dtype: Any = None,
    in_place: bool = False,
    overwrite: bool = False,
    name: str = "weight",
    rtol: float = 1e-3,
    failure_probability: float = 1e-6,
    block_size: int | None = None,
    seed: int | None = None,
    memory_limit: int | str | None = None,
    rows: Sequence[str] | str | None = None,
    missing_chunks: str = "fill",
    progress: bool | Observer = False,
) -> Normalization:
    """Write a matrix times the factor that brings its spectral norm to `to`, by certificate.

    Parameters
    ----------
    src : path, URL or object
        Any matrix with entries that `open_matrix` takes.
    dst : path
        A local place. ``*.safetensors`` becomes a file with one tensor. Anything else becomes a
        Zarr v3 store: an array, or for a sparse matrix a group in AnnData's encoding.
    to : float
        The norm that is wanted.
    by : {"upper", "lower"}
        ``"upper"``: the norm of what is written is at most `to`, and at least about
        ``to / (1 + rtol)``. ``"lower"``: it is at least `to`, and at most about
        ``to * (1 + rtol)``.
    dtype : dtype, optional
        Of what is written, real or complex floating. By default that of the source; integers of
        up to two bytes become float32, longer ones float64, and the values of a sparse float16
        matrix float32. Rounding is part of the certificate, so half precision costs 5e-4 of the
        norm times the root of the stable rank.
    in_place : bool
        Replace `src`, which must be a Zarr array or a sparse group of its own on this machine. The
        copy is written beside it, and takes its place in one step when it is complete.
    overwrite : bool
        Replace the store or file at `dst`, once the new one is complete.
    name : str
        Of the tensor in a file of safetensors.
    rtol, failure_probability, block_size, seed, memory_limit, rows
        Of the run that computes the norm; see `bigspec.norm`.
    missing_chunks : {"fill", "error"}
        See `bigspec.open_matrix`.
    progress : bool or Observer
        Show a live line.

    Returns
    -------
    Normalization
        Its interval is that of what was written. The same lies beside it, in the attribute
        ``bigspec`` of the store or in the metadata of the file.

    Raises
    ------
    ArgumentError, ResumeError, MemoryLimitError, CheckpointInUseError
        Before anything is read; `to` out of the range of `dtype` only after the run.
    DataError
        The norm is zero, or the matrix changed between the run and the copy.
    NonFiniteError, SourceError, ChunkError, UnsupportedTypeError
        The source cannot be used; the partial work is removed.
    DestinationError
        `dst` cannot be written, as on a full disk; the partial work stays.

    Notes
    -----
    Cost: the passes of `bigspec.norm`, and one more read of the source. After a kill the same call
    goes on: the run from its last pass, the copy from its last blocks, to the same bytes. The
    factor takes the rounding of every stored entry into account (`bigspec.certificate.scaling`).

    Examples
    --------
    >>> import numpy as np, bigspec
    >>> done = bigspec.normalize(np.diag([4.0, 1.0]), "unit.zarr")
    >>> bool(0.999 < done.lower <= done.upper <= 1.0)
    True
    >>> bool(bigspec.norm("unit.zarr").lower <= 1.0)
    True
    """
    began = time.monotonic()
    budget, sure = as_budget(rtol), as_probability(failure_probability)
    aim = Aim(
        _positive(to),
        _end(by, to),
        float(budget.rtol),
        sure,
        as_whole("block_size", block_size),
        as_seed(seed),
    )
    if in_place and rows is not None:
        msg = f"rows: expected None beside in_place=True, got {rows!r}; name a dst"
        raise ArgumentError(msg)
    limit = as_bytes(memory_limit) or find_executor(True).memory() // 2
    matrix = open_within(src, limit, rows=rows, missing_chunks=missing_chunks)
    stream = _stream(matrix, limit)
    kind = _stored_type(dtype, matrix, sparse=stream is not None)
    place = Destination.of(src, dst, matrix, stream, in_place=in_place, name=name)
    place.check(kind)
    wanted = {
        "source": matrix.identity,
        "norm": vars(aim),
        "dtype": kind.str,
        **place.wanted(),
    }
    replaced = overwrite or in_place
    work = Work(place.path, None, wanted, overwrite=replaced, file=place.form == "safetensors")
    observer = make_observer(progress)
    with working(work, observer):
        if work.state["stage"] == "new" and "normal" not in work.state:
            work.save(stage="new")  # so that the folder is known as this work's
            _certify(matrix, aim, kind, work, (memory_limit, observer), stream)
        found = work.state["normal"]
        scaling = Scaling(found["factor"], kind, found["frobenius"], _note(matrix, aim, found))
        observer.run_started(matrix.name, {"to": str(place.path), "format": place.form})
        size, seconds = place.write(scaling, work, observer, began, limit)
    return _result(place, aim, kind, found, (size, seconds))


def _result(
    place: Destination,
    aim: Aim,
    kind: np.dtype[Any],
    found: dict[str, Any],
    cost: tuple[int, float],
) -> Normalization:
    """Say what was done."""
    apart = ("frobenius", "seed", "version")
    return Normalization(
        source=place.matrix.name,
        destination=str(place.path),
        format=place.form,
        shape=place.matrix.shape,
        dtype=kind.str,
        to=aim.to,
        by=aim.by,
        failure_probability=aim.failure_probability,
        bytes_written=cost[0],
        seconds=cost[1],
        **{key: value for key, value in found.items() if key not in apart},
    )


def _positive(to: float) -> float:
    if isinstance(to, bool) or not isinstance(to, Real) or not 0.0 < to < math.inf:
        msg = f"to: expected a positive, finite norm, got {to!r}"
        raise ArgumentError(msg)
    return float(to)


def _end(by: str, to: float) -> str:
    if by not in ("upper", "lower"):
        msg = (
            f"by: expected 'upper' (the norm becomes at most {to!r}) or 'lower' (at least), got "
            f"{by!r}"
        )
        raise ArgumentError(msg)
    return by


def _stream(matrix: Matrix, limit: int) -> MatrixStream | None:
    """Return the entries of a sparse matrix in order; None for a dense one."""
    entries = getattr(matrix, "entries", None)
    form = getattr(matrix, "format", None) or getattr(entries, "format", None)
    return MatrixStream.of(matrix, limit) if form in ("csr", "csc") else None


def _stored_type(dtype: Any, matrix: Matrix, *, sparse: bool) -> np.dtype[Any]:
    if isinstance(matrix, OperatorMatrix) or not hasattr(matrix, "read"):
        msg = f"{matrix.name}: expected a matrix with entries to write, got an operator"
        raise UnsupportedTypeError(msg)
    own = matrix.dtype
    if own.kind in "biu":
        own = np.dtype(np.float32 if own.itemsize <= SMALL_INTEGERS else np.float64)
    elif (own == np.float16 and sparse) or own.name == "bfloat16":
        own = np.dtype(np.float32)
    try:
        kind = (own if dtype is None else np.dtype(dtype)).newbyteorder("=")
    except TypeError as error:
        msg = f"dtype: expected a NumPy type such as float32, got {dtype!r}"
        raise ArgumentError(msg) from error
    types = ["float16"] * (not sparse) + ["float32", "float64", "complex64", "complex128"]
    if kind.name not in types:
        msg = f"dtype: expected one of {', '.join(types)} for these entries, got {kind}"
        raise ArgumentError(msg)
    if own.kind == "c" and kind.kind != "c":
        msg = f"dtype: expected a complex type for {own} entries, got {kind}"
        raise ArgumentError(msg)
    return kind


def _certify(
    matrix: Matrix,
    aim: Aim,
    kind: np.dtype[Any],
    work: Work,
    running: tuple[int | str | None, Observer],
    stream: MatrixStream | None,
) -> None:
    """Compute the norm, with a checkpoint beside the work, and save the factor."""
    memory_limit, observer = running
    key = digest(repr(sorted(work.wanted.items())).encode())[:12]
    est = norm(
        matrix,
        rtol=aim.rtol,
        failure_probability=aim.failure_probability,
        block_size=aim.block_size,
        seed=aim.seed,
        checkpoint=work.folder / f"norm-{key}",
        memory_limit=memory_limit,
        progress=observer,
        right=False,
    )
    try:
        work.save(normal=_factor(est, aim, kind, matrix, stream))
    except ArgumentError:
        work.remove()
        raise


def _factor(
    est: Estimate, aim: Aim, kind: np.dtype[Any], matrix: Matrix, stream: MatrixStream | None
) -> dict[str, Any]:
    """Return the factor, and the intervals before and after."""
    if est.upper == 0.0 or est.frobenius is None:
        msg = f"{matrix.name}: expected a matrix with a norm, got one whose entries are all zero"
        raise DataError(msg)
    entries = stream.most if stream is not None else math.prod(matrix.shape)
    storage = Storage.of(kind, entries)
    size = est.frobenius * (1 + FACTS)
    if aim.by == "upper":
        factor = factor_below(est.upper, size, aim.to, storage)
    else:
        factor = factor_above(est.lower, size, aim.to, storage)
    lower, upper = scaled_interval(est.lower, est.upper, size, factor, storage)
    # The factor keeps the limit by construction; these are rounded outwards once more.
    lower, upper = (lower, min(upper, aim.to)) if aim.by == "upper" else (max(lower, aim.to), upper)
    return {
        "factor": factor,
        "lower": lower,
        "upper": upper,
        "source_lower": est.lower,
        "source_upper": est.upper,
        "frobenius": est.frobenius,
        "deterministic": est.deterministic,
        "passes": est.passes,
        "missing_chunks": est.missing_chunks,
        "seed": est.seed,
        "version": est.versions["bigspec"],
    }


def _note(matrix: Matrix, aim: Aim, found: dict[str, Any]) -> dict[str, Any]:
    """Return what is stored beside the entries."""
    said = {key: found[key] for key in found if key not in ("passes", "missing_chunks")}
    return {
        "schema": "bigspec.normal/1",
        "source": matrix.name,
        "to": aim.to,
        "by": aim.by,
        "failure_probability": aim.failure_probability,
        **said,
    }
