"""The expression that options make of SRC: SRC minus another matrix, centred, scaled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

import bigspec
from bigspec.cli.options import SourceFlags, StorageFlags, ViewFlags
from bigspec.cli.reading import Reading
from bigspec.errors import SourceError

__all__ = ["expressed", "planned"]


def expressed(
    source: SourceFlags, view: ViewFlags, storage: StorageFlags, memory_limit: int | str | None
) -> Any:
    """Return SRC as it is, or the expression that the options make of it.

    Means and deviations are computed here, in a pass of its own.
    """
    minus, center, scale = view.minus, view.center, view.scale
    _check(view)
    options = storage.wanted(source.source, minus)
    reading = Reading(source.rows, source.fill, source.raw, source.missing_chunks, options)
    if minus is None and not center and scale is None:
        return reading.source(memory_limit, source.source)
    if minus is None:
        matrix = reading.matrices(memory_limit, source.source)[0]
    else:
        first, second = reading.matrices(memory_limit, source.source, minus)
        matrix = first - second
    if scale == "std":
        ddof = 1 if view.ddof is None else view.ddof
        return bigspec.standardized(matrix, center=center, ddof=ddof, memory_limit=memory_limit)
    if center:
        matrix = bigspec.centered(matrix, memory_limit=memory_limit)
    return matrix if scale is None else bigspec.scaled(matrix, columns=_weights(scale))


def planned(
    source: SourceFlags, view: ViewFlags, storage: StorageFlags, memory_limit: int | str | None
) -> Any:
    """Return the expression with zeros for means and ones for deviations, so that nothing is read.

    A plan does not depend on them.
    """
    import numpy as np  # here: `bigspec --help` does without

    from bigspec.matrices import Matrix

    _check(view)
    if not view.center and view.scale != "std":
        return expressed(source, view, storage, memory_limit)
    weights = None if view.scale == "std" else view.scale
    plain = replace(view, center=False, scale=weights, ddof=None)
    matrix = expressed(source, plain, storage, memory_limit)
    if not isinstance(matrix, Matrix):
        options = storage.wanted(source.source)
        matrix = Reading(None, None, False, "fill", options).matrices(memory_limit, matrix)[0]
    n = matrix.shape[1]
    if view.center:
        matrix = bigspec.centered(matrix, means=np.zeros(n))
    return bigspec.scaled(matrix, columns=np.ones(n)) if view.scale == "std" else matrix


def _check(view: ViewFlags) -> None:
    if view.ddof is not None and not (view.center and view.scale == "std"):
        msg = (
            "--ddof needs --center --scale std: only standard deviations have a choice of "
            "denominator (root mean squares, which --scale std takes without --center, have m)"
        )
        raise click.UsageError(msg)


def _weights(path: str) -> Any:
    import numpy as np  # here: `bigspec --help` does without

    try:
        return np.load(Path(path), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        msg = (
            f"--scale {path!r}: expected 'std' or an .npy file of one weight a column, got "
            f"{type(error).__name__}: {error}"
        )
        raise SourceError(msg) from error
