"""The work of one task: the rows that are made of the same tensors, each read once."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bigspec.certificate.rounding import UNIT_ROUNDOFF
from bigspec.errors import (
    DataError,
    MemoryLimitError,
    SourceError,
    StoreUnavailableError,
    format_bytes,
)
from bigspec.networks.adapter_matrices import Hadamard, dense_of, difference_of
from bigspec.networks.dense import Difference, Entries, Stored, Survey, look
from bigspec.networks.entry import Entry
from bigspec.networks.forms import Form, Kronecker, Part, Product, Spectral, wide
from bigspec.networks.layers import with_layers
from bigspec.networks.norms import Asked, Limit, Norm, by_gram, norm_of, takes_gram
from bigspec.networks.product_norms import (
    kronecker_norm,
    kronecker_survey,
    product_norm,
    product_survey,
)
from bigspec.networks.row import Row
from bigspec.networks.sharing import entropy_of
from bigspec.networks.stale import joined, with_ratio
from bigspec.networks.tensors import Tensor, called
from bigspec.results import Interval
from bigspec.results.gate import Gate
from bigspec.results.text import counted
from bigspec.sources import open_source

__all__ = [
    "Request", "Task", "blank", "filled", "memory_of", "missing_text", "shared",
    "tensors_of", "work",
]  # fmt: skip

Array = np.ndarray[Any, Any]

TILES = 24 << 20  # of float64, and what the products of a tile take
COLUMNS = 16 * 24  # of a basis in memory, as many passes as are ever likely


@dataclass(frozen=True)
class Request:
    """A row to be computed.

    Attributes
    ----------
    entry : Entry
    other : Form or None
        What is subtracted.
    seed : int
        Of the scan.
    gate : Gate or None
    """

    entry: Entry
    other: Form | None = None
    seed: int = 0
    gate: Gate | None = None

    @property
    def entropy(self) -> int:
        """Of the row's own start block; most rows need none."""
        return entropy_of(self.seed, self.entry.name)


@dataclass(frozen=True)
class Task:
    """Rows that are made of the same tensors.

    Attributes
    ----------
    requests : tuple of Request
    asked : Asked
    """

    requests: tuple[Request, ...]
    asked: Asked

    @property
    def nbytes(self) -> int:
        """Memory that it holds."""
        return max(memory_of(request) for request in self.requests)

    @property
    def work(self) -> float:
        """Flops, roughly: the largest tasks begin first."""
        total = 0.0
        for request in self.requests:
            m, n = request.entry.matrix or (1, math.prod(request.entry.shape))
            total += float(m) * n * (min(m, n) if takes_gram((m, n)) else 1000)
        return total


def memory_of(request: Request) -> int:
    """Return the bytes that a row holds while it is computed."""
    form = request.entry.form
    held = TILES + sum(0 if one is None else one.nbytes for one in (form, request.other))
    if request.entry.matrix is None:
        return held
    short = min(request.entry.matrix)
    if isinstance(form, Product):
        return held
    if isinstance(form, Kronecker):
        if request.other is None:
            return held
        held += 32 * math.prod(request.entry.matrix)  # both, made, and their difference
    return held + (24 * short**2 if takes_gram(request.entry.matrix) else 8 * short * COLUMNS)


class _Reader:
    """Reads each tensor once, and keeps the last few that rows share."""

    def __init__(self) -> None:
        self.held: dict[int, Array] = {}

    def __call__(self, tensor: Tensor) -> Array:
        if id(tensor) not in self.held:
            self.held[id(tensor)] = tensor.read()
        return self.held[id(tensor)]


def work(task: Task, limit: Limit) -> list[Row]:
    """Compute the rows of a task.

    What is wrong with a tensor is in its row, not raised: the other rows are not lost with it.
    """
    read = _Reader()
    rows = []
    for request in task.requests:
        limit.check()
        began = time.perf_counter()
        try:
            row = _row(request, task.asked, read, limit)
            row = replace(row, note=joined(row.note, missing_note(request)))
        except StoreUnavailableError:
            raise  # another try may well read it
        except (DataError, SourceError, MemoryLimitError) as error:
            row = replace(blank(request.entry), kind="refused", matrix=None, note=str(error))
        except MemoryError:
            note = f"no memory for {format_bytes(memory_of(request))}"
            row = replace(blank(request.entry), kind="refused", matrix=None, note=note)
        rows.append(replace(row, seconds=time.perf_counter() - began))
    return rows


def blank(entry: Entry) -> Row:
    """Return the row of an entry without any number."""
    return Row(
        name=entry.name,
        file=entry.file,
        shape=entry.shape,
        dtype=entry.dtype,
        kind=entry.kind,
        matrix=entry.matrix,
        tied_to=entry.tied_to,
        note=entry.note,
        stack=entry.stack,
        hidden=entry.hidden,
    )


def _row(request: Request, asked: Asked, read: _Reader, limit: Limit) -> Row:
    entry, form = request.entry, request.entry.form
    assert form is not None
    if isinstance(form, Product):
        return _product(request, form, asked, read)
    if isinstance(form, Kronecker) and request.other is None:
        return _kronecker(entry, form, asked, read)
    if isinstance(form, (Hadamard, Kronecker)):
        return _made(request, form, asked, read, limit)
    array = _matrix(form, read)
    if entry.matrix is None:
        flat = Stored(array) if request.other is None else (
            Difference(array, _matrix(request.other, read))
        )  # fmt: skip
        survey = look(flat, gram=False)
        return filled(blank(entry), survey, None)
    if request.other is None:
        entries: Entries = Stored(array)
        norm, survey = _bracketed(entries, lambda: open_source(array), request, asked, limit)
        row = filled(blank(entry), survey, norm, asked)
        if isinstance(form, Spectral) and norm is not None:
            weight = wide(array)

            def times(x: Array, adjoint: bool) -> Array:
                return np.asarray((weight.conj().T if adjoint else weight) @ x)

            row = with_ratio(row, form, read, times)
        if entry.layers and norm is not None:
            more = replace(asked, share=max(asked.share, memory_of(request)))
            row = with_layers(row, request, read, more, limit)
        return row
    other = _matrix(request.other, read)
    plain = replace(request, gate=None)  # the limits are for the difference
    base, told = _bracketed(Stored(other), lambda: open_source(other), plain, asked, limit)
    entries = Difference(array, other)
    norm, survey = _bracketed(
        entries, lambda: open_source(array) - open_source(other), request, asked, limit
    )
    row = filled(blank(entry), survey, norm, asked)
    if base is not None:
        row = replace(row, other_lower=base.interval.lower, other_upper=base.interval.upper)
    elif told.non_finite:
        row = replace(row, note=joined(row.note, f"{told.non_finite} entries of B are NaN or Inf"))
    if entry.layers and norm is not None:
        more = replace(asked, share=max(asked.share, memory_of(request)))
        row = with_layers(row, request, read, more, limit)
    return row


def _matrix(form: Form, read: _Reader) -> Array:
    """Return the matrix; 8-bit floats, which no pass takes, become float32."""
    array = np.asanyarray(form.load(read))
    if array.dtype.itemsize == 1 and array.dtype.kind not in "biu":
        array = array.astype(np.float32)
    return array if array.ndim == 2 else array.reshape(array.shape[0], -1)


def _bracketed(
    entries: Entries, matrix: Any, request: Request, asked: Asked, limit: Limit
) -> tuple[Norm | None, Survey]:
    survey = look(entries, gram=takes_gram(entries.shape))
    limit.check()
    if survey.non_finite:
        return None, survey
    # What this row was counted with, or more if there is more for each task.
    asked = replace(asked, share=max(asked.share, memory_of(request)))
    norm = norm_of(
        entries,
        survey,
        matrix,
        asked,
        entropy=lambda: request.entropy,
        gate=request.gate,
        limit=limit,
    )
    return norm, survey


def filled(row: Row, survey: Survey, norm: Norm | None, asked: Asked | None = None) -> Row:
    """Return the row with all that is known; there is no norm of a vector or of NaN entries."""
    if survey.non_finite:
        return replace(row, non_finite=survey.non_finite)
    row = replace(
        row,
        frobenius=survey.frobenius,
        largest=survey.largest,
        largest_row=survey.largest_row if norm is not None else None,
        largest_column=survey.largest_column if norm is not None else None,
        deviation=survey.deviation,
    )
    if norm is None:
        return row
    inside = norm.interval
    return replace(
        row,
        lower=inside.lower,
        upper=inside.upper,
        deterministic=inside.deterministic,
        failure_probability=0.0 if inside.deterministic or asked is None else (
            asked.failure_probability
        ),
        upper_bound=inside.upper_bound,
        lower_bound=inside.lower_bound,
        passes=norm.passes,
        converged=norm.converged,
    )  # fmt: skip


def _product(request: Request, form: Product, asked: Asked, read: _Reader) -> Row:
    up, down = form.factors(read)
    other = request.other
    if other is not None:
        assert isinstance(other, Product)
        up2, down2 = other.factors(read)
        up, down = np.concatenate([up, -up2], axis=1), np.concatenate([down, down2])
    survey = product_survey(up, down)
    row = blank(request.entry)
    if survey.non_finite:
        return replace(row, non_finite=survey.non_finite)
    row = filled(row, survey, _exact(product_norm(up, down), asked))
    if other is not None:
        base = product_norm(up2, down2)
        row = replace(row, other_lower=base.lower, other_upper=base.upper)
    return row


def _kronecker(entry: Entry, form: Kronecker, asked: Asked, read: _Reader) -> Row:
    first, second, exponent = form.factors(read)
    looks = [look(Stored(part), gram=True) for part, _ in (first, second)]
    survey = kronecker_survey(looks[0], looks[1], exponent)
    if survey.non_finite:
        return replace(blank(entry), non_finite=survey.non_finite)
    fine = asked.rtol / 4  # two widths add up
    a, b = (
        _factor(one, fine, error) for one, (_, error) in zip(looks, (first, second), strict=True)
    )
    return filled(blank(entry), survey, _exact(kronecker_norm(a, b, exponent), asked))


def _made(
    request: Request, form: Hadamard | Kronecker, asked: Asked, read: _Reader, limit: Limit
) -> Row:
    """Bracket the norm of a matrix that is made in memory, with its rounding."""
    other, row = request.other, blank(request.entry)
    if other is None:
        array, error = dense_of(form, read)
    else:
        assert isinstance(other, (Hadamard, Kronecker))
        array, base, error, own = difference_of(form, other, read)
        plain = replace(request, gate=None)
        norm, _ = _bracketed(Stored(base), lambda: open_source(base), plain, asked, limit)
        if norm is not None:
            inside = _widened(norm, own, asked).interval
            row = replace(row, other_lower=inside.lower, other_upper=inside.upper)
    norm, survey = _bracketed(Stored(array), lambda: open_source(array), request, asked, limit)
    return filled(row, survey, None if norm is None else _widened(norm, error, asked), asked)


def _widened(norm: Norm, error: float, asked: Asked) -> Norm:
    """Return the norm of a matrix that is off by at most `error`."""
    inside = norm.interval
    up = 1 + 2 * UNIT_ROUNDOFF
    lower, upper = max(inside.lower / up - error, 0.0), (inside.upper + error) * up
    inside = replace(inside, lower=lower, upper=upper)
    return Norm(inside, norm.passes, converged=upper <= lower * (1 + asked.rtol))


def _factor(survey: Survey, rtol: float, error: float) -> Interval:
    """Bracket the norm of a factor whose entries are off by `error` in the Frobenius norm."""
    if survey.largest == 0.0:
        name = "rounding" if error else "zero"
        return Interval(0.0, error, name, "zero", deterministic=True)
    return by_gram(survey, rtol, error / survey.frobenius).interval


def _exact(inside: Interval, asked: Asked) -> Norm:
    return Norm(inside, 1, converged=inside.upper <= inside.lower * (1 + asked.rtol))


def missing_note(request: Request) -> str:
    """Say which chunks of the tensors of a row, now read, are not in their store."""
    tensors = tensors_of(request)
    return joined(*(missing_text(called(t.name), t.missing_chunks) for t in tensors))


def missing_text(what: str, count: int) -> str:
    """Say how many chunks are not in the store; empty if none."""
    if not count:
        return ""
    verbs = "is not in the store and counts" if count == 1 else "are not in the store and count"
    return f"{counted(count, 'chunk')} of {what} {verbs} as its fill value"


def tensors_of(request: Request) -> tuple[Tensor, ...]:
    """Return all tensors that a row reads."""
    other = () if request.other is None else request.other.tensors
    own = () if request.entry.form is None else request.entry.form.tensors
    return (*own, *other)


def shared(request: Request) -> object:
    """Return what the rows of one task have in common: the tensor that they are parts of."""
    form = request.entry.form
    return form.tensors[0] if isinstance(form, Part) else request
