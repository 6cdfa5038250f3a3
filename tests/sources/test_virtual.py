"""Repositories of icechunk's, references that kerchunk and VirtualiZarr write: by path and URL."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import zarr

import bigspec
from bigspec.errors import ArgumentError, MissingSourceError, ResumeError, SourceError
from bigspec.sources.locations import locate
from bigspec.sources.zarr_place import is_far

A = np.random.default_rng(0).standard_normal((800, 60))


def holds(a, expected=A):
    est = bigspec.norm(a, rtol=1e-8, seed=1)
    assert est.lower <= np.linalg.norm(expected, 2) <= est.upper
    return est


def commit(repo, entries, branch="main"):
    session = repo.writable_session(branch)
    zarr.create_array(session.store, name="T", data=entries, chunks=(200, 60), overwrite=True)
    return session.commit("one more")


@pytest.fixture
def icechunk():
    found = pytest.importorskip("icechunk")
    found.set_logs_filter("error")  # warns of commits side by side to a local folder
    return found


@pytest.fixture
def repo(icechunk, tmp_path):
    """A repository with two commits; the tag is of the first."""
    made = icechunk.Repository.create(icechunk.local_filesystem_storage(str(tmp_path / "repo")))
    first = commit(made, A)
    made.create_tag("v1", snapshot_id=first)
    made.create_branch("dev", snapshot_id=first)
    commit(made, 2 * A)
    made.first = first
    return made


VERSIONS = {
    "": 2, "@main": 2, "@dev": 1, "@v1": 1, "@branch:main": 2, "@tag:v1": 1, "@snapshot:{}": 1,
    "@{}": 1,
}  # fmt: skip


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("scheme", ["", "icechunk://", "icechunk://file://"])
def test_a_repository_is_opened_at_a_branch_a_tag_or_a_snapshot(scheme, version, repo, tmp_path):
    place = f"{scheme}{tmp_path}/repo{version.format(repo.first)}::/T"
    holds(place, VERSIONS[version] * A)


def test_the_snapshot_is_what_a_checkpoint_is_matched_by(repo, tmp_path):
    call = {"checkpoint": tmp_path / "run", "seed": 1, "rtol": 1e-12, "block_size": 2}
    place = f"{tmp_path}/repo::/T"
    first = bigspec.norm(place, max_passes=1, **call)
    assert first.matrix["where"].startswith("icechunk:")
    same = bigspec.norm(f"icechunk://{tmp_path}/repo@main::/T", max_passes=2, **call)
    assert same.run_id == first.run_id
    commit(repo, 3 * A)
    with pytest.raises(ResumeError, match="where was 'icechunk:"):
        bigspec.norm(place, **call)
    snapshot = first.matrix["where"].removeprefix("icechunk:").removesuffix("/T")
    assert bigspec.norm(f"{place[:-4]}@{snapshot}::/T", **call).run_id == first.run_id


def test_workers_open_it_at_the_same_snapshot(repo, tmp_path, client):
    matrix = bigspec.open_matrix(f"{tmp_path}/repo@v1::/T")
    commit(repo, 5 * A)
    holds(matrix, A)


def test_what_is_not_there_is_said_with_what_is(repo, tmp_path):
    with pytest.raises(
        MissingSourceError, match=r"no branch, tag or snapshot 'v2' .* dev, main; tags v1"
    ):
        bigspec.norm(f"{tmp_path}/repo@v2::/T")
    with pytest.raises(MissingSourceError, match="no icechunk repository lies there"):
        bigspec.norm(f"icechunk://{tmp_path}/nothing::/T")
    assert not (tmp_path / "nothing").exists()
    with pytest.raises(SourceError, match=r"/T \(800, 60\)"):
        bigspec.norm(tmp_path / "repo")
    with pytest.raises(SourceError, match="icechunk cannot open it"):
        bigspec.norm(f"{tmp_path}/repo@snapshot:{'0' * 20}::/T")
    with pytest.raises(ArgumentError, match="expected @branch:, @tag: or @snapshot:"):
        bigspec.norm(f"{tmp_path}/repo@commit:v1::/T")
    repo.create_branch("v1", snapshot_id=repo.first)
    with pytest.raises(ArgumentError, match="is a branch and a tag; say which"):
        bigspec.norm(f"{tmp_path}/repo@v1::/T")


def test_a_repository_in_a_bucket(icechunk, s3_environment, endpoint, tmp_path):
    import s3fs

    s3fs.S3FileSystem(endpoint_url=endpoint).mkdir("versions")
    storage = icechunk.s3_storage(
        bucket="versions", prefix="a/repo", endpoint_url=endpoint, allow_http=True,
        force_path_style=True, from_env=True, region="us-east-1",
    )  # fmt: skip
    commit(icechunk.Repository.create(storage), A)
    holds("icechunk://s3://versions/a/repo@main::/T")
    with pytest.raises(SourceError, match="open icechunk://s3://versions/a/repo for its"):
        bigspec.norm("s3://versions/a/repo")


def test_without_icechunk_it_is_said_what_to_install(repo, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "icechunk", None)
    with pytest.raises(SourceError, match="pip install icechunk"):
        bigspec.norm(f"{tmp_path}/repo::/T")


def netcdf(folder):
    """Packed, as CF files are, in chunks."""
    with h5py.File(folder / "a.nc", "w") as file:
        stored = np.round(A * 1000).astype("i4")
        whole = file.create_dataset("T", data=stored, chunks=(200, 60), fillvalue=-9999)
        whole.attrs.update({"scale_factor": 0.001, "_FillValue": np.int32(-9999)})
    return folder / "a.nc"


def kerchunk_json(folder):
    hdf = pytest.importorskip("kerchunk.hdf")
    refs = hdf.SingleHdf5ToZarr(str(netcdf(folder))).translate()
    (folder / "refs.json").write_text(json.dumps(refs))
    return folder / "refs.json"


def kerchunk_parquet(folder):
    pytest.importorskip("fastparquet")
    frames = pytest.importorskip("kerchunk.df")
    frames.refs_to_dataframe(str(kerchunk_json(folder)), str(folder / "refs.parquet"))
    return folder / "refs.parquet"


def virtual(folder):
    virtualizarr = pytest.importorskip("virtualizarr")
    from obspec_utils.registry import ObjectStoreRegistry
    from obstore.store import LocalStore
    from virtualizarr.parsers import HDFParser

    registry = ObjectStoreRegistry({"file://": LocalStore()})
    return virtualizarr.open_virtual_dataset(
        f"file://{netcdf(folder)}", registry=registry, parser=HDFParser()
    )


def virtualizarr_json(folder):
    virtual(folder).vz.to_kerchunk(str(folder / "refs.json"), format="json")
    return folder / "refs.json"


def virtualizarr_parquet(folder):
    pytest.importorskip("fastparquet")
    virtual(folder).vz.to_kerchunk(str(folder / "refs.parquet"), format="parquet")
    return folder / "refs.parquet"


WRITERS = [kerchunk_json, kerchunk_parquet, virtualizarr_json, virtualizarr_parquet]


@pytest.mark.parametrize("form", ["{}::/T", "reference://::{}::/T"])
@pytest.mark.parametrize("write", WRITERS)
def test_references_by_their_path_and_by_their_url(write, form, tmp_path):
    est = holds(form.format(write(tmp_path)), np.round(A * 1000) / 1000)
    assert est.chunks == 4
    assert est.missing_chunks == 0


def test_only_references_that_may_leave_this_machine_count_as_far(tmp_path):
    store = locate(str(kerchunk_json(tmp_path))).store
    array = zarr.open_array(store, path="T", mode="r")
    assert not is_far(array)
    store.fs.fss["s3"] = SimpleNamespace(protocol=("s3", "s3a"))
    assert is_far(array)


@pytest.mark.parametrize("write", [kerchunk_json, kerchunk_parquet])
def test_a_reference_to_a_file_that_is_gone_is_an_error(write, tmp_path):
    place = write(tmp_path)
    Path(tmp_path / "a.nc").unlink()
    with pytest.raises(OSError, match="has a reference to a file that is not there"):
        bigspec.norm(f"{place}::/T")


@pytest.mark.parametrize("write", [kerchunk_json, kerchunk_parquet])
def test_a_checkpoint_tells_references_to_one_file_from_those_to_another(write, tmp_path):
    places = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        places.append(f"{write(tmp_path / name)}::/T")
    call = {"checkpoint": tmp_path / "run", "seed": 1}
    first = bigspec.norm(places[0], **call)
    assert bigspec.norm(places[0], **call).run_id == first.run_id
    with pytest.raises(ResumeError, match="where was 'references:"):
        bigspec.norm(places[1], **call)


def test_references_without_a_place_inside_are_listed(tmp_path):
    with pytest.raises(SourceError, match=r"/T \(800, 60\)"):
        bigspec.norm(kerchunk_parquet(tmp_path))


def test_a_virtual_dataset_in_a_repository_is_read_through_a_session_that_may(icechunk, tmp_path):
    vds = virtual(tmp_path)
    config = icechunk.RepositoryConfig.default()
    container = icechunk.VirtualChunkContainer(
        f"file://{tmp_path}/", icechunk.local_filesystem_store(str(tmp_path))
    )
    config.set_virtual_chunk_container(container)
    repo = icechunk.Repository.create(
        icechunk.local_filesystem_storage(str(tmp_path / "repo")), config,
        authorize_virtual_chunk_access={f"file://{tmp_path}/": None},
    )  # fmt: skip
    session = repo.writable_session("main")
    vds.vz.to_icechunk(session.store)
    session.commit("virtual")
    allowed = zarr.open_group(repo.readonly_session("main").store, mode="r")["T"]
    holds(allowed, np.round(A * 1000) / 1000)
    with pytest.raises(OSError, match="authoriz"):
        bigspec.norm(f"{tmp_path}/repo::/T")
