"""Arrays in NumPy's .npz: the only one, or a named one."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bigspec.errors import BigspecError, SourceError
from bigspec.matrices import Matrix
from bigspec.sources.archives import check_member, member_header
from bigspec.sources.files import check_room
from bigspec.sources.memory import open_numpy

__all__ = ["holds_arrays", "open_npz_array"]

SPARSE = ({"format", "shape"}, {"data", "row", "col", "shape"})
"""Members that only a sparse matrix of SciPy's has, with and without its format."""


def holds_arrays(path: Path, inside: str) -> bool:
    """Whether an .npz holds plain arrays, and not one sparse matrix of SciPy's."""
    if path.suffix.lower() != ".npz":
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(_members(archive))
    except (OSError, zipfile.BadZipFile):
        return False
    return bool(inside) or (bool(names) and not any(names >= parts for parts in SPARSE))


def open_npz_array(path: Path, inside: str, name: str, memory: int) -> Matrix:
    """Load the array called `inside`, or the only one of two dimensions. Nothing is unpickled.

    Raises
    ------
    SourceError
        There are several arrays, or none of that name, or it cannot be read.
    MemoryLimitError
        It does not fit; nothing was loaded.
    DataError, UnsupportedTypeError
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos = _members(archive)
            wanted = inside.strip("/") or _only(archive, infos, path, name)
            if wanted not in infos:
                msg = f"{name}: no array {wanted!r} in it; it holds {', '.join(infos) or 'none'}"
                raise SourceError(msg)
            with archive.open(infos[wanted]) as file:
                size = check_member(infos[wanted], *member_header(file), name)
            check_room(size, memory, name, sparse=False)
        with np.load(path, allow_pickle=False) as archive:
            a: Any = archive[wanted]
    except BigspecError:
        raise
    except (ValueError, OSError, EOFError, KeyError, TypeError, zipfile.BadZipFile) as error:
        msg = (
            f"{name}: cannot be read as a NumPy archive ({type(error).__name__}: {error}); write "
            "it again"
        )
        raise SourceError(msg) from error
    return replace(open_numpy(np.asanyarray(a)), name=name)


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    return {
        info.filename.removesuffix(".npy"): info
        for info in archive.infolist()
        if info.filename.endswith(".npy")
    }


def _only(
    archive: zipfile.ZipFile, infos: dict[str, zipfile.ZipInfo], path: Path, name: str
) -> str:
    """Return the name of the only array, or the only one of two dimensions."""
    shapes = {}
    for member, info in infos.items():
        with archive.open(info) as file:
            shapes[member] = member_header(file)[0]
    flat = [member for member, shape in shapes.items() if len(shape) == 2]
    if len(flat) == 1:
        return flat[0]
    if len(shapes) == 1:
        return next(iter(shapes))
    listed = ", ".join(f"{member} {shape}" for member, shape in shapes.items())
    msg = (
        f"{name}: expected one matrix, got {len(flat)} in an archive of {listed}; name one, as in "
        f"{path.name}::{next(iter(flat or shapes))}"
    )
    raise SourceError(msg)
