"""Objects of other packages: the matrix inside them, or advice about what to pass.

Other packages are never imported: an object is recognised by the package of its class.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bigspec.errors import SourceError, UnsupportedTypeError
from bigspec.matrices import Matrix
from bigspec.sources.hdf5 import open_hdf5
from bigspec.sources.variable import Wanted

__all__ = ["inner", "is_hdf5_object", "open_hdf5_object"]


def package(a: Any) -> str:
    """Return the name of the package of an object's class."""
    return type(a).__module__.partition(".")[0]


def inner(a: Any) -> Any:
    """Return the matrix of an AnnData object or of one of its sparse data sets; else `a` itself.

    Raises
    ------
    UnsupportedTypeError
        It has no matrix, or is a view of one in a file.
    """
    if package(a) != "anndata":
        return a
    if hasattr(a, "group") and hasattr(a, "format"):  # CSRDataset, CSCDataset: AnnData's own
        return a.group
    if not hasattr(a, "X") or not hasattr(a, "isbacked"):
        return a
    if a.isbacked and a.is_view:
        msg = (
            "AnnData: expected the whole of a backed object, got a view of it, which would be "
            "loaded; pass view.to_memory(), or a part of the file: "
            "bigspec.open_matrix(path)[:1000]"
        )
        raise UnsupportedTypeError(msg)
    if a.X is None:
        layers = ", ".join(map(str, a.layers)) or "none"
        msg = (
            f"AnnData: expected a matrix X, got None; pass one of its layers, adata.layers[...] "
            f"({layers})"
        )
        raise UnsupportedTypeError(msg)
    return inner(a.X)


def is_hdf5_object(a: Any) -> bool:
    """Whether it is a data set, a group or a file of h5py's."""
    return package(a) == "h5py" and type(a).__name__ in ("Dataset", "File", "Group")


def open_hdf5_object(a: Any, wanted: Wanted) -> Matrix | tuple[Any, str]:
    """Open the file of an h5py object again, because each process needs its own handle.

    Raises
    ------
    SourceError
        The file is closed, open for writing, or not on a disk.
    """
    if not a:
        msg = "h5py: expected an open data set or group, got a closed one; pass path::name"
        raise SourceError(msg)
    path, place = Path(a.file.filename), str(a.name)
    name = f"h5py {path}::{place}"
    if a.file.driver in ("core", "fileobj") or not path.is_file():
        msg = (
            f"{name}: expected a file on a disk, which every process opens for itself, got one in "
            f"memory (driver {a.file.driver}); write it, or pass data_set[...] if it fits"
        )
        raise SourceError(msg)
    if a.file.mode != "r":
        msg = (
            f"{name}: expected a file that is open for reading, got mode {a.file.mode!r}; close it "
            f"and pass the path, {path.name}::{place}"
        )
        raise SourceError(msg)
    return open_hdf5(path.absolute(), place.strip("/"), name, wanted)
