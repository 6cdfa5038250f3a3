"""The sizes of sparse chunks for Dask, whose scheduler places and spills data by them."""

from __future__ import annotations

import sys
from typing import Any

import scipy.sparse as sp
from dask.sizeof import sizeof

from bigspec.panels.pinned import PinnedPanel

__all__ = ["register_sizes"]

ARRAYS = (
    sp.bsr_array, sp.coo_array, sp.csc_array, sp.csr_array, sp.dia_array, sp.dok_array,
    sp.lil_array,
)  # fmt: skip


def register_sizes() -> None:
    """Register the sizes of SciPy's sparse arrays and of GCXS of the package ``sparse`` with Dask.

    And of pinned panels, which it is to count as memory in use.

    Dask 2026.8 knows only ``spmatrix``, and takes any ``csr_array`` for 56 bytes. Sizes that are
    registered already stay as they are.
    """
    sizeof.register(PinnedPanel, _nbytes_of_panel)
    unknown = sizeof.dispatch(object)
    for kind in ARRAYS:
        if sizeof.dispatch(kind) is unknown:
            sizeof.register(kind, _nbytes)
    if "sparse" not in sizeof._lazy:
        sizeof.register_lazy("sparse", _register_pydata)


def _register_pydata() -> None:
    kind = getattr(sys.modules.get("sparse"), "GCXS", None)
    if kind is not None:  # COO counts itself
        sizeof.register(kind, _nbytes)


def _nbytes(array: Any) -> int:
    """Return the bytes of the parts of a sparse array, as Dask does for ``spmatrix``."""
    return int(sum(sizeof(part) for part in vars(array).values()))


def _nbytes_of_panel(panel: PinnedPanel) -> int:
    return panel.nbytes
