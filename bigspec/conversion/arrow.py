"""Parquet files, Arrow files and Arrow streams as triplets, read by row groups."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from bigspec.conversion.arrow_columns import LARGEST, Column, indices_of, values_of, values_type
from bigspec.conversion.entries import Batch, EntryStream, Position
from bigspec.conversion.identity import digest
from bigspec.conversion.ids import Extent, Ids, Numbers, found_ids
from bigspec.errors import ArgumentError, DataError, SourceError, needs
from bigspec.names import shown
from bigspec.sources.checks import check_dtype, check_shape
from bigspec.sources.locations import open_failure
from bigspec.sources.storage_options import Options, options_for

__all__ = ["ArrowStream", "is_arrow_object", "is_arrow_path", "open_arrow"]

Array = np.ndarray[Any, Any]

SUFFIXES = {".parquet": "parquet", ".pq": "parquet", ".arrow": "ipc", ".feather": "feather",
            ".ipc": "ipc"}  # fmt: skip
LOOK = 10_000
"""How many names of a folder are looked at before it counts as one without tables."""
SCAN = 1 << 17
"""Rows to read at once in search of the extents or the distinct ids."""


def is_arrow_path(text: str) -> bool:
    """Whether a name, or the names in a local folder, mean Parquet or Arrow files."""
    return _format(text) is not None


def is_arrow_object(a: Any) -> bool:
    """Whether an object gives an Arrow stream, like tables of PyArrow, Polars, DuckDB, pandas."""
    return hasattr(a, "__arrow_c_stream__")


def _format(text: str) -> str | None:
    plain, folder = text.rstrip("/"), Path(text)
    if (folder / ".zmetadata").is_file():  # kerchunk's references, which may be called .parquet
        return None
    if (kind := SUFFIXES.get(Path(plain).suffix.lower())) is not None:
        return kind
    if "://" in text or not folder.is_dir():
        return None
    seen = {path.name for path in islice(folder.iterdir(), LOOK)}
    if seen & {"zarr.json", ".zgroup", ".zarray"}:
        return None
    suffixes = (Path(path).suffix.lower() for path in islice(folder.rglob("*"), LOOK))
    return next((SUFFIXES[suffix] for suffix in suffixes if suffix in SUFFIXES), None)


@dataclass(frozen=True)
class Unit:
    """The unit of reading: a row group, a file of another format, or a whole stream.

    Attributes
    ----------
    place : str
        Its name in messages.
    rows : int
    read : callable
        Takes names of columns and a number of rows; yields record batches of at most that many.
    statistics : dict
        Least and largest values of columns, if the file has them.
    """

    place: str
    rows: int
    read: Any = field(repr=False)
    statistics: dict[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class ArrowStream(EntryStream):
    """Three columns of a table, or two if every value is 1, with indices for the ids.

    Attributes
    ----------
    units : tuple of Unit
    columns : tuple of Column
        Row, column and, if there is one, value.
    ids : tuple of Ids
        Of rows and columns.
    """

    units: tuple[Unit, ...] = field(repr=False, kw_only=True)
    columns: tuple[Column, ...] = field(kw_only=True)
    ids: tuple[Ids, Ids] = field(repr=False, kw_only=True)

    def batches(self, entries: int, position: Position) -> Iterator[Batch]:
        """Read record batches; a position is a unit and the number of its rows that are done."""
        begin, skip = position or (0, 0)
        names = [column.name for column in self.columns]
        for number, unit in enumerate(self.units[begin:], start=begin):
            done, skipped = 0, skip if number == begin else 0
            for batch in unit.read(names, entries):
                first, done = done, done + batch.num_rows
                if done <= skipped:
                    continue
                yield self._batch(batch.slice(max(skipped - first, 0)), unit, number, done)
            if done != unit.rows:
                msg = (
                    f"{self.name}: expected {unit.rows} rows in {unit.place}, as when it was "
                    f"opened, got {done}. It changed, or can be read only once: pass a table"
                )
                raise DataError(msg)

    def _batch(self, batch: Any, unit: Unit, number: int, done: int) -> Batch:
        first = done - batch.num_rows
        rows, columns = (
            ids.numbered(indices_of(batch.column(axis), self.columns[axis], unit.place, first))
            for axis, ids in enumerate(self.ids)
        )
        if len(self.columns) < 3:
            values = np.ones(batch.num_rows, self.dtype)
        else:
            values = values_of(batch.column(2), self.columns[2], unit.place, first)
        for axis, indices in enumerate((rows, columns)):
            self._inside(indices, axis, unit.place, first)
        return Batch(rows, columns, values, [number, done], batch.nbytes)

    def _inside(self, indices: Array, axis: int, place: str, first: int) -> None:
        """Refuse ids beyond the shape."""
        if not indices.size or indices.max() < self.shape[axis]:
            return
        row = int(np.argmax(indices >= self.shape[axis]))
        column = self.columns[axis]
        msg = (
            f"{place}: expected ids below {self.shape[axis]} in {column.name!r} "
            f"({column.role}), got {indices[row]} in row {first + row} of it; give a larger shape"
        )
        raise DataError(msg)

    def keep(self, folder: Path) -> tuple[str, ...]:
        """Write the ids of numbered rows and columns, and return the names of the arrays."""
        names = ("row_ids", "column_ids")
        return tuple(
            name for name, ids in zip(names, self.ids, strict=True) if ids.keep(folder, name)
        )


def open_arrow(
    src: Any,
    columns: Any = None,
    *,
    shape: tuple[int, int] | None = None,
    renumber: bool = False,
    limit: int,
    storage: Options | None = None,
) -> ArrowStream:
    """Open Parquet or Arrow files, or an Arrow stream, as triplets.

    The two columns of ids are read once more, for their extents or distinct values.

    Parameters
    ----------
    src : path, URL or object with ``__arrow_c_stream__``
        A file, a folder of files, partitioned or not.
    columns : sequence of str or int, or str, optional
        Names or positions of row, column and value; without the third every value is 1. By
        default the columns of a table of three.
    shape : tuple of int, optional
        By default one more than the largest ids, or the numbers of distinct ids.
    renumber : bool
        Number whole-number ids too, by their place among the distinct ids.
    limit : int
        Bytes that the work may hold.
    storage : dict, optional
        Credentials and settings of a URL, by fsspec's names.

    Raises
    ------
    ArgumentError, SourceError, DataError, UnsupportedTypeError, MemoryLimitError
    """
    try:
        import pyarrow as pa  # noqa: F401
    except ImportError as error:
        msg = needs("a table of Parquet or Arrow", "arrow", "pyarrow")
        raise SourceError(msg) from error
    opened = _of_object(src) if is_arrow_object(src) else _of_files(src, storage)
    name, schema, units, identity = opened
    chosen = tuple(
        replace(one, signed=renumber and one.role != "values")
        for one in _chosen(schema, columns, name)
    )
    ids = tuple(
        _extent(units, column, name, None if shape is None else shape[axis], renumber, limit)
        for axis, column in enumerate(chosen[:2])
    )
    dtype = values_type(chosen[2]) if len(chosen) > 2 else np.dtype(np.float64)
    size = check_shape(tuple(one.extent for one in ids), name)
    kept = identity | {"columns": [column.name for column in chosen], "renumber": renumber}
    return ArrowStream(
        name,
        size,
        check_dtype(dtype, name),
        sum(unit.rows for unit in units),
        kept | {"shape": list(size)},
        units=tuple(units),
        columns=chosen,
        ids=ids,  # type: ignore[arg-type]
    )


def _extent(
    units: list[Unit], column: Column, name: str, given: int | None, renumber: bool, limit: int
) -> Ids:  # fmt: skip
    """Read all ids of one axis, and return how they become indices."""
    if renumber or column.text:
        batches = ((unit, batch) for unit in units for batch in unit.read([column.name], SCAN))
        parts = (indices_of(batch.column(0), column, unit.place, None) for unit, batch in batches)
        ids = found_ids(parts, name, column.name, limit // 4)
        if given is not None and given < ids.extent:
            msg = (
                f"shape: expected at least {ids.extent}, as many as there are distinct ids in "
                f"column {column.name!r} of {name}, got {given}"
            )
            raise ArgumentError(msg)
        return ids if given is None else Numbers(ids.values, given)
    if given is not None:
        return Extent(int(given))
    most = -1
    for unit in units:
        known = unit.statistics.get(column.name) or {}
        ends = known.get("min"), known.get("max")
        if all(isinstance(end, int) and 0 <= end <= LARGEST for end in ends):
            most = max(most, known["max"])  # an id beyond this statistic is refused when it is read
            continue
        for batch in unit.read([column.name], SCAN):
            indices = indices_of(batch.column(0), column, unit.place, None)
            most = max(most, int(indices.max(initial=-1)))
    if most < 0:
        msg = f"{name}: expected rows, got none; give shape= for an empty matrix"
        raise DataError(msg)
    return Extent(most + 1)


def _chosen(schema: Any, columns: Any, name: str) -> tuple[Column, ...]:
    """Return row, column and value."""
    there = list(schema.names)
    if columns is None:
        if len(there) != 3:
            msg = (
                f"columns: expected which columns of {name} are row, column and value, such as "
                f"--columns user,item,rating (columns=...); it has {', '.join(there)}"
            )
            raise ArgumentError(msg)
        columns = there
    wanted = columns.split(",") if isinstance(columns, str) else list(columns)
    if len(wanted) not in (2, 3):
        msg = f"columns: expected two or three of {', '.join(there)}, got {columns!r}"
        raise ArgumentError(msg)
    found = [_named(one, there, name) for one in wanted]
    if len(set(found)) < len(found):
        msg = f"columns: expected different columns of {name}, got {columns!r}"
        raise ArgumentError(msg)
    return tuple(Column.of(schema.field(one), axis, name) for axis, one in enumerate(found))


def _named(one: Any, there: list[str], name: str) -> str:
    text = one.strip() if isinstance(one, str) else one
    if isinstance(text, str) and text in there:
        if there.count(text) > 1:
            msg = f"columns: expected one column {text!r} in {name}, got {there.count(text)} of it"
            raise ArgumentError(msg)
        return text
    place = int(text) if isinstance(text, str) and text.isdecimal() else text
    if isinstance(place, (int, np.integer)) and 0 <= place < len(there):
        return _named(there[place], there, name)
    msg = (
        f"columns: expected names or positions (from 0) of {', '.join(there)} in {name}, "
        f"got {one!r}"
    )
    raise ArgumentError(msg)


def _of_object(src: Any) -> tuple[str, Any, list[Unit], dict[str, Any]]:
    """Open an object, which gives a new stream for each read."""
    import pyarrow as pa

    name = f"{type(src).__module__.partition('.')[0]} {type(src).__name__}"
    if isinstance(src, pa.RecordBatchReader):
        msg = (
            f"{name}: expected a table that can be read twice, got a stream, which ends; pass "
            "reader.read_all(), or write it as Parquet first"
        )
        raise ArgumentError(msg)

    def read(columns: list[str], rows: int) -> Iterator[Any]:
        stream = pa.RecordBatchReader.from_stream(src)
        for batch in stream:
            for start in range(0, batch.num_rows, rows):
                yield batch.slice(start, rows).select(columns)

    reader = pa.RecordBatchReader.from_stream(src)
    schema = reader.schema
    rows = sum(batch.num_rows for batch in reader)
    # A later call does not go on with this work: its object may have other rows or another order.
    identity = {"where": "memory", "token": uuid.uuid4().hex}
    return name, schema, [Unit("the stream", rows, read)], identity


def _of_files(src: Any, storage: Options | None) -> tuple[str, Any, list[Unit], dict[str, Any]]:
    """Open a file, a folder or a URL as a dataset of PyArrow's."""
    import fsspec
    import pyarrow as pa
    import pyarrow.dataset as ds

    where = os.fspath(src)
    name = shown(where)
    try:
        given = options_for(where, storage) if storage else {}
        system, path = fsspec.url_to_fs(where, **given)
        form = _format(where) or "parquet"
        dataset = ds.dataset(path, filesystem=system, format=form, partitioning="hive")
        files = [(file, system.info(file)) for file in dataset.files]
        units = [unit for fragment in dataset.get_fragments() for unit in _units(fragment, dataset)]
    except (pa.ArrowException, ValueError) as error:
        msg = f"{name}: cannot be read as Parquet or Arrow ({type(error).__name__}: {error})"
        raise SourceError(msg) from error
    except Exception as error:
        raise open_failure(error, name) from error
    if not files:
        msg = f"{name}: expected Parquet or Arrow files, got a folder without one"
        raise SourceError(msg)
    marks = ("size", "mtime", "ETag", "etag", "LastModified", "last_modified")
    told = [(file, *(str(info[mark]) for mark in marks if mark in info)) for file, info in files]
    identity = {"where": name, "token": digest(repr(told).encode())}
    return name, dataset.schema, units, identity


def _units(fragment: Any, dataset: Any) -> Iterator[Unit]:
    """Yield the row groups of a Parquet file, or another file as a whole."""
    if not hasattr(fragment, "split_by_row_group"):
        rows = fragment.count_rows()
        yield Unit(fragment.path, rows, _reader(fragment, dataset, fragment.path))
        return
    for group in fragment.split_by_row_group():
        (info,) = group.row_groups
        place = f"row group {info.id} of {fragment.path}"
        yield Unit(place, info.num_rows, _reader(group, dataset, place), info.statistics or {})


def _reader(fragment: Any, dataset: Any, place: str) -> Any:
    import pyarrow as pa

    def read(columns: list[str], rows: int) -> Iterator[Any]:
        try:
            yield from fragment.to_batches(
                columns=columns,
                schema=dataset.schema,
                batch_size=rows,
                batch_readahead=1,
                fragment_readahead=0,
                use_threads=False,  # for the order of the file
            )
        except pa.ArrowException as error:
            msg = f"{place}: cannot be read ({type(error).__name__}: {error}); write it again"
            raise SourceError(msg) from error
        except OSError as error:
            raise open_failure(error, place) from error

    return read
