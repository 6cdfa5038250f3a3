"""What a scan will do, from headers alone: its rows, its tasks, the share of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from bigspec.errors import ArgumentError
from bigspec.names import shown
from bigspec.networks.adapter_matrices import Hadamard
from bigspec.networks.entry import Entry
from bigspec.networks.forms import Form, Kronecker, Part, Product
from bigspec.networks.fused import Split, fits
from bigspec.networks.limits import Limits
from bigspec.networks.norms import Asked
from bigspec.networks.roles import entries_of
from bigspec.networks.sharing import random_norms, share
from bigspec.networks.stale import joined
from bigspec.networks.tensors import Model
from bigspec.networks.work import Request, Task, shared
from bigspec.results.text import counted

__all__ = ["Choice", "ScanPlan", "plan_scan", "tasks_of"]


@dataclass(frozen=True)
class Choice:
    """Which rows are asked for.

    Attributes
    ----------
    only, leave_out : tuple of str
        Patterns of names; without `only`, all.
    everything : bool
        Also tensors that are not matrices.
    splits : tuple of Split
    """

    only: tuple[str, ...] = ()
    leave_out: tuple[str, ...] = ()
    everything: bool = False
    splits: tuple[Split, ...] = ()

    def takes(self, entry: Entry) -> bool:
        """Whether a row is asked for."""
        if entry.hidden and not self.everything:
            return False
        if self.only and not _matches(entry, self.only):
            return False
        return not _matches(entry, self.leave_out)


def _matches(entry: Entry, patterns: Iterable[str]) -> bool:
    return any(fits(entry.name, pattern) for pattern in patterns)


@dataclass(frozen=True)
class ScanPlan:
    """The rows of a scan.

    Attributes
    ----------
    entries : tuple of Entry
    others : dict of str to Form
        What is subtracted from the row of that name.
    only_in_model, only_in_other : tuple of str
        Rows that have no partner.
    norms : int
        How many norms need a random start.
    """

    entries: tuple[Entry, ...]
    others: dict[str, Form]
    only_in_model: tuple[str, ...] = ()
    only_in_other: tuple[str, ...] = ()
    norms: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the rows."""
        return tuple(entry.name for entry in self.entries)

    def share(self, failure_probability: float) -> float:
        """Return the failure probability of each norm that needs one."""
        return share(failure_probability, self.norms)


def plan_scan(model: Model, other: Model | None, choice: Choice) -> ScanPlan:
    """Choose the rows of a model, and pair them with those of another one.

    Raises
    ------
    ArgumentError
        No row is left, or a split does not fit.
    """
    entries = _chosen(model, choice)
    _check_only(model, entries, choice)
    if other is None:
        return ScanPlan(tuple(entries), {}, norms=random_norms(entries, differences=False))
    beside = {entry.name: entry for entry in _chosen(other, choice)}
    paired: list[Entry] = []
    others: dict[str, Form] = {}
    for entry in entries:
        mate = beside.get(entry.name)
        if mate is None:
            continue
        found, form = _pair(entry, mate)
        paired.append(found)
        if form is not None:
            others[entry.name] = form
    names = {entry.name for entry in entries}
    if not paired:
        msg = (
            f"minus: expected tensors of the same names, got none of the {len(entries)} of "
            f"{shown(model.name)}, such as {shown(entries[0].name)}, in {shown(other.name)}, which "
            f"has {shown(next(iter(beside)))}; rename them, or scan each model by itself"
        )
        raise ArgumentError(msg)
    return ScanPlan(
        tuple(paired),
        others,
        tuple(name for name in names_of(entries) if name not in beside),
        tuple(name for name in beside if name not in names),
        random_norms(paired, differences=True),
    )


def _check_only(model: Model, entries: Sequence[Entry], choice: Choice) -> None:
    """Refuse a pattern that chooses nothing beside others that do: it is misspelt."""
    for pattern in choice.only:
        if not any(fits(entry.name, pattern) for entry in entries):
            msg = (
                f"only: expected patterns that choose rows of {shown(model.name)}, got "
                f"{pattern!r}, which chooses none; look at the names with --all"
            )
            raise ArgumentError(msg)
    for split in choice.splits:
        if not any(split.takes(name) and len(model[name].shape) == 2 for name in model):
            msg = (
                f"split: expected a pattern of the name of a matrix of {shown(model.name)}, got "
                f"{split.pattern!r}, which fits none"
            )
            raise ArgumentError(msg)


def names_of(entries: Iterable[Entry]) -> list[str]:
    """Return the names of rows."""
    return [entry.name for entry in entries]


def _chosen(model: Model, choice: Choice) -> list[Entry]:
    every = entries_of(model, choice.splits)
    entries = [entry for entry in every if choice.takes(entry)]
    if not entries:
        hidden = sum(entry.hidden for entry in every)
        patterns = choice.only or choice.leave_out
        wanted = "a row that the patterns choose" if patterns else "a matrix"
        msg = (
            f"{shown(model.name)}: expected {wanted}, got none among {counted(len(every), 'row')} "
            f"({hidden} of them not matrices); look at all of them with --all"
        )
        raise ArgumentError(msg)
    names = set(names_of(entries))
    # A row whose twin is not asked for stands for itself.
    return [replace(e, tied_to="") if e.tied_to not in names else e for e in entries]


def _pair(entry: Entry, mate: Entry) -> tuple[Entry, Form | None]:
    """Return the row of a difference and what is subtracted; or the reason why there is none."""
    reason = ""
    if entry.form is None or mate.form is None:
        reason = entry.note or mate.note
    elif entry.shape != mate.shape:
        reason = f"the shapes differ: {list(entry.shape)} and {list(mate.shape)}"
    elif entry.matrix != mate.matrix or _family(entry.form) != _family(mate.form):
        reason = f"a {entry.kind} cannot be compared with a {mate.kind}"
    elif _axis(entry.form) != _axis(mate.form):
        reason = "one file has the channels of its kernels last, the other first"
    if reason:
        refused = replace(entry, kind="refused", form=None, matrix=None, note=reason, tied_to="")
        return refused, None
    tied = entry.tied_to if entry.tied_to == mate.tied_to else ""
    both = all(layer.known for layer in (*entry.layers, *mate.layers))
    if entry.layers == mate.layers or not both:
        return replace(entry, tied_to=tied), mate.form
    note = joined(entry.note, "as a layer: the two networks use the kernel in different ways")
    return replace(entry, tied_to=tied, layers=(), note=note), mate.form


def _family(form: Form) -> str:
    """Return what a form can be subtracted from."""
    if isinstance(form, Product):
        return "product"
    return "made" if isinstance(form, (Kronecker, Hadamard)) else "read"


def _axis(form: Form) -> int:
    """Return the axis that makes the rows."""
    return form.first if isinstance(form, Part) else 0


def tasks_of(
    planned: ScanPlan, names: Sequence[str], asked: Asked, entropy: int, limits: Limits | None
) -> list[Task]:
    """Return the tasks that make the rows of these names; rows of one tensor share a task."""
    wanted = set(names)
    groups: dict[int, list[Request]] = {}
    keep: list[object] = []  # as long as their ids are keys
    for entry in planned.entries:
        if entry.name not in wanted or entry.form is None or entry.tied_to:
            continue
        gate = None if limits is None or entry.hidden else limits.gate(entry.name)
        request = Request(entry, planned.others.get(entry.name), entropy, gate)
        key = shared(request)
        keep.append(key)
        groups.setdefault(id(key), []).append(request)
    return [Task(tuple(requests), asked) for requests in groups.values()]
