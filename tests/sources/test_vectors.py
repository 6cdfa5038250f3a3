"""Stored arrays of one axis, as sparse matrices have them: ranges without zarr, the same bits."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr
from hypothesis import example, given, settings
from hypothesis import strategies as st
from zarr.codecs import BytesCodec
from zarr.storage import LocalStore

from bigspec.errors import ChunkError, MissingSourceError
from bigspec.kernels.buffers import Buffers
from bigspec.sources.missing_chunks import Missing
from bigspec.sources.zarr_store import ZarrVector
from tests.sources.conftest import FailingStore
from tests.sources.test_direct import CODECS, DTYPES, V2, V3
from tests.sources.test_fetching import FarStore

STEP = 4
VALUES = np.arange(3.0, 25.0)


def written(
    path: Path, values: Any, codec: tuple[int, str], missing: int = 0, fill: int = 0
) -> Any:
    """Save an array in chunks of `STEP`, without those whose bits are set in `missing`."""
    version, name = codec
    array = zarr.create_array(
        path,
        shape=values.shape,
        chunks=(STEP,),
        dtype=values.dtype,
        zarr_format=version,  # type: ignore[arg-type]
        compressors=(V3 if version == 3 else V2)[name],  # type: ignore[arg-type]
        fill_value=fill,
        config={"write_empty_chunks": True},  # type: ignore[arg-type]
    )
    array[...] = values
    for number in range(-(-len(values) // STEP)):
        if missing >> number & 1:
            chunk_file(path, number, version).unlink()


def chunk_file(path: Path, number: int, version: int) -> Path:
    return path / (f"c/{number}" if version == 3 else f"{number}")


def three_ways(path: Path) -> list[ZarrVector]:
    """The vector by chunks on this machine, by chunks far away, and by zarr."""
    here = ZarrVector.of(zarr.open_array(path, mode="r"), "v")
    there = ZarrVector.of(zarr.open_array(FarStore(path), mode="r"), "v")
    assert here.direct is not None
    assert there.far is not None
    return [here, there, dataclasses.replace(here, direct=None)]


@given(
    st.sampled_from(CODECS),
    st.sampled_from(DTYPES),
    st.integers(1, 15),
    st.sampled_from([0, 0, 0b1, 0b1010, 0b1111]),
    st.integers(0, 1),
    st.integers(0, 2**16),
)
@settings(max_examples=40, deadline=None)
@example((3, "zstd-crc32c"), "c16", 9, 0b10, 1, 2)
@example((2, "blosc"), "f4", 8, 0, 0, 3)
def test_all_ways_give_the_same_bits(
    codec: tuple[int, str], dtype: str, length: int, missing: int, fill: int, seed: int
) -> None:
    count = length * np.dtype(dtype).itemsize
    bits = np.random.default_rng(seed).integers(0, 256, count, dtype=np.uint8)
    values = (bits & 1 if dtype == "?" else bits).view(dtype)
    with tempfile.TemporaryDirectory() as folder:
        written(Path(folder) / "v", values, codec, missing, fill)
        ways = three_ways(Path(folder) / "v")
        for start in range(length):
            for stop in range(start + 1, length + 1):
                found, counts = [], []
                for way in ways:
                    buffers = Buffers()
                    block = way.read(start, stop, buffers, "part")
                    found.append((block.dtype, block.tobytes()))
                    counts.append((buffers.chunks, buffers.missing_chunks, buffers.retries))
                assert found == [found[0]] * 3
                assert counts == [counts[0]] * 3


def test_chunks_inside_of_a_range_are_decoded_in_place(tmp_path: Path) -> None:
    written(tmp_path / "v", VALUES, (3, "zstd"))
    for way in three_ways(tmp_path / "v")[:2]:
        buffers = Buffers()
        np.testing.assert_array_equal(way.read(4, 20, buffers, "part"), VALUES[4:20])
        assert "source.chunk" not in buffers._arrays
        np.testing.assert_array_equal(way.read(3, 21, buffers, "part"), VALUES[3:21])


@pytest.mark.parametrize("codec", [(3, "zstd"), (3, "crc32c"), (2, "lz4")], ids=str)
def test_a_damaged_chunk_is_named(tmp_path: Path, codec: tuple[int, str]) -> None:
    written(tmp_path / "v", VALUES, codec)
    file = chunk_file(tmp_path / "v", 2, codec[0])
    file.write_bytes(file.read_bytes()[:-3])
    key = "c/2" if codec[0] == 3 else "2"
    for way in three_ways(tmp_path / "v")[:2]:
        buffers = Buffers()
        np.testing.assert_array_equal(way.read(0, 8, buffers, "part"), VALUES[:8])
        with pytest.raises(ChunkError, match=rf"v: chunk {key} is damaged and cannot be decoded"):
            way.read(6, 14, buffers, "part")


def test_a_missing_chunk_is_refused_where_the_rule_says_so(tmp_path: Path) -> None:
    written(tmp_path / "v", VALUES, (3, "zstd"), missing=0b10)
    for store in (tmp_path / "v", FarStore(tmp_path / "v")):
        array = zarr.open_array(store, mode="r")
        way = ZarrVector.of(array, "v", Missing("error", "nobody stores zeros here"))
        with pytest.raises(ChunkError, match=r"v: chunk c/1 .*nobody stores zeros here"):
            way.read(0, 12, Buffers(), "part")


def test_a_store_that_goes_away_is_not_zeros(tmp_path: Path) -> None:
    written(tmp_path / "v", VALUES, (3, "zstd"))
    here, there, _ = three_ways(tmp_path / "v")
    (tmp_path / "v").rename(tmp_path / "w")
    for way in (here, there):
        with pytest.raises(MissingSourceError):
            way.read(0, 12, Buffers(), "part")


def test_what_fails_once_is_read_again_alone(tmp_path: Path) -> None:
    written(tmp_path / "v", VALUES, (3, "zstd"))
    store = FarStore(tmp_path / "v")
    way, buffers = ZarrVector.of(zarr.open_array(store, mode="r"), "v"), Buffers()
    store.errors["c/1"] = [TimeoutError("slow")]
    np.testing.assert_array_equal(way.read(2, 14, buffers, "part"), VALUES[2:14])
    assert buffers.retries == 1
    assert store.asked == {"c/0": 1, "c/1": 2, "c/2": 1, "c/3": 1}


@pytest.mark.parametrize(
    "options", [{"shards": (8,)}, {"serializer": BytesCodec(endian="big")}], ids=str
)
def test_other_arrays_are_left_to_zarr(tmp_path: Path, options: Any) -> None:
    made = {"shape": VALUES.shape, "chunks": (STEP,), "dtype": "f8", **options}
    zarr.create_array(tmp_path / "v", **made)[...] = VALUES
    way = ZarrVector.of(zarr.open_array(tmp_path / "v", mode="r"), "v")
    assert way.direct is way.far is None
    np.testing.assert_array_equal(way.read(3, 21, Buffers(), "part"), VALUES[3:21])


@pytest.mark.parametrize("name", ["big-endian", "bz2"])
@pytest.mark.parametrize("far", [False, True])
def test_a_damaged_chunk_that_only_zarr_decodes_is_named(
    tmp_path: Path, name: str, far: bool
) -> None:
    options: dict[str, Any] = {"serializer": BytesCodec(endian="big")}
    if name == "bz2":
        options = {"zarr_format": 2, "compressors": numcodecs.BZ2()}
    made = zarr.create_array(
        tmp_path, shape=VALUES.shape, chunks=(STEP,), dtype=VALUES.dtype, **options
    )
    made[...] = VALUES
    file = chunk_file(tmp_path, 2, made.metadata.zarr_format)
    file.write_bytes(file.read_bytes()[:-1])
    store: Any = FarStore(tmp_path) if far else tmp_path
    vector = ZarrVector.of(zarr.open_array(store, mode="r"), "v")
    assert vector.direct is None
    assert vector.far is None
    np.testing.assert_array_equal(vector.read(1, 7, Buffers(), "v"), VALUES[1:7])
    key = file.relative_to(tmp_path)
    with pytest.raises(ChunkError, match=rf"^v: chunk {key} is damaged and cannot be decoded"):
        vector.read(1, 21, Buffers(), "v")


def test_a_failure_that_passes_is_read_again_chunk_by_chunk(tmp_path: Path) -> None:
    made = zarr.create_array(
        tmp_path,
        shape=VALUES.shape,
        chunks=(STEP,),
        dtype=VALUES.dtype,
        serializer=BytesCodec(endian="big"),
    )
    made[...] = VALUES
    failing = FailingStore(LocalStore(tmp_path), [None, ConnectionError("reset")])
    vector = ZarrVector.of(zarr.open_array(failing, mode="r"), "v")
    buffers = Buffers()
    np.testing.assert_array_equal(vector.read(1, 21, buffers, "v"), VALUES[1:21])
    assert buffers.retries == 1
