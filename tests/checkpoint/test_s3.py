"""Matrix and checkpoint on S3 (moto on loopback), with a layer that fails on a schedule."""

import re
import threading
from collections import Counter

import boto3
import numpy as np
import pytest
import s3fs
import zarr
from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import make_server

import bigspec
from bigspec.checkpoint import Checkpoint, lease
from bigspec.errors import StoreUnavailableError
from bigspec.sources.object_options import PATIENCE
from bigspec.watch import CheckpointWarning
from tests.checkpoint.runs import ASKED, Stepwise, assert_same_bits
from tests.conftest import forget_s3_clients
from tests.matrices import decaying

pytestmark = pytest.mark.usefixtures("many_rounds", "no_pauses", "every_step", "s3_environment")


@pytest.fixture(autouse=True)
def quick_lease(monkeypatch):
    """One process after the other: no race has to settle."""
    monkeypatch.setattr(lease, "TIMING", lease.Timing(settle=0.0))


A = decaying(120, 40, 0.5).astype("f4")
CHUNKS = 10  # of the full width, one a panel, so that every read is one request


def save(where):
    store = zarr.create_array(where, shape=A.shape, chunks=(12, 40), dtype="f4", compressors=None)
    store[:] = A


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run that nothing happens to, on a local disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bigspec.panels.choose_layout.PANEL_BYTES", (1, 1))
        patch.setattr("bigspec.panels.choose_layout.ROUND_PANELS", 3)
        patch.setattr("bigspec.panels.choose_layout.READ_TO_RETURN", 1)
        path = tmp_path_factory.mktemp("local") / "A.zarr"
        save(path)
        est = bigspec.norm(path, **ASKED)
    assert est.passes >= 4
    assert est.layout["panels"] == CHUNKS
    return est


class Faulty:
    """Stands before moto; `fault(method, key, attempt)` says what becomes of a request.

    ``"500"`` and ``"SlowDown"`` are answers of S3; ``"late"`` is one that comes only when the
    client has given up and asked again.
    """

    def __init__(self):
        self.app = DomainDispatcherApplication(create_backend_app)
        self.forget()

    def forget(self):
        self.fault = lambda method, key, attempt: None
        self.attempts, self.given = Counter(), Counter()
        self.change = threading.Condition()
        self.open = True

    def __call__(self, environ, start_response):
        method, key = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        with self.change:
            self.attempts[method, key] += 1
            attempt = self.attempts[method, key]
            self.conditional = {"HTTP_IF_NONE_MATCH", "HTTP_IF_MATCH"} & environ.keys()
            self.change.notify_all()
            fault = self.fault(method, key, attempt)
            self.given[fault] += 1
            if fault == "late":
                self.change.wait_for(
                    lambda: self.attempts[method, key] > attempt or not self.open, timeout=60
                )
        if fault in ("500", "SlowDown", "403", "501"):
            status, code = {
                "500": ("500 Internal Server Error", "InternalError"),
                "SlowDown": ("503 Slow Down", "SlowDown"),
                "403": ("403 Forbidden", "AccessDenied"),
                "501": ("501 Not Implemented", "NotImplemented"),
            }[fault]
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            body = f"<Error><Code>{code}</Code><Message>on schedule</Message></Error>".encode()
            headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))]
            start_response(status, headers)
            return [b"" if method == "HEAD" else body]
        return self.app(environ, start_response)


@pytest.fixture(scope="module")
def front():
    app = Faulty()
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=MotoRequestHandler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    app.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield app
    app.open = False
    server.shutdown()
    thread.join()


@pytest.fixture
def faulty(front, bucket, monkeypatch):
    """The layer is between; s3fs, which would repeat some requests itself, makes each once."""
    front.forget()
    save(f"s3://{bucket}/A.zarr")
    forget_s3_clients()
    monkeypatch.setenv("AWS_ENDPOINT_URL", front.url)
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    yield front
    front.fault = lambda method, key, attempt: None


def keys(endpoint, bucket, prefix):
    client = boto3.client("s3", endpoint_url=endpoint)
    found = client.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])
    client.close()
    return [item["Key"] for item in found]


@pytest.fixture
def blocks(monkeypatch):
    """Iterates lie in blocks of their own, as those of a large matrix do."""
    monkeypatch.setattr("bigspec.checkpoint.codec.INLINE", 1000)


def test_read_saved_and_resumed_with_the_bits_of_a_local_run(blocks, bucket, endpoint, whole):
    save(f"s3://{bucket}/A.zarr")
    place = f"s3://{bucket}/run"
    for passes in (1, 3):
        part = bigspec.norm(f"s3://{bucket}/A.zarr", checkpoint=place, max_passes=passes, **ASKED)
        assert part.passes == passes
        forget_s3_clients()
    est = bigspec.norm(f"s3://{bucket}/A.zarr", checkpoint=place, **ASKED)
    assert_same_bits(est, whole)
    saved = bigspec.show(place)
    assert (saved.finished, saved.passes, saved.place["owner"]) == (True, whole.passes, None)
    records = {key.split("/")[2] for key in keys(endpoint, bucket, "run/records/0")}
    assert len(records) == 2
    assert saved.place["blocks"] > 2
    assert isinstance(zarr.open(place, mode="r"), zarr.Group)


@pytest.mark.parametrize("late", [False, True])
def test_faults_of_reads_change_no_bit_and_are_counted(late, faulty, bucket, whole, monkeypatch):
    """The first two reads of every chunk fail, and so in every second pass."""

    def fault(method, key, attempt):
        if method != "GET" or "A.zarr/c/" not in key or attempt % 4 not in (1, 2):
            return None
        chunk = int(key.split("/")[-2])
        if late and (chunk, attempt) == (3, 1):
            return "late"
        return ("500", "SlowDown")[(chunk + attempt) % 2]

    if late:
        monkeypatch.setattr(s3fs.S3FileSystem, "read_timeout", 1)
        monkeypatch.setitem(PATIENCE, "read_timeout", "1s")
    faulty.fault = fault
    est = bigspec.norm(f"s3://{bucket}/A.zarr", **ASKED)
    assert_same_bits(est, whole)
    assert faulty.given["late"] == late
    faults = sum(faulty.given[kind] for kind in ("500", "SlowDown", "late"))
    assert faults >= 4 * CHUNKS
    counted = [record.retries for record in est.history]
    assert sum(counted) >= faults  # more only where a busy machine itself was late
    if not late:
        assert counted[:2] == [2 * CHUNKS, 0]
        assert sum(counted) == faults


def test_faults_of_every_request_change_no_bit_of_matrix_and_checkpoint(
    blocks, faulty, bucket, whole
):
    """Reads, writes, listings and removals: of the first of each place, and of every ninth."""

    def fault(method, key, attempt):
        return ("500", "SlowDown")[attempt // 9 % 2] if attempt % 9 == 1 else None

    faulty.fault = fault
    place = Checkpoint(f"s3://{bucket}/run", interval=0)
    matrix = f"s3://{bucket}/A.zarr"
    bigspec.norm(matrix, checkpoint=place, max_passes=2, **ASKED)
    assert bigspec.show(place.where).passes == 2
    assert_same_bits(bigspec.norm(matrix, checkpoint=place, **ASKED), whole)
    assert faulty.given["500"] + faulty.given["SlowDown"] > 40
    saved = bigspec.show(place.where)
    assert saved.finished
    assert saved.place["blocks"] > 2


@pytest.mark.parametrize("kind", ["403", "500"])
def test_an_endpoint_that_refuses_all_writes_of_the_checkpoint(
    kind, faulty, bucket, endpoint, whole
):
    faulty.fault = lambda method, key, _: kind if method == "PUT" and "/run" in key else None
    place = f"s3://{bucket}/run"
    with pytest.warns(CheckpointWarning, match="cannot be written .*nothing is saved yet") as heard:
        est = bigspec.norm(f"s3://{bucket}/A.zarr", checkpoint=place, **ASKED)
    assert len(heard) == 1
    assert_same_bits(est, whole)
    assert keys(endpoint, bucket, "run") == []


def test_an_endpoint_that_refuses_writes_from_the_middle_on(faulty, bucket, whole, monkeypatch):
    place, matrix = f"s3://{bucket}/run", f"s3://{bucket}/A.zarr"

    def refuse():
        faulty.fault = lambda method, key, _: "SlowDown" if method == "PUT" else None

    watcher = Stepwise(monkeypatch, {3: refuse})
    est = bigspec.norm(matrix, checkpoint=place, progress=watcher, **ASKED)
    assert_same_bits(est, whole)
    assert len(watcher.heard) == 1
    assert re.search(r"cannot be written .*; the run goes on, record \d stands", watcher.heard[0])
    assert bigspec.show(place).passes == 2
    faulty.fault = lambda method, key, _: None
    assert_same_bits(bigspec.norm(matrix, checkpoint=place, **ASKED), whole)
    assert bigspec.show(place).finished


def test_a_store_that_is_gone_ends_the_run_with_everything_saved(
    faulty, bucket, tmp_path, whole, monkeypatch
):
    def gone():
        faulty.fault = lambda method, key, _: "500" if "A.zarr/c/5/" in key else None

    watcher = Stepwise(monkeypatch, {3: gone})
    place, matrix = tmp_path / "run", f"s3://{bucket}/A.zarr"
    with pytest.raises(StoreUnavailableError, match="chunk c/5/0 could not be read") as caught:
        bigspec.norm(matrix, checkpoint=place, progress=watcher, **ASKED)
    assert caught.value.saved == str(place)
    assert bigspec.show(place).passes == 2
    faulty.fault = lambda method, key, _: None
    assert_same_bits(bigspec.norm(matrix, checkpoint=place, **ASKED), whole)


def test_what_another_process_saved_meanwhile_is_seen(bucket, endpoint):
    """s3fs remembers listings; those of a run that goes on elsewhere must not be old."""
    save(f"s3://{bucket}/A.zarr")
    place = f"s3://{bucket}/run"
    bigspec.norm(f"s3://{bucket}/A.zarr", checkpoint=place, max_passes=1, **ASKED)
    forget_s3_clients()
    assert bigspec.show(place).passes == 1
    elsewhere = dict(s3fs.S3FileSystem._cache)
    s3fs.S3FileSystem._cache.clear()  # another process has other clients
    bigspec.norm(f"s3://{bucket}/A.zarr", checkpoint=place, max_passes=4, **ASKED)
    forget_s3_clients()
    s3fs.S3FileSystem._cache.update(elsewhere)
    assert bigspec.show(place).passes == 4


def test_a_place_without_credentials_is_named(bucket, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(bigspec.errors.SourceError, match="check the permissions, or the cred"):
        bigspec.norm(np.asarray(A), checkpoint=f"s3://{bucket}/run", **ASKED)
