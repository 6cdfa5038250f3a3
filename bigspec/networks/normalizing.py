"""Chosen tensors of a network divided by their certified norms: runs first, then one copy."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from bigspec.api.arguments import as_budget, as_bytes, as_probability, as_seed
from bigspec.api.matrices import open_within
from bigspec.api.norm import norm
from bigspec.certificate.scaling import Storage, factor_above, factor_below, scaled_interval
from bigspec.conversion.work import Work, local_place, working
from bigspec.errors import ArgumentError, DataError, MemoryLimitError, SourceError, format_bytes
from bigspec.names import shown
from bigspec.networks.formats import open_model
from bigspec.networks.formats.file_tensors import FileTensor
from bigspec.networks.formats.shards import INDEX
from bigspec.networks.formats.types import as_dtype
from bigspec.networks.normal_copy import Part, checksum, parts_of, write_part
from bigspec.networks.normalized import NormalizedModel, NormalizedTensor
from bigspec.networks.sharing import entropy_of, share
from bigspec.networks.tensors import Model, called
from bigspec.passes import find_executor
from bigspec.run.identity import versions
from bigspec.sources.file_bytes import LocalContent
from bigspec.watch import Observer
from bigspec.watch.live import make_observer

__all__ = ["normalize_model"]

FACTS = 1e-10  # relative error of a Frobenius norm (`bigspec.certificate.rounding`)
TYPES = ("float16", "bfloat16", "float32", "float64")
BFLOAT16 = (2.0**-8, 2.0**-133 + 2.0**-149, 2.0**-24)
"""Unit roundoff; the smallest number, and that of float32; unit roundoff of float32 on the way."""


@dataclass(frozen=True)
class _Aim:
    """The norm that is wanted, and how surely each must be known."""

    to: float
    by: str
    rtol: float
    each: float
    memory: int


def normalize_model(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    *,
    only: str | Iterable[str],
    to: float = 1.0,
    by: str = "upper",
    overwrite: bool = False,
    rtol: float = 1e-3,
    failure_probability: float = 1e-6,
    seed: int | None = None,
    memory_limit: int | str | None = None,
    progress: bool | Observer = False,
) -> NormalizedModel:
    """Write a network in safetensors again, with chosen matrices brought to a norm by certificate.

    Parameters
    ----------
    src : path
        A file of safetensors, an index of shards, or a folder of them, on this machine.
    dst : path
        A file for a file, a folder for shards, which keep their names.
    only : str or iterable of str
        Patterns of the names of tensors, with ``*`` and ``?``. Each must be a matrix of floating
        numbers of 16 bits or more.
    to, by, rtol
        Of each of them; see `normalize`.
    overwrite : bool
        Replace the file at `dst`, once the new one is complete.
    failure_probability : float
        That any of the intervals misses; the tensors share it equally.
    seed : int, optional
        Entropy of all random starts; fresh and recorded by default.
    memory_limit : int or str, optional
        Of one process, as in `norm`.
    progress : bool or Observer
        Show a live line.

    Returns
    -------
    NormalizedModel
        An interval for each tensor. The same lies in the metadata of the file that holds it.

    Raises
    ------
    ArgumentError
        A pattern fits nothing, or a tensor that is no such matrix, or whose type does not hold
        numbers of such a norm: the message names it.
    SourceError
        `src` is damaged, of another format, or on another machine.
    DataError
        The norm of a tensor is zero, or it changed between the run and the copy.
    MemoryLimitError, ResumeError, CheckpointInUseError, DestinationError
        As in `normalize`.

    Notes
    -----
    Tensors that are not chosen are copied byte by byte. Names, types and metadata stay, with
    ``bigspec`` beside the latter. After a kill the same call goes on, from the last norm or
    the last 64 MiB. Nothing lies at `dst` until it is complete.
    """
    began = time.monotonic()
    budget, sure, given = as_budget(rtol), as_probability(failure_probability), as_seed(seed)
    real = isinstance(to, (int, float, np.integer, np.floating)) and not isinstance(to, bool)
    if by not in ("upper", "lower") or not (real and 0.0 < to < np.inf):
        msg = f"to, by: expected a norm > 0, and 'upper' or 'lower', got {to!r} and {by!r}"
        raise ArgumentError(msg)
    limit = as_bytes(memory_limit) or find_executor(True).memory() // 2
    model = _opened(src)
    chosen = _chosen(model, [only] if isinstance(only, str) else list(only))
    aim = _Aim(float(to), by, float(budget.rtol), share(sure, len(chosen)), limit)
    parts = parts_of(model)
    place = _place(dst, src, parts)
    sources = [[str(part.path), part.tensors[0].content.evidence] for part in parts]
    asked = {"to": aim.to, "by": by, "rtol": aim.rtol, "failure_probability": sure, "seed": given}
    wanted = {"source": sources, "only": sorted(one.name for one in chosen), "norm": asked}
    whole = len(parts) == 1 and place.suffix == ".safetensors"
    work = Work(place, None, wanted, overwrite=overwrite, file=whole)
    observer = make_observer(progress)
    with working(work, observer):
        if work.state["stage"] == "new" and "entropy" not in work.state:
            drawn = given if given is not None else int(np.random.SeedSequence().entropy)  # type: ignore[arg-type]
            work.save(entropy=drawn, found={}, tokens={}, copied=0)
        _certify(chosen, aim, work, observer)
        note = {
            "schema": "bigspec.normal-model/1", "source": model.name, "to": aim.to, "by": by,
            "failure_probability": sure, "version": versions()["bigspec"],
        }  # fmt: skip
        found, entropy = work.state["found"], work.state["entropy"]
        if work.state["stage"] != "publish":
            _copy(parts, (note, found), work, whole=whole)
            if not whole:
                _copy_indexes(src, work.matrix)
            work.save(stage="publish")
        done = work.matrix if work.matrix.exists() else work.destination
        size = sum(file.stat().st_size for file in ([done] if whole else done.iterdir()))
        work.publish()
    rows = tuple(
        NormalizedTensor(one.name, one.dtype, one.shape, **found[one.name]) for one in chosen
    )
    return NormalizedModel(
        model.name, str(place), aim.to, by, rows, len(model) - len(rows), len(parts), sure,
        entropy, size, time.monotonic() - began,
    )  # fmt: skip


def _opened(src: Any) -> Model:
    model = open_model(src)
    local = all(
        isinstance(one, FileTensor) and isinstance(one.content, LocalContent)
        for one in model.values()
    )
    if model.format != "safetensors" or not local or not len(model):
        msg = (
            f"{model.name}: expected safetensors on this machine, which are written again byte by "
            f"byte, got {model.format}; bring the file here, or convert it"
        )
        raise SourceError(msg)
    return model


def _chosen(model: Model, patterns: list[str]) -> list[Any]:
    """Return the tensors that patterns name, in the order of the model."""
    for pattern in patterns or [""]:
        if not any(fnmatchcase(name, pattern) for name in model):
            names = ", ".join(shown(name) for name in list(model)[:5])
            msg = f"only: expected a pattern that fits a tensor, got {pattern!r}; there are {names}"
            raise ArgumentError(msg)
    found = [t for n, t in model.items() if any(fnmatchcase(n, p) for p in patterns)]
    for tensor in found:
        reason = _refusal(tensor, model)
        if reason:
            msg = (
                f"only: expected matrices of floating numbers, got {called(tensor.name)}, "
                f"{reason}; leave it out of the patterns"
            )
            raise ArgumentError(msg)
    return found


def _refusal(tensor: Any, model: Model) -> str:
    """Say why a tensor cannot be normalized; nothing if it can."""
    if tensor.refusal:
        return str(tensor.refusal)
    if tensor.dtype not in TYPES:
        return f"of type {tensor.dtype}, whose numbers a scale or a rule elsewhere multiplies"
    if len(tensor.shape) != 2 or not all(tensor.shape):
        return (
            f"of shape {list(tensor.shape)}: the norm of a kernel depends on the image, and a "
            "vector has none as a matrix"
        )
    scales = [f"{tensor.name}{end}" for end in ("_scale", "_scale_inv", "_g", "_u")]
    base = tensor.name.removesuffix("_orig").removesuffix("_v")
    scales += [f"{base}{end}" for end in ("_g", "_u", "_mask")] if base != tensor.name else []
    partner = next((name for name in scales if name in model), None)
    return f"which {called(partner)} scales or divides again" if partner else ""


def _place(dst: Any, src: Any, parts: list[Part]) -> Path:
    place = local_place(dst)
    sources = {part.path.resolve() for part in parts} | {Path(os.fspath(src)).resolve()}
    inside = {path.parent for path in sources} if len(parts) > 1 else set()
    if place.resolve() in sources | inside:
        msg = f"dst: expected another place than the source, got {os.fspath(dst)!r}; name another"
        raise ArgumentError(msg)
    if len(parts) > 1 and place.suffix == ".safetensors":
        msg = f"dst: expected a folder for {len(parts)} shards, got {place.name}; name a folder"
        raise ArgumentError(msg)
    return place


def _certify(chosen: list[Any], aim: _Aim, work: Work, observer: Observer) -> None:
    """Compute the norms that are left; each is saved."""
    observer.stage_started("norms", len(chosen))
    began = time.monotonic()
    for number, tensor in enumerate(chosen, start=1):
        if tensor.name not in work.state["found"]:
            found, token = _factor(tensor, aim, entropy_of(work.state["entropy"], tensor.name))
            work.save(
                found=work.state["found"] | {tensor.name: found},
                tokens=work.state["tokens"] | {tensor.name: token},
            )
        observer.stage_advanced(number, len(chosen), 0, time.monotonic() - began)


def _factor(tensor: Any, aim: _Aim, entropy: int) -> tuple[dict[str, Any], str]:
    """Return the factor of a tensor and its intervals, and the digest of its bytes."""
    token = checksum(tensor)
    values = tensor.read()
    if tensor.dtype == "bfloat16":
        need = 6 * tensor.nbytes  # in float32, and as blocks of a pass
        if need > aim.memory:
            msg = (
                f"{called(tensor.name)}: expected a memory limit of at least {format_bytes(need)}, "
                f"got {format_bytes(aim.memory)}; give more, or leave it out of the patterns"
            )
            raise MemoryLimitError(msg)
        values = values.astype(np.float32)
    matrix = open_within(values, aim.memory)
    est = norm(
        replace(matrix, name=f"{tensor.file}: {called(tensor.name)}"),
        rtol=aim.rtol, failure_probability=aim.each, seed=entropy,
        memory_limit=aim.memory, right=False,
    )  # fmt: skip
    if est.upper == 0.0 or est.frobenius is None:
        msg = f"{tensor.file}: expected {called(tensor.name)} to have a norm, got zeros alone"
        raise DataError(msg)
    size = est.frobenius * (1 + FACTS)
    if tensor.dtype == "bfloat16":
        unit, smallest, single = BFLOAT16
        storage = Storage(unit, smallest, tensor.size, single + 2.0**-52)
    else:
        storage = Storage.of(np.dtype(tensor.dtype), tensor.size)
    if aim.by == "upper":
        factor = factor_below(est.upper, size, aim.to, storage)
    else:
        factor = factor_above(est.lower, size, aim.to, storage)
    _check_range(tensor, values, factor, aim)
    lower, upper = scaled_interval(est.lower, est.upper, size, factor, storage)
    found = {
        "factor": factor,
        "lower": lower if aim.by == "upper" else max(lower, aim.to),
        "upper": min(upper, aim.to) if aim.by == "upper" else upper,
        "source_lower": est.lower,
        "source_upper": est.upper,
        "deterministic": est.deterministic,
    }
    return found, token


def _check_range(tensor: Any, values: Any, factor: float, aim: _Aim) -> None:
    """Refuse a norm at which a number would be too large for the type of its tensor."""
    largest = max(float(values.max()), -float(values.min())) * factor
    with np.errstate(over="ignore"):
        stored = np.asarray(largest).astype(as_dtype(tensor.dtype, tensor.file))
    if not np.isfinite(stored):
        msg = (
            f"to: expected a norm whose numbers {tensor.dtype} holds, got {aim.to:g}, at which the "
            f"largest of {called(tensor.name)} is {largest:.4g}; give a smaller norm"
        )
        raise ArgumentError(msg)


def _copy(
    parts: list[Part], said: tuple[dict[str, Any], dict[str, Any]], work: Work, *, whole: bool
) -> None:
    note, found = said
    before = 0
    for part in parts:
        names = {tensor.name for tensor in part.tensors}
        own = note | {"tensors": {name: one for name, one in found.items() if name in names}}
        target = work.matrix if whole else work.matrix / part.path.name
        if work.state["copied"] < before + len(part.tensors):
            write_part(part, target, own, work, before)
        before += len(part.tensors)


def _copy_indexes(src: Any, folder: Path) -> None:
    """Copy the index of shards: names and files are the same."""
    path = Path(os.fspath(src))
    beside = [path] if path.is_file() else sorted(path.iterdir())
    for index in beside:
        if index.name.endswith(f".safetensors{INDEX}"):
            shutil.copyfile(index, folder / index.name)
