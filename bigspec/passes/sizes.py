"""How large sparse chunks are where Dask does not know, whose scheduler places and spills by it."""

from __future__ import annotations

import sys
from typing import Any

import scipy.sparse as sp
from dask.sizeof import sizeof

__all__ = ["register_sizes"]

ARRAYS = (
    sp.bsr_array, sp.coo_array, sp.csc_array, sp.csr_array, sp.dia_array, sp.dok_array,
    sp.lil_array,
)  # fmt: skip


def register_sizes() -> None:
    """Tell Dask the sizes of SciPy's sparse arrays and of GCXS of the package ``sparse``.

    Dask 2026.8 knows only ``spmatrix``: to it, ``csr_array`` of any size has 56 bytes. What it
    knows, or somebody else has told it, stays as it is.
    """
    unknown = sizeof.dispatch(object)
    for kind in ARRAYS:
        if sizeof.dispatch(kind) is unknown:
            sizeof.register(kind, _held)
    if "sparse" not in sizeof._lazy:
        sizeof.register_lazy("sparse", _register_pydata)


def _register_pydata() -> None:
    kind = getattr(sys.modules.get("sparse"), "GCXS", None)
    if kind is not None:  # COO counts itself
        sizeof.register(kind, _held)


def _held(array: Any) -> int:
    """Return the bytes of the arrays that it is made of, as Dask does for ``spmatrix``."""
    return int(sum(sizeof(part) for part in vars(array).values()))
