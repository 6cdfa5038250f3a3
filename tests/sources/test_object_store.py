"""obstore's side of a URL: errors by kind, options, identities, missing chunks, files in ranges."""

from __future__ import annotations

import http.server
import json
import pickle
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.core.sync import sync

import bigspec
from bigspec.errors import (
    ArgumentError,
    ChunkError,
    MissingSourceError,
    SourceError,
    StoreUnavailableError,
)
from bigspec.kernels.buffers import Buffers
from bigspec.networks.formats import open_model
from bigspec.sources import object_options, object_store, open_source, retries
from bigspec.sources.object_options import settings_for
from bigspec.sources.storage_options import as_options, options_for

pytest.importorskip("obstore")

A = np.arange(48.0, dtype="f4").reshape(8, 6)
SECRET = "hunter2pass"


# Errors --------------------------------------------------------------------------------------


class Answers(http.server.BaseHTTPRequestHandler):
    """Answers with the status that is the last part of the path; knows no ranges."""

    seen: list[tuple[str, str | None]] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.seen.append((self.path, self.headers.get("Authorization")))
        last = self.path.partition("?")[0].rpartition("/")[2]
        status = int(last) if last.isdigit() else 200
        self.send_response(status)
        self.send_header("Content-Length", "9" if last == "short" else "3")
        self.end_headers()
        self.wfile.write(b"abc")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield f"127.0.0.1:{made.server_port}"
        made.shutdown()
        thread.join()


def error_of(store: Any, key: str) -> Exception:
    """What obstore itself raises."""
    import obstore

    try:
        obstore.get(store, key).bytes()
    except Exception as error:
        return error
    raise AssertionError(key)


STATUSES: list[tuple[str, bool, type[Exception]]] = [
    ("400", False, OSError), ("401", False, PermissionError), ("403", False, PermissionError),
    ("404", False, FileNotFoundError), ("408", True, ConnectionError), ("410", False, OSError),
    ("425", True, ConnectionError), ("429", True, ConnectionError), ("416", False, OSError),
    ("500", True, ConnectionError), ("503", True, ConnectionError),
    ("short", True, ConnectionError),
]  # fmt: skip


@pytest.mark.parametrize(("path", "passing", "kind"), STATUSES)
def test_each_answer_is_final_or_passes(
    path: str, passing: bool, kind: type[Exception], server: str
) -> None:
    store: Any = object_store.remote_store(f"http://{server}/x", None, read_only=True)
    error = error_of(store.store, path)
    made = retries.as_os_error(error)
    assert isinstance(made, kind)
    for one in (error, made):  # of zarr's own store, and of ours
        assert retries.is_transient(one) is passing
        assert retries.is_forbidden(one) is (path in ("401", "403"))
        if path.isdigit() and kind in (OSError, ConnectionError):
            assert retries.http_status(one) == int(path)
    assert "Debug" not in str(made)
    assert "\n" not in retries.cause_of(error)


def test_nobody_listens() -> None:
    store: Any = object_store.remote_store("http://127.0.0.1:1/x", None, read_only=True)
    error = error_of(store.store, "k")
    assert retries.is_transient(error)
    assert isinstance(retries.as_os_error(error), ConnectionError)
    with pytest.raises(StoreUnavailableError, match="the store does not answer, after retries"):
        open_source("http://127.0.0.1:1/A.zarr")


def named_errors() -> list[tuple[str, bool]]:
    from obstore import exceptions

    passing = {"JoinError"}
    names = [n for n in dir(exceptions) if n.endswith("Error") and n != "BaseError"]
    return [(name, name in passing) for name in names]


@pytest.mark.parametrize(("name", "passing"), named_errors())
def test_every_class_of_obstore_has_a_place(name: str, passing: bool) -> None:
    from obstore import exceptions

    error = getattr(exceptions, name)("it says so")
    assert retries.is_transient(error) is passing
    assert retries.is_forbidden(error) is (
        name in ("PermissionDeniedError", "UnauthenticatedError")
    )


@pytest.mark.parametrize(
    "text",
    [
        "Generic S3 error: Error performing PUT http://169.254.169.254/latest - HTTP error",
        "Generic GCS error: Error performing GET http://metadata.google.internal/x - HTTP error",
    ],
)
def test_a_machine_without_credentials_is_not_a_store_that_falters(text: str) -> None:
    from obstore.exceptions import GenericError

    error = GenericError(text)
    assert not retries.is_transient(error)
    assert retries.is_forbidden(error)


def test_an_error_of_zarrs_own_store_is_repeated_and_named(server: str) -> None:
    from obstore.store import HTTPStore
    from zarr.storage import ObjectStore

    once: Any = {"max_retries": 0}
    inner = HTTPStore.from_url(
        f"http://{server}/503", client_options={"allow_http": True}, retry_config=once
    )
    error = error_of(inner, "503")
    with pytest.raises(StoreUnavailableError, match="503 Service Unavailable"):
        raise retries.named_failure(error, "A", "c/0")
    assert ObjectStore(inner).read_only is False


# Options -------------------------------------------------------------------------------------


def test_a_user_in_a_url_is_sent_and_a_query_stays_at_the_end(server: str) -> None:
    url = f"http://anna:{SECRET}@{server}/x?sig=abc"
    store: Any = object_store.remote_store(url, None, read_only=True)
    Answers.seen.clear()
    assert sync(store.get("k", zarr.buffer.default_buffer_prototype())).to_bytes() == b"abc"
    assert Answers.seen == [("/x/k?sig=abc", "Basic YW5uYTpodW50ZXIycGFzcw==")]
    assert SECRET not in f"{store} {store!r}"
    arrived = pickle.loads(pickle.dumps(store))
    assert arrived == store
    assert arrived.url == url


def config(kind: str, options: dict[str, Any], url: str = "s3://b/x") -> dict[str, Any]:
    return settings_for(kind, url, options).config


def test_names_of_fsspec_become_those_of_obstore(tmp_path: Any) -> None:
    assert config(
        "s3",
        {
            "key": "k", "secret": "s", "token": "t", "endpoint_url": "http://e", "anon": False,
            "client_kwargs": {"region_name": "eu-west-1"}, "requester_pays": True,
        },
    ) == {
        "access_key_id": "k", "secret_access_key": "s", "session_token": "t",
        "endpoint": "http://e", "skip_signature": False, "region": "eu-west-1",
        "request_payer": True,
    }  # fmt: skip
    own = config("s3", {"client_kwargs": {"endpoint_url": "http://a"}, "endpoint_url": "http://b"})
    assert own["endpoint"] == "http://b"
    key = tmp_path / "key.json"
    key.write_text("{}")
    assert config("gs", {"token": "anon"}) == {"skip_signature": True}
    assert config("gs", {"token": str(key)}) == {"application_credentials": str(key)}
    assert config("gs", {"token": {"a": 1}}) == {"service_account_key": '{"a": 1}'}
    assert config("gs", {"token": "ya29"}) == {"bearer_token": "ya29"}
    assert config("gs", {"token": "google_default"}) == {}
    joined = "DefaultEndpointsProtocol=https;AccountName=acc;AccountKey=a2V5==;"
    assert config("az", {"connection_string": joined}) == {
        "account_name": "acc", "account_key": "a2V5==",
    }  # fmt: skip
    assert config("az", {"account_name": "acc", "sas_token": "sv=1", "account_host": "h"}) == {
        "account_name": "acc", "sas_key": "sv=1", "endpoint": "https://h",
    }  # fmt: skip
    client = settings_for("http", "http://h/x", {"headers": {"X": "y"}, "timeout": "5s"}).client
    assert client["default_headers"] == {"X": "y"}
    assert client["timeout"] == "5s"
    off = settings_for("s3", "s3://b", {"client_kwargs": {"verify": False}}).client
    assert off["allow_invalid_certificates"] is True


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("gs://b/x", "gs://b/x/A"), ("gcs://b/x", "gs://b/x/A"), ("s3a://b/x", "s3://b/x/A"),
        ("az://c/x", "abfs://c/x/A"), ("abfs://c@acc.dfs.core.windows.net/x", "abfs://c/x/A"),
        ("https://h/x", "http://https://h/x/A"),
    ],
)  # fmt: skip
def test_a_store_is_called_as_fsspec_calls_it(url: str, place: str) -> None:
    """So a run that was saved before obstore was there goes on."""
    options = {"account_name": "acc"} if "az:" in url else {}
    store: Any = object_store.remote_store(url, options, read_only=True)
    assert f"{store.scheme}://{store.path}/A" == place


@pytest.mark.parametrize(
    ("url", "options", "name"),
    [
        ("s3://b/x", {"s3_additional_kwargs": SECRET}, "'s3_additional_kwargs'"),
        ("s3://b/x", {"client_kwargs": {"odd": SECRET}}, r"'client_kwargs.odd'"),
        ("s3://b/x", {"client_options": {"odd": SECRET}}, "'odd'"),
        ("gs://b/x", {"consistency": SECRET}, "'consistency'"),
        ("gs://b/x", {"token": "browser"}, "'token'"),
        ("http://b/x", {"key": SECRET}, "'key'"),
    ],
)
def test_an_option_that_the_client_does_not_have_is_named_without_its_value(
    url: str, options: dict[str, Any], name: str
) -> None:
    with pytest.raises(ArgumentError, match=f"storage_options: {name} is an option") as caught:
        bigspec.open_matrix(url, storage_options=options)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"anon": SECRET}, r"as boolean"),
        ({"timeout": SECRET}, r"as Duration"),
        ({"client_kwargs": SECRET}, "client_kwargs: expected a mapping, got str"),
        ({"headers": [SECRET]}, "headers: expected a mapping, got list"),
        ({"endpoint_url": f"host {SECRET}"}, "endpoint_url: expected the address of a server"),
        ({"endpoint_url": f"http:///{SECRET}"}, "endpoint_url: expected the address of a server"),
    ],
)
def test_a_value_that_is_none_is_refused_and_not_shown(options: Any, said: str) -> None:
    with pytest.raises((ArgumentError, SourceError), match=said) as caught:
        bigspec.open_matrix("s3://b/x", storage_options=options)
    assert SECRET not in str(caught.value)


def test_an_empty_endpoint_in_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "")
    with pytest.raises(ArgumentError, match=r"environment: AWS_ENDPOINT_URL: .*an empty text"):
        bigspec.open_matrix("s3://b/x")


def test_a_client_that_cannot_be_made() -> None:
    with pytest.raises(SourceError, match=r"client cannot be made \(.*Account must be specified"):
        bigspec.open_matrix("az://c/A.zarr")


def test_options_that_would_do_nothing_are_refused(tmp_path: Any) -> None:
    zarr.create_array(tmp_path / "A", data=A)
    calls: list[Any] = [
        lambda o: bigspec.norm(tmp_path / "A", storage_options=o),
        lambda o: bigspec.svds(A, 1, storage_options=o),
        lambda o: bigspec.plan(A, storage_options=o),
        lambda o: bigspec.open_matrix(f"file://{tmp_path}/A", storage_options=o),
        lambda o: bigspec.convert(tmp_path / "A", tmp_path / "B", storage_options=o),
        lambda o: bigspec.scan({"w": A}, storage_options=o),
        lambda o: bigspec.show(tmp_path / "run", storage_options=o),
    ]
    for call in calls:
        with pytest.raises(ArgumentError, match=r"expected a URL such as .* beside key, got none"):
            call({"key": SECRET})
    for odd in ("key=1", {1: "x"}):
        with pytest.raises(ArgumentError, match="storage_options: expected") as caught:
            bigspec.open_matrix("s3://b/A", storage_options=odd)  # type: ignore[arg-type]
        assert "key=1" not in str(caught.value)
    assert as_options({}, A) is None


def test_options_of_a_protocol_are_for_its_urls() -> None:
    given = {"anon": True, "s3": {"key": "k"}, "gs": {"token": "t"}}
    assert options_for("s3://b/x", given) == {"anon": True, "key": "k"}
    assert options_for("s3a://b/x", given) == {"anon": True, "key": "k"}
    assert options_for("https://b/x", given) == {"anon": True}
    chained = options_for("zip://A.zarr::s3://b/x.zip", given)
    assert chained == {"anon": True, "s3": {"key": "k"}, "gs": {"token": "t"}}


def test_what_fsspec_is_configured_with_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.config import conf

    monkeypatch.setitem(conf, "s3", {"endpoint_url": "http://minio", "key": "old"})
    assert options_for("s3://b/x", {"key": "new"}) == {
        "endpoint_url": "http://minio",
        "key": "new",
    }


# A store on S3 -------------------------------------------------------------------------------


@pytest.fixture(params=["obstore", "fsspec"])
def client(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "fsspec":
        monkeypatch.setattr(object_store, "find_spec", lambda _: None)
    return str(request.param)


@pytest.fixture
def hidden(bucket: str, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The options of a bucket that the environment says nothing of."""
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    return {"key": "testing", "secret": SECRET, "client_kwargs": {"endpoint_url": endpoint}}


def save(url: str, options: dict[str, Any] | None = None) -> None:
    store: Any = object_store.remote_store(url, options, read_only=False)
    zarr.create_array(store, shape=A.shape, dtype="f4", chunks=(2, 6))[...] = A


def test_credentials_and_endpoint_by_options(
    client: str, bucket: str, hidden: dict[str, Any]
) -> None:
    url = f"s3://{bucket}/A.zarr"
    save(url, hidden)
    matrix = open_source(
        pickle.loads(pickle.dumps(bigspec.open_matrix(url, storage_options=hidden)))
    )
    np.testing.assert_array_equal(matrix.read(slice(0, 8), slice(0, 6), Buffers()), A)
    assert matrix.identity["where"] == url
    place, asked = f"s3://{bucket}/run", {"storage_options": {"s3": hidden}}
    est = bigspec.norm(url, checkpoint=place, seed=1, **asked)
    assert bigspec.norm(url, start=place, seed=2, **asked).start_columns > 0
    assert est.lower <= np.linalg.norm(A.astype(float), 2) * (1 + 1e-9)
    saved = bigspec.show(place, storage_options=hidden)
    assert saved.finished
    store: Any = object_store.remote_store(f"s3://{bucket}/", hidden, read_only=True)

    async def everything() -> bytes:
        prototype = zarr.buffer.default_buffer_prototype()
        held = [(await store.get(k, prototype)).to_bytes() async for k in store.list_prefix("run")]
        return b"".join(held)

    outputs = (sync(everything()).decode(errors="replace"), est.to_json(), repr(est), str(saved))
    for output in (*outputs, repr(bigspec.Checkpoint("s3://b/x", storage_options=hidden))):
        assert output
        assert SECRET not in output
    with pytest.raises(SourceError):
        bigspec.open_matrix(url, storage_options={"client_kwargs": hidden["client_kwargs"]})


@pytest.mark.usefixtures("s3_environment")
def test_a_missing_chunk_is_looked_for_counted_or_refused(
    client: str, bucket: str, endpoint: str
) -> None:
    import boto3

    url = f"s3://{bucket}/A.zarr"
    save(url)
    s3 = boto3.client("s3", endpoint_url=endpoint)
    s3.delete_object(Bucket=bucket, Key="A.zarr/c/1/0")
    s3.close()
    est = bigspec.norm(url, seed=1)
    assert est.missing_chunks == 1
    expected = A.copy()
    expected[2:4] = 0
    assert est.lower <= np.linalg.norm(expected.astype(float), 2) * (1 + 1e-9) <= est.upper * 1.01
    with pytest.raises(ChunkError, match="chunk c/1/0 is not in the store"):
        bigspec.norm(bigspec.open_matrix(url, missing_chunks="error"), seed=1)


@pytest.mark.usefixtures("s3_environment")
@pytest.mark.parametrize("key", ["c/10", "c/1", "c/2/0", "c/19", "k"])
def test_one_request_lists_one_key(key: str, bucket: str) -> None:
    import obstore

    store: Any = object_store.remote_store(f"s3://{bucket}/A", None, read_only=False)
    for other in ("c/100", "c/11", "c/1/0", "c/3", "a", "z"):
        obstore.put(store.store, other, b"x")
    assert not sync(store.lists(key))
    obstore.put(store.store, key, b"x")
    assert sync(store.lists(key))


@pytest.mark.usefixtures("s3_environment")
def test_a_store_that_lists_what_it_does_not_give_is_not_trusted(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"s3://{bucket}/A.zarr"
    save(url)
    get = object_store.RemoteStore.get

    async def without_one(self: Any, key: str, *args: Any, **options: Any) -> Any:
        return None if key.endswith("c/1/0") else await get(self, key, *args, **options)

    monkeypatch.setattr(object_store.RemoteStore, "get", without_one)
    with pytest.raises(StoreUnavailableError, match=r"the store lists .*c/1/0, and answers that"):
        bigspec.norm(url, seed=1)


@pytest.mark.usefixtures("s3_environment")
def test_a_network_is_read_by_ranges(client: str, bucket: str) -> None:
    header = {"w": {"dtype": "F32", "shape": [8, 6], "data_offsets": [0, A.nbytes]}}
    text = json.dumps(header).encode()
    whole = len(text).to_bytes(8, "little") + text + A.tobytes()
    index = {"weight_map": {"w": "model-1.safetensors"}}
    store: Any = object_store.remote_store(f"s3://{bucket}/net", None, read_only=False)
    for key, value in (
        ("model-1.safetensors", whole),
        ("model.safetensors.index.json", json.dumps(index).encode()),
    ):
        sync(store.set(key, zarr.core.buffer.cpu.Buffer.from_bytes(value)))
    names = ("/model-1.safetensors", "/model.safetensors.index.json", "")
    for place in (f"s3://{bucket}/net{name}" for name in names):
        found = bigspec.scan(place, seed=1).run()
        assert found["w"].lower <= np.linalg.norm(A.astype(float), 2) * (1 + 1e-9)
    with pytest.raises(MissingSourceError):
        open_model(f"s3://{bucket}/nothing.safetensors")


@pytest.mark.usefixtures("s3_environment")
def test_a_place_outside_of_a_store_is_not_reached(client: str, bucket: str) -> None:
    save(f"s3://{bucket}/A.zarr")
    save(f"s3://{bucket}/B.zarr")
    with pytest.raises((SourceError, MissingSourceError, ValueError)):
        open_source(f"s3://{bucket}/A.zarr::/../B.zarr")


def test_a_profile_finds_credentials_where_botocore_is(
    bucket: str, hidden: dict[str, Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"s3://{bucket}/A.zarr"
    save(url, hidden)
    path = tmp_path / "credentials"
    path.write_text("[team]\naws_access_key_id = testing\naws_secret_access_key = testing\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))
    place = {"endpoint_url": hidden["client_kwargs"]["endpoint_url"]}
    for options in ({"profile": "team", **place}, place):
        monkeypatch.setenv("AWS_PROFILE", "team")
        matrix: Any = bigspec.open_matrix(url, storage_options=options)
        assert matrix.shape == (8, 6)
    monkeypatch.delenv("AWS_PROFILE")
    with pytest.raises(SourceError, match="credentials"):
        bigspec.open_matrix(url, storage_options=place)
    assert object_options.AmazonCredentials("team")()["access_key_id"] == "testing"
