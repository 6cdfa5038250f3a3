"""The expression that options make of SRC: SRC minus another matrix, centred, scaled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bigspec.api.matrices import centered, open_matrix, scaled, standardized
from bigspec.cli.options import ViewFlags
from bigspec.errors import SourceError

__all__ = ["expressed"]


def expressed(source: Any, view: ViewFlags, memory_limit: int | str | None) -> Any:
    """Return SRC as it is, or the expression that the options make of it.

    Means and deviations are computed here, in a pass of its own.
    """
    minus, center, scale = view.minus, view.center, view.scale
    if minus is None and not center and scale is None:
        return source
    matrix = open_matrix(source)
    if minus is not None:
        matrix = matrix - open_matrix(minus)
    if scale == "std":
        return standardized(matrix, center=center, memory_limit=memory_limit)
    if center:
        matrix = centered(matrix, memory_limit=memory_limit)
    return matrix if scale is None else scaled(matrix, columns=_weights(scale))


def _weights(path: str) -> Any:
    try:
        return np.load(Path(path), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        msg = (
            f"--scale {path!r}: expected 'std' or an .npy file of one weight a column, got "
            f"{type(error).__name__}: {error}"
        )
        raise SourceError(msg) from error
