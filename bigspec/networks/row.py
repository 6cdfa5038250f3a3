"""A row of a scan: one matrix of a network, its interval, and what else one look at it shows."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from bigspec.results import Range, plain_values, relative_width
from bigspec.results.records import stable_rank
from bigspec.results.text import rounded_up

__all__ = ["ROW_FIELDS", "Row"]


@dataclass(frozen=True)
class Row:
    """One matrix of a network.

    Attributes
    ----------
    name : str
        Of the tensor; of a part or an expert with its name or number in brackets.
    file : str
    shape : tuple of int
        Of the tensor in the file.
    dtype : str
    kind : str
        What the tensor is taken for: "matrix", "expert", "conv kernel, flattened", ...
    matrix : tuple of int or None
        Shape as a matrix; None for vectors, integers and what was refused.
    lower, upper : float or None
        ``lower <= sigma_1 <= upper``; None where there is no interval. With another model, of
        the difference.
    deterministic : bool
        Whether the upper end holds whatever the random start was.
    failure_probability : float
        Of this row alone; 0 where `deterministic`.
    upper_bound, lower_bound : str
    passes : int
        Over the matrix, in memory.
    frobenius : float or None
        The norm, for a vector.
    largest : float or None
        Largest magnitude of an entry.
    largest_row, largest_column : float or None
        Largest Euclidean norm of a row and of a column.
    deviation : float or None
        Standard deviation of the entries.
    tied_to : str
        The row that is the same numbers.
    non_finite : int
        Entries that are NaN or infinite. There is no interval then.
    seconds : float
    converged : bool
    note : str
        What the number does not say by itself, or why there is none.
    stack : str
        The stack of experts that this is one of.
    hidden : bool
        Not a matrix.
    other_lower, other_upper : float or None
        Interval of ``||B||``, with another model.
    ratio_lower, ratio_upper : float or None
        Interval of ``|u^H W v| / sigma_1`` for the stored vectors of a spectral normalisation.
    layer : str
        What convolution `layer_lower` and `layer_upper` are of; empty where the row is not of a
        kernel.
    layer_lower, layer_upper : float or None
        Interval of the norm of the layer: of the convolution, where `lower` and `upper` are of the
        flattened kernel.
    layer_certain : bool
        Whether `layer_upper` holds whatever the random start was.
    """

    name: str
    file: str
    shape: tuple[int, ...]
    dtype: str
    kind: str
    matrix: tuple[int, int] | None = None
    lower: float | None = None
    upper: float | None = None
    deterministic: bool = False
    failure_probability: float = 0.0
    upper_bound: str = ""
    lower_bound: str = ""
    passes: int = 0
    frobenius: float | None = None
    largest: float | None = None
    largest_row: float | None = None
    largest_column: float | None = None
    deviation: float | None = None
    tied_to: str = ""
    non_finite: int = 0
    seconds: float = 0.0
    converged: bool = False
    note: str = ""
    stack: str = ""
    hidden: bool = False
    other_lower: float | None = None
    other_upper: float | None = None
    ratio_lower: float | None = None
    ratio_upper: float | None = None
    layer: str = ""
    layer_lower: float | None = None
    layer_upper: float | None = None
    layer_certain: bool = False

    @property
    def width(self) -> float | None:
        """Relative width of the interval."""
        if self.lower is None or self.upper is None:
            return None
        return relative_width(self.lower, self.upper)

    @property
    def stable_rank(self) -> Range | None:
        """``||A||_F^2 / sigma_1^2``: how many directions share the matrix."""
        if self.lower is None or self.upper is None:
            return None
        return stable_rank(self.frobenius, self.lower, self.upper, 0.0)

    @property
    def edge_ratio(self) -> float | None:
        """Upper end over the edge ``s (sqrt m + sqrt n)`` of noise of the same deviation s.

        1 looks like noise, far above it are spikes (Marchenko and Pastur 1967).
        """
        if self.upper is None or self.matrix is None or not self.deviation:
            return None
        m, n = self.matrix
        return self.upper / (self.deviation * (math.sqrt(m) + math.sqrt(n)))

    @property
    def spectral_scale(self) -> Range | None:
        """``sigma_1 / sqrt(m / n)``, the spectral condition (arXiv 2310.17813), as an interval."""
        if self.lower is None or self.upper is None or self.matrix is None:
            return None
        scale = math.sqrt(self.matrix[0] / self.matrix[1])
        return Range(self.lower / scale, self.upper / scale)

    @property
    def change(self) -> Range | None:
        """``||A - B|| / ||B||`` from both ends."""
        if None in (self.lower, self.upper, self.other_lower, self.other_upper):
            return None
        assert self.lower is not None
        assert self.upper is not None
        assert self.other_lower is not None
        assert self.other_upper is not None
        if self.other_upper == 0.0:
            ends = (0.0 if end == 0.0 else math.inf for end in (self.lower, self.upper))
            return Range(*ends)
        low = self.lower / self.other_upper
        high = self.upper / self.other_lower if self.other_lower else math.inf
        # 0 is exact: the difference of equal tensors.
        return Range(math.nextafter(low, 0.0), math.nextafter(high, math.inf) if high else 0.0)

    @property
    def spectral_ratio(self) -> Range | None:
        """``|u^H W v| / sigma_1`` of stored vectors: 1 if they are those of sigma_1."""
        if self.ratio_lower is None or self.ratio_upper is None:
            return None
        return Range(self.ratio_lower, self.ratio_upper)

    @property
    def certainty(self) -> str:
        """How sure the upper end is; empty where there is none."""
        if self.lower is None:
            return ""
        if self.deterministic:
            return "certain"
        return f"probability of error <= {rounded_up(self.failure_probability)}"

    def to_dict(self) -> dict[str, Any]:
        """Return all that it says as JSON-ready values; infinities become None."""
        derived = {
            "width": self.width,
            "certainty": self.certainty,
            "stable_rank": self.stable_rank,
            "edge_ratio": self.edge_ratio,
            "spectral_scale": self.spectral_scale,
            "change": self.change,
            "spectral_ratio": self.spectral_ratio,
        }
        ends = {"ratio_lower", "ratio_upper"}
        held = {key: value for key, value in vars(self).items() if key not in ends}
        plain = plain_values(held | derived)
        assert isinstance(plain, dict)
        return plain


ROW_FIELDS = " ".join(f.name for f in fields(Row))
