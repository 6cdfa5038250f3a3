"""The charts of an answer, as a matplotlib figure."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any

from bigspec.errors import needs
from bigspec.results.axes import LOWER, UPPER
from bigspec.results.charts import relative_ends, ritz_curves, spectrum
from bigspec.results.text import interval_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from bigspec.results import Estimate, Triplets

__all__ = ["figure", "new_figure", "triplets_figure"]


def new_figure(what: str, size: tuple[float, float]) -> Figure:
    """Return an empty figure; where pyplot is in use, its current one, for `pyplot.savefig`.

    Without pyplot there is no window and no global state, so that a server may draw in threads.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as exc:
        raise ImportError(needs(what, "plot", "matplotlib")) from exc
    pyplot: Any = sys.modules.get("matplotlib.pyplot")
    make = Figure if pyplot is None else pyplot.figure
    drawn: Figure = make(figsize=size, layout="constrained")
    return drawn


def figure(est: Estimate) -> Figure:
    """Draw width, both ends and Ritz values with matplotlib."""
    drawn, widths, ends, ritz = _three_axes("Estimate.plot")
    _draw_widths(widths, est)
    unit, rows = relative_ends(est)
    if rows:
        number, low, high = zip(*rows, strict=True)
        mark = _mark(est)
        ends.fill_between(number, low, high, color=UPPER, alpha=0.15)
        ends.plot(number, high, mark, color=UPPER, label="upper end")
        ends.plot(number, low, mark, color=LOWER, label="lower end")
        ends.set_yscale("symlog", linthresh=unit)
        ends.set_yticks(_sparse_ticks(unit, min(low), max(high)))
        ends.legend()
    ends.set(ylabel="relative to the value", xlabel="pass")
    _draw_ritz(ritz, est)
    drawn.suptitle(f"sigma_1 in {interval_text(est.lower, est.upper)}")
    return drawn


def triplets_figure(tri: Triplets) -> Figure:
    """Draw the largest width, all values and the Ritz values, as `figure` does."""
    drawn, widths, values, ritz = _three_axes("Triplets.plot")
    _draw_widths(widths, tri)
    if rows := spectrum(tri):
        number, low, high = zip(*rows, strict=True)
        middle = [(a + b) / 2 for a, b in zip(low, high, strict=True)]
        half = [(b - a) / 2 for a, b in zip(low, high, strict=True)]
        values.errorbar(number, middle, yerr=half, fmt=".", capsize=4, color=UPPER)
        values.set_yscale("log")
    values.set(ylabel="singular values", xlabel="number")
    _draw_ritz(ritz, tri)
    drawn.suptitle(f"{tri.k} values, the largest in {interval_text(*_first_ends(tri))}")
    return drawn


def _first_ends(tri: Triplets) -> tuple[float, float]:
    return tri.intervals[0].lower, tri.intervals[0].upper


def _three_axes(method: str) -> tuple[Figure, Any, Any, Any]:
    drawn = new_figure(method, (12.6, 3.6))
    from matplotlib.ticker import MaxNLocator

    first, second, third = drawn.subplots(1, 3)
    for axes in (first, second, third):
        # One pass needs one tick: a second one would be a fraction.
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return drawn, first, second, third


def _mark(answer: Estimate | Triplets) -> str:
    return "o-" if len(answer.history) <= 40 else "-"


def _draw_widths(axes: Any, answer: Estimate | Triplets) -> None:
    numbers = [r.number for r in answer.history]
    widths = [max(r.width, 1e-16) for r in answer.history]
    axes.semilogy(numbers, widths, _mark(answer), color=UPPER)
    axes.axhline(max(answer.rtol, 1e-16), color="0.4", linestyle="--", label="asked for")
    several = any(r.lowers for r in answer.history)
    axes.set(ylabel="largest relative width" if several else "relative width", xlabel="pass")
    axes.legend()


def _draw_ritz(axes: Any, answer: Estimate | Triplets) -> None:
    curves = ritz_curves(answer)
    for k, curve in reversed(list(enumerate(curves))):
        label = "the largest" if k == 0 else None
        colour = LOWER if k == 0 else UPPER
        axes.plot(*zip(*curve, strict=True), _mark(answer), color=colour, label=label)
    if curves:
        axes.set_yscale("log")
        axes.legend()
    axes.set(ylabel="Ritz values", xlabel="pass")


def _sparse_ticks(unit: float, bottom: float, top: float) -> list[float]:
    """Return 0 and powers of ten on both sides of it, as many as can be told apart."""
    decades = max(round(math.log10(max(-bottom, top, unit) / unit)), 1)
    marks = [unit * 10.0**k for k in range(decades, 0, -1)[:: math.ceil(decades / 4)]]
    return [tick for tick in (0.0, *marks, *(-mark for mark in marks)) if bottom <= tick <= top]
