"""Result files: a full disk leaves the old one, and nothing beside it."""

import resource
import stat
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import zarr
from click.testing import CliRunner

import bigspec
from bigspec import cli
from bigspec.results.files import replacing, write_text


@contextmanager
def full_disk():
    """No file of this process can grow beyond 64 bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def matrix(tmp_path_factory):
    folder = tmp_path_factory.mktemp("matrix")
    zarr.create_array(folder / "A.zarr", data=np.arange(200.0).reshape(20, 10))
    return folder / "A.zarr"


@pytest.fixture(scope="module")
def past(matrix):
    path = matrix.parent / "past.db"
    done = CliRunner().invoke(cli.main, ["norm", str(matrix), "--history", str(path), "--quiet"])
    assert done.exit_code == 0
    return path


@pytest.mark.parametrize(
    ("command", "option", "name"),
    [
        (["norm", "A", "--quiet"], "--json", "a.json"),
        (["norm", "A", "--quiet"], "--report", "a.html"),
        (["svds", "A", "-k", "1", "--quiet"], "--v", "v.npz"),
        (["plan", "A"], "--json", "p.json"),
        (["history", "H"], "--html", "h.html"),
        (["history", "H"], "--plot", "h.png"),
        (["history", "H"], "--json", "h.json"),
    ],
)
def test_a_command_on_a_full_disk_leaves_the_old_file(
    command, option, name, matrix, past, tmp_path
):
    places = {"A": str(matrix), "H": str(past)}
    args = [*(places.get(word, word) for word in command), option, str(tmp_path / name)]
    assert CliRunner().invoke(cli.main, args).exit_code == 0
    before = (tmp_path / name).read_bytes()
    with full_disk():
        done = CliRunner().invoke(cli.main, args)
    assert done.exit_code == 74
    assert "cannot write" in done.stderr
    assert done.stdout
    assert (tmp_path / name).read_bytes() == before
    assert names(tmp_path) == [name]


@pytest.mark.parametrize("method", ["to_json", "to_html"])
@pytest.mark.parametrize("door", ["norm", "svds"])
def test_a_method_on_a_full_disk_leaves_the_old_file(door, method, tmp_path):
    A, file = np.arange(200.0).reshape(20, 10), tmp_path / "file"
    answer = bigspec.norm(A) if door == "norm" else bigspec.svds(A, 1)
    text = getattr(answer, method)(file)
    with full_disk(), pytest.raises(OSError, match="File too large"):
        getattr(answer, method)(file)
    assert file.read_text() == text + ("\n" if method == "to_json" else "")
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("wide", [False, True])
def test_left_vectors_on_a_full_disk_are_an_error_of_their_own(wide, tmp_path):
    A = np.arange(200.0).reshape(20, 10)
    zarr.create_array(tmp_path / "B.zarr", data=A.T if wide else A)
    with full_disk():
        args = ["svds", str(tmp_path / "B.zarr"), "-k", "1", "--u", str(tmp_path / "u"), "--quiet"]
        done = CliRunner().invoke(cli.main, args)
    assert done.exit_code == 74
    assert "cannot be written" in done.stderr
    assert "name another place for the vectors" in done.stderr


def test_too_many_open_files_are_named_whatever_came_of_them(matrix, monkeypatch):
    def full(*_, **__):
        msg = "Nanny failed to start."
        raise RuntimeError(msg) from OSError(24, "Too many open files")

    monkeypatch.setattr("bigspec.norm", full)
    done = CliRunner().invoke(cli.main, ["norm", str(matrix), "--quiet"])
    assert done.exit_code == 2
    assert "of `ulimit -n`; raise that limit" in done.stderr


def test_what_is_replaced_keeps_its_permissions_and_links(tmp_path):
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_text("old")
    file.chmod(0o640)
    link.symlink_to(file)
    write_text(link, "new")
    assert link.is_symlink()
    assert file.read_text() == "new"
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert names(tmp_path) == ["file", "link"]


def test_a_device_is_written_where_it_is(tmp_path):
    write_text("/dev/null", "text")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    with pytest.raises(OSError, match="No space left"), replacing("/dev/full") as file:
        file.write(b"x" * 100_000)


def test_a_file_that_is_a_mount_of_its_own_is_overwritten(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("a longer old text")

    def busy(*_):
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr("pathlib.Path.replace", busy)
    write_text(file, "new")
    assert file.read_text() == "new"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize(
    "command", [["norm"], ["svds", "-k", "1"], ["scan"]], ids=["norm", "svds", "scan"]
)
def test_a_checkpoint_that_cannot_be_written_is_named_after_the_answer(command, tmp_path):
    np.save(tmp_path / "A.npy", np.diag([3.0, 2.0, 1.0]))
    (tmp_path / "file").write_text("no folder")
    place = str(tmp_path / "file" / "run")
    options = [str(tmp_path / "A.npy"), "--checkpoint", place, "--quiet"]
    done = CliRunner().invoke(cli.main, [*command, *options])
    assert done.exit_code == 74, done.output
    assert "3.0" in done.stdout
    assert done.stderr.splitlines()[-1] == (
        f"bigspec: checkpoint {place}: the end of this run is not saved there; "
        "the result is on standard output"
    )
    failed = CliRunner().invoke(cli.main, [*command, *options, "--max-norm", "1"])
    assert failed.exit_code == 3  # what a gate says matters more


def test_a_checkpoint_that_was_written_is_not_spoken_of(matrix, tmp_path):
    arguments = ["norm", str(matrix), "--checkpoint", str(tmp_path / "run"), "--quiet"]
    for _ in range(2):  # made, and found finished
        done = CliRunner().invoke(cli.main, arguments)
        assert (done.exit_code, done.stderr) == (0, "")
