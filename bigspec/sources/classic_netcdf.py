"""Classic netCDF files, through SciPy: their variables as memory maps."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io

from bigspec.sources.packing import BESIDE, CONVENTIONS

__all__ = ["ClassicVariable", "classic_variables"]

ATTRIBUTES = (*CONVENTIONS, *BESIDE)


@dataclass(frozen=True)
class ClassicVariable:
    """A variable, with the part of h5netcdf's interface that bigspec uses.

    Attributes
    ----------
    dimensions : tuple of str
    entries : numpy.ndarray
        A view of the file, big-endian.
    attrs : dict
        Attributes about the storage of values.
    chunks : None
    """

    dimensions: tuple[str, ...]
    entries: np.ndarray[tuple[int, ...], np.dtype[Any]] = field(repr=False)
    attrs: dict[str, Any]
    chunks: None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of its dimensions."""
        return self.entries.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Stored type."""
        return self.entries.dtype

    def __getitem__(self, selection: tuple[slice, ...]) -> np.ndarray[Any, Any]:
        return self.entries[selection]


def classic_variables(path: Path) -> dict[str, ClassicVariable]:
    """Return the variables of a file, unread.

    SciPy's own views live only as long as its file object, which cannot be closed while they
    exist. So each view is made again on another map, at the place that SciPy found.

    Raises
    ------
    Exception
        Any error of SciPy's for a damaged file.
    """
    whole = np.memmap(path, np.uint8, mode="r")
    with path.open("rb") as stream:
        file = scipy.io.netcdf_file(stream, "r", mmap=True, maskandscale=False)
        try:
            return {name: _mapped(variable, whole) for name, variable in file.variables.items()}
        finally:
            file.close()


def _mapped(variable: Any, whole: np.ndarray[Any, Any]) -> ClassicVariable:
    data = variable.data
    root = data
    while isinstance(root.base, np.ndarray):
        root = root.base
    start = data.__array_interface__["data"][0] - root.__array_interface__["data"][0]
    entries = np.ndarray(
        data.shape, data.dtype, whole.data, start if data.size else 0, data.strides
    )
    attrs = {key: getattr(variable, key) for key in ATTRIBUTES if hasattr(variable, key)}
    return ClassicVariable(tuple(variable.dimensions), entries, attrs)
