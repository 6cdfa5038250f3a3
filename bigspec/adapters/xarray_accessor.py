"""``da.bigspec``: the norm, the triplets and the matrix of a DataArray."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import xarray

from bigspec.api.matrices import open_matrix
from bigspec.api.norm import norm
from bigspec.api.svds import svds
from bigspec.matrices import Matrix
from bigspec.results.estimate import Estimate
from bigspec.results.triplets import Triplets

__all__ = ["BigspecAccessor"]

Rows = Sequence[str] | str | None


@xarray.register_dataarray_accessor("bigspec")
class BigspecAccessor:
    """bigspec's functions for a DataArray; a lazy one stays lazy.

    Parameters
    ----------
    array : xarray.DataArray
    """

    def __init__(self, array: Any) -> None:
        self._array = array

    def matrix(self, rows: Rows = None, *, fill: complex | None = None) -> Matrix:
        """Return the array as a matrix, for expressions; see `bigspec.open_matrix`.

        Parameters
        ----------
        rows : sequence of str or str, optional
            Dimensions that make the rows; needed if there are more than two.
        fill : number, optional
            The value of NaN entries.

        Raises
        ------
        ArgumentError, DataError, UnsupportedTypeError
        """
        return open_matrix(self._array, rows=rows, fill=fill)

    def norm(self, rows: Rows = None, *, fill: complex | None = None, **options: Any) -> Estimate:
        """Bracket the spectral norm.

        Parameters
        ----------
        rows, fill
            See `matrix`.
        **options
            Options of `bigspec.norm`; see there for the result, the errors and the cost.
        """
        return norm(self.matrix(rows, fill=fill), **options)

    def svds(
        self, k: int, rows: Rows = None, *, fill: complex | None = None, **options: Any
    ) -> Triplets:
        """Compute the k largest singular triplets.

        Parameters
        ----------
        k : int
        rows, fill
            See `matrix`.
        **options
            Options of `bigspec.svds`; see there for the result, the errors and the cost.
        """
        return svds(self.matrix(rows, fill=fill), k, **options)
