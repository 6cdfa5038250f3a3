"""HDF5 and netCDF behind a URL: one index, then ranges, and the entries that h5py reads."""

import functools
import http.server
import os
import threading
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.sparse as sp

import bigspec
from bigspec.errors import (
    BigspecError,
    ChunkError,
    DataError,
    MissingSourceError,
    ResumeError,
    SourceError,
    UnsupportedTypeError,
)
from bigspec.kernels.buffers import Buffers
from bigspec.sources import ranges as ranges_module
from bigspec.sources.block_file import BLOCK, BlockFile

rng = np.random.default_rng(0)
A = rng.standard_normal((300, 70)).astype("f4")
S = sp.random_array((400, 90), density=0.1, rng=1, format="csr")
GZIP = {"chunks": (64, 30), "compression": "gzip"}
DATASETS = {
    "contiguous": (A, {}),
    "chunked": (A, {"chunks": (64, 30)}),
    "deflate": (A, GZIP),
    "shuffle and deflate": (A, GZIP | {"shuffle": True}),
    "checksum": (A, GZIP | {"shuffle": True, "fletcher32": True}),
    "checksum alone": (A, {"chunks": (64, 30), "fletcher32": True}),
    "lzf": (A, {"chunks": (64, 30), "compression": "lzf", "shuffle": True}),
    "szip": (A, {"chunks": (64, 30), "compression": "szip"}),
    "scale-offset": ((A * 100).astype("i4"), {"chunks": (64, 30), "scaleoffset": 0}),
    "big-endian": (A.astype(">f8"), GZIP | {"shuffle": True}),
    "complex": (A + 2j * A[::-1], GZIP),
    "bool": (A > 0, GZIP),
    "half": (A.astype("f2"), {"chunks": (7, 70)}),
    "integers": ((A * 100).astype("i2"), {}),
    "one chunk": (A, {"chunks": A.shape}),
}


class Ranged(http.server.SimpleHTTPRequestHandler):
    """Serves ranges, and notes what it was asked for."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_HEAD(self):
        self.server.seen.append("HEAD")
        super().do_HEAD()

    def do_GET(self):
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        raw, said = path.read_bytes(), self.headers.get("Range")
        start, stop = 0, len(raw)
        if said and self.server.ranges:
            start, last = map(int, said.removeprefix("bytes=").split("-"))
            stop = min(last + 1, len(raw))
        self.server.seen.append((start, stop))
        if self.server.failures:
            self.send_error(self.server.failures.pop())
            return
        self.send_response(206 if said and self.server.ranges else 200)
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        self.wfile.write(raw[start:stop])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path):
    handler = functools.partial(Ranged, directory=str(tmp_path))
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    made.seen, made.ranges, made.failures = [], True, []
    made.url = f"http://127.0.0.1:{made.server_address[1]}"
    threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def entries(matrix):
    block = matrix.read(slice(0, matrix.shape[0]), slice(0, matrix.shape[1]), Buffers())
    return block.toarray() if sp.issparse(block) else np.array(block)


def same(far, near):
    assert (far.shape, far.dtype.newbyteorder("=")) == (near.shape, near.dtype.newbyteorder("="))
    np.testing.assert_array_equal(entries(far), entries(near))


@pytest.mark.parametrize("kind", DATASETS)
def test_every_layout_and_filter_reads_as_from_a_disk(kind, server, tmp_path):
    data, options = DATASETS[kind]
    with h5py.File(tmp_path / "A.h5", "w") as file:
        file.create_dataset("group/A", data=data, **options)
    far = bigspec.open_matrix(f"{server.url}/A.h5::/group/A")
    same(far, bigspec.open_matrix(f"{tmp_path}/A.h5::/group/A"))
    est = bigspec.norm(far, seed=1)
    assert est.lower <= np.linalg.norm(data.astype(complex), 2) <= est.upper
    assert est.missing_chunks == 0


def test_one_index_and_then_each_chunk_once_a_pass(server, tmp_path):
    with h5py.File(tmp_path / "A.h5", "w") as file:
        file.create_dataset("noise", data=rng.random(10 * BLOCK // 8))  # the file is long
        file.create_dataset("A", data=A, **GZIP)
        where = [file["A"].id.get_chunk_info(k) for k in range(15)]
    matrix = bigspec.open_matrix(f"{server.url}/A.h5::/A")
    index = [held for held in server.seen if held != "HEAD"]
    assert sum(stop - start for start, stop in index) < 8 * BLOCK
    server.seen.clear()
    options = {"algorithm": "lanczos", "block_size": 2, "rtol": 1e-2, "pin": False}
    est = bigspec.norm(matrix, seed=1, **options)
    assert est.passes > 1
    chunks = sorted(((c.byte_offset, c.byte_offset + c.size) for c in where) for _ in [0])
    asked = [held for held in server.seen if held != "HEAD"]
    assert sorted(set(asked)) == sorted(*chunks)
    assert len(asked) == 15 * est.passes
    assert est.chunks == 15


def test_workers_get_the_index_and_read_ranges_alone(server, tmp_path, client):
    with h5py.File(tmp_path / "A.h5", "w") as file:
        file.create_dataset("A", data=A, **GZIP)
        where = [file["A"].id.get_chunk_info(k) for k in range(15)]
    matrix = bigspec.open_matrix(f"{server.url}/A.h5::/A")
    server.seen.clear()
    est = bigspec.norm(matrix, seed=1, rtol=1e-6)
    assert est.layout["where"] != "the calling thread"
    assert est.lower <= np.linalg.norm(A, 2) <= est.upper
    asked = {held for held in server.seen if held != "HEAD"}
    assert asked == {(c.byte_offset, c.byte_offset + c.size) for c in where}


def test_chunks_that_were_never_written_count_as_the_fill_value(server, tmp_path):
    with h5py.File(tmp_path / "A.h5", "w") as file:
        made = file.create_dataset("A", (300, 70), "f4", chunks=(100, 70), fillvalue=0.5)
        made[:100] = A[:100]
        file.create_dataset("never", (300, 70), "f4")
        made = file.create_dataset("none", (300, 70), "f4", chunks=(100, 70), fill_time="never")
        made[:100] = A[:100]
    place = f"{server.url}/A.h5"
    est = bigspec.norm(f"{place}::/A", seed=1)
    expected = np.vstack([A[:100], np.full((200, 70), 0.5)])
    assert est.lower <= np.linalg.norm(expected, 2) <= est.upper
    assert (est.missing_chunks, est.chunks) == (2, 3)
    assert bigspec.norm(f"{place}::/never").upper == 0
    with pytest.raises(ChunkError, match="is not in the store; a missing chunk is an error"):
        bigspec.norm(bigspec.open_matrix(f"{place}::/A", missing_chunks="error"))
    with pytest.raises(ChunkError, match="the dataset has no fill value"):
        bigspec.norm(f"{place}::/none")


@pytest.mark.parametrize("usual", [0, 1])
def test_chunks_that_a_filter_was_left_out_of(usual, server, tmp_path):
    import zlib

    with h5py.File(tmp_path / "A.h5", "w") as file:
        made = file.create_dataset("A", (300, 70), "f4", chunks=(100, 70), compression="gzip")
        for k in range(3):
            raw, plain = A[100 * k : 100 * (k + 1)].tobytes(), (k == 0) != usual
            stored = raw if plain else zlib.compress(raw)
            made.id.write_direct_chunk((100 * k, 0), stored, filter_mask=int(plain))
    same(bigspec.open_matrix(f"{server.url}/A.h5"), bigspec.open_matrix(f"{tmp_path}/A.h5"))


def test_files_with_a_header_and_small_datasets_inside_their_headers(server, tmp_path):
    with h5py.File(tmp_path / "A.h5", "w", userblock_size=512) as file:
        file.create_dataset("A", data=A, **GZIP)
        file.create_dataset("B", data=A)
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple((20, 5))
        held = h5py.h5d.create(file.id, b"C", h5py.h5t.IEEE_F64LE, space, plist)
        h5py.Dataset(held)[...] = A[:20, :5]
        file["M"] = A
        file["M"].attrs["MATLAB_class"] = np.bytes_("single")
    for part in "ABC":
        near = bigspec.open_matrix(f"{tmp_path}/A.h5::/{part}")
        same(bigspec.open_matrix(f"{server.url}/A.h5::/{part}"), near)
    turned = bigspec.open_matrix(f"{server.url}/A.h5::/M")  # MATLAB counts columns first
    assert turned.shape == (70, 300)
    assert bigspec.norm(turned, seed=1).value == pytest.approx(np.linalg.norm(A, 2))


@pytest.mark.parametrize("form", ["csr", "csc"])
def test_sparse_groups_of_anndata(form, server, tmp_path):
    anndata = pytest.importorskip("anndata")
    anndata.AnnData(S.asformat(form)).write_h5ad(tmp_path / "A.h5ad", compression="gzip")
    far = bigspec.open_matrix(f"{server.url}/A.h5ad")
    same(far, bigspec.open_matrix(f"{tmp_path}/A.h5ad::/X"))
    est = bigspec.norm(f"{server.url}/A.h5ad::/X", seed=1)
    assert est.lower <= np.linalg.norm(S.toarray(), 2) <= est.upper


def test_sparse_groups_of_10x_and_matlab(server, tmp_path):
    csc = S.tocsc()
    with h5py.File(tmp_path / "A.h5", "w") as file:
        tenx = file.create_group("matrix")
        for part in ("data", "indices", "indptr"):
            tenx[part] = getattr(csc, part)
        tenx["shape"] = np.array(csc.shape)
        tenx["barcodes"] = np.array([b"x"] * csc.shape[1])
        matlab = file.create_group("M")
        matlab.attrs["MATLAB_sparse"] = np.uint64(csc.shape[0])
        for name, part in {"data": "data", "ir": "indices", "jc": "indptr"}.items():
            matlab[name] = getattr(csc, part)
    for place in ("", "::/matrix", "::/M"):
        np.testing.assert_array_equal(
            entries(bigspec.open_matrix(f"{server.url}/A.h5{place}")), S.toarray()
        )


def test_netcdf_is_unpacked_as_from_a_disk(server, tmp_path):
    netcdf = pytest.importorskip("netCDF4")
    with netcdf.Dataset(tmp_path / "A.nc", "w") as file:
        for name, size in {"time": 20, "lat": 6, "lon": 9}.items():
            file.createDimension(name, size)
        made = file.createVariable("T", "i2", ("time", "lat", "lon"), zlib=True, fill_value=-999)
        made.scale_factor, made.add_offset = 0.01, 5.0
        values = rng.standard_normal((20, 6, 9))
        values[3, 2, 1] = np.nan
        made[:] = np.ma.masked_where(np.isnan(values), np.nan_to_num(values))
        file.createVariable("plain", "f8", ("time", "lat"))[:] = values[:, :, 0]
        file.createVariable("time", "f8", ("time",))[:] = np.arange(20)
        file.createVariable("unwritten", "f4", ("lat", "lon"))[:2] = 1
    place = {"rows": ("time", "lat"), "fill": 0}
    far = bigspec.open_matrix(f"{server.url}/A.nc::/T", **place)
    near = bigspec.open_matrix(f"{tmp_path}/A.nc::/T", **place)
    same(far, near)
    assert (far.packing, far.down.names) == (near.packing, near.down.names)
    same(*(bigspec.open_matrix(f"{at}/A.nc::/plain") for at in (server.url, tmp_path)))
    for at in (server.url, tmp_path):
        with pytest.raises(DataError, match="got a missing one"):  # netCDF's default mark
            entries(bigspec.open_matrix(f"{at}/A.nc::/unwritten"))
        with pytest.raises(SourceError, match="two or more dimensions, got 3"):
            bigspec.open_matrix(f"{at}/A.nc")
        with pytest.raises(DataError, match="say which"):
            bigspec.open_matrix(f"{at}/A.nc::/T")
    raw = bigspec.open_matrix(f"{server.url}/A.nc::/T", rows="time", raw=True)
    assert raw.dtype == np.int16


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("variables", [("T",), ("T", "odd")])
def test_classic_netcdf_with_and_without_records(variables, version, server, tmp_path):
    import scipy.io

    values = rng.standard_normal((20, 6, 9))
    with scipy.io.netcdf_file(tmp_path / "A.nc", "w", version=version) as file:
        file.history = "of a test"
        for name, size in {"time": None, "lat": 6, "lon": 9}.items():
            file.createDimension(name, size)
        for name in variables:
            made = file.createVariable(name, "i2", ("time", "lat", "lon"))
            made.scale_factor, made.add_offset, made._FillValue = 0.01, 5.0, np.int16(-999)
            made[:] = np.round(values * 100).astype("i2")
        if "odd" in variables:
            file.createVariable("bytes", "i1", ("time",))[:] = np.arange(20)
        file.createVariable("fixed", "f8", ("lat", "lon"))[:] = values[0]
    for part in (*variables, "fixed"):
        place = {"rows": ("time", "lat")} if part in variables else {}
        far = bigspec.open_matrix(f"{server.url}/A.nc::/{part}", **place)
        near = bigspec.open_matrix(f"{tmp_path}/A.nc::/{part}", **place)
        same(far, near)
        assert (far.dtype, getattr(far, "packing", 0)) == (near.dtype, getattr(near, "packing", 0))
    (tmp_path / "A.nc").write_bytes((tmp_path / "A.nc").read_bytes()[:-700])
    with pytest.raises(SourceError, match="cut short"):
        entries(bigspec.open_matrix(f"{server.url}/A.nc::/T", rows="time"))


def test_a_file_that_is_written_again_is_noticed(server, tmp_path, monkeypatch):
    path = tmp_path / "A.h5"

    def write(data, when):
        with h5py.File(path, "w") as file:
            file.create_dataset("A", data=data, chunks=(64, 70))
        os.utime(path, (when, when))

    now = time.time()
    write(A, now - 100)
    call = {"checkpoint": tmp_path / "run", "seed": 1, "rtol": 1e-12, "block_size": 2}
    bigspec.norm(f"{server.url}/A.h5", max_passes=1, algorithm="lanczos", **call)
    matrix = bigspec.open_matrix(f"{server.url}/A.h5")
    first = bigspec.open_matrix(f"{server.url}/A.h5")
    assert first.token == matrix.token
    write(2 * A, now)
    monkeypatch.setattr(ranges_module, "EVERY", -1.0)
    with pytest.raises(SourceError, match="written again since it was opened"):
        bigspec.norm(matrix)
    with pytest.raises(ResumeError):
        bigspec.norm(f"{server.url}/A.h5", algorithm="lanczos", **call)
    path.unlink()
    with pytest.raises(MissingSourceError, match="went away while it was read"):
        bigspec.norm(first)


def test_a_request_that_fails_for_a_moment_is_repeated(server, tmp_path):
    with h5py.File(tmp_path / "A.h5", "w") as file:
        file.create_dataset("A", data=A, **GZIP)
    server.failures = [503, 503]
    matrix = bigspec.open_matrix(f"{server.url}/A.h5")
    server.failures = [503]
    est = bigspec.norm(matrix, seed=1)
    assert est.lower <= np.linalg.norm(A, 2) <= est.upper
    assert sum(record.retries for record in est.history) >= 1
    server.failures = [403]
    with pytest.raises(SourceError, match="may not read it"):
        bigspec.open_matrix(f"{server.url}/A.h5")


def test_a_damaged_chunk_is_named(server, tmp_path):
    with h5py.File(tmp_path / "A.h5", "w") as file:
        made = file.create_dataset("A", data=A, chunks=(64, 70), fletcher32=True)
        at = made.id.get_chunk_info_by_coord((128, 0)).byte_offset
    raw = bytearray((tmp_path / "A.h5").read_bytes())
    raw[at + 5] ^= 0xFF
    (tmp_path / "A.h5").write_bytes(raw)
    with pytest.raises(ChunkError, match=r"chunk 2\.0 is damaged"):
        bigspec.norm(f"{server.url}/A.h5")


def test_what_cannot_be_read_says_what_to_do(server, tmp_path):
    with h5py.File(tmp_path / "A.h5", "w") as file:
        file["A"] = A
        file["B"] = A
        file["text"] = np.array([[b"x"]])
        layout = h5py.VirtualLayout((300, 70), "f4")
        layout[:] = h5py.VirtualSource(file["A"])
        file.create_virtual_dataset("virtual", layout)
        file.create_dataset("shuffled", data=A, chunks=(64, 30), shuffle=True)
    (tmp_path / "no.h5").write_bytes(b"nothing of the kind")
    (tmp_path / "wide.nc").write_bytes(b"CDF\x05\0\0\0\0")
    (tmp_path / "old.nc").write_bytes(b"CDF\x01\0\0\0\0\0\0\0\x07\0\0\0\0")
    refused = {
        "A.h5": (SourceError, r"the file holds /A \(300, 70\) float32; /B"),
        "A.h5::/C": (MissingSourceError, "nothing lies at 'C'; the file holds /A"),
        "A.h5::/text": (UnsupportedTypeError, "text"),
        "A.h5::/virtual": (SourceError, "got a virtual dataset, whose entries lie in other files"),
        "A.h5::/shuffled": (SourceError, "that is only shuffled"),
        "no.h5": (SourceError, "that h5py cannot open"),
        "wide.nc": (SourceError, "CDF-5; convert it: nccopy -k nc4"),
        "old.nc": (SourceError, "header is damaged .a list of 0 with the tag 7, where 10 belongs"),
        "gone.h5": (MissingSourceError, "nothing lies there"),
    }
    for place, (kind, message) in refused.items():
        with pytest.raises(kind, match=message):
            bigspec.open_matrix(f"{server.url}/{place}")
    server.ranges = False
    with pytest.raises(SourceError, match="sends no ranges: copy it to a disk"):
        bigspec.open_matrix(f"{server.url}/A.h5::/A")


def test_secrets_stay_secret(server, tmp_path):
    with h5py.File(tmp_path / "A.h5", "w") as file:
        file["A"] = A
    matrix = bigspec.open_matrix(f"{server.url}/A.h5?X-Amz-Signature=hunter2::/A")
    est = bigspec.norm(matrix)
    assert est.lower <= np.linalg.norm(A, 2) <= est.upper
    assert "hunter2" not in repr(matrix) + str(matrix.identity) + est.to_json()
    assert matrix.identity == bigspec.open_matrix(f"{server.url}/A.h5::/A").identity
    with pytest.raises(BigspecError) as caught:
        bigspec.open_matrix(f"{server.url}/A.h5?sig=hunter2::/B")
    assert "hunter2" not in str(caught.value)


def test_an_object_store(bucket, tmp_path, endpoint):
    import boto3

    with h5py.File(tmp_path / "A.h5", "w") as file:
        file.create_dataset("A", data=A, **GZIP)
    client = boto3.client("s3", endpoint_url=endpoint)
    client.put_object(Bucket=bucket, Key="A.h5", Body=(tmp_path / "A.h5").read_bytes())
    client.close()
    est = bigspec.norm(f"s3://{bucket}/A.h5", seed=1)
    assert est.lower <= np.linalg.norm(A, 2) <= est.upper


class Lines:
    """A content that fails from its third read on."""

    size, reads = 10 * BLOCK + 7, 0

    def at(self, start, length, what):
        self.reads += 1
        if self.reads > 2:
            msg = "gone"
            raise MissingSourceError(msg)
        return np.arange(start, start + length).astype(np.uint8)


def test_blocks_are_fetched_once_and_no_error_reaches_hdf5():
    content = Lines()
    file = BlockFile(content)
    file.seek(BLOCK - 3)
    assert file.read(6) == bytes((BLOCK + k) % 256 for k in range(-3, 3))
    assert content.reads == 1
    file.seek(-7, 2)
    assert file.read() == bytes((10 * BLOCK + k) % 256 for k in range(7))
    assert content.reads == 2
    file.check()
    file.seek(5 * BLOCK)
    assert file.read(4) == bytes(4)
    with pytest.raises(MissingSourceError):
        file.check()
