"""Opening Zarr by path or URL: what is found, and what a message says when it is not a matrix."""

from __future__ import annotations

import concurrent.futures
import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.storage import MemoryStore, ZipStore

from bigspec.errors import (
    DataError,
    MissingSourceError,
    SourceError,
    StoreUnavailableError,
    UnsupportedTypeError,
)
from bigspec.kernels.buffers import Buffers
from bigspec.sources import ZarrMatrix, object_store, open_source
from bigspec.sources.locations import read_metadata
from tests.conftest import DATA

PBMC = str(DATA.find("10x_pbmc68k_reduced.zarr.zip"))
A = np.arange(12.0).reshape(4, 3)


def save(store: Any, values: np.ndarray[Any, Any] = A, **options: Any) -> zarr.Array[Any]:
    array = zarr.create_array(store, shape=values.shape, dtype=values.dtype, **options)
    array[...] = values
    return array


def everything(matrix: Any) -> Any:
    return matrix.read(slice(0, matrix.shape[0]), slice(0, matrix.shape[1]), Buffers())


class TestGrids:
    def test_steps_are_the_chunks(self, tmp_path: Path) -> None:
        save(tmp_path / "A", chunks=(3, 2))
        assert [g.step for g in open_source(tmp_path / "A").grids] == [3, 2]

    def test_steps_are_the_shards_if_there_are_any(self, tmp_path: Path) -> None:
        save(tmp_path / "A", chunks=(1, 1), shards=(2, 3))
        matrix = open_source(tmp_path / "A")
        assert [g.step for g in matrix.grids] == [2, 3]
        assert matrix.chunk_at(3, 0) == "chunk c/1/0"

    def test_chunks_larger_than_the_matrix(self, tmp_path: Path) -> None:
        save(tmp_path / "A", chunks=(10, 10))
        matrix = open_source(tmp_path / "A")
        assert [g.count for g in matrix.grids] == [1, 1]
        np.testing.assert_array_equal(everything(matrix), A)

    def test_scratch_grows_with_chunks_not_with_the_matrix(self, tmp_path: Path) -> None:
        save(tmp_path / "A", np.zeros((1000, 2)), chunks=(1, 2), shards=(10, 2))
        scratch = open_source(tmp_path / "A").transient_nbytes
        assert 10 * 2 * 8 < scratch < 1000 * 2 * 8 * 3


class TestMemory:
    def test_a_memory_store_is_resident(self) -> None:
        matrix = open_source(save(MemoryStore()))
        assert matrix.resident
        assert matrix.identity["where"] == "memory:"

    def test_a_memory_url_is_resident(self, memory_url: str) -> None:
        save(memory_url)
        matrix = open_source(memory_url)
        assert matrix.resident
        assert matrix.name == memory_url
        np.testing.assert_array_equal(everything(matrix), A)

    def test_a_store_that_cannot_travel_is_resident(self) -> None:
        class Local(MemoryStore):
            pass  # cannot be pickled: its class has no importable name

        assert open_source(save(Local())).resident


class TestZip:
    def test_a_real_file_opens_at_its_array(self) -> None:
        matrix = open_source(f"{PBMC}::/X")
        assert matrix.shape == (700, 765)
        assert everything(matrix).sum(dtype="f8") != 0

    def test_the_bare_real_file_is_its_x(self) -> None:
        assert open_source(PBMC).identity == open_source(f"{PBMC}::/X").identity

    def test_a_group_of_a_real_file_names_its_arrays(self) -> None:
        with pytest.raises(SourceError, match=r"got a Zarr group; it holds") as e:
            open_source(f"{PBMC}::/obsm")
        assert "/obsm/X_pca (700, 50) float32" in str(e.value)
        assert f"Point at one: '{PBMC}::/obsm/X_pca'" in str(e.value)

    def test_a_sparse_group_of_a_real_file(self) -> None:
        matrix = open_source(f"{PBMC}::/layers/counts")
        assert matrix.shape == (700, 765)
        assert matrix.nbytes < 700 * 765 * 8

    def test_reads_from_many_threads(self) -> None:
        matrix = pickle.loads(pickle.dumps(open_source(f"{PBMC}::/X")))
        strips = [slice(matrix.grids[0].cut(i), matrix.grids[0].cut(i + 1)) for i in range(4)]
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            read = lambda rows: np.array(matrix.read(rows, slice(0, 765), Buffers()))  # noqa: E731
            parts = list(pool.map(read, strips * 5))
        np.testing.assert_array_equal(np.vstack(parts[:4]), everything(matrix))

    def test_a_missing_member_names_what_the_archive_holds(self) -> None:
        with pytest.raises(MissingSourceError, match=r"nothing lies there; the store holds /X"):
            open_source(f"{PBMC}::/Y")

    def test_a_rewritten_archive_has_another_identity(self, tmp_path: Path) -> None:
        path = tmp_path / "A.zip"
        with ZipStore(path, mode="w") as store:
            save(store, name="X")
        before = open_source(f"{path}::/X").identity
        os.utime(path, ns=(1, 1))
        assert open_source(f"{path}::/X").identity != before


class TestNotAMatrix:
    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(MissingSourceError, match=r"A.zarr: nothing lies there; check the"):
            open_source(tmp_path / "A.zarr")

    def test_nothing_there_but_a_store_above(self, tmp_path: Path) -> None:
        save(tmp_path / "G", name="X")
        with pytest.raises(MissingSourceError, match=r"holds /X \(4, 3\) float64"):
            open_source(tmp_path / "G" / "Y")

    def test_nothing_in_memory(self) -> None:
        with pytest.raises(MissingSourceError, match=r"memory://none/A.zarr: nothing lies there"):
            open_source("memory://none/A.zarr")

    def test_an_empty_directory(self, tmp_path: Path) -> None:
        with pytest.raises(SourceError, match=r"expected a Zarr array, got an empty directory"):
            open_source(tmp_path)

    def test_a_directory_of_other_things(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("hello")
        with pytest.raises(SourceError, match=r"without Zarr metadata.*it holds notes.txt"):
            open_source(tmp_path)

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("A.npy", "cannot be read as a NumPy array"),
            ("A.mtx", "expected a first line such as"),
            ("A.npz", "cannot be read as a SciPy sparse matrix"),
            ("A.bin", "got another file; convert it"),
        ],
    )
    def test_another_file(self, tmp_path: Path, name: str, said: str) -> None:
        (tmp_path / name).write_bytes(b"something")
        with pytest.raises(SourceError, match=said):
            open_source(tmp_path / name)

    def test_damaged_metadata(self, tmp_path: Path) -> None:
        (tmp_path / "zarr.json").write_text("{")
        with pytest.raises(SourceError, match=r"metadata cannot be read by zarr .*JSONDecodeError"):
            open_source(tmp_path)

    @pytest.mark.parametrize("zarr_format", [2, 3])
    def test_a_group(self, tmp_path: Path, zarr_format: Any) -> None:
        group = zarr.create_group(tmp_path / "G", zarr_format=zarr_format)
        for k in range(12):
            group.create_array(f"inner/v{k:02}", shape=(3,), dtype="i4")
        group.create_array("inner/X", shape=(4, 3), dtype="f4")
        with pytest.raises(SourceError, match=r"it holds /inner/X \(4, 3\)") as e:
            open_source(tmp_path / "G")
        assert str(e.value).count("(3,)") == 9
        assert f"Point at one: '{tmp_path}/G::/inner/X'" in str(e.value)

    def test_a_group_object(self, tmp_path: Path) -> None:
        group = zarr.create_group(tmp_path / "G")
        group.create_array("X", shape=(4, 3), dtype="f4")
        with pytest.raises(SourceError, match=r"Point at one: pass group\['X'\]"):
            open_source(group)

    def test_a_member_of_unknown_type_does_not_hide_the_others(self, tmp_path: Path) -> None:
        # Such a member, listed in consolidated metadata, makes zarr 3.1 refuse the whole group.
        group = zarr.create_group(tmp_path / "G")
        group.create_array("X", shape=(4, 3), dtype="f4", chunks=(2, 3))
        odd = group.create_array("odd", shape=(4, 3), dtype="f4")
        document = odd.metadata.to_dict()
        document["data_type"] = {"name": "struct", "configuration": {"fields": []}}
        (tmp_path / "G/odd/zarr.json").write_text(json.dumps(document))
        metadata = json.loads((tmp_path / "G/zarr.json").read_text())
        metadata["consolidated_metadata"] = {
            "kind": "inline",
            "must_understand": False,
            "metadata": {"odd": document},
        }
        (tmp_path / "G/zarr.json").write_text(json.dumps(metadata))
        with pytest.raises(SourceError, match=r"/X \(4, 3\) float32; /odd \(4, 3\) struct"):
            open_source(tmp_path / "G")
        assert open_source(tmp_path / "G" / "X").shape == (4, 3)
        with pytest.raises(SourceError, match=r"metadata cannot be read by zarr .*struct"):
            open_source(tmp_path / "G" / "odd")

    def test_an_empty_group(self, tmp_path: Path) -> None:
        zarr.create_group(tmp_path / "G")
        with pytest.raises(SourceError, match=r"got a Zarr group without arrays"):
            open_source(tmp_path / "G")

    @pytest.mark.parametrize("shape", [(3,), (2, 2, 2), (0, 4)])
    def test_another_shape(self, tmp_path: Path, shape: tuple[int, ...]) -> None:
        zarr.create_array(tmp_path / "A", shape=shape, dtype="f4", chunks=(1,) * len(shape))
        with pytest.raises(DataError, match=rf"A: expected a matrix .* got shape .{shape[0]}"):
            open_source(tmp_path / "A")

    @pytest.mark.parametrize("dtype", ["M8[s]", "S3"])
    def test_other_entries(self, tmp_path: Path, dtype: str) -> None:
        zarr.create_array(tmp_path / "A", shape=(2, 2), dtype=dtype, zarr_format=2)
        with pytest.raises(UnsupportedTypeError, match=r"A: expected entries of type bool"):
            open_source(tmp_path / "A")

    def test_an_unknown_protocol(self) -> None:
        with pytest.raises(SourceError, match=r"URL that fsspec knows.*Protocol not known: foo"):
            open_source("foo://bucket/A.zarr")

    def test_a_missing_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def missing(*args: Any, **options: Any) -> Any:
            raise ImportError("Install s3fs to access S3")

        monkeypatch.setattr(object_store, "find_spec", lambda _: None)
        monkeypatch.setattr(object_store.FsspecStore, "from_url", missing)
        with pytest.raises(SourceError, match=r"Install s3fs.*pip install s3fs"):
            open_source("s3://bucket/A.zarr")

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_a_forbidden_directory(self, tmp_path: Path) -> None:
        save(tmp_path / "A")
        (tmp_path / "A").chmod(0)
        with pytest.raises(SourceError, match=r"this process may not read it"):
            open_source(tmp_path / "A")
        (tmp_path / "A").chmod(0o700)

    def test_a_store_that_forbids(self, failing_store: Any) -> None:
        store = MemoryStore()
        array = save(store, chunks=(4, 3))
        forbidden = failing_store(store, [PermissionError("403")], forever=True)
        matrix = open_source(zarr.open_array(forbidden, path=array.path, mode="r"))
        with pytest.raises(SourceError, match=r"chunk c/0/0 may not be read by this process"):
            everything(matrix)


class TestIdentity:
    def test_follows_the_metadata_document(self, tmp_path: Path) -> None:
        save(tmp_path / "A")
        before = open_source(tmp_path / "A").identity
        document = tmp_path / "A" / "zarr.json"
        metadata = json.loads(document.read_text())
        metadata["attributes"]["note"] = "other"
        document.write_text(json.dumps(metadata))
        assert open_source(tmp_path / "A").identity != before

    def test_is_that_of_the_place_however_it_was_opened(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        save(tmp_path / "A")
        monkeypatch.chdir(tmp_path)
        identities = [
            open_source(source).identity
            for source in ("A", "./A/", f"file://{tmp_path}/A", zarr.open_array("A", mode="r"))
        ]
        assert identities == [identities[0]] * 4


class TestOutOfSight:
    """Zarr reads what does not exist as the fill value; a lost store must not become zeros."""

    @pytest.mark.parametrize("options", [{}, {"shards": (4, 3)}], ids=["direct", "zarr"])
    def test_a_worker_that_does_not_see_the_store(self, tmp_path: Path, options: Any) -> None:
        save(tmp_path / "A", chunks=(2, 3), **options)
        sent = pickle.dumps(open_source(tmp_path / "A"))
        shutil.rmtree(tmp_path / "A")
        matrix = pickle.loads(sent)
        with pytest.raises(MissingSourceError, match=r"this process does not see"):
            everything(matrix)

    def test_a_worker_that_does_not_see_the_archive(self, tmp_path: Path) -> None:
        with ZipStore(tmp_path / "A.zip", mode="w") as store:
            save(store, name="X")
        sent = pickle.dumps(open_source(f"{tmp_path}/A.zip::/X"))
        (tmp_path / "A.zip").unlink()
        with pytest.raises(MissingSourceError, match=r"this process does not see it"):
            everything(pickle.loads(sent))

    def test_a_store_that_goes_away_during_the_run(self, tmp_path: Path) -> None:
        save(tmp_path / "A", chunks=(2, 3), shards=(4, 3))
        matrix = open_source(tmp_path / "A")
        shutil.rmtree(tmp_path / "A")
        with pytest.raises(MissingSourceError, match=r"the store went away"):
            everything(matrix)

    def test_a_worker_whose_store_does_not_answer(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        save(tmp_path / "A", chunks=(2, 3), shards=(4, 3))
        matrix: Any = pickle.loads(pickle.dumps(open_source(tmp_path / "A")))
        assert isinstance(matrix, ZarrMatrix)

        def unreachable(*_: Any) -> Any:
            raise TimeoutError("no answer")

        monkeypatch.setattr("bigspec.sources.array_handle.read_metadata", unreachable)
        buffers = Buffers()
        with pytest.raises(StoreUnavailableError, match=r"no answer"):
            matrix.read(slice(0, 4), slice(0, 3), buffers)
        assert buffers.retries == 4

    def test_a_worker_opens_an_array_once_for_all_passes(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        save(tmp_path / "A", chunks=(2, 3), shards=(4, 3))
        opened: list[str] = []

        def counted(store: Any, path: str, *options: Any) -> Any:
            opened.append(path)
            return read_metadata(store, path, *options)

        monkeypatch.setattr("bigspec.sources.array_handle.read_metadata", counted)
        expected, counts = everything(open_source(tmp_path / "A")), []
        for run in range(2):
            sent = pickle.dumps(open_source(tmp_path / "A"))
            for _ in range(3):  # passes
                np.testing.assert_array_equal(everything(pickle.loads(sent)), expected)
                counts.append(len(opened) - run)
        assert counts == [1] * 6

    @pytest.mark.parametrize("options", [{}, {"shards": (4, 3)}], ids=["direct", "zarr"])
    def test_a_store_that_goes_away_between_two_passes_of_a_worker(
        self, tmp_path: Path, options: Any
    ) -> None:
        save(tmp_path / "A", chunks=(2, 3), **options)
        sent = pickle.dumps(open_source(tmp_path / "A"))
        everything(pickle.loads(sent))
        shutil.rmtree(tmp_path / "A")
        with pytest.raises(MissingSourceError, match=r"the store went away|does not see"):
            everything(pickle.loads(sent))


def test_a_device_that_never_ends_is_not_looked_into() -> None:
    with pytest.raises(SourceError, match="/dev/zero: expected a Zarr directory, a zip archive"):
        open_source("/dev/zero")


def test_a_protocol_that_connects_when_it_is_opened_and_is_refused() -> None:
    with pytest.raises(StoreUnavailableError, match=r"ftp://127\.0\.0\.1:1/x: the store does not"):
        open_source("ftp://127.0.0.1:1/x")
