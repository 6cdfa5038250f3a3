"""Names with terminal codes and newlines: written out, by every door, on every stream."""

import h5py
import numpy as np
import pytest
import zarr
from click.testing import CliRunner

import bigspec
from bigspec import cli
from bigspec.watch.live import LiveProgress

EVIL = "x\x1b]0;title\x07\x1b[31m\nbigspec: all is well\x9b\u202e"
SAID = "x\\x1b]0;title\\x07\\x1b[31m\\nbigspec: all is well\\x9b\\u202e"


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / EVIL
    folder.mkdir()
    group = zarr.create_group(folder / "G.zarr")
    group.create_array(EVIL, data=np.eye(5))
    zarr.create_array(folder / "A.zarr", data=np.eye(5))
    with h5py.File(folder / "A.h5", "w") as file:
        file[EVIL] = np.eye(5)
        file["fields"] = np.zeros((3, 2), [(EVIL, "f8")])
    np.savez(folder / "A.npz", **{EVIL.replace("/", "_"): np.eye(3)})
    np.save(folder / "A.npy", np.zeros((3, 2), [(EVIL, "f8")]))
    (folder / "A.mtx").write_text(
        "%%MatrixMarket matrix coordinate real general\n1 1 1\n1 1 \x1b\n"
    )
    return folder


def clean(text):
    return all(ch == "\n" or ch.isprintable() for ch in text) and "\nbigspec: all" not in text


@pytest.mark.parametrize(
    "source",
    [
        "A.zarr", "G.zarr", f"G.zarr/{EVIL}", "A.h5", f"A.h5::/{EVIL}", "A.h5::/fields", "A.npz",
        "A.npy", "A.mtx", "nothing", EVIL,
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", [["norm"], ["plan"], ["svds", "-k", "1"], ["convert"]])
def test_a_name_cannot_write_to_the_terminal(command, source, folder):
    args = [*command[:1], str(folder / source), *command[1:]]
    args += [str(folder / "out.zarr")] if command == ["convert"] else []
    done = CliRunner().invoke(cli.main, args)
    assert done.exit_code != 70
    assert clean(done.stderr), done.stderr
    assert clean(done.stdout), done.stdout
    assert SAID in done.stderr + done.stdout


def test_checkpoints_histories_and_targets_cannot_either(folder):
    matrix, past = str(folder / "A.zarr"), str(folder / "past.db")
    place = ["--checkpoint", str(folder / "run")]
    for args in (
        ["norm", matrix, *place, "--history", past],
        ["norm", matrix, "--history", past, "--series", EVIL, "--max-change", "1"],
        ["norm", matrix + "nothing", "--history", past, "--series", EVIL],
        ["norm", matrix, *place, "--seed", "8"],
        ["show", str(folder / "run")],
        ["show", str(folder / "nothing")],
        ["history", past],
        ["history", past, "--accept", EVIL],
        ["history", str(folder / "A.npy")],
        ["svds", matrix, "-k", "1", "--u", str(folder / "A.npy")],
        ["norm", matrix, "--scale", str(folder / "nothing.npy")],
        ["norm", matrix, "--start", str(folder / "nothing.npy")],
    ):
        done = CliRunner().invoke(cli.main, args)
        assert done.exit_code != 70, (args, done.stderr)
        assert clean(done.stderr), done.stderr
        assert clean(done.stdout), done.stdout


def test_a_conversion_cannot_either(folder):
    (folder / "B.mtx").write_text("%%MatrixMarket matrix coordinate real general\n2 2 1\n1 1 3\n")
    args = ["convert", str(folder / "B.mtx"), str(folder / "B.zarr")]
    done = CliRunner().invoke(cli.main, args)
    assert done.exit_code == 0
    assert clean(done.stderr + done.stdout)
    assert SAID in done.stdout


def test_the_live_line_and_messages_in_python_cannot_either(folder, capsys):
    A = bigspec.open_matrix(folder / "A.zarr")
    answer = bigspec.norm(A - A, progress=LiveProgress())
    said = capsys.readouterr()
    assert clean(said.err)
    assert SAID in said.err
    assert clean(answer.summary())
    with pytest.raises(OSError, match="nothing lies there") as caught:
        bigspec.norm(folder / "nothing")
    assert clean(str(caught.value))
