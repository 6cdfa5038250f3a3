"""Kinds of files and folders that bigspec does not open, and what to type instead; for messages.

Kinds are recognised by the first bytes, then by the ending of the name, or by the names in a
folder. Nothing is opened here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

__all__ = ["kind_of_file", "kind_of_folder", "kind_of_name"]

TABLE = (
    "a text table; load it: numpy.save('A.npy', numpy.loadtxt({name}, delimiter=',')), then "
    "bigspec norm A.npy"
)
PARQUET = (
    "a Parquet file; if it holds triplets, convert it once: "
    "bigspec convert {plain} A.zarr --columns ROW,COL,VALUE"
)
PICTURE = "a picture; pass numpy.asarray(PIL.Image.open({name}).convert('L')) to bigspec.norm"
NETWORK = "a file of a network; for the norm of each of its matrices type: bigspec scan {plain}"
PICKLE = "a pickle, which bigspec never loads; load it where you trust it, and pass the array"
ARROW = PARQUET.replace("a Parquet", "an Arrow")
MATLAB = "a MATLAB file; pass scipy.io.loadmat({name})['A'] to bigspec.norm"
EXCEL = "an Excel workbook; pass pandas.read_excel({name}).to_numpy() to bigspec.norm"
PACKED = "a packed file; unpack it first"
GRIB = "a GRIB file; open it with xarray and cfgrib, and pass the array to bigspec.norm"
FITS = "a FITS file; open it with astropy, and pass the array to bigspec.norm"
PDF = "a PDF document, not a matrix"
SQLITE = "an SQLite file; if it is a history, type: bigspec history {plain}"

STARTS: tuple[tuple[bytes, str], ...] = (
    (b"PAR1", PARQUET), (b"ARROW1", ARROW), (b"MATLAB 5", MATLAB), (b"%PDF", PDF),
    (b"\x89PNG", PICTURE), (b"\xff\xd8\xff", PICTURE), (b"II*\0", PICTURE), (b"MM\0*", PICTURE),
    (b"GIF8", PICTURE), (b"GGUF", NETWORK), (b"GRIB", GRIB), (b"SIMPLE  =", FITS),
    (b"SQLite format 3", SQLITE),
)  # fmt: skip
ENDINGS: dict[str, str] = {
    ".csv": TABLE, ".tsv": TABLE, ".parquet": PARQUET, ".pq": PARQUET, ".feather": ARROW,
    ".arrow": ARROW, ".png": PICTURE, ".jpg": PICTURE, ".jpeg": PICTURE, ".tif": PICTURE,
    ".tiff": PICTURE, ".gif": PICTURE, ".bmp": PICTURE, ".webp": PICTURE, ".pt": NETWORK,
    ".pth": NETWORK, ".ckpt": NETWORK, ".safetensors": NETWORK, ".onnx": NETWORK,
    ".gguf": NETWORK, ".keras": NETWORK, ".pkl": PICKLE, ".pickle": PICKLE, ".joblib": PICKLE,
    ".mat": MATLAB, ".xlsx": EXCEL, ".grib": GRIB, ".grib2": GRIB, ".fits": FITS, ".gz": PACKED,
    ".bz2": PACKED, ".xz": PACKED, ".zst": PACKED, ".tar": PACKED, ".tgz": PACKED,
}  # fmt: skip
WEIGHTS = (".safetensors", ".onnx", ".gguf", ".pt", ".pth")


def kind_of_file(path: Path, name: str) -> str | None:
    """Return the kind of a regular file, by its first bytes and its name; None if unknown."""
    try:
        with path.open("rb") as file:
            begin = file.read(16)
    except OSError:
        begin = b""
    for start, what in STARTS:
        if begin.startswith(start):
            return _describe(what, name)
    return kind_of_name(name)


def kind_of_name(name: str) -> str | None:
    """Return the kind of a file by the ending of its name; None if unknown."""
    what = ENDINGS.get(PurePosixPath(name.rpartition("::")[2]).suffix.lower())
    return None if what is None else _describe(what, name)


def _describe(what: str, name: str) -> str:
    return what.format(name=repr(name), plain=name)


def kind_of_folder(
    names: Sequence[str], place: str, inside: Callable[[str], Sequence[str]]
) -> str | None:
    """Return the kind of a folder or an archive by the names in it; None if unknown.

    Parameters
    ----------
    names : sequence of str
        Of its members.
    place : str
        As the user wrote it.
    inside : callable
        Returns the names in a folder of it.
    """
    there = set(names)
    if any(name.endswith((".parquet", ".pq")) for name in names):
        return _describe(PARQUET.replace("a Parquet file", "a folder of Parquet files"), place)
    if "saved_model.pb" in there or any(name.endswith(WEIGHTS) for name in names):
        return _describe(NETWORK.replace("a file", "a folder"), place)
    if "xl" in there and "[Content_Types].xml" in there:
        return _describe(EXCEL, place)
    # torch.save writes an archive of one folder, with a pickle and the storages.
    if len(names) == 1 and "data.pkl" in inside(names[0]):
        return _describe(NETWORK, place)
    return None
