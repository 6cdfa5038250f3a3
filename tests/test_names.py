"""What is shown of names: secrets are gone, terminal codes are written out, identities stay."""

import pytest

from bigspec.names import bare, escaped, redacted, shown

PW = "hunter2"

SECRET = [
    # (as given, as shown, as identified)
    (f"https://ann:{PW}@h.org/A.zarr", "https://***@h.org/A.zarr", "https://h.org/A.zarr"),
    (f"https://{PW}@h.org:80/A", "https://***@h.org:80/A", "https://h.org:80/A"),
    (f"ftp://ann:{PW}@h.org/a@b", "ftp://***@h.org/a@b", "ftp://h.org/a@b"),
    (f"s3://ann:{PW}/x?y@bucket/A", "s3://***@bucket/A", "s3://bucket/A"),
    (f"ftp://ann:12@{PW}@h.org/A", "ftp://***@h.org/A", "ftp://h.org/A"),
    (
        f"zip://A.zarr::https://ann:{PW}@h.org/A.zip",
        "zip://A.zarr::https://***@h.org/A.zip",
        "zip://A.zarr::https://h.org/A.zip",
    ),
    (
        f"https://h.org/A?v=3&X-Amz-Date=1&X-Amz-Signature={PW}&X-Amz-Expires=60",
        "https://h.org/A?v=3&***",
        "https://h.org/A?v=3",
    ),
    (
        f"https://acc.blob.net/c/A.zarr?sv=2024&se=2026-01-01&sp=r&sig={PW}%2B%3D",
        "https://acc.blob.net/c/A.zarr?***",
        "https://acc.blob.net/c/A.zarr",
    ),
    (f"https://h.org/A?api_key={PW}::/X", "https://h.org/A?***::/X", "https://h.org/A::/X"),
    (f"https://h.org/A?%73ig={PW}", "https://h.org/A?***", "https://h.org/A"),
    (f"https://h.org/A#access_token={PW}", "https://h.org/A#***", "https://h.org/A"),
    (f"https://h.org/A?Expires=5&Key-Pair-Id={PW}", "https://h.org/A?***", "https://h.org/A"),
]

PLAIN = [
    "A.zarr", "/data/a@b/A.zarr", "http://h.org:8080/a@b/A.zarr", "http://[::1]:8080/a@b",
    "s3://bucket/A.zarr@v2", "abfs://container@account.dfs.core.windows.net/A",
    "github://org:repo@main/A.zarr", "zip://x::http://h.org/a@b", "https://h.org/A?version=3&se=1",
    "sftp://ann@h.org/A.zarr", "file:///a:b@c", "s3://b/A::/X", "https://h.org/A?monkey=1",
]  # fmt: skip


@pytest.mark.parametrize(("given", "seen", "identified"), SECRET)
def test_a_secret_is_neither_shown_nor_part_of_an_identity(given, seen, identified):
    assert redacted(given) == seen
    assert PW not in redacted(f"ClientError: no answer, url='{given}' (twice {given})")
    assert redacted(seen) == seen
    assert bare({"where": [given]}) == {"where": [identified]}


@pytest.mark.parametrize("text", PLAIN)
def test_what_has_no_secret_stays_exactly_as_it_is(text):
    assert shown(text) == text
    assert bare({"where": text, "shape": [3]}) == {"where": text, "shape": [3]}


def test_a_renewed_signature_names_the_same_place():
    old, new = (
        f"https://h.org/A?X-Amz-Credential=k%2F2026110{i}&X-Amz-Signature={i}" for i in (1, 2)
    )
    assert bare(old) == bare(new)
    assert bare("https://h.org/A?part=1&sig=a") != bare("https://h.org/A?part=2&sig=a")


def test_control_characters_are_written_out():
    assert escaped("a\x1b[31m\nb\x9b\u202ec\u2028") == "a\\x1b[31m\\nb\\x9b\\u202ec\\u2028"
    assert escaped("größe ∑ 行列") == "größe ∑ 行列"
    assert escaped("\udcff") == "\udcff"  # a byte that is no UTF-8
