"""The answer of `bigspec.lipschitz`: the interval, every bound, and the norms they rest on."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bigspec.networks.lipschitz import shown_as
from bigspec.networks.lipschitz.norms import FactorNorm
from bigspec.networks.lipschitz.upper import Bound
from bigspec.results import plain_values, relative_width
from bigspec.results.files import write_text
from bigspec.results.gate import EXIT_STATUSES
from bigspec.results.records import json_text

__all__ = ["SCHEMA", "Lipschitz"]

SCHEMA = "bigspec.lipschitz/1"
"""Name and version of the JSON layout of `Lipschitz.to_dict`."""


@dataclass(frozen=True, eq=False)
class Lipschitz:
    """The Lipschitz constant of a stack in the Euclidean norm, as an interval.

    ``float(found)`` is `upper`, the end that holds for all inputs; ``format(found, ".4g")`` formats
    it, and ``print(found)`` prints the interval in one line.

    Attributes
    ----------
    lower, upper : float
        ``lower <= sup ||T(x) - T(y)|| / ||x - y|| <= upper``, rounding included.
    bound : str
        The bound that gives `upper`: ``"product"``, ``"recursion"``, ``"rescaled product"``,
        ``"rescaled recursion"``, ``"one sign"``, or ``"norm"`` of a stack without activations.
    bounds : tuple of Bound
        All of them, the least one first.
    norms : tuple of FactorNorm
        The norms that they rest on, each with its interval and cost.
    failure_probability : float
        That any of the norms misses, over the random starts alone.
    deterministic : bool
        Whether all norms behind `upper` and `lower` hold with certainty.
    rtol : float
        Relative width of each norm that was asked for.
    point : ndarray (n,) or None
        Where the derivative has norm at least `lower`.
    right : ndarray (n,) or None
        Unit vector that it stretches by at least `lower`.
    points : int
        How many points were tried.
    point_number : int or None
        Which of them is `point`.
    rounding : float
        Share of the derivative's norm that covers rounding and slopes that are not sure: 1 where
        none is sure, 0 where every derivative is 0.
    layers : tuple of str
        The steps of the stack, the first one first.
    inputs, outputs : int
    rescaled : bool
        Whether weights between the layers were sought.
    max_constant : float or None
        The limit, if there is one.
    seed : int
    seconds : float
    versions : dict
    """

    lower: float
    upper: float
    bound: str
    bounds: tuple[Bound, ...] = field(repr=False)
    norms: tuple[FactorNorm, ...] = field(repr=False)
    failure_probability: float
    deterministic: bool
    rtol: float
    point: np.ndarray[Any, Any] | None = field(repr=False)
    right: np.ndarray[Any, Any] | None = field(repr=False)
    points: int
    point_number: int | None
    rounding: float
    layers: tuple[str, ...] = field(repr=False)
    inputs: int
    outputs: int
    rescaled: bool
    max_constant: float | None
    seed: int
    seconds: float
    versions: dict[str, str] = field(repr=False)

    @property
    def width(self) -> float:
        """Relative width ``upper / lower - 1``."""
        return relative_width(self.lower, self.upper)

    @property
    def passes(self) -> int:
        """Complete passes over matrices, for their norms."""
        return sum(one.passes for one in self.norms)

    @property
    def outcome(self) -> str | None:
        """``"passed"``, ``"failed"`` or ``"undecided"`` against `max_constant`; None without it."""
        if self.max_constant is None:
            return None
        if self.lower > self.max_constant:
            return "failed"
        return "passed" if self.upper <= self.max_constant else "undecided"

    @property
    def exit_status(self) -> int:
        """What the command line exits with: 0 passed or no limit, 3 failed, 4 undecided."""
        return 0 if self.outcome is None else EXIT_STATUSES[self.outcome]

    @property
    def reason(self) -> str:
        """A sentence about the limit; empty without one."""
        return shown_as.verdict(self)

    def __float__(self) -> float:
        return self.upper

    def __str__(self) -> str:
        return shown_as.headline(self)

    def __format__(self, spec: str) -> str:
        return format(self.upper, spec) if spec else str(self)

    def __repr__(self) -> str:
        ends = f"lower={self.lower!r}, upper={self.upper!r}"
        return f"<Lipschitz {ends}, bound={self.bound!r}, deterministic={self.deterministic}>"

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the vectors as JSON-ready values; ``schema`` names the layout."""
        left_out = {"point", "right", "bounds", "norms"}
        fields = {name: value for name, value in vars(self).items() if name not in left_out}
        gate = {"outcome": self.outcome, "exit_status": self.exit_status, "verdict": self.reason}
        derived: dict[str, Any] = {
            "schema": SCHEMA,
            "width": self.width,
            "passes": self.passes,
            "gate": gate if self.outcome is not None else None,
            "bounds": [vars(bound) for bound in self.bounds],
            "norms": [one.to_dict() for one in self.norms],
        }
        plain = plain_values(derived | fields)
        assert isinstance(plain, dict)
        return plain

    def to_json(self, path: str | Path | None = None) -> str:
        """Return `to_dict` as JSON text; with `path`, write it there as well."""
        return json_text(self.to_dict(), path)

    def summary(self) -> str:
        """Return the text that the command line prints: the interval, all bounds, all norms."""
        return shown_as.summary(self)

    def to_html(self, path: str | Path | None = None) -> str:
        """Return one self-contained HTML page; with `path`, write it there as well."""
        text = shown_as.page(self)
        if path is not None:
            write_text(path, text)
        return text

    def _repr_html_(self) -> str:
        return shown_as.fragment(self)
