"""Chunks that are not in their store: counted, made sure of, or refused, at every door."""

from __future__ import annotations

import http.server
import json
import re
import shutil
import threading
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import h5py
import numpy as np
import pytest
import scipy.sparse as sp
import zarr
from click.testing import CliRunner
from zarr.storage import LocalStore, MemoryStore, ZipStore

import bigspec
from bigspec.cli import main
from bigspec.errors import (
    ArgumentError,
    ChunkError,
    MatrixChangedError,
    MissingSourceError,
    SourceError,
    StoreUnavailableError,
)
from bigspec.kernels.buffers import Buffers
from bigspec.watch import Observer
from tests.checkpoint.serving import SMALL

if TYPE_CHECKING:
    from collections.abc import Iterator

A = np.random.default_rng(7).standard_normal((64, 16))
LOST = "A.zarr/c/5/0"
HOLED = A.copy()
HOLED[40:48] = 0  # without that chunk
SENTENCE = "1 of 8 chunks is not in the store and counts as 0"
CALL: dict[str, Any] = {"seed": 1, "rtol": 1e-9}


def top(X: Any) -> float:
    return float(np.linalg.norm(X, 2))


def save(store: Any, values: Any = A, **options: Any) -> zarr.Array[Any]:
    options = {"chunks": (8, 16), **options}
    array = zarr.create_array(store, shape=values.shape, dtype=values.dtype, **options)
    array[...] = values
    return array


class Web:
    """A folder behind HTTP, which answers as a test says.

    Attributes
    ----------
    statuses : dict
        Status by path; the path of a folder stands for its listing.
    shy : Counter
        How often a path is answered with 404 before it is served.
    asked : Counter
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.statuses: dict[str, int] = {}
        self.shy: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        web = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                path = self.path.strip("/")
                web.asked[path] += 1
                status = web.statuses.get(path)
                if status is None and web.shy[path] > 0:
                    web.shy[path] -= 1
                    status = 404
                if status is None:
                    super().do_GET()
                else:
                    self.send_error(status)

            def log_message(self, *_: Any) -> None:
                pass

        handler = partial(Handler, directory=str(folder))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    save(tmp_path / "A.zarr")
    served = Web(tmp_path)
    yield served
    served.close()


def without(path: Path, key: str = "c/5/0") -> Path:
    (path / key).unlink()
    return path


class TestCounts:
    @pytest.mark.parametrize(
        "kind", ["direct", "transposed", "sharded", "v2", "zip", "memory", "http", "s3", "packed"]
    )
    def test_a_missing_chunk_is_counted_in_every_store(
        self, kind: str, tmp_path: Path, request: pytest.FixtureRequest
    ) -> None:
        place: Any = tmp_path / "A.zarr"
        if kind == "http":
            served: Web = request.getfixturevalue("web")
            without(place)
            place = f"{served.url}/A.zarr"
        elif kind == "s3":
            place = f"s3://{request.getfixturevalue('bucket')}/A.zarr"
            save(place, HOLED)
        elif kind in ("zip", "memory"):
            store = ZipStore(f"{place}.zip", mode="w") if kind == "zip" else MemoryStore()
            array = save(store, HOLED)  # zarr writes no chunk of fill values
            store.close()
            place = f"{place}.zip" if kind == "zip" else array
        else:
            options: dict[str, Any] = {
                "direct": {},
                "transposed": {"filters": [zarr.codecs.TransposeCodec(order=(1, 0))]},
                "sharded": {"shards": (8, 16), "chunks": (4, 8)},
                "v2": {"zarr_format": 2, "order": "F"},
                "packed": {"attributes": {"scale_factor": 2.0}},
            }[kind]
            save(place, HOLED, **options)
        scale = 2.0 if kind == "packed" else 1.0
        est = bigspec.norm(place, **CALL)
        assert est.lower <= scale * top(HOLED) <= est.upper
        assert (est.chunks, est.missing_chunks) == (8, 1)
        assert {(r.chunks, r.missing_chunks) for r in est.history} == {(8, 1)}
        assert f"  missing      {SENTENCE}" in est.summary().splitlines()

    def test_nothing_is_said_where_nothing_is_missing(self, tmp_path: Path) -> None:
        save(tmp_path / "A.zarr")
        est = bigspec.norm(tmp_path / "A.zarr", **CALL)
        assert (est.chunks, est.missing_chunks, est.missing_as) == (8, 0, "0")
        assert "not in the store" not in est.summary() + est.to_html()

    def test_everywhere_it_is_told(self, tmp_path: Path) -> None:
        without(Path(save(tmp_path / "A.zarr").store.root))  # type: ignore[attr-defined]
        est = bigspec.norm(tmp_path / "A.zarr", **CALL)
        assert SENTENCE in est.to_html()
        assert SENTENCE in est._repr_html_()
        assert re.search(r"<td[^>]*>1 of 8</td>", est.to_html())
        read = est.to_dict()
        assert (read["chunks"], read["missing_chunks"], read["missing_as"]) == (8, 1, "0")
        assert read["history"][0]["missing_chunks"] == 1
        tri = bigspec.svds(tmp_path / "A.zarr", 2, seed=1)
        assert (tri.chunks, tri.missing_chunks) == (8, 1)
        assert tri.to_dict()["vector_missing_chunks"] == tri.vector_missing_chunks == 1
        assert SENTENCE in tri.summary()
        assert SENTENCE in tri.to_html()
        args = ["norm", str(tmp_path / "A.zarr"), "--log-format", "json", "--json", "-"]
        run = CliRunner().invoke(main, args)
        log = [json.loads(line) for line in run.stderr.splitlines()]
        assert {e["missing_chunks"] for e in log if e["event"].endswith("_finished")} == {1}

    def test_a_store_that_was_never_written(self, tmp_path: Path) -> None:
        zarr.create_array(tmp_path / "A.zarr", shape=(64, 16), chunks=(8, 16), dtype="f8")
        est = bigspec.norm(tmp_path / "A.zarr")
        assert (est.lower, est.upper) == (0.0, 0.0)
        said = "every chunk is missing: 8 of 8 chunks are not in the store and count as 0"
        assert said in est.summary()

    def test_another_fill_value(self, tmp_path: Path) -> None:
        save(tmp_path / "A.zarr", fill_value=2.5)
        without(tmp_path / "A.zarr")
        filled = A.copy()
        filled[40:48] = 2.5
        est = bigspec.norm(tmp_path / "A.zarr", **CALL)
        assert est.lower <= top(filled) <= est.upper
        assert "1 of 8 chunks is not in the store and counts as 2.5" in est.summary()

    def test_chunks_of_any_number_of_dimensions(self, tmp_path: Path) -> None:
        X = A.reshape(8, 8, 16)
        save(tmp_path / "A.zarr", X, chunks=(1, 8, 16), dimension_names=("t", "y", "x"))
        without(tmp_path / "A.zarr", "c/5/0/0")
        matrix = bigspec.open_matrix(tmp_path / "A.zarr", rows=("t", "y"))
        est = bigspec.norm(matrix, **CALL)
        assert est.lower <= top(HOLED) <= est.upper
        assert (est.chunks, est.missing_chunks) == (8, 1)

    def test_a_slab_that_is_read_twice_counts_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from bigspec.panels import choose_layout as layout

        save(tmp_path / "A.zarr", chunks=(8, 4))
        without(tmp_path / "A.zarr", "c/5/1")
        monkeypatch.setattr(layout, "SLAB_BYTES", 1)
        monkeypatch.setattr(layout, "PANEL_BYTES", (1, 1))
        est = bigspec.norm(tmp_path / "A.zarr", algorithm="lanczos", block_size=2, **CALL)
        assert (est.chunks, est.missing_chunks) == (32, 1)

    def test_the_operands_of_an_expression(self, tmp_path: Path) -> None:
        save(tmp_path / "A.zarr")
        without(tmp_path / "A.zarr")
        save(tmp_path / "B.zarr", 3 * A, fill_value=1.5)
        A_, B = (bigspec.open_matrix(tmp_path / f"{name}.zarr") for name in "AB")
        difference = bigspec.norm(B - A_, **CALL)
        assert (difference.chunks, difference.missing_chunks) == (16, 1)
        assert difference.lower <= top(3 * A - HOLED) <= difference.upper
        assert "counts as the fill value of each store" in difference.summary()
        chain = bigspec.norm(A_.H @ B, **CALL)
        assert (chain.chunks, chain.missing_chunks) == (16, 1)
        assert bigspec.norm(bigspec.vstack([A_, A_]), **CALL).missing_chunks == 2

    def test_a_cluster(self, web: Web, client: Any) -> None:
        without(web.folder / "A.zarr")
        for place in (web.folder / "A.zarr", f"{web.url}/A.zarr"):
            est = bigspec.norm(place, **CALL)
            assert est.lower <= top(HOLED) <= est.upper
            assert (est.chunks, est.missing_chunks) == (8, 1)
        strict = bigspec.open_matrix(f"{web.url}/A.zarr", missing_chunks="error")
        with pytest.raises(ChunkError, match="chunk c/5/0 is not in the store"):
            bigspec.norm(strict)


class TestMadeSure:
    def test_a_chunk_that_is_there_a_moment_later_is_read(self, web: Web) -> None:
        web.shy[LOST] = 1
        est = bigspec.norm(f"{web.url}/A.zarr", **CALL)
        assert est.lower <= top(A) <= est.upper
        assert est.missing_chunks == 0
        assert est.history[0].retries >= 1

    def test_a_chunk_that_the_listing_has_is_not_missing(self, web: Web) -> None:
        web.statuses[LOST] = 404  # the server lists it all the same
        with pytest.raises(StoreUnavailableError, match=r"c/5/0 .* lists A.zarr/c/5/0|lists"):
            bigspec.norm(f"{web.url}/A.zarr")

    def test_one_request_lists_a_key_of_s3(self, bucket: str, monkeypatch: Any) -> None:
        import s3fs

        monkeypatch.setattr("bigspec.sources.object_store.find_spec", lambda _: None)
        save(f"s3://{bucket}/A.zarr")
        cat = s3fs.S3FileSystem._cat_file

        async def lost(self: Any, path: str, *args: Any, **kwargs: Any) -> Any:
            if path.endswith("c/5/0"):
                raise FileNotFoundError(path)
            return await cat(self, path, *args, **kwargs)

        monkeypatch.setattr(s3fs.S3FileSystem, "_cat_file", lost)
        with pytest.raises(StoreUnavailableError, match="the store lists c/5/0"):
            bigspec.norm(f"s3://{bucket}/A.zarr")

    def test_a_chunk_is_asked_for_again_in_the_first_pass_alone(self, web: Web) -> None:
        without(web.folder / "A.zarr")
        est = bigspec.norm(f"{web.url}/A.zarr", **CALL)
        assert web.asked[LOST] == est.passes + 1

    @pytest.mark.parametrize("kind", ["http", "local", "sharded", "vector"])
    def test_a_store_that_goes_away_in_mid_pass(self, kind: str, web: Web) -> None:
        place: Any = web.folder / "A.zarr"
        if kind == "sharded":
            shutil.rmtree(place)
            save(place, shards=(8, 16), chunks=(4, 8))
        if kind == "vector":
            place = web.folder / "G.zarr"
            group(LocalStore(place))
        matrix = bigspec.open_matrix(f"{web.url}/{place.name}" if kind != "local" else place)
        shutil.rmtree(place)
        with pytest.raises(MissingSourceError, match=r"went away|does not see"):
            bigspec.norm(matrix)

    def test_a_bucket_that_goes_away(self, bucket: str, endpoint: str) -> None:
        import boto3

        save(f"s3://{bucket}/A.zarr")
        matrix = bigspec.open_matrix(f"s3://{bucket}/A.zarr")
        s3 = boto3.resource("s3", endpoint_url=endpoint)
        s3.Bucket(bucket).objects.all().delete()
        s3.Bucket(bucket).delete()
        s3.meta.client.close()
        with pytest.raises(SourceError, match="went away"):
            bigspec.norm(matrix)

    @pytest.mark.parametrize(
        ("kind", "where", "number"),
        [
            *(
                (kind, "threads", number)
                for kind in ("http", "local", "memory")
                for number in (1, 2)
            ),
            ("http", "cluster", 1),
            ("local", "cluster", 1),
        ],
    )
    def test_a_store_that_is_deleted_while_a_pass_runs(
        self, kind: str, where: str, number: int, web: Web, request: Any, monkeypatch: Any
    ) -> None:
        """The panels that were read before it are right, and the others would be zeros."""
        if where == "cluster":
            request.getfixturevalue("client")
        for name, value in SMALL.items():
            monkeypatch.setattr(f"bigspec.panels.choose_layout.{name}", value)
        place: Any = web.folder / "L.zarr"
        url = {"http": f"{web.url}/L.zarr", "local": str(place), "memory": "memory://L.zarr"}[kind]
        save(url if kind == "memory" else place, np.tile(A, (16, 1)))

        class Deleting(Observer):
            done = 0

            def pass_started(self, number: int, panels: int) -> None:
                self.done += 1

            def panels_done(self, done: int, panels: int, nbytes: int, seconds: float) -> None:
                if self.done == number and done < panels:
                    self.done = 99
                    fsspec.filesystem("memory").rm("/L.zarr", recursive=True) if (
                        kind == "memory"
                    ) else shutil.rmtree(place)

        watch = Deleting()
        options = {"algorithm": "lanczos", "block_size": 2, "pin": False}
        with pytest.raises((SourceError, ChunkError, MatrixChangedError)):
            bigspec.norm(url, progress=watch, **options, **CALL)
        assert watch.done in (99, 100)  # what was on its way in this process ends its pass

    def test_both_stores_of_a_difference(self, web: Web) -> None:
        save(web.folder / "B.zarr", 2 * A)
        first, second = (bigspec.open_matrix(f"{web.url}/{name}.zarr") for name in "AB")
        shutil.rmtree(web.folder / "B.zarr")
        with pytest.raises(MissingSourceError, match=r"B\.zarr: the store went away"):
            bigspec.norm(first - second)


class TestRefused:
    @pytest.mark.parametrize("door", ["local", "http", "sharded", "hdf5", "netcdf", "object"])
    def test_the_first_missing_chunk_is_named(self, door: str, web: Web) -> None:
        place: Any = web.folder / "A.zarr"
        if door == "sharded":
            shutil.rmtree(place)
            save(place, shards=(8, 16), chunks=(4, 8))
        without(place)
        if door == "http":
            place = f"{web.url}/A.zarr"
        if door == "object":
            place = zarr.open_array(place)
        if door == "hdf5":
            place = partly(web.folder / "A.h5")
        if door == "netcdf":
            place = partly(web.folder / "A.nc")
        matrix = bigspec.open_matrix(place, missing_chunks="error")
        key = r"at \(40, 0\) of /X" if door in ("hdf5", "netcdf") else "c/5/0"
        with pytest.raises(ChunkError, match=f"chunk {key} is not in the store.*missing-chunks"):
            bigspec.norm(matrix)

    def test_on_the_command_line(self, web: Web) -> None:
        save(web.folder / "B.zarr", 2 * A)
        without(web.folder / "A.zarr")
        A_, B = (str(web.folder / f"{name}.zarr") for name in "AB")
        strict = ["--missing-chunks", "error", "--quiet"]
        for args in (["norm", A_], ["svds", A_, "-k", "1"], ["norm", B, "--minus", A_]):
            run = CliRunner().invoke(main, [*args, *strict])
            assert run.exit_code == 65, run.output
            assert "chunk c/5/0 is not in the store" in run.stderr
        assert CliRunner().invoke(main, ["norm", B, *strict]).exit_code == 0
        assert CliRunner().invoke(main, ["plan", A_, *strict[:2]]).exit_code == 0  # reads none
        assert SENTENCE in CliRunner().invoke(main, ["norm", A_, "--quiet"]).stdout

    def test_what_cannot_be_promised(self, tmp_path: Path) -> None:
        import dask.array as da

        matrix = bigspec.open_matrix(save(tmp_path / "A.zarr"))
        with pytest.raises(ArgumentError, match="is open already; pass missing_chunks"):
            bigspec.open_matrix(matrix, missing_chunks="error")
        with pytest.raises(ArgumentError, match="dask array, which reads its chunks by itself"):
            bigspec.open_matrix(da.from_array(A), missing_chunks="error")
        with pytest.raises(ArgumentError, match="expected 'fill' or 'error', got 'zero'"):
            bigspec.open_matrix(A, missing_chunks="zero")
        assert bigspec.open_matrix(A, missing_chunks="error").shape == A.shape


def partly(path: Path, fill: float = 0.0) -> Path:
    """Write rows of an HDF5 dataset but for one chunk."""
    with h5py.File(path, "w") as file:
        X = file.create_dataset("X", A.shape, "f8", chunks=(8, 16), fillvalue=fill)
        X[:40], X[48:] = A[:40], A[48:]
        for axis, name in enumerate("yx"):
            file[name] = np.arange(A.shape[axis])
            file[name].make_scale(name)
            X.dims[axis].attach_scale(file[name])
    return path


class TestHDF5:
    @pytest.mark.parametrize("name", ["A.h5", "A.nc"])
    def test_a_chunk_that_was_never_written(self, name: str, tmp_path: Path) -> None:
        place = f"{partly(tmp_path / name)}::/X"
        est = bigspec.norm(place, **CALL)
        assert est.lower <= top(HOLED) <= est.upper
        assert (est.chunks, est.missing_chunks) == (8, 1)
        assert SENTENCE in est.summary()

    def test_a_dataset_that_was_never_written(self, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "A.h5", "w") as file:
            file.create_dataset("X", A.shape, "f8")
            file.create_dataset("Y", data=A)
        est = bigspec.norm(f"{tmp_path}/A.h5::/X")
        assert (est.lower, est.upper) == (0.0, 0.0)
        assert "every chunk is missing" in est.summary()
        assert bigspec.norm(f"{tmp_path}/A.h5::/Y").missing_chunks == 0

    def test_a_chunk_that_nothing_says_the_value_of(self, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "A.h5", "w") as file:
            plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            plist.set_chunk((8, 16))
            plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
            space = h5py.h5s.create_simple(A.shape)
            h5py.h5d.create(file.id, b"X", h5py.h5t.NATIVE_DOUBLE, space, plist)
            file["X"][:40] = A[:40]
        with pytest.raises(ChunkError, match=r"chunk at \(40, 0\) .* has no fill value"):
            bigspec.norm(tmp_path / "A.h5")

    @pytest.mark.parametrize("door", ["path", "object", "difference"])
    def test_a_chunk_of_an_array_without_a_fill_value(self, door: str, tmp_path: Path) -> None:
        array = save(tmp_path / "A.zarr", zarr_format=2, fill_value=None)
        est = bigspec.norm(tmp_path / "A.zarr", **CALL)
        assert est.lower <= top(A) <= est.upper
        without(tmp_path / "A.zarr", "5.0")
        doors: dict[str, Any] = {
            "path": lambda: bigspec.norm(tmp_path / "A.zarr"),
            "object": lambda: bigspec.svds(array, 2),
            "difference": lambda: bigspec.norm(bigspec.open_matrix(tmp_path / "A.zarr") - A),
        }
        with pytest.raises(ChunkError, match=r"chunk 5\.0 is not in the store; .* no fill value"):
            doors[door]()

    def test_a_part_of_a_sparse_group(self, tmp_path: Path) -> None:
        S = sp.csr_array(A)
        with h5py.File(tmp_path / "A.h5", "w") as file:
            held = file.create_group("X")
            held.attrs["encoding-type"], held.attrs["shape"] = "csr_matrix", S.shape
            held.create_dataset("indptr", data=S.indptr)
            held.create_dataset("data", data=S.data, chunks=(128,))
            indices = held.create_dataset("indices", S.indices.shape, "i4", chunks=(128,))
            indices[:512], indices[640:] = S.indices[:512], S.indices[640:]
        with pytest.raises(ChunkError, match=r"A\.h5/indices: chunk at \(512,\)"):
            bigspec.norm(tmp_path / "A.h5")


def group(where: Any, *, values_fill: float = 0.0) -> Any:
    """Write A as a sparse group in chunks of 128 entries."""
    S = sp.csr_array(A)
    made = zarr.create_group(where)
    made.attrs.update(
        {"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": list(A.shape)}
    )
    for name, chunk in (("data", 128), ("indices", 128), ("indptr", 16)):
        values = getattr(S, name)
        fill = values_fill if name == "data" else 0
        made.create_array(
            name, shape=values.shape, dtype=values.dtype, chunks=(chunk,), fill_value=fill
        )[...] = values
    return made


class TestSparse:
    @pytest.mark.parametrize("part", ["data", "indices", "indptr"])
    @pytest.mark.parametrize("door", ["local", "http", "convert"])
    def test_a_missing_chunk_of_any_part(self, part: str, door: str, web: Web) -> None:
        group(LocalStore(web.folder / "G.zarr"))
        without(web.folder / "G.zarr", f"{part}/c/3")
        place = f"{web.url}/G.zarr" if door == "http" else str(web.folder / "G.zarr")
        to = web.folder / "C.zarr"
        read = bigspec.norm if door != "convert" else lambda src: bigspec.convert(src, to)
        said = rf"G\.zarr/{part}: chunk c/3 is not in the store.*Write the matrix again"
        with pytest.raises(ChunkError, match=rf"{said}.*array\.write_empty_chunks"):
            read(place)
        assert not (web.folder / "C.zarr").exists()

    def test_values_whose_fill_value_somebody_chose(self, web: Web) -> None:
        group(LocalStore(web.folder / "G.zarr"), values_fill=1.0)
        without(web.folder / "G.zarr", "data/c/3")
        X = A.copy()
        X.reshape(-1)[384:512] = 1.0
        est = bigspec.norm(web.folder / "G.zarr", **CALL)
        assert est.lower <= top(X) <= est.upper
        assert est.missing_chunks >= 1
        assert "as 1" in est.summary()
        strict = bigspec.open_matrix(web.folder / "G.zarr", missing_chunks="error")
        with pytest.raises(ChunkError, match="data: chunk c/3"):
            bigspec.norm(strict)
        done = bigspec.convert(web.folder / "G.zarr", web.folder / "C.zarr")
        assert done.missing_chunks == done.to_dict()["missing_chunks"] == 1
        assert "1 chunk is not in the store and was written as the fill value" in str(done)
        assert bigspec.norm(web.folder / "C.zarr", **CALL).upper >= top(X)
        args = [str(web.folder / "G.zarr"), str(web.folder / "D.zarr"), "--missing-chunks", "error"]
        run = CliRunner().invoke(main, ["convert", *args, "--quiet"])
        assert run.exit_code == 65
        assert "data: chunk c/3 is not in the store" in run.stderr

    def test_zeros_that_can_be_nothing_else(self, tmp_path: Path) -> None:
        for X in (np.zeros((5, 4)), np.arange(1.0, 6.0)[:, None]):
            S = sp.csr_array(X)
            made = zarr.create_group(tmp_path / "G.zarr", overwrite=True)
            made.attrs.update({"encoding-type": "csr_matrix", "shape": list(X.shape)})
            for name in ("data", "indices", "indptr"):
                made.create_array(name, data=getattr(S, name))
            est = bigspec.norm(tmp_path / "G.zarr", **CALL)
            assert est.lower <= top(X) <= est.upper


class TestIndices:
    """An index that names what is not there."""

    @pytest.mark.parametrize("size", [0, 5, 40, -40])
    @pytest.mark.parametrize("where", ["start", "end"])
    @pytest.mark.parametrize("door", ["local", "http"])
    def test_a_shard_that_is_cut_short(self, size: int, where: str, door: str, web: Web) -> None:
        codec: Any = {"shards": {"shape": (8, 16), "index_location": where}, "chunks": (4, 8)}
        save(web.folder / "S.zarr", compressors=None, **codec)
        shard = web.folder / "S.zarr/c/5/0"
        shard.write_bytes(shard.read_bytes()[:size])
        place = f"{web.url}/S.zarr" if door == "http" else web.folder / "S.zarr"
        with pytest.raises(ChunkError, match="c/5/0"):
            bigspec.norm(place)

    @pytest.mark.parametrize("where", ["start", "end"])
    def test_a_shard_at_the_edge_that_is_cut_short(self, where: str, tmp_path: Path) -> None:
        codec: Any = {"shards": {"shape": (8, 16), "index_location": where}, "chunks": (4, 8)}
        save(
            tmp_path / "S.zarr", A[:61], compressors=None, **codec
        )  # the last one is read in parts
        shard = tmp_path / "S.zarr/c/7/0"
        whole = shard.read_bytes()
        assert bigspec.norm(tmp_path / "S.zarr", **CALL).upper >= top(A[:61])
        for size in (0, len(whole) // 2):
            shard.write_bytes(whole[:size])
            with pytest.raises(ChunkError, match="c/7/0"):
                bigspec.norm(tmp_path / "S.zarr")

    def test_references_to_what_is_not_there(self, tmp_path: Path) -> None:
        save(tmp_path / "A.zarr")
        refs: dict[str, Any] = {"zarr.json": (tmp_path / "A.zarr/zarr.json").read_text()}
        for k in range(8):
            refs[f"c/{k}/0"] = [str(tmp_path / f"A.zarr/c/{k}/0")]
        (tmp_path / "refs.json").write_text(json.dumps({"version": 1, "refs": refs}))
        without(tmp_path / "A.zarr")
        url = f"reference://::{tmp_path}/refs.json"
        with pytest.raises(ChunkError, match="c/5/0 has a reference to a file that is not there"):
            bigspec.norm(url)
        del refs["c/5/0"]
        (tmp_path / "refs.json").write_text(json.dumps({"version": 1, "refs": refs}))
        import fsspec

        fsspec.filesystem("reference", fo=f"{tmp_path}/refs.json").clear_instance_cache()
        assert bigspec.norm(url, **CALL).missing_chunks == 1


class TestStatuses:
    @pytest.mark.parametrize("status", [401, 403, 410])
    def test_what_will_never_pass_is_not_tried_again(self, status: int, web: Web) -> None:
        web.statuses[LOST] = status
        kind = ChunkError if status == 410 else SourceError
        with pytest.raises(kind, match=r"may not be read|for good") as caught:
            bigspec.norm(f"{web.url}/A.zarr")
        assert not isinstance(caught.value, StoreUnavailableError)
        assert web.asked[LOST] == 2  # with the others, and by itself
        web.statuses = {"A.zarr/zarr.json": status}
        with pytest.raises(SourceError, match=r"may not read|for good") as caught:
            bigspec.norm(f"{web.url}/A.zarr")
        assert not isinstance(caught.value, StoreUnavailableError)

    def test_what_may_pass_is(self, web: Web) -> None:
        web.statuses[LOST] = 503
        with pytest.raises(StoreUnavailableError, match="went on failing after retries"):
            bigspec.norm(f"{web.url}/A.zarr")

    @pytest.mark.parametrize("version", [2, 3])
    def test_a_store_that_may_not_be_listed(self, version: Any, web: Web) -> None:
        save(web.folder / "B.zarr", zarr_format=version)
        # As S3 without the right to list: 403 for what is not there, and for every folder.
        folders = [p for p in web.folder.rglob("*") if p.is_dir()]
        web.statuses = {str(p.relative_to(web.folder)): 403 for p in folders}
        if version == 2:
            web.statuses |= {"B.zarr/zarr.json": 403, "B.zarr/.zgroup": 403}
        est = bigspec.norm(f"{web.url}/B.zarr", **CALL)
        assert est.lower <= top(A) <= est.upper
        # Nothing tells a chunk that is missing from one that is forbidden.
        web.statuses["B.zarr/5.0" if version == 2 else "B.zarr/c/5/0"] = 403
        with pytest.raises(SourceError, match="may not be read by this process"):
            bigspec.norm(f"{web.url}/B.zarr")

    def test_a_listing_that_is_forbidden_is_done_without(self, web: Web) -> None:
        without(web.folder / "A.zarr")
        web.statuses["A.zarr/c/5"] = 403
        assert bigspec.norm(f"{web.url}/A.zarr", **CALL).missing_chunks == 1


def test_what_a_read_counts_is_of_that_read_alone(tmp_path: Path) -> None:
    save(tmp_path / "A.zarr", shards=(8, 16), chunks=(4, 8))
    without(tmp_path / "A.zarr")
    matrix, buffers = bigspec.open_matrix(tmp_path / "A.zarr"), Buffers()
    matrix.read(slice(0, 16), slice(0, 16), buffers)
    assert (buffers.chunks, buffers.missing_chunks) == (2, 0)
    matrix.read(slice(32, 64), slice(0, 16), buffers)
    assert (buffers.chunks, buffers.missing_chunks) == (6, 1)
