"""A tensor that is too large for the memory of a task: an ordinary run over its file."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np

from bigspec.api.norm import norm
from bigspec.errors import DataError, MemoryLimitError, SourceError, format_bytes
from bigspec.networks.dense import Difference, Looked, Stored, look
from bigspec.networks.forms import Part, Spectral, packed
from bigspec.networks.norms import Asked, Norm
from bigspec.networks.row import Row
from bigspec.networks.work import Request, blank, filled, memory_of, missing_note
from bigspec.passes import DeadlinePassed
from bigspec.results import Estimate, Interval
from bigspec.sources import open_source

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
        row = replace(row, note="; ".join(filter(None, [row.note, missing_note(request)])))
    except (DataError, SourceError, MemoryLimitError) as error:
        row = replace(blank(request.entry), kind="refused", matrix=None, note=str(error))
    return replace(row, seconds=time.perf_counter() - began)


def _row(request: Request, asked: Asked, deadline: float | None) -> Row:
    entry, form = request.entry, request.entry.form
    forms = [form] if request.other is None else [form, request.other]
    if not all(isinstance(one, Part) and not packed(one.tensor) for one in forms):
        msg = (
            f"{entry.name}: expected a memory_limit with room for the decoded tensor, "
            f"{format_bytes(memory_of(request))}, got {format_bytes(asked.memory)}"
        )
        raise MemoryLimitError(msg)
    arrays = [_matrix(one) for one in forms if isinstance(one, Part)]
    if entry.matrix is None:
        flat = Stored(arrays[0]) if len(arrays) == 1 else Difference(arrays[0], arrays[1])
        return filled(blank(entry), look(flat, gram=False), None)
    looks = [look(Stored(array), gram=False) for array in arrays]
    bad = sum(one.non_finite for one in looks)
    if bad:
        return replace(blank(entry), non_finite=bad)
    matrices = [open_source(array) for array in arrays]
    answers = [_norm(matrix, request, asked, deadline) for matrix in matrices[-1:]]
    if len(matrices) == 1:
        row = filled(blank(entry), looks[0], _told(answers[0]), asked)
        if isinstance(form, Spectral):
            said = "u and v are not compared: the tensor does not fit the memory limit"
            row = replace(row, note="; ".join(filter(None, [row.note, said])))
        return row
    told = _norm(matrices[0] - matrices[1], request, asked, deadline)
    looked: Looked = look(Difference(arrays[0], arrays[1]), gram=False)
    row = filled(blank(entry), looked, _told(told), asked)
    return replace(row, other_lower=answers[0].lower, other_upper=answers[0].upper)


def _norm(matrix: Any, request: Request, asked: Asked, deadline: float | None) -> Estimate:
    left = None if deadline is None else max(deadline - time.monotonic(), 1e-3)
    answer = norm(
        matrix,
        rtol=asked.rtol,
        failure_probability=asked.failure_probability,
        seed=request.entropy,
        memory_limit=asked.memory,
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


def _matrix(form: Part) -> np.ndarray[Any, Any]:
    array = form.load(lambda tensor: tensor.read())
    return array if array.ndim == 2 else array.reshape(array.shape[0], -1)
