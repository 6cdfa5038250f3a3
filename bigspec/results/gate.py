"""Limits on a norm. Its interval decides them: passed, failed or undecided."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from numbers import Real
from typing import Any, NamedTuple

from bigspec.errors import ArgumentError
from bigspec.results.text import interval_text, outward, rounded_up

__all__ = ["EXIT_STATUSES", "REFERENCE_SHARE", "Check", "Gate", "Verdict", "relative_change"]

PASSED, FAILED, UNDECIDED = "passed", "failed", "undecided"
EXIT_STATUSES = {PASSED: 0, FAILED: 3, UNDECIDED: 4}
NARROWER = "narrow it with a smaller rtol, or with more passes or time"
REFERENCE_SHARE = 8
"""A run that passes `max_change` goes on until its interval is this much narrower than the limit.
It is the reference of the next run, and its width would blur that decision."""


class Check(NamedTuple):
    """One limit, and whether the interval passes it.

    Attributes
    ----------
    name : str
        ``"max_norm"``, ``"min_norm"`` or ``"max_change"``.
    limit : float
    outcome : str
        ``"passed"``, ``"failed"`` or ``"undecided"``.
    lower, upper : float
        Interval of the norm, or of its relative change; zero and infinity for a change without a
        reference.
    reason : str
        A sentence with the decisive number in full.
    """

    name: str
    limit: float
    outcome: str
    lower: float
    upper: float
    reason: str


@dataclass(frozen=True)
class Verdict:
    """The decision of a gate on an interval.

    Attributes
    ----------
    checks : tuple of Check
        One for each limit of the gate.
    reference : tuple of float or None
        The old interval that a change is measured from.
    """

    checks: tuple[Check, ...]
    reference: tuple[float, float] | None = None

    @property
    def outcome(self) -> str:
        """``"failed"`` if any check failed, ``"passed"`` if all passed, else ``"undecided"``."""
        outcomes = {check.outcome for check in self.checks}
        return next(word for word in (FAILED, UNDECIDED, PASSED) if word in outcomes)

    @property
    def exit_status(self) -> int:
        """Exit status of the command: 0 passed, 3 failed, 4 undecided."""
        return EXIT_STATUSES[self.outcome]

    @property
    def reason(self) -> str:
        """The sentences of the checks that decide."""
        decisive = self.outcome
        return "; ".join(check.reason for check in self.checks if check.outcome == decisive)

    def to_dict(self) -> dict[str, Any]:
        """Return it as values for JSON, though some may be infinite."""
        limits = {check.name: check.limit for check in self.checks}
        return {
            "outcome": self.outcome,
            "exit_status": self.exit_status,
            "verdict": self.reason,
            "max_norm": limits.get("max_norm"),
            "min_norm": limits.get("min_norm"),
            "max_change": limits.get("max_change"),
            "reference": self.reference,
            "checks": [check._asdict() for check in self.checks],
        }


@dataclass(frozen=True)
class Gate:
    """Limits that a norm must keep; `bigspec.norm` stops as soon as its interval decides them.

    A limit passes (fails) only if every norm in the interval passes (fails) it. A run ends when
    one limit has failed or all have passed. Far from the limits this takes far fewer passes than a
    narrow interval. A run ends undecided if it reaches `rtol` or uses up its budget first.

    Parameters
    ----------
    max_norm, min_norm : float, optional
        The gate fails if the norm is above, or below.
    max_change : float, optional
        The gate fails if ``|s1 - s0| / s0 > max_change``, with s1 the norm and s0 any number in
        `reference`. A run that passes goes on until its own relative width is at most
        ``max_change / 8`` (or `rtol`), because it is the reference of the next one.
    reference : (float, float), optional
        Interval of an earlier run. Without one, as in the first run of a series, `max_change` has
        nothing to compare with: it passes, and says so.

    Raises
    ------
    ArgumentError
        There is no limit, one is out of range, limits contradict each other, or the reference is
        not an interval.

    Examples
    --------
    >>> import numpy as np, bigspec
    >>> bigspec.norm(np.eye(3), gate=bigspec.Gate(max_norm=0.5)).gate.outcome
    'failed'
    """

    max_norm: float | None = None
    min_norm: float | None = None
    max_change: float | None = None
    reference: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        limits = {name: getattr(self, name) for name in ("max_norm", "min_norm", "max_change")}
        for name, value in limits.items():
            if value is None:
                continue
            real = isinstance(value, Real) and not isinstance(value, bool)
            if not (real and math.isfinite(value) and value >= 0):
                msg = f"{name}: expected a finite number >= 0, got {value!r}"
                raise ArgumentError(msg)
            object.__setattr__(self, name, float(value))
        if all(value is None for value in limits.values()):
            msg = "gate: expected at least one of max_norm, min_norm and max_change, got none"
            raise ArgumentError(msg)
        if (
            self.max_norm is not None
            and self.min_norm is not None
            and self.min_norm > self.max_norm
        ):
            msg = (
                f"gate: expected min_norm <= max_norm, got {self.min_norm!r} > {self.max_norm!r}: "
                "no norm would pass"
            )
            raise ArgumentError(msg)
        if self.reference is not None:
            object.__setattr__(self, "reference", _as_interval(self.reference))

    def judge(self, lower: float, upper: float) -> Verdict:
        """Compare the limits with an interval.

        Parameters
        ----------
        lower, upper : float
            ``lower <= sigma_1 <= upper``; `upper` may be infinite.
        """
        checks = []
        if self.max_norm is not None:
            checks.append(_at_most(self.max_norm, lower, upper))
        if self.min_norm is not None:
            checks.append(_at_least(self.min_norm, lower, upper))
        if self.max_change is not None:
            checks.append(_change(self.max_change, self.reference, lower, upper))
        return Verdict(tuple(checks), self.reference if self.max_change is not None else None)

    def decides(self, lower: float, upper: float) -> bool:
        """Whether a run may stop at this interval."""
        outcome = self.judge(lower, upper).outcome
        if outcome != PASSED or self.max_change is None:
            return outcome != UNDECIDED
        # A reference for the next run: narrow beside the limit.
        return upper <= lower or (
            math.isfinite(upper)
            and (Fraction(upper) - Fraction(lower)) * REFERENCE_SHARE
            <= Fraction(self.max_change) * Fraction(lower)
        )


def relative_change(
    reference: tuple[float, float], lower: float, upper: float
) -> tuple[float, float]:
    """Return the interval of ``|s1 - s0| / s0`` for s0 in `reference`, s1 in ``[lower, upper]``.

    ``s1 / s0`` lies in ``[lower / b, upper / a]`` for s0 in [a, b], each end attained; the
    distance of that ratio from 1 is least at 1 if it lies inside, else at the nearer end, and
    largest at the farther end. Ends are computed exactly and rounded outward. From s0 = 0, the
    change is 0 to s1 = 0 and infinite to any other.
    """
    low, high = _exact_change(reference, lower, upper)
    return _rounded(low, down=True), _rounded(high, down=False)


def _exact_change(
    reference: tuple[float, float], lower: float, upper: float
) -> tuple[Fraction | float, Fraction | float]:
    a, b = reference
    if b == 0.0:
        return (0 if lower == 0.0 else math.inf), (0 if upper == 0.0 else math.inf)
    least = Fraction(lower) / Fraction(b)  # s1 / s0
    if a == 0.0 or math.isinf(upper):
        return max(least - 1, Fraction(0)), math.inf
    largest = Fraction(upper) / Fraction(a)
    nearest = max(least - 1, 1 - largest, Fraction(0))
    return nearest, max(largest - 1, 1 - least)


def _rounded(value: Fraction | float, *, down: bool) -> float:
    try:
        near = float(value)
    except OverflowError:
        return math.nextafter(math.inf, 0.0) if down else math.inf
    if down and near > value:
        return math.nextafter(near, 0.0)
    if not down and near < value:
        return math.nextafter(near, math.inf)
    return near


def _as_interval(reference: Any) -> tuple[float, float]:
    try:
        lower, upper = (float(end) for end in reference)
    except (TypeError, ValueError):
        lower, upper = math.nan, math.nan
    if not 0.0 <= lower <= upper < math.inf:
        msg = (
            f"reference: expected finite (lower, upper) with 0 <= lower <= upper, got {reference!r}"
        )
        raise ArgumentError(msg)
    return lower, upper


def _at_most(limit: float, lower: float, upper: float) -> Check:
    if lower > limit:
        outcome = FAILED
        reason = f"the norm exceeds max_norm {limit!r}: it is at least {float(lower)!r}"
    elif upper <= limit:
        outcome = PASSED
        reason = f"the norm does not exceed max_norm {limit!r}: it is at most {float(upper)!r}"
    else:
        outcome, reason = UNDECIDED, _inside("max_norm", limit, lower, upper)
    return Check("max_norm", limit, outcome, lower, upper, reason)


def _at_least(limit: float, lower: float, upper: float) -> Check:
    if upper < limit:
        outcome = FAILED
        reason = f"the norm is below min_norm {limit!r}: it is at most {float(upper)!r}"
    elif lower >= limit:
        outcome = PASSED
        reason = f"the norm is not below min_norm {limit!r}: it is at least {float(lower)!r}"
    else:
        outcome, reason = UNDECIDED, _inside("min_norm", limit, lower, upper)
    return Check("min_norm", limit, outcome, lower, upper, reason)


def _inside(name: str, limit: float, lower: float, upper: float) -> str:
    ends = f"[{float(lower)!r}, {float(upper)!r}]"
    return f"{name} {limit!r} lies inside the interval {ends}; {NARROWER}"


def _change(
    limit: float, reference: tuple[float, float] | None, lower: float, upper: float
) -> Check:
    if reference is None:
        reason = f"max_change {limit!r} has no accepted run to compare with: this is the first"
        return Check("max_change", limit, PASSED, 0.0, math.inf, reason)
    low, high = _exact_change(reference, lower, upper)
    ends = _rounded(low, down=True), _rounded(high, down=False)
    since = f"from the reference {interval_text(*reference)}"
    if low > Fraction(limit):
        outcome = FAILED
        reason = f"the norm changed by more than max_change {limit!r} {since}: by at least " + (
            outward(*ends)[0] if ends[0] else repr(ends[0])
        )
    elif high <= Fraction(limit):
        outcome = PASSED
        reason = (
            f"the norm changed by no more than max_change {limit!r} {since}: by at most "
            f"{rounded_up(ends[1], 3)}"
        )
    else:
        outcome = UNDECIDED
        reason = (
            f"max_change {limit!r} lies inside the interval of the change {since}, "
            f"{interval_text(*ends)}; {NARROWER}"
        )
    return Check("max_change", limit, outcome, *ends, reason)
