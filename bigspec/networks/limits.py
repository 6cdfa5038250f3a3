"""Limits on the rows of a scan: one for all, or by patterns of names, from a TOML file."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bigspec.errors import ArgumentError
from bigspec.names import shown
from bigspec.networks.fused import fits
from bigspec.networks.row import Row
from bigspec.results import Verdict
from bigspec.results.gate import EXIT_STATUSES, Gate

__all__ = ["Limits", "Ruling", "as_limits", "rule"]

NON_FINITE = 65
KEYS = ("max_norm", "min_norm")


@dataclass(frozen=True)
class Limits:
    """Limits by patterns of names.

    Attributes
    ----------
    rules : tuple of (str, dict)
        Each pattern with its limits. All patterns that match a name count; if two set the same
        limit, the later one does.
    """

    rules: tuple[tuple[str, dict[str, float]], ...]

    def gate(self, name: str) -> Gate | None:
        """Return the gate of a row; None if no pattern matches."""
        found: dict[str, Any] = {}
        for pattern, limits in self.rules:
            if fits(name, pattern):
                found |= limits
        return Gate(**found) if found else None

    def check(self, names: Iterable[str]) -> None:
        """Refuse a pattern that no row has: a limit that is never looked at is a mistake.

        Raises
        ------
        ArgumentError
        """
        known = list(names)
        for pattern, _ in self.rules:
            if not any(fits(name, pattern) for name in known):
                near = ", ".join(map(shown, known[:3]))
                msg = (
                    f"gate: expected patterns that match the name of a row, got {pattern!r}, which "
                    f"matches none of {len(known)}, such as {near}"
                )
                raise ArgumentError(msg)

    def to_list(self) -> list[list[Any]]:
        """Return it as JSON-ready values."""
        return [[pattern, dict(limits)] for pattern, limits in self.rules]


@dataclass(frozen=True)
class Ruling:
    """The decision of limits on all rows.

    Attributes
    ----------
    verdicts : dict of str to Verdict
        Verdicts on the rows with an interval and a limit.
    non_finite : tuple of str
        Rows with a limit and NaN or infinite entries.
    open_rows : tuple of str
        Rows with a limit, but without an interval for another reason.
    """

    verdicts: dict[str, Verdict]
    non_finite: tuple[str, ...] = ()
    open_rows: tuple[str, ...] = ()

    def named(self, outcome: str) -> list[str]:
        """Return the rows of an outcome."""
        return [name for name, verdict in self.verdicts.items() if verdict.outcome == outcome]

    @property
    def exit_status(self) -> int:
        """3 if a row breaks a limit, 65 if one is not finite, 4 if one is undecided, else 0."""
        if self.named("failed"):
            return EXIT_STATUSES["failed"]
        if self.non_finite:
            return NON_FINITE
        return EXIT_STATUSES["undecided"] if self.named("undecided") or self.open_rows else 0

    @property
    def outcome(self) -> str:
        """``"passed"``, ``"failed"``, ``"not finite"`` or ``"undecided"``."""
        words = {0: "passed", 3: "failed", NON_FINITE: "not finite", 4: "undecided"}
        return words[self.exit_status]

    @property
    def reason(self) -> str:
        """The rows that decide, each with its sentence."""
        status = self.exit_status
        said = []
        if status in (3, 4):
            said = [f"{name}: {self.verdicts[name].reason}" for name in self.named(self.outcome)]
        if status == 4:
            said += [f"{name}: no interval" for name in self.open_rows]
        if self.non_finite:
            said.append("NaN or Inf in " + ", ".join(self.non_finite))
        if status == 0:
            count = len(self.verdicts)
            said = [f"{count} row{'' if count == 1 else 's'} within the limits"]
        return "; ".join(said)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready values."""
        return {
            "outcome": self.outcome,
            "exit_status": self.exit_status,
            "reason": self.reason,
            "failed": self.named("failed"),
            "undecided": [*self.named("undecided"), *self.open_rows],
            "non_finite": list(self.non_finite),
        }


def rule(limits: Limits, rows: Mapping[str, Row], missing: Iterable[str]) -> Ruling:
    """Judge all rows; `missing` are names without a row, or whose row ran out of time."""
    verdicts: dict[str, Verdict] = {}
    bad, unknown = [], []
    for name, row in rows.items():
        gate = limits.gate(name)
        if gate is None or row.hidden:
            continue
        if row.non_finite:
            bad.append(name)
        elif row.lower is None or row.upper is None:
            unknown.append(name)
        else:
            verdicts[name] = gate.judge(row.lower, row.upper)
    unknown += [name for name in missing if limits.gate(name) is not None]
    return Ruling(verdicts, tuple(bad), tuple(dict.fromkeys(unknown)))


def as_limits(max_norm: float | None, gate: Any) -> Limits | None:
    """Read the arguments `max_norm` and `gate`.

    Parameters
    ----------
    max_norm : float, optional
        Limit for all rows.
    gate : path, mapping or Gate, optional
        A TOML file, or its contents: a table for each pattern, with `max_norm`, `min_norm`.

    Raises
    ------
    ArgumentError
    """
    if max_norm is not None and gate is not None:
        msg = "max_norm and gate: expected one of both; put the limit into the file, under '*'"
        raise ArgumentError(msg)
    if max_norm is not None:
        return Limits((("*", _checked("max_norm", {"max_norm": max_norm})),))
    if gate is None:
        return None
    if isinstance(gate, Gate):
        found = {key: getattr(gate, key) for key in KEYS if getattr(gate, key) is not None}
        if gate.max_change is not None or not found:
            msg = "gate: expected max_norm or min_norm, got max_change: use minus, or a history"
            raise ArgumentError(msg)
        return Limits((("*", found),))
    where = "gate"
    if isinstance(gate, (str, os.PathLike)):
        where = shown(os.fspath(gate))
        try:
            gate = tomllib.loads(Path(gate).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            msg = f"gate: cannot read {where}: {error}"
            raise ArgumentError(msg) from error
    if not isinstance(gate, Mapping) or not gate:
        msg = f"{where}: expected a table for each pattern of names, got {gate!r}"
        raise ArgumentError(msg)
    return Limits(tuple((str(name), _checked(f"{where}: [{name}]", t)) for name, t in gate.items()))


def _checked(where: str, table: Any) -> dict[str, float]:
    if not isinstance(table, Mapping) or not table or set(table) - set(KEYS):
        msg = (
            f"{where}: expected a table with max_norm, min_norm or both, such as "
            f'["*.attn.*"] and max_norm = 10 below it, got {table!r}'
        )
        raise ArgumentError(msg)
    try:
        Gate(**table)
    except ArgumentError as error:
        msg = f"{where}: {error}"
        raise ArgumentError(msg) from None
    return {key: float(value) for key, value in table.items()}
