"""Matrices in the Binary Sparse Format, version 0.1, in Zarr and HDF5, read in ranges.

Read by its layout (https://graphblas.org/binsparse-specification/), because the ``binsparse``
package (0.1.4) reads every array whole, and refuses the version "0.1" of the specification.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.sparse as sp

from bigspec.errors import DataError, SourceError, format_bytes
from bigspec.kernels.buffers import Buffers
from bigspec.matrices import Matrix
from bigspec.sources.checks import check_shape
from bigspec.sources.lines import Coordinates, ListedPointers, Pointers, Unsorted, Vector
from bigspec.sources.memory import open_sparse
from bigspec.sources.missing_chunks import Missing
from bigspec.sources.sparse_store import assemble
from bigspec.sources.stored_vectors import stored_vector
from bigspec.sources.typed_vectors import OneBased, as_declared

__all__ = ["is_binsparse", "open_binsparse"]

Array = np.ndarray[Any, Any]

FORMATS = {
    "CSR": ("csr", Pointers),
    "CSC": ("csc", Pointers),
    "DCSR": ("csr", ListedPointers),
    "DCSC": ("csc", ListedPointers),
    "COO": ("csr", Coordinates),
    "COOR": ("csr", Coordinates),
    "COOC": ("csc", Coordinates),
}
CUSTOM = {
    (("dense", 1), ("sparse", 1)): ("CSR", "CSC"),
    (("sparse", 1), ("sparse", 1)): ("DCSR", "DCSC"),
    (("sparse", 2),): ("COOR", "COOC"),
}
"""Levels of custom formats that equal one of these formats, as they are and transposed."""
MIRRORED = ("symmetric", "hermitian", "skew_symmetric")


@dataclass(frozen=True)
class Descriptor:
    """The parts of the JSON descriptor that are needed to read the arrays."""

    format: str
    shape: tuple[int, int]
    stored: int
    types: dict[str, Any]
    base: int
    structure: str | None
    filled: bool


def is_binsparse(group: Any) -> bool:
    """Whether a Zarr or HDF5 group carries a binsparse descriptor."""
    return "binsparse" in group.attrs


def shape_of_binsparse(group: Any, name: str) -> tuple[int, int]:
    """Return the shape in the descriptor."""
    return _descriptor(group, name).shape


def open_binsparse(group: Any, name: str, memory: int, missing: Missing | None = None) -> Matrix:
    """Open a matrix. The pointers or coordinates of its rows (columns) are read, values are not.

    Unsorted coordinates, and matrices with only a triangle stored, cannot be read by panels, and
    are loaded.

    Parameters
    ----------
    group : zarr.Group or h5py.Group
    name : str
        Its name in messages.
    memory : int
        Bytes for a matrix that must be loaded, or for a chunk.
    missing : Missing, optional
        Rule for missing chunks of values; see `stored_vector`.

    Raises
    ------
    SourceError
        Something is missing, of another version, of a kind that is no sparse matrix, or has to
        be loaded and is too large.
    DataError
        Lengths, types, pointers, coordinates or shape do not fit together.
    UnsupportedTypeError
        The entries are not numbers.
    """
    spec = _descriptor(group, name)
    if spec.filled:
        _check_fill(group, spec, name, memory)
    order, kind = FORMATS[spec.format]
    values = stored_vector(group, "values", name, memory, missing)
    data = as_declared(values, spec.types, "values", spec.stored, name)
    indices = _index(group, "indices_1", spec, name, memory)
    lines: Pointers | ListedPointers | Coordinates
    if kind is Pointers:
        lines = Pointers(_index(group, "pointers_to_1", spec, name, memory), spec.stored, name)
    elif kind is ListedPointers:
        listed, pointers = (
            _index(group, part, spec, name, memory) for part in ("indices_0", "pointers_to_1")
        )
        lines = ListedPointers(listed, pointers, spec.stored, name)
    else:
        lines = Coordinates(_index(group, "indices_0", spec, name, memory), spec.stored, name)
    if spec.structure is not None:
        why = f"only a triangle of it is stored ({spec.structure})"
        _check_room(name, why, (2 * spec.stored, sum(spec.shape)), data, memory)
    try:
        matrix = assemble(name, order, spec.shape, (data, indices, lines), memory)
    except Unsorted as found:
        part = lines.parts[0].name.rpartition("/")[2]
        why = f"its coordinates are not sorted ({part}[{found.args[0]}] is less than the one before"
        _check_room(name, f"{why})", (spec.stored, sum(spec.shape)), data, memory)
        return _load(_scatter(name, spec, order, data, indices, lines.parts[0]), spec, name)
    if spec.structure is None:
        return matrix
    rows, columns = (slice(0, extent) for extent in spec.shape)
    return _load(matrix.read(rows, columns, Buffers()), spec, name)


def _descriptor(group: Any, name: str) -> Descriptor:
    document: Any = group.attrs["binsparse"]
    try:
        if isinstance(document, (str, bytes)):
            document = json.loads(document)
        document = document.get("binsparse", document)
        version, types = str(document["version"]), dict(document["data_types"])
        shape = tuple(int(extent) for extent in document["shape"])
        stored = int(document["number_of_stored_values"])
        base = int(document.get("index_base", 0))
        structure, filled = document.get("structure"), bool(document.get("fill", False))
        format_ = _format(document)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        msg = (
            f"{name}: expected a binsparse descriptor with version, format, shape, "
            f"number_of_stored_values and data_types, got another one ({error!r})"
        )
        raise SourceError(msg) from error
    if version.split(".")[:2] != ["0", "1"]:
        msg = f"{name}: expected binsparse of version 0.1, got version {version}; write it with 0.1"
        raise SourceError(msg)
    if format_ not in FORMATS:
        known = ", ".join(FORMATS)
        msg = f"{name}: expected a binsparse matrix of format {known}, got {format_}; convert it"
        raise SourceError(msg)
    if base not in (0, 1):
        msg = f"{name}: expected an index_base of 0 or 1, got {base}"
        raise SourceError(msg)
    triangles = {f"{kind}_{part}" for kind in MIRRORED for part in ("lower", "upper")}
    if structure is not None and structure not in triangles:
        msg = f"{name}: expected a structure such as symmetric_lower, got {structure!r}"
        raise SourceError(msg)
    return Descriptor(format_, check_shape(shape, name), stored, types, base, structure, filled)


def _format(document: dict[str, Any]) -> str:
    """Return the name of the format; a custom one may be one of these, spelled out."""
    named = str(document["format"])
    if "custom" not in document:
        return named
    levels, level = [], document["custom"]["level"]
    while level["level_desc"] != "element":
        levels.append((level["level_desc"], int(level["rank"])))
        level = level["level"]
    transpose = list(document["custom"].get("transpose", [0, 1]))
    both = CUSTOM.get(tuple(levels))
    return "custom" if both is None else both[transpose == [1, 0]]


def _index(group: Any, part: str, spec: Descriptor, name: str, memory: int) -> Vector:
    minor = spec.shape[FORMATS[spec.format][0] == "csr"]
    sure = spec.stored == 0 or (part == "indices_1" and minor == 1)
    vector = stored_vector(group, part, name, memory, sure=sure)
    checked = as_declared(vector, spec.types, part, None, name)
    return OneBased(checked) if spec.base else checked


def _check_fill(group: Any, spec: Descriptor, name: str, memory: int) -> None:
    fill_value = stored_vector(group, "fill_value", name, memory, sure=True)
    fill = as_declared(fill_value, spec.types, "fill_value", 1, name)
    value = fill.read(0, 1, Buffers(), "fill")[0]
    if value != 0:
        msg = (
            f"{name}: expected a fill_value of 0, got {value}: this matrix is dense; store it as "
            "dense"
        )
        raise DataError(msg)


def _check_room(name: str, why: str, counts: tuple[int, int], data: Vector, memory: int) -> None:
    entries, extents = counts
    # Entries as they are stored, and as CSR or CSC, with its pointers.
    needed = 2 * entries * (data.dtype.itemsize + 16) + 8 * extents
    if needed > memory:
        msg = (
            f"{name}: {why}, so it must be loaded: expected at most {format_bytes(memory)}, got "
            f"{format_bytes(needed)}; write it as CSR with 'bigspec convert'"
        )
        raise SourceError(msg)


def _scatter(
    name: str, spec: Descriptor, order: str, data: Vector, indices: Vector, listed: Vector
) -> Any:
    """Load unsorted coordinates."""
    buffers, places = Buffers(), []
    for axis, vector in enumerate((listed, indices)):
        length = spec.shape[axis if order == "csr" else 1 - axis]
        part = vector.name.rpartition("/")[2]
        numbers = vector.read(0, spec.stored, buffers, f"sparse.{axis}").astype(np.int64)
        if numbers.min() < 0 or numbers.max() >= length:
            bad = int(np.argmax((numbers < 0) | (numbers >= length)))
            msg = (
                f"{name}: expected indices from 0 to {length - 1}, got {part}[{bad}] = "
                f"{numbers[bad]}; write the matrix again"
            )
            raise DataError(msg)
        places.append(numbers)
    values = data.read(0, spec.stored, buffers, "sparse.data")
    if order == "csc":
        places.reverse()
    A = sp.coo_array((values, (places[0], places[1])), shape=spec.shape)
    return A.tocsr() if order == "csr" else A.tocsc()


def _load(A: Any, spec: Descriptor, name: str) -> Matrix:
    """Load a matrix, and fill in its other triangle."""
    if spec.structure is None:
        return replace(open_sparse(A), name=name)
    kind, _, part = spec.structure.rpartition("_")
    other = sp.triu(A, 1) if part == "lower" else sp.tril(A, -1)
    if spec.shape[0] != spec.shape[1] or other.nnz:
        msg = (
            f"{name}: expected a square matrix with entries in the {part} triangle alone "
            f"({spec.structure}), got shape {spec.shape} and {other.nnz} others; write it again"
        )
        raise DataError(msg)
    strict = sp.tril(A, -1) if part == "lower" else sp.triu(A, 1)
    mirrored = {
        "symmetric": lambda: strict.T,
        "hermitian": lambda: strict.conj().T,
        "skew_symmetric": lambda: -strict.T,
    }[kind]()
    whole: Any = (A + mirrored).asformat(A.format)
    return replace(open_sparse(whole), name=name)
