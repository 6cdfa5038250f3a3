"""What an HDF5 dataset needs besides its file: sources of virtual datasets, raw files, filters.

HDF5 silently reads fill values if a source or the end of a raw file is missing. So every process
checks all of them when it opens a dataset, and again after every read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bigspec.errors import BigspecError, ChunkError, MissingSourceError, SourceError

if TYPE_CHECKING:
    import h5py

__all__ = [
    "SIGNATURE",
    "Parts",
    "check_filters",
    "final_failures",
    "has_filter",
    "parts_at",
    "parts_of",
    "readable",
]

SIGNATURE = b"\x89HDF\r\n\x1a\n"
FILTERS = {
    307: "bzip2", 32000: "lzf", 32001: "blosc", 32004: "lz4", 32008: "bitshuffle", 32013: "zfp",
    32015: "zstd", 32017: "sz", 32018: "fcidecomp", 32024: "sz3", 32026: "blosc2", 32028: "sperr",
}  # fmt: skip
"""Registered filters (https://github.com/HDFGroup/hdf5_plugins) that hdf5plugin or h5py has."""
NUMBERED = re.compile(r"%\d*b")
"""Pattern of source names that HDF5 numbers itself, from 0 on."""


@dataclass(frozen=True)
class Parts:
    """Other files with entries of a dataset, as they were when it was opened.

    Attributes
    ----------
    files : tuple
        Path, size in bytes and time of modification of each.
    """

    files: tuple[tuple[str, int, int], ...] = ()

    @property
    def evidence(self) -> str:
        """Their part of the token of a dataset; empty if there are none."""
        return repr(self.files) if self.files else ""

    def check_still(self, name: str) -> None:
        """Refuse a read during which one of them went away or became shorter.

        Raises
        ------
        MissingSourceError, ChunkError
        """
        for path, size, _ in self.files:
            try:
                now = os.stat(path).st_size  # noqa: PTH116 - once for each read: no Path
            except OSError as error:
                msg = (
                    f"{name}: {path}, which holds some entries, went away while it was read; it "
                    "must stay while the run lasts"
                )
                raise MissingSourceError(msg) from error
            if now < size:
                msg = (
                    f"{name}: {path}, which holds some entries, became shorter while it was read; "
                    "run again when nothing writes to it"
                )
                raise ChunkError(msg)


def parts_at(path: str, inside: str, name: str) -> Parts:
    """Return the parts of a dataset by its place; a file that is not HDF5 has none.

    Raises
    ------
    MissingSourceError, SourceError, ChunkError
        See `parts_of`.
    """
    with Path(path).open("rb") as begin:
        if begin.read(len(SIGNATURE)) != SIGNATURE:
            return Parts()
    import h5py

    with h5py.File(path, "r") as file:
        return parts_of(file[inside], name)


def parts_of(dataset: h5py.Dataset, name: str) -> Parts:
    """Check that everything the entries of a dataset need is there.

    Raises
    ------
    MissingSourceError
        A source of a virtual dataset, or a raw file, is not there.
    ChunkError
        A file is too short, or a filter is missing.
    SourceError
        A virtual dataset is its own source.
    """
    found: dict[str, tuple[str, int, int]] = {}
    _collect(dataset, name, (), found)
    return Parts(tuple(found[path] for path in sorted(found)))


@contextmanager
def final_failures(name: str, place: str) -> Iterator[None]:
    """Separate damaged data from a disk that does not answer.

    h5py raises a bare OSError for both, but only the latter has an errno.

    Raises
    ------
    ChunkError
    """
    try:
        yield
    except BigspecError:
        raise
    except OSError as error:
        number = re.search(r"errno = (\d+)", str(error))
        if error.errno or (number is not None and int(number[1])):
            raise
        msg = (
            f"{name}: entries of {place} are damaged and cannot be decoded ({error}). Write them "
            "again from where the matrix came from"
        )
        raise ChunkError(msg) from error


@contextmanager
def readable(name: str, place: str) -> Iterator[None]:
    """Turn any error of h5py over a damaged file into an error with a message.

    Raises
    ------
    ChunkError, SourceError
        The error of a disk that does not answer stays as it is.
    """
    try:
        with final_failures(name, place):
            yield
    except (BigspecError, OSError, MemoryError):
        raise
    except Exception as error:
        msg = f"{name}: h5py cannot read what lies there ({type(error).__name__}: {error})"
        raise SourceError(msg) from error


Found = dict[str, tuple[str, int, int]]


def _collect(dataset: h5py.Dataset, name: str, above: tuple[Any, ...], found: Found) -> None:
    key = (dataset.file.filename, dataset.name)
    if key in above:
        msg = f"{name}: expected a virtual dataset with sources, got {key[1]}, its own source"
        raise SourceError(msg)
    check_filters(dataset, name)
    _check_external(dataset, name, found)
    if dataset.is_virtual:
        for source in dataset.virtual_sources():
            for file_name, inside in _numbered(source, dataset, name):
                _check_source(dataset, (file_name, inside, source.src_space), name, above, found)


def _note(path: Path, found: Found) -> int:
    status = path.stat()
    found[str(path)] = (str(path), status.st_size, status.st_mtime_ns)
    return status.st_size


def check_filters(dataset: h5py.Dataset, name: str) -> None:
    """Refuse a dataset with a filter that this process does not have.

    Raises
    ------
    ChunkError
        Names the filter.
    """
    plist = dataset.id.get_create_plist()
    for number in range(plist.get_nfilters()):
        code, _, _, label = plist.get_filter(number)
        if has_filter(code):
            continue
        said = label.decode("latin1").split(";")[0].strip()
        known = FILTERS.get(code, said or "a filter without a name")
        msg = (
            f"{name}: its entries are encoded with {known} (HDF5 filter {code}), which this "
            "process does not have; pip install hdf5plugin, on every worker"
        )
        raise ChunkError(msg)


def has_filter(code: int) -> bool:
    """Whether HDF5 in this process has a filter, or hdf5plugin has it."""
    import h5py

    available = h5py.h5z.filter_avail
    return bool(available(code) or (_plugins() and available(code)))


def _plugins() -> bool:
    """Let hdf5plugin, if it is installed, register its filters."""
    try:
        import hdf5plugin  # noqa: F401
    except ImportError:
        return False
    return True


def _check_external(dataset: h5py.Dataset, name: str, found: Found) -> None:
    left = dataset.size * dataset.dtype.itemsize if dataset.shape is not None else 0
    for file_name, offset, size in dataset.external or ():
        prefix = os.environ.get("HDF5_EXTFILE_PREFIX", "")
        origin = os.path.dirname(os.path.abspath(dataset.file.filename))  # noqa: PTH100, PTH120
        path = Path(prefix.replace("${ORIGIN}", origin), file_name).absolute()
        taken = min(left, size)
        left -= taken
        if not path.is_file():
            msg = (
                f"{name}: {path}, the raw file that holds entries of {dataset.name}, is not there; "
                "put it back, or run where the path in the file leads to it"
            )
            raise MissingSourceError(msg)
        there = _note(path, found)
        if there < offset + taken:
            msg = (
                f"{name}: expected {offset + taken} bytes in {path}, the raw file that holds "
                f"entries of {dataset.name}, got {there}; HDF5 would read fill values for the rest"
            )
            raise ChunkError(msg)
    if left and dataset.external:
        msg = (
            f"{name}: the raw files of {dataset.name} have no room for its last {left} bytes; HDF5 "
            "would read fill values for these"
        )
        raise ChunkError(msg)


def _check_source(
    dataset: h5py.Dataset, source: tuple[str, str, Any], name: str, above: Any, found: Found
) -> None:
    """Find one source as HDF5 does, and check that it has the entries of the dataset."""
    file_name, inside, space = source
    path = Path(dataset.file.filename).absolute()
    opened = dataset.file if file_name == "." else None
    if opened is None:
        path, opened = _opened(file_name, path)
    try:
        held = None if opened is None else _dataset(opened, inside)
        if held is None:
            missing = f"{inside} in {path}" if opened is not None else file_name
            msg = (
                f"{name}: {missing}, a source of the virtual dataset {dataset.name}, is not there; "
                "HDF5 would read fill values in its place. Put it back, or make the virtual "
                "dataset again"
            )
            raise MissingSourceError(msg)
        _check_extent(held, space, dataset, name)
        for each in {str(path), str(Path(held.file.filename).absolute())}:
            if each != str(Path(dataset.file.filename).absolute()):
                _note(Path(each), found)
        _collect(held, name, (*above, (dataset.file.filename, dataset.name)), found)
    finally:
        if opened is not None and file_name != ".":
            opened.close()


def _dataset(file: h5py.File, inside: str) -> h5py.Dataset | None:
    import h5py

    try:
        node = file[inside]
    except (KeyError, OSError):  # a dangling link
        return None
    return node if isinstance(node, h5py.Dataset) else None


def _check_extent(held: h5py.Dataset, space: Any, dataset: h5py.Dataset, name: str) -> None:
    try:
        last = space.get_select_bounds()[1]
    except (RuntimeError, ValueError):  # it grows with its source
        return
    shape = held.shape or ()
    if len(last) != len(shape) or any(e >= extent for e, extent in zip(last, shape, strict=True)):
        wanted = tuple(int(e) + 1 for e in last)
        msg = (
            f"{name}: expected a source of at least shape {wanted} for the virtual dataset "
            f"{dataset.name}, got {held.name} {shape} in {held.file.filename}; HDF5 would read "
            "fill values for the rest"
        )
        raise ChunkError(msg)


def _opened(file_name: str, main: Path) -> tuple[Path, h5py.File | None]:
    """Return the file that HDF5 uses as a source (H5F_prefix_open_file): the first that opens."""
    import h5py

    for path in _candidates(file_name, main):
        if path.is_file():
            try:
                return path, h5py.File(path, "r")
            except OSError:
                continue
    return main.parent / file_name, None


def _candidates(file_name: str, main: Path) -> Iterator[Path]:
    if Path(file_name).is_absolute():
        yield Path(file_name)
        file_name = Path(file_name).name
    for prefix in filter(None, os.environ.get("HDF5_VDS_PREFIX", "").split(":")):
        yield Path(prefix.replace("${ORIGIN}", str(main.parent)), file_name).absolute()
    yield main.parent / file_name
    yield Path(file_name).absolute()
    yield main.resolve().parent / file_name


def _numbered(source: Any, dataset: h5py.Dataset, name: str) -> list[tuple[str, str]]:
    """Return the file and the dataset of a source, or of each one of a numbered series."""
    pair = (source.file_name, source.dset_name)
    if not any(NUMBERED.search(part) for part in pair):
        return [(pair[0].replace("%%", "%"), pair[1].replace("%%", "%"))]
    main = Path(dataset.file.filename).absolute()
    found: list[tuple[str, str]] = []
    while True:
        here = [NUMBERED.sub(str(len(found)), part).replace("%%", "%") for part in pair]
        path, opened = (main, dataset.file) if here[0] == "." else _opened(here[0], main)
        there = opened is not None and _dataset(opened, here[1]) is not None
        if opened is not None and here[0] != ".":
            opened.close()
        if not there:
            break
        found.append((here[0], here[1]))
    if found and not _goes_on(pair[0], path, len(found)):
        return found
    msg = (
        f"{name}: expected the sources {pair[0]} of the virtual dataset {dataset.name} to be "
        f"numbered from 0 on without a gap, got none of number {len(found)}; HDF5 would leave out "
        "what follows. Put it back"
    )
    raise MissingSourceError(msg)


def _goes_on(pattern: str, path: Path, number: int) -> bool:
    """Whether files of the series follow the first missing number."""
    parts = NUMBERED.split(Path(pattern).name)
    if len(parts) != 2 or not path.parent.is_dir():
        return False
    begin, end = parts
    series = re.compile(re.escape(begin) + r"(\d+)" + re.escape(end))
    numbers = (series.fullmatch(entry.name) for entry in path.parent.iterdir())
    return any(int(found[1]) >= number for found in numbers if found)
