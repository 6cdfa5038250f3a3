"""Azure and Google: errors of their own clients by kind, and what these take from the environment.

No server and none of these packages: errors are known by the package and the name of their class.
"""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.storage import LocalStore

import bigspec
from bigspec.errors import ArgumentError, SourceError, StoreUnavailableError
from bigspec.sources import object_store, retries
from bigspec.sources.file_parts import evidence_in, is_other
from bigspec.sources.object_options import settings_for

A = np.arange(48.0, dtype="f4").reshape(8, 6)
SECRET = "aHVudGVyMnBhc3M="
URL = "http://127.0.0.1:10000/devstoreaccount1"


def error_of(package: str, *names: str, text: str = "it says so", **attributes: Any) -> Exception:
    """An error as a package would raise it; `names` are those of its class and of its bases."""
    kind: type[Exception] = Exception
    for name in reversed(names):
        kind = type(name, (kind,), {"__module__": f"{package}.exceptions"})
    error = kind(text)
    vars(error).update(attributes)
    return error


def azure(status: int, name: str = "HttpResponseError", text: str = "no") -> Exception:
    return error_of("azure.core", name, text=text, status_code=status)


SAID = (
    "This request is not authorized.\nRequestId:1\nTime:2\nErrorCode:AuthorizationFailure\nContent"
)
CASES: list[tuple[Exception, bool, type[Exception]]] = [
    (azure(403), False, PermissionError),
    (azure(401, "ClientAuthenticationError"), False, PermissionError),
    (error_of("azure.identity", "CredentialUnavailableError", "ClientAuthenticationError"), False,
     PermissionError),
    (azure(404, "ResourceNotFoundError"), False, FileNotFoundError),
    (azure(409, "ResourceExistsError"), False, OSError),
    (azure(429), True, ConnectionError),
    (azure(503), True, ConnectionError),
    (error_of("azure.core", "ServiceRequestError"), True, ConnectionError),
    (error_of("azure.core", "ServiceResponseTimeoutError", "ServiceResponseError"), True,
     ConnectionError),
    (azure(206, "IncompleteReadError"), True, ConnectionError),
    (error_of("gcsfs.retry", "HttpError", code=401), False, PermissionError),
    (error_of("gcsfs.retry", "HttpError", code=400), False, OSError),
    (error_of("gcsfs.retry", "HttpError", code=503), True, ConnectionError),
    (OSError("Forbidden: http://storage/b/o\nno"), False, PermissionError),
    (error_of("google.auth", "RefreshError"), False, PermissionError),
    (error_of("google.auth", "MalformedError", "DefaultCredentialsError"), False, PermissionError),
    (error_of("google.auth", "TransportError"), True, ConnectionError),
]  # fmt: skip


@pytest.mark.parametrize(("error", "passing", "kind"), CASES, ids=repr)
def test_each_error_is_final_or_passes(
    error: Exception, passing: bool, kind: type[Exception]
) -> None:
    made = retries.as_os_error(error)
    assert isinstance(made, kind)
    for one in (error, made):
        assert retries.is_transient(one) is passing
        assert retries.is_forbidden(one) is (kind is PermissionError)


def test_what_the_server_said_is_one_line_with_its_code() -> None:
    said = "HttpResponseError: This request is not authorized. (AuthorizationFailure)"
    assert retries.cause_of(azure(403, text=SAID)) == said
    assert str(retries.as_os_error(azure(403, text=SAID))) == said


def test_an_object_that_obstore_does_not_find_has_no_structures_in_its_text() -> None:
    error = FileNotFoundError(
        'Object at location a not found: status code: 404 Not Found: <?xml version="1.0"?>\n'
        "<Error><Code>NoSuchBucket</Code></Error>\n\nDebug source:\nNotFound {"
    )
    text = "Object at location a not found: status code: 404 Not Found (NoSuchBucket)"
    made = retries.as_os_error(error)
    assert isinstance(made, FileNotFoundError)
    assert str(made) == text
    assert retries.cause_of(made) == f"FileNotFoundError: {text}"


# Runs ----------------------------------------------------------------------------------------


class Failing(LocalStore):
    """Raises an error for chunks, from a request on."""

    def __init__(self, root: Any, error: Exception, first: int) -> None:
        super().__init__(root, read_only=True)
        self.error, self.first, self.numbers = error, first, itertools.count(1)

    async def get(self, key: str, *args: Any, **options: Any) -> Any:
        if "c/" in key and next(self.numbers) >= self.first:
            raise self.error
        return await super().get(key, *args, **options)


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (error_of("azure.core", "ServiceRequestError"), StoreUnavailableError, "went on failing"),
        (error_of("gcsfs.retry", "HttpError", code=503), StoreUnavailableError, "went on failing"),
        (azure(403), SourceError, "may not be read by this process"),
        (OSError("Forbidden: http://b/o\nno"), SourceError, "may not be read by this process"),
    ],
    ids=repr,
)
def test_a_server_that_fails_in_mid_run_has_not_damaged_a_chunk(
    error: Exception,
    kind: type[Exception],
    said: str,
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retries, "POLICY", retries.RetryPolicy(3, 0.0, 0.0))
    zarr.create_array(tmp_path / "A", data=A, chunks=(2, 6))
    array = zarr.open_array(Failing(tmp_path / "A", error, first=3), mode="r")
    with pytest.raises(kind, match=said) as caught:
        bigspec.norm(array, seed=1, pin=False)
    assert type(caught.value) is kind


# Clients that cannot be made -----------------------------------------------------------------


def test_a_file_system_that_refuses_its_options_is_no_unknown_url(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def from_url(*_: Any, **options: Any) -> Any:
        msg = f"unable to connect with {options['storage_options']['account_key']}"
        raise ValueError(msg)

    monkeypatch.setattr(object_store, "find_spec", lambda _: None)
    monkeypatch.setattr(object_store.FsspecStore, "from_url", from_url)
    with pytest.raises(SourceError, match=r"its client cannot be made \(ValueError") as caught:
        bigspec.open_matrix("az://c/A.zarr", storage_options={"account_key": SECRET})
    assert SECRET not in str(caught.value)
    with pytest.raises(SourceError, match="a URL that fsspec knows"):
        bigspec.open_matrix("nosuch://c/A.zarr", storage_options={"account_key": SECRET})


@pytest.mark.parametrize("name", ["endpoint_url", "endpoint"])
def test_an_endpoint_that_adlfs_would_leave_out_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "find_spec", lambda _: None)
    with pytest.raises(ArgumentError, match=f"{name}: adlfs.* give connection_string with"):
        bigspec.open_matrix("az://c/A.zarr", storage_options={"account_name": "a", name: URL})


# Options -------------------------------------------------------------------------------------


def config(options: dict[str, Any], url: str = "az://c/x") -> dict[str, Any]:
    return settings_for(url.partition(":")[0], url, options).config


NAMES = {"account_name": "acc", "account_key": SECRET}
STRINGS = [
    (f"AccountName=acc;AccountKey={SECRET};BlobEndpoint=https://acc.blob.core.windows.net/;",
     NAMES | {"endpoint": "https://acc.blob.core.windows.net"}),
    (f"accountname=acc;accountkey={SECRET}", NAMES),
    (f"AccountName=acc;AccountKey={SECRET};EndpointSuffix=core.chinacloudapi.cn",
     NAMES | {"endpoint": "https://acc.blob.core.chinacloudapi.cn"}),
    ("BlobEndpoint=https://acc.blob.core.windows.net/;SharedAccessSignature=sv=1&sig=a%3D",
     {"account_name": "acc", "sas_key": "sv=1&sig=a%3D",
      "endpoint": "https://acc.blob.core.windows.net"}),
    (f"BlobEndpoint={URL};SharedAccessSignature=sv=1",
     {"account_name": "devstoreaccount1", "sas_key": "sv=1", "endpoint": URL}),
    ("UseDevelopmentStorage=true", {"use_emulator": True}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), STRINGS)
def test_a_connection_string_by_option_or_environment(
    text: str, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert config({"connection_string": text}) == expected
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", text)
    assert config({}) == expected


def test_an_account_that_is_named_stands_before_the_string_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", STRINGS[0][0])
    assert config({"account_name": "b"}) == {"account_name": "b"}
    assert config({"anon": True}) == {"skip_signature": True}
    assert config({"connection_string": "AccountName=b"}) == {"account_name": "b"}
    assert config({}, "abfs://c@b.dfs.core.windows.net/x") == {}


def test_an_endpoint_ends_without_a_slash(monkeypatch: pytest.MonkeyPatch) -> None:
    assert config({"endpoint_url": f"{URL}/"}) == {"endpoint": URL}
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", f"{URL}/")
    assert config({}) == {"endpoint": URL}


@pytest.mark.parametrize("host", ["127.0.0.1:4443", "http://127.0.0.1:4443"])
def test_the_emulator_of_the_environment_gets_no_credentials(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", host)
    place = {"base_url": "http://127.0.0.1:4443"}
    assert config({}, "gs://b/x") == place | {"bearer_token": "emulator"}
    assert config({"token": "ya29"}, "gs://b/x") == place | {"bearer_token": "ya29"}
    other = {"endpoint_url": "http://other"}
    assert config(other, "gs://b/x") == {"base_url": "http://other"}
    monkeypatch.setenv("GOOGLE_BASE_URL", "http://other")
    assert config({}, "gs://b/x") == {}


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("gs://b/x", "GOOGLE_BASE_URL"),
        ("az://c/x", "AZURE_STORAGE_ENDPOINT"),
        ("az://c/x", "AZURE_ENDPOINT"),
    ],
)
@pytest.mark.parametrize("value", ["", "localhost:10000", "http://"])
def test_an_address_in_the_environment_that_is_none_is_named(
    url: str, name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ArgumentError, match=f"environment: {name}: expected the address"):
        settings_for(url.partition(":")[0], url, {})


# Versions of files ---------------------------------------------------------------------------


def test_either_client_gives_the_same_evidence_of_a_file() -> None:
    """What adlfs and gcsfs said of a file on an emulator, and obstore of the same file."""
    changed = datetime(2026, 11, 30, 23, 12, 33, tzinfo=UTC)
    azures = {"name": "c/A.h5", "size": 9, "etag": '"0x1D0D"', "last_modified": changed,
              "creation_time": changed, "type": "file"}  # fmt: skip
    googles = {"name": "b/A.h5", "size": 9, "etag": "8qjh==", "generation": "1796080354620881",
               "updated": "2026-11-30T23:12:33.615641Z", "mtime": changed}  # fmt: skip
    meta = {"size": 9, "last_modified": changed}
    for url, said, tags in (
        ("az://c/A.h5", azures, {"e_tag": '"0x1D0D"', "version": None}),
        ("gs://b/A.h5", googles, {"e_tag": '"8qjh=="', "version": "1796080354620881"}),
    ):
        options = {"account_name": "acc"} if "az:" in url else {"token": "t"}
        store: Any = object_store.remote_store(url, options, read_only=True)
        mine = store._version(meta | tags)
        assert evidence_in(mine) == evidence_in(said)
        assert not is_other(mine, store._version(meta | tags))
        later = {"e_tag": '"0x2"', "version": tags["version"] and "1796080354620882"}
        assert is_other(store._version(meta | later), mine)
        assert evidence_in(store._version(meta | later)) != evidence_in(mine)
