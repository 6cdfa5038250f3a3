"""The fast path decodes what zarr decodes, bit for bit, and refuses what is damaged."""

from __future__ import annotations

import dataclasses
import itertools
import os
import tempfile
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr
from hypothesis import example, given, settings
from hypothesis import strategies as st
from zarr.codecs import (
    BloscCodec,
    BytesCodec,
    Crc32cCodec,
    GzipCodec,
    TransposeCodec,
    ZstdCodec,
)

from bigspec.errors import ChunkError, SourceError, StoreUnavailableError
from bigspec.kernels.buffers import Buffers
from bigspec.matrices import Grid
from bigspec.sources import ZarrMatrix, open_source

V3 = {
    "raw": None,
    "crc32c": Crc32cCodec(),
    "blosc-lz4": BloscCodec(cname="lz4", shuffle="bitshuffle"),
    "blosc-zstd": BloscCodec(cname="zstd", shuffle="shuffle"),
    "blosc-zlib": BloscCodec(cname="zlib", shuffle="noshuffle"),
    "zstd": ZstdCodec(checksum=True),
    "zstd-crc32c": [ZstdCodec(), Crc32cCodec()],
    "gzip": GzipCodec(),
    "gzip-crc32c": [GzipCodec(), Crc32cCodec()],
}
V2 = {
    "raw": None,
    "blosc": numcodecs.Blosc("blosclz"),
    "zstd": numcodecs.Zstd(),
    "gzip": numcodecs.GZip(),
    "zlib": numcodecs.Zlib(),
    "lz4": numcodecs.LZ4(),
}
CODECS = [(3, name) for name in V3] + [(2, name) for name in V2]
DTYPES = ["?", "i1", "u2", "i8", "f2", "f4", "f8", "c8", "c16"]


@dataclasses.dataclass
class Case:
    """An array on disk: what it looks like and which chunks are there."""

    codec: tuple[int, str]
    dtype: str
    shape: tuple[int, int]
    chunks: tuple[int, int]
    missing: int
    fill: int
    seed: int

    def write(self, path: str) -> None:
        version, name = self.codec
        rng = np.random.default_rng(self.seed)
        # Any bytes at all: NaNs of every kind must come through as they are.
        count = self.shape[0] * self.shape[1] * np.dtype(self.dtype).itemsize
        values = rng.integers(0, 256, count, dtype=np.uint8)
        if self.dtype == "?":
            values &= 1
        array = zarr.create_array(
            path,
            shape=self.shape,
            chunks=self.chunks,
            dtype=self.dtype,
            zarr_format=version,
            compressors=(V3 if version == 3 else V2)[name],
            fill_value=self.fill,
            config={"write_empty_chunks": True},
        )
        array[...] = values.view(self.dtype).reshape(self.shape)
        keys = sorted(p for p in Path(path).rglob("*") if p.is_file() and p.name[-1].isdigit())
        for k, key in enumerate(keys):
            if self.missing >> k % 8 & 1:
                key.unlink()


extents = st.tuples(st.integers(1, 9), st.integers(1, 9))
cases = st.builds(
    Case,
    st.sampled_from(CODECS),
    st.sampled_from(DTYPES),
    extents,
    extents,
    st.sampled_from([0, 0, 1, 0b1010, 255]),
    st.integers(0, 1),
    st.integers(0, 2**16),
)


def spans(grid: Grid) -> list[slice]:
    cuts = [grid.cut(i) for i in range(grid.count + 1)]
    return [slice(a, b) for a, b in itertools.combinations(cuts, 2)]


def opened(path: Any) -> ZarrMatrix:
    matrix = open_source(path)
    assert isinstance(matrix, ZarrMatrix)
    return matrix


@given(cases)
@settings(max_examples=120, deadline=None)
@example(Case((3, "blosc-lz4"), "f4", (9, 4), (4, 4), 0, 0, 1))
@example(Case((3, "zstd-crc32c"), "c16", (9, 4), (4, 7), 0b10, 1, 2))
def test_both_paths_give_the_same_bits(case: Case) -> None:
    with tempfile.TemporaryDirectory() as folder:
        case.write(f"{folder}/A")
        matrix = opened(f"{folder}/A")
        assert matrix.direct is not None
        by_zarr = dataclasses.replace(matrix, direct=None)
        mine, theirs = Buffers(), Buffers()
        for rows in spans(matrix.grids[0])[:6]:
            for columns in spans(matrix.grids[1])[:6]:
                fast: Any = matrix.read(rows, columns, mine)
                slow: Any = by_zarr.read(rows, columns, theirs)
                assert fast.dtype == slow.dtype
                assert fast.tobytes() == slow.tobytes()


@given(st.integers(1, 40), st.integers(1, 50))
def test_grid_pieces_tile_the_axis(extent: int, step: int) -> None:
    grid = Grid(extent, step)
    cuts = [grid.cut(i) for i in range(grid.count + 1)]
    assert cuts[0] == 0
    assert cuts[-1] == extent
    assert all(grid.cell(p) == i for i in range(grid.count) for p in range(cuts[i], cuts[i + 1]))


@pytest.mark.parametrize(
    "options",
    [
        {"shards": (4, 4)},
        {"filters": [TransposeCodec(order=(1, 0))]},
        {"serializer": BytesCodec(endian="big")},
        {"zarr_format": 2, "order": "F"},
        {"zarr_format": 2, "filters": [numcodecs.Delta("f8")]},
        {"zarr_format": 2, "compressors": numcodecs.BZ2()},
        {"zarr_format": 2, "dtype": ">f8"},
        {"compressors": [Crc32cCodec(), ZstdCodec()]},
        {"compressors": [GzipCodec(), ZstdCodec()]},
    ],
    ids=str,
)
def test_other_layouts_are_left_to_zarr(tmp_path: Path, options: dict[str, Any]) -> None:
    A = np.arange(35.0).reshape(7, 5)
    array = zarr.create_array(
        tmp_path / "A", **{"shape": A.shape, "chunks": (2, 2), "dtype": "f8", **options}
    )
    array[...] = A
    matrix = opened(tmp_path / "A")
    assert matrix.direct is None
    block = matrix.read(slice(0, 7), slice(2, 5), Buffers())
    np.testing.assert_array_equal(block, A[:, 2:])


@pytest.mark.parametrize(
    "options",
    [
        {"chunk_key_encoding": {"name": "default", "separator": "."}},
        {"chunk_key_encoding": {"name": "v2", "separator": "/"}},
        {"zarr_format": 2, "chunk_key_encoding": {"name": "v2", "separator": "/"}},
        {"zarr_format": 2, "fill_value": None},
    ],
    ids=str,
)
def test_every_spelling_of_keys_is_found(tmp_path: Path, options: dict[str, Any]) -> None:
    A = np.arange(35.0).reshape(7, 5)
    array = zarr.create_array(tmp_path / "A", shape=A.shape, chunks=(2, 2), dtype="f8", **options)
    whole = "fill_value" in options  # without one, a chunk that is missing is an error
    A[:2] *= whole
    array[0 if whole else 2 :, :] = A[0 if whole else 2 :]
    matrix = opened(tmp_path / "A")
    assert matrix.direct is not None
    assert matrix.chunk_at(3, 4) == f"chunk {matrix.direct.key(1, 2)}"
    block: Any = matrix.read(slice(0, 7), slice(0, 5), Buffers())
    np.testing.assert_array_equal(block, A)


def test_full_width_chunks_are_decoded_in_place(tmp_path: Path) -> None:
    array = zarr.create_array(tmp_path / "A", shape=(7, 5), chunks=(2, 5), dtype="f8")
    array[...] = 1.0
    buffers = Buffers()
    matrix = opened(tmp_path / "A")
    first: Any = matrix.read(slice(0, 4), slice(0, 5), buffers)
    again: Any = matrix.read(slice(2, 6), slice(0, 5), buffers)
    assert first.flags.c_contiguous
    assert np.shares_memory(first, again)
    assert "source.chunk" not in buffers._arrays


# --- damage -------------------------------------------------------------------------------


def damaged(tmp_path: Path, codec: tuple[int, str], change: Any) -> ZarrMatrix:
    case = Case(codec, "f8", (6, 4), (3, 4), 0, 0, 5)
    case.write(str(tmp_path / "A"))
    chunk = tmp_path / "A" / ("c/1/0" if codec[0] == 3 else "1.0")
    chunk.write_bytes(change(chunk.read_bytes()))
    return opened(tmp_path / "A")


CHANGES = {
    "emptied": lambda stored: b"",
    "cut to two bytes": lambda stored: stored[:2],
    "cut in half": lambda stored: stored[: len(stored) // 2],
    "overwritten": lambda stored: b"\xff" * len(stored),
}


@pytest.mark.parametrize("path", ["direct", "zarr"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("codec", CODECS, ids=str)
def test_a_damaged_chunk_is_named(
    tmp_path: Path, codec: tuple[int, str], change: Any, path: str
) -> None:
    if codec[1] == "raw" and change(b"1234")[:1] == b"\xff":
        pytest.skip("raw chunks hold any bytes of the right size")
    if "blosc" in codec[1] and path == "zarr" and change is CHANGES["cut in half"]:
        pytest.skip("numcodecs 0.16 reads past the end of a truncated, stored Blosc chunk")
    matrix = damaged(tmp_path, codec, change)
    if path == "zarr":
        matrix = dataclasses.replace(matrix, direct=None)
    key = "c/1/0" if codec[0] == 3 else "1.0"
    buffers = Buffers()
    assert matrix.read(slice(0, 3), slice(0, 4), buffers).shape == (3, 4)
    with pytest.raises(ChunkError, match=rf"A: chunk {key} is damaged and cannot be decoded \("):
        matrix.read(slice(0, 6), slice(0, 4), buffers)
    assert buffers.retries == 0


@given(st.integers(0, 90), st.integers(0, 255))
@settings(max_examples=40, deadline=None)
def test_a_checksum_notices_every_changed_byte(place: int, value: int) -> None:
    def change(stored: bytes) -> bytes:
        changed = bytearray(stored)
        changed[place] = value
        return bytes(changed)

    with tempfile.TemporaryDirectory() as folder:
        matrix = damaged(Path(folder), (3, "crc32c"), lambda stored: stored)
        chunk = Path(folder, "A/c/1/0")
        stored = chunk.read_bytes()
        chunk.write_bytes(change(stored))
        if change(stored) == stored:
            matrix.read(slice(3, 6), slice(0, 4), Buffers())
        else:
            with pytest.raises(ChunkError, match="CRC32C checksum is 0x"):
                matrix.read(slice(3, 6), slice(0, 4), Buffers())


# --- failures of the file system ----------------------------------------------------------


@pytest.fixture
def flaky_disk(monkeypatch: pytest.MonkeyPatch) -> list[Exception | None]:
    """Errors raised by the next openings of files, one an opening; None lets one through."""
    schedule: list[Exception | None] = []
    really_open = os.open

    def flaky(path: Any, *args: Any, **options: Any) -> Any:
        error = schedule.pop(0) if schedule and "/c/" in str(path) else None
        if error is not None:
            raise error
        return really_open(path, *args, **options)

    monkeypatch.setattr(os, "open", flaky)
    return schedule


@pytest.fixture
def on_disk(tmp_path: Path) -> ZarrMatrix:
    zarr.create_array(tmp_path / "A", shape=(6, 4), chunks=(3, 4), dtype="f8")[...] = 2.0
    return opened(tmp_path / "A")


def test_a_disk_that_recovers_is_read(
    on_disk: ZarrMatrix, flaky_disk: list[Exception | None]
) -> None:
    flaky_disk[:] = [OSError(5, "EIO"), None, TimeoutError(), OSError(116, "stale handle")]
    buffers = Buffers()
    block: Any = on_disk.read(slice(0, 6), slice(0, 4), buffers)
    np.testing.assert_array_equal(block, 2.0)
    assert buffers.retries == 3


def test_a_disk_that_does_not_recover_is_named(
    on_disk: ZarrMatrix, flaky_disk: list[Exception | None]
) -> None:
    flaky_disk[:] = [None, *(OSError(5, "EIO") for _ in range(5))]
    with pytest.raises(StoreUnavailableError, match=r"A: chunk c/1/0 could not be read.*EIO"):
        on_disk.read(slice(0, 6), slice(0, 4), Buffers())


def test_a_forbidden_chunk_is_not_retried(
    on_disk: ZarrMatrix, flaky_disk: list[Exception | None]
) -> None:
    flaky_disk[:] = [PermissionError(13, "no")]
    buffers = Buffers()
    with pytest.raises(SourceError, match=r"chunk c/0/0 may not be read"):
        on_disk.read(slice(0, 6), slice(0, 4), buffers)
    assert buffers.retries == 0


def test_want_of_memory_is_not_called_damage(
    on_disk: ZarrMatrix, flaky_disk: list[Exception | None]
) -> None:
    flaky_disk[:] = [MemoryError()]  # type: ignore[list-item]
    with pytest.raises(MemoryError):
        on_disk.read(slice(0, 6), slice(0, 4), Buffers())
