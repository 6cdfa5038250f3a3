"""Products of stored entries with a block of vectors, compiled.

``forward(X, V, Y)`` adds ``X V`` to Y, and ``backward(X, Y, Z)`` adds ``X^T Y`` to Z. X is a
float32 or float64 array with any strides. V, Y and Z are C-contiguous and float64. bigspec calls
both when it finds this package; see docs/performance.md there.
"""

from __future__ import annotations

from typing import Any

from bigspec_compiled._kernel import ffi, lib

__all__ = ["REVISION", "backward", "forward"]

REVISION = 1  # of the order of the sums; another one gives other last bits

_FORWARD = {
    "f": ("const float *", lib.forward_single),
    "d": ("const double *", lib.forward_twofold),
}
_BACKWARD = {
    "f": ("const float *", lib.backward_single),
    "d": ("const double *", lib.backward_twofold),
}


def forward(X: Any, V: Any, Y: Any) -> None:
    """Add ``X V`` to Y: X (m, n), V (n, b), Y (m, b)."""
    _call(_FORWARD, X, V, Y, (X.shape[1], X.shape[0]))


def backward(X: Any, Y: Any, Z: Any) -> None:
    """Add ``X^T Y`` to Z: X (m, n), Y (m, b), Z (n, b)."""
    _call(_BACKWARD, X, Y, Z, X.shape)


def _call(functions: dict[str, Any], X: Any, P: Any, Q: Any, lengths: tuple[int, int]) -> None:
    b = P.shape[1]
    if P.shape != (lengths[0], b) or Q.shape != (lengths[1], b):
        msg = f"expected blocks for entries of {X.shape}, got {P.shape} and {Q.shape}"
        raise ValueError(msg)
    if not all(block.dtype == "f8" and block.flags.carray for block in (P, Q)):
        msg = "expected C-contiguous blocks of float64"
        raise ValueError(msg)
    if not (X.dtype.isnative and X.flags.aligned) or X.dtype.char not in functions:
        msg = f"expected native float32 or float64 entries, got {X.dtype}"
        raise ValueError(msg)
    if 0 in (*X.shape, b):
        return
    pointer, function = functions[X.dtype.char]
    down, along = (stride // X.itemsize for stride in X.strides)
    S, p, q = X.ctypes.data, P.ctypes.data, Q.ctypes.data
    function(
        ffi.cast(pointer, S),
        *X.shape,
        down,
        along,
        ffi.cast("const double *", p),
        ffi.cast("double *", q),
        b,
    )
