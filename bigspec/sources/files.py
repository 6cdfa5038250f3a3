"""Files that are read whole, or mapped: .npy, SciPy's .npz, Matrix Market."""

from __future__ import annotations

import gzip
import io
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import scipy.io
import scipy.sparse as sp

from bigspec.errors import DataError, SourceError
from bigspec.matrices import Matrix
from bigspec.sources.memory import open_numpy, open_sparse

__all__ = ["FILES", "loading_nbytes", "open_file"]

FILES = (".npy", ".npz", ".mtx", ".mtx.gz")


def open_file(path: Path, name: str) -> Matrix:
    """Map an .npy file; load a sparse .npz or a Matrix Market file into memory.

    Nothing is unpickled. Symmetric, skew and Hermitian Matrix Market files are expanded, patterns
    become ones.

    Raises
    ------
    SourceError
        The file cannot be read as what its name says.
    DataError, UnsupportedTypeError
        It was read, and is no numeric matrix.
    """
    try:
        if path.suffix == ".npy":
            a: Any = np.load(path, mmap_mode="r", allow_pickle=False)
        elif path.suffix == ".npz":
            a = sp.load_npz(path)
        else:
            a = _read_market(path)
        if hasattr(a, "check_format"):
            a.check_format(full_check=True)  # SciPy's products would read outside
    except (ValueError, OSError, EOFError, KeyError, TypeError, BadZipFile) as error:
        msg = f"{name}: cannot be read as {_kind(path)} ({type(error).__name__}: {error})"
        raise SourceError(msg) from error
    except OverflowError as error:
        msg = f"{name}: expected numbers that fit 64 bits, got others ({error})"
        raise DataError(msg) from error
    opened: Matrix = open_sparse(a) if sp.issparse(a) else open_numpy(np.asanyarray(a))
    return replace(opened, name=name)


def loading_nbytes(path: Path) -> int | None:
    """Return what loading a Matrix Market file holds for a moment, by its header.

    Triplets, and the compressed rows that are made of them. None if the header says nothing.
    """
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        words = file.readline(1 << 12).decode("latin-1").lower().split()
        while (line := file.readline(1 << 16)) and (not line.strip() or line.startswith(b"%")):
            pass
    sizes = line.split()
    if words[2:3] != ["coordinate"] or len(sizes) != 3 or not all(s.isdigit() for s in sizes):
        return None
    m, n, count = map(int, sizes)
    index = 4 if max(m, n) <= np.iinfo(np.int32).max else 8
    value = 16 if "complex" in words else 8
    stored = count if "general" in words else 2 * count
    return stored * (2 * value + 3 * index) + (m + 1) * index


def _read_market(path: Path) -> Any:
    """Read it with SciPy, which since 1.12 is fast_matrix_market.

    NUL bytes, and text behind the last value without a line end, end the process there (scipy
    issue 19949): the former are refused, a last line end is added.
    """
    last = b""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        while part := file.read(1 << 20):
            last = part[-1:]
            if b"\0" in part:
                msg = "it holds NUL bytes"
                raise ValueError(msg)
        if last == b"\n":
            return scipy.io.mmread(path)
        file.seek(0)
        return scipy.io.mmread(io.BytesIO(file.read() + b"\n"))


def _kind(path: Path) -> str:
    return {".npy": "a NumPy array", ".npz": "a SciPy sparse matrix"}.get(
        path.suffix, "a Matrix Market file"
    )
