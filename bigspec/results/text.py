"""Numbers and sentences for people. The ends of an interval are rounded outward.

So a printed interval is never narrower than the true one.
"""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from typing import TYPE_CHECKING

from bigspec.errors import format_bytes

if TYPE_CHECKING:
    from bigspec.results import Estimate
    from bigspec.results.triplets import Triplets

__all__ = [
    "cost",
    "counted",
    "dtype_text",
    "facts",
    "guarantee",
    "headline",
    "interval_text",
    "missing_text",
    "outward",
    "rate_text",
    "rounded_up",
    "seconds_text",
    "summary",
    "triplet_facts",
    "triplet_rows",
    "triplets_headline",
    "triplets_summary",
    "width_text",
]

_DIGITS = 17  # enough to tell any two doubles apart


def outward(lower: float, upper: float) -> tuple[str, str]:
    """Write both ends with three digits of their distance, `lower` down and `upper` up.

    Read back, as decimals or as floats, the texts enclose ``[lower, upper]``.
    """
    if not math.isfinite(lower) or math.isnan(upper):
        return str(lower), str(upper)
    low = Decimal(lower)
    if math.isinf(upper):
        return _decimal_text(low, low.adjusted() - 5, ROUND_FLOOR), "inf"
    high = Decimal(upper)
    finest = max(low.adjusted(), high.adjusted()) - (_DIGITS - 1)
    place = finest if low == high else max((high - low).adjusted() - 2, finest)
    # Three digits of each end at least: [0.5, 1000] must not read as [0, 1000].
    return (
        _decimal_text(low, min(place, low.adjusted() - 2), ROUND_FLOOR, strip=low == high),
        _decimal_text(high, min(place, high.adjusted() - 2), ROUND_CEILING, strip=low == high),
    )


def _decimal_text(value: Decimal, place: int, rounding: str, *, strip: bool = False) -> str:
    """Round to a multiple of ``10**place``; fixed notation unless that needs many zeros."""
    if value == 0:
        return "0"
    rounded = value.quantize(Decimal((0, (1,), place)), rounding, Context(prec=400))
    if strip:
        rounded = rounded.normalize()
    return f"{rounded:f}" if -5 <= value.adjusted() < 12 else f"{rounded:e}"


def interval_text(lower: float, upper: float) -> str:
    """Return ``[lower, upper]``, rounded outward."""
    return "[{}, {}]".format(*outward(lower, upper))


def rounded_up(value: float | Decimal, digits: int = 2) -> str:
    """Write a non-negative number with a few digits, never smaller than it is.

    Rounds what `repr` shows, so that a tolerance given as 0.001 reads 1e-03, not 1.1e-03.
    """
    number = value if isinstance(value, Decimal) else Decimal(repr(float(value)))
    if not number.is_finite() or number == 0:
        return "inf" if number.is_infinite() else str(float(number)).removesuffix(".0")
    unit = Decimal((0, (1,), number.adjusted() - digits + 1))
    rounded = number.quantize(unit, ROUND_CEILING, Context(prec=400))
    if -1 <= number.adjusted() < 3:
        return f"{rounded:f}"
    mantissa, exponent = f"{rounded:.{digits - 1}e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return f"{mantissa}e{int(exponent):+03d}"


def width_text(lower: float, upper: float) -> str:
    """Write ``upper / lower - 1``, rounded up from its exact value."""
    if upper <= lower:
        return "0"
    if lower <= 0.0 or math.isinf(upper):
        return "inf"
    exact = Context(prec=60, rounding=ROUND_CEILING)
    low = Decimal(lower)
    return rounded_up(exact.divide(exact.subtract(Decimal(upper), low), low))


def counted(number: int, one: str, many: str = "") -> str:
    """Write a number with its noun: ``1 panel``, ``2 panels``, ``2 passes``."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def dtype_text(dtype: str) -> str:
    """Write a type of numbers, such as ``|u1``, by its name."""
    import numpy as np  # here, because most texts do not need it

    try:
        return np.dtype(dtype).name
    except TypeError:  # bfloat16, where ml_dtypes has not been imported
        return dtype


def seconds_text(seconds: float) -> str:
    """Write a duration: ``0.42 s``, ``21.3 s``, ``4 min 12 s``, ``2 h 3 min``."""
    if seconds < 99.5:
        return f"{seconds:.2g} s" if seconds < 9.95 else f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def rate_text(count: int, seconds: float) -> str:
    """Write a throughput; empty if no time was measured or nothing was read."""
    return f"{format_bytes(count / seconds)}/s" if seconds > 0 and count > 0 else ""


def guarantee(est: Estimate | Triplets) -> str:
    """Say how sure the interval is."""
    if est.deterministic:
        given = any(one.given for one in est.intervals)
        return "certain" + (", if what was given with the matrix is right" if given else "")
    return f"probability of error <= {rounded_up(est.failure_probability)}"


def headline(est: Estimate) -> str:
    """Write the interval, its width and its promise in one line."""
    width = width_text(est.lower, est.upper)
    interval = interval_text(est.lower, est.upper)
    return f"sigma_1 in {interval}  (relative width {width}, {guarantee(est)})"


def triplets_headline(tri: Triplets) -> str:
    """Write the first and the last interval in one line."""
    ends = [f"sigma_{i} in {_ends(tri, i)}" for i in sorted({1, tri.k})]
    width = rounded_up(tri.width)
    return f"{' ... '.join(ends)}  (largest relative width {width}, {guarantee(tri)})"


def _ends(tri: Triplets, number: int) -> str:
    return interval_text(float(tri.lower[number - 1]), float(tri.upper[number - 1]))


def missing_text(answer: Estimate | Triplets) -> str:
    """Say how many chunks are not in their store, and what they count as; empty without any."""
    missing, chunks = answer.missing_chunks, answer.chunks
    if not missing:
        return ""
    many = f"{missing} of {chunks} chunk{'' if chunks == 1 else 's'}"
    verbs = ("is", "counts") if missing == 1 else ("are", "count")
    said = f"{many} {verbs[0]} not in the store and {verbs[1]} as {answer.missing_as}"
    return f"every chunk is missing: {said}" if missing == chunks else said


def cost(est: Estimate | Triplets) -> str:
    """Say how many passes, bytes and seconds a run took."""
    passes = counted(est.passes, "pass", "passes")
    rate = rate_text(est.bytes_read, est.seconds)
    spent = f"{format_bytes(est.bytes_read)} read in {seconds_text(est.seconds)}"
    return f"{passes}, {spent}" + (f", {rate}" if rate else "")


def facts(est: Estimate) -> list[tuple[str, str]]:
    """Label and text of each line after the interval."""
    attained = "" if est.right is None and est.left is None else ", attained by a unit vector"
    facts = [
        ("value", f"{outward(est.lower, est.upper)[0]} (the lower end{attained})"),
        (
            "converged",
            f"{str(est.converged).lower()} (asked for: relative width <= {rounded_up(est.rtol)})",
        ),
        ("cost", cost(est)),
        ("upper end", f"{est.upper_bound}, {guarantee(est)}"),
        ("lower end", est.lower_bound),
        ("rounding", f"errors take {rounded_up(est.rounding)} of the relative width"),
        ("algorithm", f"{est.algorithm}, block size {est.block_size}, seed {est.seed}"),
    ]
    return facts + _more_facts(est)


def _more_facts(answer: Estimate | Triplets) -> list[tuple[str, str]]:
    """Label and text of what only some runs have."""
    facts = []
    if answer.missing_chunks:
        facts.append(("missing", missing_text(answer)))
    if answer.gate is not None:
        facts.append(("gate", f"{answer.gate.outcome}: {answer.gate.reason}"))
    if answer.frobenius is not None and answer.stable_rank is not None:
        facts.append(("Frobenius", f"{answer.frobenius:.6g}"))
        facts.append(("stable rank", interval_text(*answer.stable_rank)))
    return facts


def summary(est: Estimate) -> str:
    """Return the text that the command line prints."""
    return _block([headline(est)], est, facts(est))


def _block(head: list[str], answer: Estimate | Triplets, facts: list[tuple[str, str]]) -> str:
    lines = [*head, answer.status]
    lines += [f"  {label:<12} {text}" for label, text in facts]
    for k, choice in enumerate(answer.choices):
        lines.append(f"  {'chosen' if k == 0 else '':<12} {choice}")
    return "\n".join(lines)


def triplet_rows(tri: Triplets) -> list[tuple[str, str, str, str]]:
    """Return number, interval, relative width and upper bound of each value."""
    return [
        (
            str(i),
            interval_text(one.lower, one.upper),
            width_text(one.lower, one.upper),
            one.upper_bound + (" (certain)" if one.deterministic else ""),
        )
        for i, one in enumerate(tri.intervals, start=1)
    ]


def triplet_facts(tri: Triplets) -> list[tuple[str, str]]:
    """Label and text of each line after the intervals."""
    where = "in memory" if tri.u_store is None else f"in {tri.u_store}"
    left = f"left {where}" if tri.u is not None else "left not made"
    right = "right in memory" if tri.vh is not None else "right not made"
    return [
        ("together", guarantee(tri)),
        (
            "converged",
            f"{str(tri.converged).lower()} (asked for: relative widths <= {rounded_up(tri.rtol)})",
        ),
        (
            "cost",
            f"{cost(tri)}" + (" (with the pass for the vectors)" if tri.vector_passes else ""),
        ),
        ("vectors", f"{left}, {right}"),
        ("algorithm", f"{tri.algorithm}, block size {tri.block_size}, seed {tri.seed}"),
        *_more_facts(tri),
    ]


def triplets_summary(tri: Triplets) -> str:
    """Return the text that the command line prints."""
    rows = triplet_rows(tri)
    wide = [max(len(row[column]) for row in rows) for column in range(3)]
    head = [
        f"sigma_{number:<{wide[0]}} in {ends:<{wide[1]}}  width {width:<{wide[2]}}  {bound}"
        for number, ends, width, bound in rows
    ]
    return _block(head, tri, triplet_facts(tri))
