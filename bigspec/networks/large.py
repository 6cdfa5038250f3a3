"""A tensor that is too large for the memory of a task: an ordinary run over its file.

It is decoded, scaled or masked a rectangle at a time (`bigspec.networks.tiles`).
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np

from bigspec.api.norm import norm
from bigspec.errors import DataError, MemoryLimitError, SourceError, format_bytes
from bigspec.networks.dense import look
from bigspec.networks.forms import Form, Part, Spectral, wide
from bigspec.networks.norms import Asked, Norm
from bigspec.networks.row import Row
from bigspec.networks.stale import joined, with_ratio
from bigspec.networks.tensors import Tensor, called
from bigspec.networks.tiles import TiledMatrix, Tiles, listed, tiled, times
from bigspec.networks.work import (
    Request,
    blank,
    filled,
    memory_of,
    missing_text,
)
from bigspec.passes import DeadlinePassed
from bigspec.results import Estimate, Interval

__all__ = ["large_row"]


def large_row(request: Request, asked: Asked, deadline: float | None) -> Row:
    """Compute a row by passes over the mapped file, on all threads.

    Raises
    ------
    DeadlinePassed
        The time limit came first.
    """
    began = time.perf_counter()
    if deadline is not None and time.monotonic() >= deadline:
        raise DeadlinePassed
    try:
        row = _row(request, asked, deadline)
    except (DataError, SourceError, MemoryLimitError) as error:
        row = replace(blank(request.entry), kind="refused", matrix=None, note=str(error))
    return replace(row, seconds=time.perf_counter() - began)


def _row(request: Request, asked: Asked, deadline: float | None) -> Row:
    entry, form = request.entry, request.entry.form
    assert form is not None
    forms = [form] if request.other is None else [form, request.other]
    if entry.matrix is None:
        flat = _together([_tiled(listed(one), request, asked) for one in forms])
        row = filled(blank(entry), look(flat, gram=False), None)
        return _with_missing(row, flat)
    forms = [_chosen(one) for one in forms]
    matrices = [_tiled(one, request, asked) for one in forms]
    entries = [Tiles(matrix) for matrix in matrices]
    looks = [look(one, gram=False) for one in entries]
    row = _with_missing(blank(entry), *entries)
    bad = sum(one.non_finite for one in looks)
    if bad:
        return replace(row, non_finite=bad)
    # The limits are for the difference.
    own = request if request.other is None else replace(request, gate=None)
    answer = _norm(matrices[-1], own, asked, deadline)
    if len(matrices) == 1:
        row = filled(row, looks[0], _told(answer), asked)
        if isinstance(form, Spectral):
            row = with_ratio(row, form, _whole, lambda x, adjoint: times(
                matrices[0], x, adjoint=adjoint))  # fmt: skip
        return row
    told = _norm(matrices[0] - matrices[1], request, asked, deadline)
    survey = look(_together(matrices), gram=False)
    row = filled(row, survey, _told(told), asked)
    return replace(row, other_lower=answer.lower, other_upper=answer.upper)


def _norm(matrix: Any, request: Request, asked: Asked, deadline: float | None) -> Estimate:
    left = None if deadline is None else max(deadline - time.monotonic(), 1e-3)
    answer = norm(
        matrix,
        rtol=asked.rtol,
        failure_probability=asked.failure_probability,
        seed=request.entropy,
        memory_limit=asked.memory,
        pin=asked.pin,
        time_limit=left,
        gate=request.gate,
        right=False,
    )
    if answer.stopped_by == "time":
        raise DeadlinePassed
    return answer


def _told(answer: Estimate) -> Norm:
    inside = Interval(
        answer.lower,
        answer.upper,
        answer.upper_bound,
        answer.lower_bound,
        answer.deterministic,
        answer.rounding,
    )
    return Norm(inside, answer.passes, answer.converged)


def _together(matrices: list[TiledMatrix]) -> Tiles:
    """Return the entries of one matrix, or of the difference of two."""
    return Tiles(matrices[0], matrices[1] if len(matrices) > 1 else None)


def _with_missing(row: Row, *entries: Tiles) -> Row:
    """Return the row with a note on the chunks that its store lacks."""
    found = (missing_text(called(one.matrix.name), one.buffers.missing_chunks) for one in entries)
    return replace(row, note=joined(row.note, *found))


def _tiled(form: Form, request: Request, asked: Asked) -> TiledMatrix:
    matrix = tiled(form)
    if matrix is None:
        packed = [tensor for tensor in form.tensors if not tensor.streams]
        what = f"; or save {called(packed[0].name)} without compression" if packed else ""
        msg = (
            f"{request.entry.name}: expected a memory_limit with room for all of it, "
            f"{format_bytes(memory_of(request))}, since it can only be read whole, got "
            f"{format_bytes(asked.memory)}{what}"
        )
        raise MemoryLimitError(msg)
    return matrix


def _chosen(form: Form) -> Form:
    """Return the kernel along the one of two axes that u and v fit better."""
    if not isinstance(form, Spectral) or not form.either or form.u is None or form.v is None:
        return form
    ways = [Part(form.tensor, form.view, first=axis) for axis in (form.first, 1)]
    u, v = wide(form.u.read()), wide(form.v.read())
    values = []
    with np.errstate(invalid="ignore", over="ignore"):
        for way in ways:
            matrix = tiled(way)
            if matrix is None:
                return form
            values.append(abs(np.vdot(u, times(matrix, v))))
    return ways[1] if values[1] > values[0] else ways[0]


def _whole(tensor: Tensor) -> np.ndarray[Any, Any]:
    return tensor.read()
