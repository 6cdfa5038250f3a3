"""Networks behind URLs: an object store, and a server that sends no ranges; secrets stay secret."""

import functools
import http.server
import threading

import h5py
import numpy as np
import pytest

from bigspec import norm, open_matrix, scan
from bigspec.errors import BigspecError, MissingSourceError, SourceError
from bigspec.networks.formats import open_model
from bigspec.sources.file_bytes import RemoteContent
from tests.networks.formats import writers

A = np.arange(6000, dtype="f4").reshape(60, 100)


def test_a_file_and_a_folder_of_an_object_store(bucket, tmp_path, endpoint):
    import boto3

    shards = {f"m-0000{k}-of-00002.safetensors": {f"w{k}": A + k} for k in (1, 2)}
    writers.write_index(tmp_path, shards)
    client = boto3.client("s3", endpoint_url=endpoint)
    for file in tmp_path.iterdir():
        client.put_object(Bucket=bucket, Key=f"net/{file.name}", Body=file.read_bytes())
    client.close()
    for where in ("net", "net/model.safetensors.index.json"):
        model = open_model(f"s3://{bucket}/{where}")
        assert list(model) == ["w1", "w2"]
        np.testing.assert_array_equal(model["w2"].read(), A + 2)
        assert model["w2"].file == f"s3://{bucket}/net/m-00002-of-00002.safetensors"
        assert model["w2"].token() == open_model(f"s3://{bucket}/{where}")["w2"].token()
    with pytest.raises(MissingSourceError):
        open_model(f"s3://{bucket}/net/none.safetensors")


class Ranged(http.server.SimpleHTTPRequestHandler):
    """Serves files, and ranges of them where it is asked to."""

    ranges, version = True, ""

    def end_headers(self):
        if self.version:
            self.send_header("ETag", f'"{self.version}"')
        super().end_headers()

    def do_GET(self):
        said = self.headers.get("Range")
        if not said or not self.ranges:
            super().do_GET()
            return
        with open(self.translate_path(self.path), "rb") as file:  # noqa: PTH123
            raw = file.read()
        start, stop = (int(place) for place in said.removeprefix("bytes=").split("-"))
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{stop}/{len(raw)}")
        self.send_header("Content-Length", str(stop + 1 - start))
        self.end_headers()
        self.wfile.write(raw[start : stop + 1])

    def log_message(self, *_):
        pass


@pytest.fixture
def served(tmp_path):
    """Return a function from whether ranges are sent to an address of the folder."""
    servers = []

    def serve(ranges):
        handler = type("Handler", (Ranged,), {"ranges": ranges})
        handler = functools.partial(handler, directory=str(tmp_path))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_server_with_ranges_and_a_signed_address(served, tmp_path):
    writers.write_index(tmp_path, {"a.safetensors": {"w": A}})
    writers.write_torch(tmp_path / "m.pt", {"w": A})
    address = served(ranges=True)
    for file in ("model.safetensors.index.json", "a.safetensors", "m.pt"):
        tensor = open_model(f"{address}/{file}?v=1&sig=hunter2")["w"]
        np.testing.assert_array_equal(tensor.read(), A)
        assert "hunter2" not in repr(tensor) + tensor.file + tensor.token()
    with pytest.raises(BigspecError) as caught:
        open_model(f"{address}/none.safetensors?sig=hunter2")
    assert "hunter2" not in str(caught.value)


def test_every_range_says_which_version_it_is_of(served, tmp_path, monkeypatch):
    pytest.importorskip("obstore")
    monkeypatch.setattr(Ranged, "version", "first")
    writers.write_safetensors(tmp_path / "m.safetensors", {"w": A})
    with h5py.File(tmp_path / "A.h5", "w") as file:
        file["A"] = A
    address = served(ranges=True)
    tensor, matrix = open_model(f"{address}/m.safetensors")["w"], open_matrix(f"{address}/A.h5")
    np.testing.assert_array_equal(tensor.read(), A)
    monkeypatch.setattr(Ranged, "version", "second")  # of the same length, within a second
    for read in (tensor.read, lambda: norm(matrix)):
        with pytest.raises(SourceError, match="written again since it was opened"):
            read()


@pytest.mark.parametrize("client", ["obstore", "fsspec"])
def test_a_server_without_ranges_is_not_believed(client, served, tmp_path, monkeypatch):
    if client == "fsspec":
        monkeypatch.setattr("bigspec.sources.object_store.find_spec", lambda _: None)
    else:  # it takes nothing of such an answer
        pytest.importorskip("obstore")
    writers.write_safetensors(tmp_path / "a.safetensors", {"w": A})
    address = served(ranges=False)
    with pytest.raises(SourceError) as caught:
        open_model(f"{address}/a.safetensors")
    size = 0 if client == "obstore" else (tmp_path / "a.safetensors").stat().st_size
    assert str(caught.value) == (
        f"{address}/a.safetensors: expected 512 bytes of its first bytes, got {size}; it changed, "
        "or its server sends no ranges: copy it to a disk"
    )


def test_a_tensor_behind_a_url_beyond_the_memory_limit_is_read_by_rows(
    served, tmp_path, monkeypatch
):
    writers.write_safetensors(tmp_path / "m.safetensors", {"w": A, "c": A[:4]})
    lengths, read = [], RemoteContent.at

    def at(self, start, length, what):
        lengths.append(length)
        return read(self, start, length, what)

    found = scan(f"{served(ranges=True)}/m.safetensors", memory_limit=20 << 20)
    assert found._models[0]["w"].steps(0) == (1, 100)
    monkeypatch.setattr(RemoteContent, "at", at)
    exact = np.linalg.norm(A.astype("f8"), 2)
    assert found["w"].lower <= exact <= found["w"].upper
    assert set(lengths) & {400}  # its type is told by the first row alone
