"""Every error that bigspec raises on purpose, each with a builtin base and an exit status.

A message says which argument or place, what was expected, what it got, and what to do.
Errors cross process boundaries (a worker raises, the caller reports), so each carries
one message string and nothing that does not pickle.
"""

from __future__ import annotations

from bigspec.names import shown

__all__ = [
    "AdjointError",
    "ArgumentError",
    "BigspecError",
    "CheckpointError",
    "CheckpointInUseError",
    "ChunkError",
    "ClusterError",
    "DataError",
    "DestinationError",
    "HistoryError",
    "MatrixChangedError",
    "MemoryLimitError",
    "MissingSourceError",
    "NonFiniteError",
    "ResumeError",
    "SourceError",
    "StoreUnavailableError",
    "UnsupportedTypeError",
]


class BigspecError(Exception):
    """Base of all bigspec errors.

    Attributes
    ----------
    exit_status : int
        Exit status of the command (from sysexits.h where one fits).
    saved : str or None
        The checkpoint in which everything up to the error was saved.
    """

    exit_status = 1
    saved: str | None = None

    def __init__(self, *args: object) -> None:
        # Messages quote names, and the errors of client libraries, which quote URLs.
        super().__init__(*(shown(arg) if isinstance(arg, str) else arg for arg in args))


class ArgumentError(BigspecError, ValueError):
    """An argument or option is out of range or contradicts another one."""

    exit_status = 2


class MemoryLimitError(BigspecError, MemoryError):
    """The run does not fit the memory limit; raised before the first byte is read."""

    exit_status = 2


class ResumeError(ArgumentError):
    """The checkpoint belongs to another run; the message says what differs."""


class DataError(BigspecError, ValueError):
    """The matrix was opened, but its shape or its entries have no spectral norm."""

    exit_status = 65


class UnsupportedTypeError(DataError, TypeError):
    """The elements (or the object itself) are of a kind that is not a numeric matrix."""


class NonFiniteError(DataError, ArithmeticError):
    """The matrix holds a NaN or an infinity; the message names the place of the first one."""


class AdjointError(DataError):
    """A LinearOperator whose ``rmatvec`` is not the adjoint of its ``matvec``."""


class MatrixChangedError(DataError):
    """The entries of a panel have changed since the first pass of the run."""


class ChunkError(BigspecError, OSError):
    """A chunk is damaged, or missing where it must not be."""

    exit_status = 65


class SourceError(BigspecError, OSError):
    """The source cannot be opened as a matrix."""

    exit_status = 66


class MissingSourceError(SourceError, FileNotFoundError):
    """Nothing lies at the path or URL."""


class StoreUnavailableError(SourceError, TimeoutError):
    """The store timed out or refused the read, even after retries."""

    exit_status = 75  # it may pass by itself, at the start as in mid-run


class DestinationError(BigspecError, OSError):
    """A conversion cannot write its output: the disk is full, or there is no permission."""

    exit_status = 74


class ClusterError(BigspecError, ConnectionError):
    """The Dask cluster does not answer or was lost."""

    exit_status = 69


class CheckpointError(BigspecError, OSError):
    """A checkpoint is there but cannot be used: damaged, or of a newer version of bigspec."""

    exit_status = 65


class CheckpointInUseError(BigspecError, BlockingIOError):
    """Another process uses this checkpoint, or writes to this place, or has taken it over."""

    exit_status = 75


class HistoryError(BigspecError, OSError):
    """A history cannot be read or written; no answer is lost with it."""

    exit_status = 74


def format_bytes(count: float) -> str:
    """Write a number of bytes for people, in binary units."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(count) < (1023.5 if unit == "B" else 1023.95) or unit == "TiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError


def needs(what: str, extra: str, *packages: str) -> str:
    """Say what to install, however bigspec itself was installed: by these packages' own names.

    Parameters
    ----------
    what : str
        What needs the packages.
    extra : str
        The extra of bigspec that installs them.
    *packages : str
        Their names in the package index.
    """
    names = " and ".join(packages)
    return (
        f"{what} needs {names}: pip install {' '.join(packages)} "
        f"(or install bigspec, as you did, with its extra [{extra}])"
    )
