"""Files that are loaded or mapped: .npy, SciPy's .npz, Matrix Market."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import scipy.sparse as sp

from bigspec.errors import BigspecError, DataError, MemoryLimitError, SourceError, format_bytes
from bigspec.matrices import Matrix
from bigspec.sources.archives import UNREADABLE, loading_nbytes, stored_shape
from bigspec.sources.checks import check_vectors
from bigspec.sources.matrix_market import BLOCK_BYTES, Entries, Market, expand, open_market
from bigspec.sources.memory import open_numpy, open_sparse

__all__ = ["check_room", "is_file_format", "is_market", "open_file", "tenx_file"]

FILES = (".npy", ".npz", ".mtx", ".mtx.gz")


def is_file_format(path: Path) -> bool:
    """Whether a file has a format of this module, by its name in any case of letters."""
    return path.name.lower().endswith(FILES)


def is_market(path: Path) -> bool:
    """Whether a file is Matrix Market, by its name in any case of letters."""
    return path.name.lower().endswith((".mtx", ".mtx.gz"))


def tenx_file(text: str) -> tuple[Path, str] | None:
    """Return the matrix file of a folder that Cell Ranger wrote, version 2 or 3; else None.

    Its rows are genes, its columns are cells, as in 10x's HDF5 files.
    """
    if "://" in text or "::" in text:
        return None
    folder = Path(os.path.abspath(Path(text).expanduser()))  # noqa: PTH100
    for ending in ("", ".gz"):
        matrix, cells = folder / f"matrix.mtx{ending}", folder / f"barcodes.tsv{ending}"
        if matrix.is_file() and cells.is_file():
            return matrix, ""
    return None


def open_file(path: Path, name: str, memory: int, vectors: int | None = None) -> Matrix:
    """Map an .npy file; load a sparse .npz or a Matrix Market file into memory.

    Nothing is unpickled. Symmetric, skew and Hermitian Matrix Market files are expanded, patterns
    become ones.

    Parameters
    ----------
    path : Path
    name : str
        Its name in messages.
    memory : int
        Bytes that loading may take.

    Raises
    ------
    SourceError
        The file cannot be read in the format of its name.
    DataError, UnsupportedTypeError
        It is not a numeric matrix.
    MemoryLimitError
        Its header states more than fits; nothing was loaded.
    """
    try:
        if path.suffix.lower() == ".npy":
            a: Any = np.load(path, mmap_mode="r", allow_pickle=False)
        elif path.suffix.lower() == ".npz":
            check_vectors(stored_shape(path), vectors, name)
            check_room(loading_nbytes(path, name), memory, name)
            a = sp.load_npz(path)
        else:
            market = open_market(path, name)
            check_vectors(market.header.shape, vectors, name)
            check_room(market.header.loading_nbytes, memory, name, market.header.coordinate)
            market.header.check_length(path, name)
            a = _load(market)
        if hasattr(a, "check_format"):
            a.check_format(full_check=True)  # else SciPy's products would read out of bounds
    except BigspecError:
        raise
    except (ValueError, OSError, EOFError, KeyError, TypeError, BadZipFile, *UNREADABLE) as error:
        msg = (
            f"{name}: cannot be read as {_kind(path)} ({type(error).__name__}: {error}); write it "
            "again"
        )
        raise SourceError(msg) from error
    except OverflowError as error:
        msg = f"{name}: expected numbers that fit 64 bits, got others ({error})"
        raise DataError(msg) from error
    opened: Matrix = open_sparse(a, memory // 2) if sp.issparse(a) else open_numpy(np.asanyarray(a))
    return replace(opened, name=name)


def check_room(needed: int, memory: int, name: str, sparse: bool = True) -> None:
    """Refuse to load a matrix that does not fit."""
    if needed > memory:
        advice = (
            f"Convert it once, in bounded memory, and take the result: bigspec convert {name} "
            "A.zarr"
            if sparse
            else "Write it as a chunked Zarr array, or as .npy, which is mapped"
        )
        msg = (
            f"memory_limit: expected at least {format_bytes(needed)} for loading {name}, got "
            f"{format_bytes(memory)}. {advice}"
        )
        raise MemoryLimitError(msg)


def _load(market: Market) -> Any:
    """Read all entries, into a dense array or one in coordinates, with both triangles."""
    head = market.header
    if not head.coordinate:
        A = np.zeros(head.shape, head.dtype)
        for part in market.blocks(BLOCK_BYTES, []):
            rows, columns, values = expand(part, head.symmetry)
            A[rows, columns] = values
        return A
    index = np.int32 if max(head.shape) <= np.iinfo(np.int32).max else np.int64
    # The file is long enough for so many.
    rows, columns = (np.empty(head.announced, index) for _ in range(2))
    values, done = np.empty(head.announced, head.dtype), 0
    for part in market.blocks(BLOCK_BYTES, []):
        cut = slice(done, done + part.values.size)
        rows[cut], columns[cut], values[cut] = part.rows, part.columns, part.values
        done = cut.stop
    whole = Entries(rows, columns, values, [], 0)
    rows, columns, values = expand(whole, head.symmetry)
    return sp.coo_array((values, (rows, columns)), shape=head.shape)


def _kind(path: Path) -> str:
    return {".npy": "a NumPy array", ".npz": "a SciPy sparse matrix"}.get(
        path.suffix.lower(), "a Matrix Market file"
    )
