"""A path of the wrong kind says what it is and what to type."""

import gzip
import zipfile

import numpy as np
import pytest

import bigspec
from bigspec.errors import MissingSourceError, SourceError
from bigspec.sources.kinds import kind_of_name


def archive(path, *names):
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, b"x")


def folder(path, *names):
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(gzip.compress(b""))


FILES = {
    "a.csv": (b"1,2\n", "got a text table; load it: numpy.save('A.npy', numpy.loadtxt('a.csv'"),
    "a.png": (b"\x89PNG\r\n\x1a\n", "got a picture; pass numpy.asarray(PIL.Image.open('a.png')"),
    "photo": (b"\xff\xd8\xff\xe0", "got a picture"),
    "a.parquet": (b"PAR1....PAR1", "got a table; if it holds triplets"),
    "renamed": (b"PAR1....PAR1", "got a Parquet file"),
    "old.pt": (b"\x80\x02\x8a\nl", "got a file of a network; for the norm of each of its"),
    "new.pt": (b"", "matrices type: bigspec scan new.pt"),
    "a.safetensors": (b"\x02\0\0\0\0\0\0\0{}", "bigspec scan a.safetensors"),
    "a.pkl": (b"\x80\x04\x95", "got a pickle, which bigspec never loads"),
    "a.mat": (b"MATLAB 5.0 MAT-file", "pass scipy.io.loadmat('a.mat')['A']"),
    "a.csv.gz": (b"\x1f\x8b", "got a packed file; unpack it first"),
    "a.unknown": (b"hello", "got another file; convert it to Zarr"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_kind_is_named_and_so_is_what_to_type(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content, said = FILES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError) as caught:
        bigspec.norm(name)
    assert said in str(caught.value)
    assert "directory without" not in str(caught.value)


FOLDERS = {
    "parts": (("part-0.parquet",), "a folder of Parquet files"),
    "model": (("config.json", "model.safetensors"), "bigspec scan model"),
    "notes": (("notes.txt",), "a directory without Zarr metadata (zarr.json or .zarray); it holds"),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_of_another_kind_is_named_and_so_is_what_to_type(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names, said = FOLDERS[name]
    folder(tmp_path / name, *names)
    with pytest.raises(SourceError) as caught:
        bigspec.norm(name)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("archive/data.pkl", "archive/data/0"), "got a file of a network; for"),
        (("[Content_Types].xml", "xl/workbook.xml"), "got an Excel workbook"),
        (("notes.txt",), "got a zip archive without Zarr metadata"),
    ],
)
def test_an_archive_of_another_kind_is_named(names, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    archive("a.pt", *names)
    with pytest.raises(SourceError) as caught:
        bigspec.norm("a.pt")
    assert said in str(caught.value)


def test_what_the_advice_for_a_table_and_a_10x_folder_says_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text("3,0\n0,4\n")
    np.save("A.npy", np.loadtxt("a.csv", delimiter=","))
    assert bigspec.norm("A.npy").lower == pytest.approx(4)
    (tmp_path / "tenx").mkdir()
    text = "%%MatrixMarket matrix coordinate integer general\n2 2 2\n1 1 3\n2 2 4\n"
    (tmp_path / "tenx" / "matrix.mtx.gz").write_bytes(gzip.compress(text.encode()))
    bigspec.convert("tenx/matrix.mtx.gz", "B.zarr")
    assert bigspec.norm("B.zarr").lower == pytest.approx(4)


def test_a_url_is_told_by_its_name_alone():
    with pytest.raises(
        MissingSourceError, match="nothing lies there as Zarr; by its name it is a Pa"
    ):
        bigspec.norm("memory://bucket/a.parquet")
    assert kind_of_name("s3://bucket/A.zarr") is None
