"""Checks that a loaded checkpoint is the progress of a run, before anything of it is used.

The checksums in a checkpoint show damage. They are no signature: whoever can write there can write
anything, with the right checksums. The codec has checked the types of all fields. Here every value
is compared with what a run would have written: ranges, lengths of vectors, shapes that must fit
together. So a forged checkpoint causes no accident; but its numbers may still be false.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from bigspec.algorithms import (
    REGISTRY,
    GramState,
    LanczosState,
    PowerState,
    StoredBlock,
    iterates,
)
from bigspec.errors import CheckpointError
from bigspec.run.known import Known
from bigspec.run.state import RunState

__all__ = ["check_run_state"]

Array = np.ndarray[Any, Any]


def _whole(least: int) -> Callable[[Any], bool]:
    def check(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value >= least

    return check


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_text, value))


def _matrix(value: Any) -> bool:
    if not isinstance(value, dict) or not _text(value.get("dtype")):
        return False
    shape = value.get("shape")
    if not isinstance(shape, list) or len(shape) != 2 or not all(map(_whole(1), shape)):
        return False
    try:
        np.dtype(value["dtype"])
    except TypeError:
        return bool(value["dtype"] == "bfloat16")
    return True


def _cut(value: Any) -> bool:
    counts = ("panel_pieces", "slab_pieces", "round_panels", "fan_in")
    return (
        isinstance(value, dict)
        and value.get("orientation") in ("rows", "columns")
        and all(_whole(1)(value.get(name)) for name in counts)
        and value["fan_in"] > 1
        and "tile_pieces" in value
        and (value["tile_pieces"] is None or _whole(1)(value["tile_pieces"]))
    )


def _versions(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_text, value.values()))


RUN: dict[str, Callable[[Any], bool]] = {
    "matrix": _matrix,
    "name": _text,
    "algorithm": _text,
    "block_size": _whole(1),
    "extra": _whole(0),
    "basis_bytes": _whole(0),
    "failure_probability": lambda value: isinstance(value, float) and 0.0 < value < 1.0,
    "delta_ledger": lambda value: isinstance(value, list),
    "entropy": _whole(0),
    "start": lambda value: value is None or _text(value),
    "cut": _cut,
    "panels": _whole(1),
    "choices": _texts,
    "measured_bytes": _whole(0),
    "versions": _versions,
    "begun": _text,
    "by": _text,
}
"""What describes a run; see `bigspec.run.identity.begin`."""

LATER: dict[str, Callable[[Any], bool]] = {"id": _text, "count": _whole(0)}
"""Entries that runs of the first versions lack."""


LARGEST = 1e150  # rounding error; its square is still a number


class _Unfit(Exception):  # noqa: N818
    """A part that no run has written; the text names it."""


def _demand(good: bool, part: str) -> None:
    if not good:
        raise _Unfit(part)


def check_run_state(progress: Any, where: str, *, blocks: bool = True) -> None:
    """Refuse a value that is not the progress of a run, although it is whole.

    Parameters
    ----------
    progress : object
    where : str
    blocks : bool
        Whether its arrays are loaded, so that their shapes can be compared.

    Raises
    ------
    CheckpointError
    """
    if not isinstance(progress, RunState) or RUN.keys() - progress.run.keys():
        msg = f"{where}: expected the progress of a run, got something else; name another place"
        raise CheckpointError(msg)
    try:
        _check_run(progress.run)
        _check_known(progress)
        if blocks:
            _check_arrays(progress)
    except _Unfit as error:
        msg = (
            f"{where}: expected the progress of a run, got one whose {error} cannot be that of a "
            "run. bigspec did not write the checkpoint like this; name another place"
        )
        raise CheckpointError(msg) from error


def _check_run(run: dict[str, Any]) -> None:
    for name, check in RUN.items():
        _demand(check(run[name]), f"{name} ({str(run[name])[:60]})")
    _demand(_plain(run), "description")
    for name, check in LATER.items():
        _demand(name not in run or check(run[name]), name)
    order = min(run["matrix"]["shape"])
    _demand(run["block_size"] <= order, "block_size")
    _demand(run.get("count", 0) <= order, "count")


def _plain(value: Any) -> bool:
    """Whether JSON can say it; the description of a run is compared and printed as JSON."""
    if isinstance(value, dict):
        return all(map(_text, value)) and all(map(_plain, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def _check_known(progress: RunState) -> None:
    """Check the intervals so far and the records of the passes, and that they agree."""
    run, known, history = progress.run, progress.known, progress.history
    k = run.get("count") or 0
    _demand(_fits(known, k), "bounds")
    _demand((progress.state is None) == (not history), "state beside its history")
    for number, record in enumerate(history, 1):
        costs = (record.bytes_read, record.seconds, record.panels, record.retries)
        _demand(record.number == number and min(costs) >= 0, f"record of pass {number}")
        _demand(0.0 <= record.lower <= record.upper, f"interval after pass {number}")
        _demand(len(record.lowers) == len(record.uppers) == k, f"intervals after pass {number}")
        _demand(math.isfinite(record.seconds), f"seconds of pass {number}")
    if history:
        last, now = history[-1], known.interval
        _demand((last.lower, last.upper) == (now.lower, now.upper), "bounds beside its history")
        _demand((last.lowers, last.uppers) == known.ends, "bounds beside its history")
        _demand(getattr(progress.state, "passes", len(history)) == len(history), "count of passes")
    first = progress.first_rounds
    _demand(0 <= first.rounds <= run["panels"] and 0 <= first.seconds < math.inf, "first rounds")
    _demand((first.total is None) == (first.rounds == 0), "sum of the first rounds")


def _fits(known: Known, k: int) -> bool:
    ends = (known.lower, known.certain, known.likely)
    if any(len(part) != max(k, 1) for part in (*ends, known.rounding)):
        return False
    if len(known.before) != k:
        return False
    positive = all(value >= 0.0 for part in ends for value, _ in part)
    return positive and all(math.isfinite(value) for value, _ in known.lower)


def _check_arrays(progress: RunState) -> None:
    run, state = progress.run, progress.state
    rows = run["cut"]["orientation"] == "rows"
    n, panels = run["matrix"]["shape"][1 if rows else 0], run["panels"]
    several = bool(run.get("count"))
    known = [row for row in REGISTRY.rows if (row.name, row.several) == (run["algorithm"], several)]
    if known and state is not None:
        kinds = tuple(one.kind for one in known[0].states)
        _demand(type(state) in kinds, "state beside its algorithm")
    if isinstance(state, (LanczosState, PowerState, GramState)):
        _demand(state.exponent in range(-1100, 1101), "exponent")
        defect = 0.0 if isinstance(state, GramState) else state.start_defect
        _demand(0.0 <= state.eps < LARGEST and 0.0 <= defect < LARGEST, "rounding of its state")
    _check_state(state, n)
    tokens = progress.tokens
    _demand(tokens is None or _tokens(tokens, panels), "content tokens")
    if (total := progress.first_rounds.total) is not None:
        most = min(progress.first_rounds.rounds * run["cut"]["round_panels"], panels)
        _demand(_tokens(total.tokens, most), "content tokens of the first rounds")
        width = _width(progress)
        b = total.Z.shape[-1] if width is None else width
        _demand(_is(total.Z, n, b) and b >= run["block_size"], "sum of the first rounds")
        square = total.gram.shape[0] if total.gram.ndim else -1
        _demand(square in (0, b) and _is(total.gram, square, square), "Gram matrix")
        facts = total.facts
        _demand((facts is None) == (state is not None), "facts of the first rounds")
        _demand(facts is None or facts.column_sums.shape == (n,), "column sums")
        _demand(total.exponent in range(-1100, 1101), "exponent of the first rounds")
    if (carried := progress.carried) is not None:
        p = len(carried.X) if carried.X.ndim else -1
        pairs = [*zip(carried.blocks, carried.images, strict=False), (carried.Z, carried.X)]
        lengths = {len(carried.blocks), len(carried.images), len(carried.errors)}
        good = all(_is(V, n, None) and _is(Y, p, V.shape[1]) for V, Y in pairs)
        _demand(good and len(lengths) == 1, "images of a chain")


def _width(progress: RunState) -> int | None:
    """Return the columns of the next block, or None if the state does not tell."""
    state, run = progress.state, progress.run
    if isinstance(state, LanczosState):
        return int(state.V_next.shape[1])
    if isinstance(state, PowerState):
        return int(state.Z.shape[1])
    return int(run["block_size"]) if run["start"] is None and state is None else None


def _check_state(state: Any, n: int) -> None:
    """Check that the arrays of a state fit together, for bigspec's own algorithms."""
    if isinstance(state, LanczosState):
        good = _is(state.V_last, n, None) and _is(state.V_next, n, None) and state.tie.ndim == 2
        _demand(good and state.V_last.shape[1] > 0, "blocks")
        b, c, N = state.V_last.shape[1], state.V_next.shape[1], len(state.T)
        _demand(_is(state.T, N, N) and b <= N and _is(state.B, c, b), "tridiagonal matrix")
        _demand(_is(state.tie, None, None) and 0 < state.tie.shape[1] <= N, "tie to its start")
        sizes = [_columns(block, n) for block in state.basis]
        _demand(not sizes or (None not in sizes and sum(map(int, sizes)) == N), "basis")  # type: ignore[arg-type]
    elif isinstance(state, PowerState):
        good = _is(state.V, n, None) and _is(state.Z, n, state.V.shape[1])
        _demand(good and state.V.shape[1] > 0, "blocks")
        _demand(_is(state.product, None, state.V.shape[1]), "product of its factors")
    elif isinstance(state, GramState):
        values = state.values
        _demand(values.ndim == 1 and values.dtype == np.float64, "eigenvalues")
        _demand(bool(np.isfinite(values).all()) and 0 < len(values) <= n, "eigenvalues")
        _demand(_is(state.top[:, None] if state.top.ndim == 1 else state.top, n, 1), "vector")


def _columns(block: Any, n: int) -> int | None:
    if isinstance(block, StoredBlock):
        return block.shape[1] if block.shape[0] == n and block.shape[1] > 0 else None
    return block.shape[1] if isinstance(block, np.ndarray) and _is(block, n, None) else None


def _is(X: Array, rows: int | None, columns: int | None) -> bool:
    """Whether X is a finite matrix of this shape; None allows any extent."""
    return (
        X.ndim == 2
        and X.dtype in (np.float64, np.complex128)
        and rows in (None, X.shape[0])
        and columns in (None, X.shape[1])
        and iterates.finite(X)
    )


def _tokens(tokens: Array, panels: int) -> bool:
    return tokens.ndim == 1 and tokens.dtype == np.uint32 and len(tokens) in (0, panels)
