"""HDF5 that is not all there: sources, raw files, filters, damage. A fill value is no answer."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

import bigspec
from bigspec.cli import main
from bigspec.errors import BigspecError, ChunkError, DataError, MissingSourceError, SourceError
from bigspec.kernels.buffers import Buffers
from bigspec.sources import open_source, retries

PARTS = [np.random.default_rng(i).standard_normal((10, 8)) for i in range(4)]
A = np.vstack(PARTS)


def whole(matrix: Any) -> Any:
    m, n = matrix.shape
    return np.array(matrix.read(slice(0, m), slice(0, n), Buffers()))


def virtual(folder: Path) -> Path:
    """Write a virtual dataset of four sources, beside it."""
    layout = h5py.VirtualLayout(A.shape, "f8")
    for i, part in enumerate(PARTS):
        with h5py.File(folder / f"s{i}.h5", "w") as file:
            file["d"] = part
        layout[10 * i : 10 * i + 10] = h5py.VirtualSource(f"s{i}.h5", "d", shape=part.shape)
    with h5py.File(folder / "A.h5", "w") as file:
        file.create_virtual_dataset("X", layout, fillvalue=0)
    return folder / "A.h5"


def rewrite(path: Path, change: Callable[[h5py.File], object]) -> None:
    with h5py.File(path, "a") as file:
        change(file)


def link(file: h5py.File, target: Any) -> None:
    del file["d"]
    file["d"] = target


LOSSES: dict[str, tuple[Callable[[Path], object], str]] = {
    "its file is gone": (lambda p: p.unlink(), r"s2.h5, a source of the virtual dataset /X"),
    "its file is another": (lambda p: p.write_bytes(b"text"), r"s2.h5, a source of"),
    "its dataset is renamed": (lambda p: rewrite(p, lambda f: f.move("d", "e")), "d in .*s2.h5"),
    "its link leads nowhere": (
        lambda p: rewrite(p, lambda f: link(f, h5py.SoftLink("/nowhere"))), r"d in .*s2.h5, a",
    ),
    "its link leads to no file": (
        lambda p: rewrite(p, lambda f: link(f, h5py.ExternalLink("gone.h5", "d"))),
        r"d in .*s2.h5, a",
    ),
    "it is a group": (lambda p: rewrite(p, lambda f: link(f, f.create_group("g"))), "d in .*s2.h5"),
}  # fmt: skip


@pytest.mark.parametrize("ending", ["h5", "nc"])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_virtual_dataset_without_one_of_its_sources(
    ending: str, loss: str, tmp_path: Path
) -> None:
    path = tmp_path / f"B.{ending}"
    shutil.copy(virtual(tmp_path), path)
    there = open_source(path)
    np.testing.assert_array_equal(whole(open_source(path)), A)
    lose, said = LOSSES[loss]
    lose(tmp_path / "s2.h5")
    # At opening; in a process that opens it later; and from where its sources cannot be seen.
    for read in (lambda: open_source(path), lambda: whole(there)):
        with pytest.raises(MissingSourceError, match=said) as caught:
            read()
        assert "HDF5 would read fill values" in str(caught.value)


def test_a_source_that_goes_away_while_it_is_read(tmp_path: Path) -> None:
    matrix = open_source(virtual(tmp_path))
    np.testing.assert_array_equal(matrix.read(slice(0, 10), slice(0, 8), Buffers()), PARTS[0])
    (tmp_path / "s2.h5").unlink()
    with pytest.raises(MissingSourceError, match=r"s2.h5, which holds some entries, went away"):
        whole(matrix)


def test_the_sources_belong_to_the_identity(tmp_path: Path) -> None:
    path = virtual(tmp_path)
    before = open_source(path).identity
    assert open_source(path).identity == before
    rewrite(tmp_path / "s1.h5", lambda file: file.create_dataset("more", data=np.ones(1000)))
    assert open_source(path).identity != before


def test_sources_of_sources_and_in_the_same_file(tmp_path: Path) -> None:
    virtual(tmp_path)
    layout = h5py.VirtualLayout(A.shape, "f8")
    layout[:] = h5py.VirtualSource("A.h5", "X", shape=A.shape)
    inner = h5py.VirtualLayout((10, 8), "f8")
    with h5py.File(tmp_path / "B.h5", "w") as file:
        file.create_virtual_dataset("X", layout)
        file["p"] = PARTS[0]
        inner[:] = h5py.VirtualSource(file["p"])
        file.create_virtual_dataset("Y", inner)
    np.testing.assert_array_equal(whole(open_source(tmp_path / "B.h5")), A)
    np.testing.assert_array_equal(whole(open_source(f"{tmp_path}/B.h5::/Y")), PARTS[0])
    (tmp_path / "s3.h5").unlink()
    with pytest.raises(MissingSourceError, match=r"B.h5: s3.h5, a source"):
        open_source(tmp_path / "B.h5")
    rewrite(tmp_path / "B.h5", lambda file: file.move("p", "W"))
    with pytest.raises(MissingSourceError, match=r"p in .*B.h5, a source"):
        open_source(f"{tmp_path}/B.h5::/Y")


def test_a_source_of_fewer_rows(tmp_path: Path) -> None:
    path = virtual(tmp_path)
    rewrite(tmp_path / "s2.h5", lambda file: link(file, PARTS[2][:9]))
    with pytest.raises(BigspecError) as caught:
        whole(open_source(path))
    assert caught.value.exit_status == 65


def numbered(folder: Path) -> Path:
    """Write a virtual dataset of as many numbered sources as there are."""
    for i, part in enumerate(PARTS):
        with h5py.File(folder / f"n{i}.h5", "w") as file:
            file.create_dataset("d", data=part, maxshape=(None, 8), chunks=(5, 8))
    unlimited = h5py.h5s.UNLIMITED
    space = h5py.h5s.create_simple((40, 8), (unlimited, 8))
    space.select_hyperslab((0, 0), (unlimited, 1), (10, 8), (10, 8))
    source = h5py.h5s.create_simple((10, 8), (10, 8))
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_virtual(space, b"n%b.h5", b"d", source)
    with h5py.File(folder / "A.h5", "w") as file:
        extent = h5py.h5s.create_simple((40, 8), (unlimited, 8))
        h5py.h5d.create(file.id, b"X", h5py.h5t.NATIVE_DOUBLE, extent, plist)
    return folder / "A.h5"


@pytest.mark.parametrize("lost", [0, 1])
def test_a_gap_in_numbered_sources(lost: int, tmp_path: Path) -> None:
    path = numbered(tmp_path)
    np.testing.assert_array_equal(whole(open_source(path)), A)
    (tmp_path / f"n{lost}.h5").unlink()
    with pytest.raises(MissingSourceError, match=rf"without a gap, got none of number {lost}"):
        open_source(path)


@pytest.mark.parametrize("ending", ["h5", "nc"])
def test_a_raw_file_that_is_cut_or_gone(ending: str, tmp_path: Path) -> None:
    path, raw = tmp_path / f"A.{ending}", tmp_path / "raw.bin"
    A.tofile(raw)
    with h5py.File(path, "w") as file:
        parts = [(str(raw), 0, 1000), (str(raw), 1000, h5py.h5f.UNLIMITED)]
        file.create_dataset("X", A.shape, "f8", external=parts)
    np.testing.assert_array_equal(whole(open_source(path)), A)
    there = open_source(path)
    with raw.open("r+b") as stream:
        stream.truncate(2000)
    for read in (lambda: open_source(path), lambda: whole(there)):
        with pytest.raises(ChunkError, match=r"expected 2560 bytes in .*raw.bin, .* got 2000;"):
            read()
    raw.unlink()
    with pytest.raises(MissingSourceError, match=r"raw.bin, the raw file .* is not there"):
        open_source(path)


def unknown_filter(path: Path) -> None:
    """Write a dataset encoded with zstd; nothing needs to be in it."""
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((10, 8))
    plist.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (3,))
    with h5py.File(path, "w") as file:
        space = h5py.h5s.create_simple(A.shape)
        h5py.h5d.create(file.id, b"X", h5py.h5t.NATIVE_DOUBLE, space, plist)


@pytest.mark.parametrize("ending", ["h5", "nc"])
def test_a_filter_that_is_not_here_is_named_with_its_package(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)  # as if it were not installed
    path = tmp_path / f"A.{ending}"
    unknown_filter(path)
    monkeypatch.setattr(h5py.h5z, "filter_avail", lambda _: False)  # netCDF4 brings plugins along
    run = CliRunner().invoke(main, ["norm", str(path), "--quiet"])
    assert run.exit_code == 65
    assert "encoded with zstd (HDF5 filter 32015)" in run.stderr
    assert "pip install hdf5plugin" in run.stderr


def test_hdf5plugin_is_asked_for_a_filter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unknown_filter(tmp_path / "A.h5")
    asked = iter([False, True])  # before hdf5plugin is imported, and after
    monkeypatch.setattr(h5py.h5z, "filter_avail", lambda _: next(asked))
    (tmp_path / "hdf5plugin.py").write_text("asked = True")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "hdf5plugin", raising=False)
    assert open_source(tmp_path / "A.h5").shape == A.shape
    assert sys.modules["hdf5plugin"].asked  # type: ignore[attr-defined]
    monkeypatch.delitem(sys.modules, "hdf5plugin")


@pytest.mark.parametrize("ending", ["h5", "nc"])
@pytest.mark.parametrize(
    "options", [{"compression": "gzip"}, {"fletcher32": True}, {"scaleoffset": 3, "dtype": "i4"}]
)
def test_damage_is_final(
    ending: str, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "POLICY", retries.RetryPolicy(5, 60.0, 60.0))  # would time out
    path = tmp_path / f"A.{ending}"
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("X", data=np.round(A * 100), chunks=(10, 8), **options)
        info = dataset.id.get_chunk_info(1)
    with path.open("r+b") as stream:
        stream.seek(info.byte_offset + (0 if "scaleoffset" in options else info.size // 2))
        stream.write(b"\xff" * 20)
    run = CliRunner().invoke(main, ["norm", str(path), "--quiet", "--checkpoint", f"{tmp_path}/r"])
    if "scaleoffset" in options:  # it has no checksum: other numbers, or an error that is final
        assert run.exit_code in (0, 65)
        return
    assert run.exit_code == 65, run.stderr
    assert "are damaged and cannot be decoded" in run.stderr


def test_a_disk_that_does_not_answer_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with h5py.File(tmp_path / "A.h5", "w") as file:
        file["X"] = A
    failures = iter(
        [OSError("Can't read data (file read failed: time = 1, errno = 5, error = 'x')")]
    )
    read = h5py.Dataset.read_direct

    def failing(self: Any, *arguments: Any) -> None:
        if (error := next(failures, None)) is not None:
            raise error
        read(self, *arguments)

    monkeypatch.setattr(h5py.Dataset, "read_direct", failing)
    buffers = Buffers()
    matrix = open_source(tmp_path / "A.h5")
    np.testing.assert_array_equal(matrix.read(slice(0, 40), slice(0, 8), buffers), A)
    assert buffers.retries == 1


@pytest.mark.parametrize("ending", ["h5", "nc"])
def test_what_is_no_matrix(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"A.{ending}"
    with h5py.File(path, "w") as file:
        file["null"] = h5py.Empty("f8")
        file["none"] = np.zeros((0, 4))
        file["vector"] = np.zeros(0)
        file["scalar"] = 1.0
        file["type"] = np.dtype("f8")
        file["group/inner"] = np.zeros((2, 3, 4))
        sparse = file.create_group("sparse")
        sparse.attrs.update({"encoding-type": "csr_matrix", "shape": [3, 3]})
        for part in ("data", "indices", "indptr"):
            sparse[part] = h5py.Empty("i4")
        parts = file.create_group("parts")
        for part in ("data", "indices", "indptr"):
            parts[part] = np.zeros(3, "i4")
    for inside in ("null", "none", "vector", "scalar", "type", "group", "sparse", "parts", ""):
        with pytest.raises((DataError, SourceError), match=rf"A\.{ending}"):
            open_source(f"{path}::/{inside}" if inside else path)


def test_a_link_to_a_file_that_is_not_there(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "A.h5", "w") as file:
        file["X"] = h5py.ExternalLink("gone.h5", "/d")
        file["Y"] = h5py.SoftLink("/nowhere")
    for inside, target in (("X", "gone.h5::/d"), ("Y", "/nowhere")):
        with pytest.raises(MissingSourceError, match=rf"'{inside}' is a link to {target}, which"):
            open_source(f"{tmp_path}/A.h5::/{inside}")


def test_virtual_panels_on_a_cluster(client: Any, tmp_path: Path) -> None:
    matrix = open_source(virtual(tmp_path))
    est = bigspec.norm(matrix, rtol=1e-9)
    assert "scheduler" in est.layout["where"]
    assert est.lower <= np.linalg.norm(A, 2) * (1 + 1e-14) <= est.upper * (1 + 1e-13)
    again = open_source(tmp_path / "A.h5")
    (tmp_path / "s1.h5").unlink()
    with pytest.raises(MissingSourceError, match=r"s1.h5, a"):
        bigspec.norm(again)


def test_a_sparse_group_of_virtual_parts(tmp_path: Path) -> None:
    parts = {"data": np.ones(3), "indices": np.arange(3), "indptr": np.arange(4)}
    with h5py.File(tmp_path / "s.h5", "w") as source, h5py.File(tmp_path / "A.h5", "w") as file:
        group = file.create_group("X")
        group.attrs.update({"encoding-type": "csr_matrix", "shape": [3, 3]})
        for name, values in parts.items():
            source[name] = values
            layout = h5py.VirtualLayout(values.shape, values.dtype)
            layout[:] = h5py.VirtualSource("s.h5", name, shape=values.shape)
            group.create_virtual_dataset(name, layout)
    assert bigspec.norm(tmp_path / "A.h5").upper == pytest.approx(1.0)
    matrix = open_source(tmp_path / "A.h5")
    (tmp_path / "s.h5").unlink()
    for read in (
        lambda: open_source(tmp_path / "A.h5"),
        lambda: bigspec.norm(matrix),
        lambda: bigspec.convert(tmp_path / "A.h5", tmp_path / "B.zarr"),
    ):
        with pytest.raises(MissingSourceError, match=r"s.h5"):
            read()
