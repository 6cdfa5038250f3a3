"""One run in a history."""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import Any

from bigspec.names import bare, shown
from bigspec.results import Estimate, Triplets, relative_width

__all__ = ["COLUMNS", "Row", "now"]

AS_JSON = {"matrix", "gate", "versions"}
AS_TRUTH = {"accepted", "converged", "deterministic"}


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


@dataclass(frozen=True)
class Row:
    """A run: its answer, or the error that ended it.

    Attributes
    ----------
    run_id : str
    series : str
        Runs of one series are compared with each other. By default the name of the source.
    source : str
        The path or URL, as the user gave it.
    ended : str
        Time of the end, in UTC.
    exit_status : int
        Exit status of the command; 0 for a run that answered and passed its gate.
    accepted : bool
        Whether later runs may be compared with it and start from its vector.
    attempts : int
        How often this run was started or continued.
    error : str or None
        The error that ended a run without an answer.
    lower, upper : float or None
        The interval; None if there is no answer. The upper end may be infinite.
    frobenius, stable_rank_lower, stable_rank_upper : float or None
    failure_probability, rtol : float or None
    converged, deterministic : bool or None
    stopped_by : str or None
    passes, bytes_read : int or None
    seconds : float or None
    algorithm : str or None
    block_size : int or None
    seed : str or None
        In decimal, because it may have 128 bits.
    warm_from : str or None
        The run whose vector it started from.
    checkpoint : str or None
    matrix, gate, versions : dict or None
        As in `Estimate.to_dict`.
    """

    run_id: str
    series: str
    source: str
    ended: str = field(default_factory=now)
    exit_status: int = 0
    accepted: bool = False
    attempts: int = 1
    error: str | None = None
    lower: float | None = None
    upper: float | None = None
    frobenius: float | None = None
    stable_rank_lower: float | None = None
    stable_rank_upper: float | None = None
    failure_probability: float | None = None
    rtol: float | None = None
    converged: bool | None = None
    deterministic: bool | None = None
    stopped_by: str | None = None
    passes: int | None = None
    bytes_read: int | None = None
    seconds: float | None = None
    algorithm: str | None = None
    block_size: int | None = None
    seed: str | None = None
    warm_from: str | None = None
    checkpoint: str | None = None
    matrix: dict[str, Any] | None = None
    gate: dict[str, Any] | None = None
    versions: dict[str, str] | None = None

    def __post_init__(self) -> None:
        # Rows of older versions may have a password in the URL. The series of a URL keeps its name
        # when the password changes.
        for name in ("series", "source", "error", "checkpoint"):
            value = getattr(self, name)
            if isinstance(value, str):
                object.__setattr__(self, name, shown(value))
        object.__setattr__(self, "matrix", bare(self.matrix))

    @classmethod
    def of(
        cls,
        answer: Estimate | Triplets,
        series: str,
        source: str,
        exit_status: int,
        warm_from: str | None,
    ) -> Row:
        """Make the row of a run with an answer; it is accepted if `exit_status` is 0."""
        plain, first = answer.to_dict(), answer.intervals[0]  # JSON-ready
        rank = answer.stable_rank
        same = (
            "frobenius", "failure_probability", "rtol", "converged", "stopped_by", "passes",
            "bytes_read", "seconds", "algorithm", "block_size", "checkpoint",
        )  # fmt: skip
        return cls(
            run_id=answer.run_id,
            series=series,
            source=source,
            exit_status=exit_status,
            accepted=exit_status == 0 and math.isfinite(first.upper),
            lower=first.lower,
            upper=first.upper,
            deterministic=first.deterministic,
            stable_rank_lower=None if rank is None else rank.lower,
            stable_rank_upper=None if rank is None else rank.upper,
            seed=str(answer.seed),
            warm_from=warm_from if answer.start_columns else None,
            **{name: getattr(answer, name) for name in same},
            **{name: plain[name] for name in AS_JSON},
        )

    @property
    def width(self) -> float | None:
        """Relative width of the interval."""
        if self.lower is None or self.upper is None:
            return None
        return relative_width(self.lower, self.upper)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready values; an infinite number becomes None."""
        values = asdict(self) | {"width": self.width}
        return {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in values.items()
        }

    def to_sql(self) -> tuple[Any, ...]:
        """Return the values of `COLUMNS` as SQLite stores them."""
        values = vars(self)
        return tuple(
            json.dumps(values[name]) if name in AS_JSON and values[name] is not None
            else values[name]
            for name in COLUMNS
        )  # fmt: skip

    @classmethod
    def from_sql(cls, row: tuple[Any, ...]) -> Row:
        """Make the row from what `to_sql` returned.

        Raises
        ------
        TypeError, ValueError, RecursionError
            bigspec did not write these values.
        """
        values = dict(zip(COLUMNS, row, strict=True))
        for name, value in values.items():
            if value is not None and name in AS_JSON:
                values[name] = json.loads(value)
            elif value in (0, 1) and name in AS_TRUTH:
                values[name] = bool(value)
            _check(name, values[name], values["run_id"])
        ends = values["lower"], values["upper"]
        # An answer has an interval, and an accepted one is a reference.
        wrong = None not in ends and not 0 <= ends[0] <= ends[1]
        if wrong or (values["accepted"] and None in ends):
            msg = f"run {values['run_id']} with the interval {list(ends)}"
            raise TypeError(msg)
        return cls(**values)


COLUMNS = tuple(f.name for f in fields(Row))
KINDS: dict[str, tuple[type, ...]] = {
    "str": (str,), "int": (int,), "bool": (bool,), "float": (float, int), "dict": (dict,),
}  # fmt: skip
TYPES = {
    f.name: (KINDS[re.split(r"\W", str(f.type))[0]], "None" in str(f.type)) for f in fields(Row)
}


def _check(name: str, value: Any, run_id: Any) -> None:
    """Refuse a value of another type than a row writes."""
    kinds, optional = TYPES[name]
    right = isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))
    if name == "gate" and isinstance(value, dict):
        right = isinstance(value.get("outcome"), str)
    if name == "seed" and isinstance(value, str):
        right = value.isascii() and value.isdecimal()
    if not right and not (value is None and optional):
        msg = f"run {run_id} with {str(value)[:40]!r} as {name}"
        raise TypeError(msg)
