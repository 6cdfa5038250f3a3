"""Hostile inputs, each at each door it can enter by: a short answer, the right one or a message.

A case is a row of `CASES`: what is made, what is said, and by which doors it comes. Cases are run
in child processes with a memory limit, which report for every door what came, how long it took
and the most memory so far; a door that takes ten seconds ends its child.
"""

import gzip
import json
import os
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest

import bigspec
from bigspec.errors import DataError
from tests.hostile_child import DOORS, LIMIT

SPARE = 300 << 20
"""Beyond the memory limit: decoders, Python's own."""
PATHS = ("path", "svds", "expression", "minus")
SPARSE = (*PATHS, "convert")
DENSE_ZARR = (*PATHS, "object")
SPARSE_ZARR = (*SPARSE, "object")
HUGE = 1 << 60
HEAD = "%%MatrixMarket matrix coordinate real general\n"


@dataclass(frozen=True)
class Case:
    """What is made, what the message says, and the doors."""

    make: Callable[[Path], str]
    said: str
    names: tuple[str, ...]

    @property
    def doors(self) -> tuple[str, ...]:
        """Those named; what comes by its path comes on a worker, too."""
        return (*self.names, "cluster") if "path" in self.names else self.names


# What is made ---------------------------------------------------------------------------------


def array(place, shape, chunks, dtype="<f8", **changes):
    """Write the metadata of a Zarr v2 array, and no chunk."""
    place.mkdir(parents=True, exist_ok=True)
    document = {
        "zarr_format": 2, "shape": shape, "chunks": chunks, "dtype": dtype, "compressor": None,
        "fill_value": 0, "order": "C", "filters": None, "dimension_separator": ".",
    }  # fmt: skip
    (place / ".zarray").write_text(json.dumps(document | changes))
    return str(place)


def group(place, attributes):
    place.mkdir(parents=True, exist_ok=True)
    (place / ".zgroup").write_text('{"zarr_format": 2}')
    (place / ".zattrs").write_text(json.dumps(attributes))
    return str(place)


def csr(place, shape, pointers, stored=2, chunk=2, **attributes):
    said = {"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": shape}
    array(place / "data", [stored], [chunk])
    array(place / "indices", [stored], [chunk], "<i4")
    array(place / "indptr", [pointers], [min(pointers, 1 << 20)], "<i8")
    return group(place, said | attributes)


def coo(place, stored=2):
    types = {"values": "float64", "indices_0": "uint64", "indices_1": "uint64"}
    for name in types:
        kind = "<f8" if name == "values" else "<u8"
        array(place / name, [stored], [min(stored, 1 << 20)], kind, fill_value=1)
    said = {"version": "0.1", "format": "COO", "shape": [HUGE, 5], "data_types": types}
    return group(place, {"binsparse": said | {"number_of_stored_values": stored}})


class Payload:
    """Runs when it is unpickled."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return (exec, (f"open({self.mark!r}, 'w').close()",))


def pickled(place):
    """Return a chunk of bytes that leaves a mark beside the source when it is unpickled."""
    import pickle

    return pickle.dumps(Payload(place / "ran"))


PICKLE = {"id": "pickle", "protocol": 4}
PICKLED = {
    "as a compressor": {"compressor": PICKLE},
    "as a filter": {"filters": [{"id": "delta", "dtype": "<i8"}, PICKLE]},
    "of texts": {"dtype": "|O", "filters": [{"id": "vlen-utf8"}, PICKLE]},
    "of objects": {"dtype": "|O", "filters": [PICKLE]},
}
UNPICKLED = "'pickle', which is not run|expected entries of type|metadata cannot be read"


def pickled_array(how):
    def make(folder):
        array(folder / "A.zarr", [2, 2], [2, 2], **({"dtype": "<i8"} | PICKLED[how]))
        (folder / "A.zarr/0.0").write_bytes(pickled(folder))
        return str(folder / "A.zarr")

    return make


def pickled_part(part, how):
    def make(folder):
        place = folder / "A.zarr"
        csr(place, [1, 2], 2, 2)
        if part == "shape":
            group(place, {"encoding-type": "csr_matrix", "encoding-version": "0.1.0"})
        array(place / part, [2], [2], **({"dtype": "<i8"} | PICKLED[how]))
        (place / part / "0").write_bytes(pickled(folder))
        return str(place)

    return make


def zstd_bomb(size):
    """Return a zstd frame without a size: blocks of one byte each, repeated 128 Ki times."""
    blocks = size >> 17
    one = lambda last: ((128 << 10) << 3 | 1 << 1 | last).to_bytes(3, "little") + b"\1"  # noqa: E731
    return b"\x28\xb5\x2f\xfd\x00\x58" + one(0) * (blocks - 1) + one(1)


def chunk(encoded, codec, filters=None):
    """Put a chunk into a dense array of 4 x 4."""

    def make(folder):
        place = folder / "A.zarr"
        array(place, [4, 4], [4, 4], compressor={"id": codec}, filters=filters)
        (place / "0.0").write_bytes(encoded())
        return str(place)

    return make


def zeros(size, wbits):
    """Return so many zeros, deflated, without the end of the stream: one block again and again."""
    packer = zlib.compressobj(9, wbits=wbits)
    head = packer.compress(b"") + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(1 << 22)) + packer.flush(zlib.Z_FULL_FLUSH)
    return head + block * (size >> 22)


GZIP, ZLIB = 31, 15


def blosc_bomb():
    import numcodecs

    return bytes(numcodecs.Blosc().encode(np.zeros(1 << 27)))


DELTA = [{"id": "delta", "dtype": "<f8"}]


def npz_bomb(folder):
    size = 1 << 31
    with zipfile.ZipFile(folder / "A.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        parts = {"format": np.array(b"coo"), "shape": np.array([4, 4])}
        parts |= {"row": np.zeros(2, "i4"), "col": np.zeros(2, "i4")}
        for name, value in parts.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.save(file, value)
        with archive.open("data.npy", "w") as file:
            head = {"descr": "<f8", "fortran_order": False, "shape": (size // 8,)}
            np.lib.format.write_array_header_1_0(file, head)
            for _ in range(4):  # far from what it says
                file.write(bytes(1 << 20))
    return str(folder / "A.npz")


def npz(**changes):
    def make(folder):
        parts = {"format": b"coo", "shape": [4, 4], "data": np.ones(2)}
        parts |= {"row": np.zeros(2, "i4"), "col": np.zeros(2, "i4")} | changes
        np.savez_compressed(folder / "A.npz", **parts)
        return str(folder / "A.npz")

    return make


def hdf5_bomb(columns, size):
    def make(folder):
        with h5py.File(folder / "A.h5", "w") as file:
            shape = (4, columns)
            held = file.create_dataset("X", shape, "f8", chunks=shape, compression="gzip")
            held.id.write_direct_chunk((0, 0), zeros(size, ZLIB))
        return str(folder / "A.h5")

    return make


def market(text, name="A.mtx"):
    def make(folder):
        data = text() if callable(text) else text
        (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())
        return str(folder / name)

    return make


def tar(folder):
    (folder / "A.mtx").write_text(HEAD + "1 1 1\n1 1 2\n")
    with tarfile.open(folder / "A.mtx.gz", "w") as archive:
        archive.add(folder / "A.mtx", "A.mtx")
    return str(folder / "A.mtx.gz")


def packed_tar(folder):
    place = Path(tar(folder))
    place.write_bytes(gzip.compress(place.read_bytes()))
    return str(place)


def cut(folder):
    rng = np.random.default_rng(0)
    lines = "".join(f"{k + 1} 1 {rng.standard_normal()}\n" for k in range(2000))
    whole = gzip.compress((HEAD + "2000 1 2000\n" + lines).encode())
    (folder / "A.mtx.gz").write_bytes(whole[: len(whole) // 2])
    return str(folder / "A.mtx.gz")


def comments_bomb():
    return gzip.compress(HEAD.encode()) + gzip.compress(b"%\n" * (4 << 20))


def blank_bomb():
    return gzip.compress((HEAD + "2 2 2\n1 1 5\n").encode()) + gzip.compress(b"\n" * (48 << 20))


# The table -------------------------------------------------------------------------------------

CASES = {
    # Code that comes with the data.
    **{f"pickle {how}": Case(pickled_array(how), UNPICKLED, PATHS) for how in PICKLED},
    **{
        f"pickle {how} in {part}": Case(
            pickled_part(part, how), UNPICKLED, SPARSE_ZARR if how == "as a filter" else SPARSE[:1]
        )
        for part in ("data", "indices", "indptr", "shape")
        for how in PICKLED
    },
    "pickle in an npz": Case(npz(data=np.array([print, print])), "object", SPARSE),
    # Some kilobytes that decode to gigabytes.
    "zstd": Case(chunk(lambda: zstd_bomb(4 << 30), "zstd"), "chunk 0.0 is damaged", DENSE_ZARR),
    "zstd behind a filter": Case(
        chunk(lambda: zstd_bomb(4 << 30), "zstd", DELTA), "chunk 0.0 is damaged", DENSE_ZARR
    ),
    "gzip": Case(chunk(lambda: zeros(2 << 30, GZIP), "gzip"), "chunk 0.0 is damaged", DENSE_ZARR),
    "gzip behind a filter": Case(
        chunk(lambda: zeros(2 << 30, GZIP), "gzip", DELTA), "chunk 0.0 is damaged", DENSE_ZARR
    ),
    "blosc": Case(chunk(blosc_bomb, "blosc"), "chunk 0.0 is damaged", DENSE_ZARR),
    "blosc behind a filter": Case(
        chunk(blosc_bomb, "blosc", DELTA), "chunk 0.0 is damaged", DENSE_ZARR
    ),
    "npz that says more than it holds": Case(npz_bomb, "cannot hold them", SPARSE),
    "npz whose arrays do not fit": Case(
        npz(data=np.zeros(9 << 20), row=np.zeros(9 << 20, "i4"), col=np.zeros(9 << 20, "i4")),
        "for loading .* bigspec convert",
        ("path", "svds", "minus"),
    ),
    "npz whose shape is a bomb": Case(npz(shape=np.ones(1 << 20)), "does not say what", SPARSE),
    "HDF5 deflate": Case(hdf5_bomb(4, 1 << 30), "which no filter writes", PATHS),
    "HDF5 deflate in a large chunk": Case(
        hdf5_bomb(1 << 16, 2 << 30), "unpacks to more than", ("path", "svds", "expression")
    ),
    "comments before the sizes": Case(
        market(comments_bomb, "A.mtx.gz"), "4 MiB of comments", SPARSE
    ),
    "blank lines between entries": Case(
        market(blank_bomb, "A.mtx.gz"), "16 MiB of comments and blank lines", SPARSE
    ),
    # A few lines that declare the world.
    "CSR of 2^60 rows": Case(
        lambda folder: csr(folder / "A.zarr", [HUGE, 5], HUGE + 1),
        "expected values that|is not in the store",
        SPARSE,
    ),
    "CSR of 2^60 rows and entries": Case(
        lambda folder: csr(folder / "A.zarr", [HUGE, 5], HUGE + 1, HUGE, 1 << 20),
        "expected values that grow in indptr|is not in the store",
        SPARSE_ZARR,
    ),
    "CSR in one chunk of 2^60": Case(
        lambda folder: csr(folder / "A.zarr", [HUGE, 5], HUGE + 1, HUGE, HUGE),
        "for a chunk of .*data, which is decoded whole",
        SPARSE_ZARR,
    ),
    "COO of 2^60 rows": Case(
        lambda folder: coo(folder / "A.zarr"),
        "memory_limit: expected at least|is not in the store",
        ("path", "svds", "convert"),
    ),
    "COO of 2^60 entries": Case(
        lambda folder: coo(folder / "A.zarr", HUGE),
        "expected values that grow|is not in the store",
        SPARSE,
    ),
    "a chunk of 2^40 entries": Case(
        lambda folder: array(folder / "A.zarr", [4, 4], [1 << 20, 1 << 20]),
        "memory_limit: expected at least 8.0 TiB",
        DENSE_ZARR,
    ),
    "npz of 2^60 rows": Case(npz(shape=[HUGE, 5]), "TiB|64 rows for each stored", SPARSE),
    "2e18 rows": Case(
        market(HEAD + "2000000000000000000 5 1\n1 1 2\n"), "TiB for loading|64 rows for", SPARSE
    ),
    "4e12 rows": Case(
        market(HEAD + "4000000000000 7 2\n1 1 2\n2 2 3\n"), "TiB for loading|64 rows for", SPARSE
    ),
    "8e10 entries": Case(
        market(HEAD + "5 5 80000000000\n1 1 2\n"), "TiB for loading|cannot hold them", SPARSE
    ),
    "an array of 3e6 x 3e6": Case(
        market(HEAD.replace("coordinate", "array") + "3000000 3000000\n1\n"),
        "65.5 TiB for loading|which is dense",
        SPARSE,
    ),
    # What is something else than its name says.
    "chunks of length 0": Case(
        lambda folder: array(folder / "A.zarr", [4, 4], [0, 4]), "chunks of positive", DENSE_ZARR
    ),
    "pointers in chunks of length 0": Case(
        lambda folder: (
            csr(folder / "A.zarr", [1, 2], 2),
            array(folder / "A.zarr/indptr", [2], [0], "<i4"),
        )[0],
        "chunks of positive length",
        SPARSE_ZARR,
    ),
    "attributes that are a list": Case(
        lambda folder: group(folder / "A.zarr", [1]), "metadata cannot be read", SPARSE
    ),
    "a shape of one number": Case(
        lambda folder: csr(folder / "A.zarr", 5, 6), "attribute 'shape' of two", SPARSE_ZARR
    ),
    "one extent": Case(
        lambda folder: csr(folder / "A.zarr", [5], 6), r"got shape \(5,\)", SPARSE_ZARR
    ),
    "a shape of one number below": Case(
        lambda folder: (csr(folder / "A.zarr/X", 5, 6), group(folder / "A.zarr", {}))[1],
        "it holds /X",
        SPARSE,
    ),
    "indices that are fractions": Case(
        npz(format=b"csr", indices=np.array([0.5, 1.5]), indptr=np.array([0, 1, 2, 2, 2])),
        "expected integers in indices|expected as many integer indices",
        SPARSE,
    ),
    "a missing chunk of no fill value": Case(
        lambda folder: array(folder / "A.zarr", [4, 4], [4, 4], fill_value=None),
        "has no fill value",
        DENSE_ZARR,
    ),
    "text named gz": Case(market(HEAD + "1 1 1\n1 1 2\n", "A.mtx.gz"), "got plain text", SPARSE),
    "a tar named gz": Case(tar, "got a tar archive; unpack it", SPARSE),
    "a tar in a gz": Case(packed_tar, "got a tar archive; unpack it", SPARSE),
    "half of a gz": Case(cut, "damaged or cut short", SPARSE),
}
AT_ONCE = 24


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """Run all cases, some in one process after the other, and return what came at each door."""
    folder, told = tmp_path_factory.mktemp("hostile"), {}
    made = []
    for number, (name, case) in enumerate(CASES.items()):
        place = folder / str(number)
        place.mkdir()
        np.save(place / "Z.npy", np.zeros((4, 4)))
        made.append({"name": name, "source": case.make(place), "doors": case.doors})
    environment = os.environ | {
        "PYTHONPATH": str(Path(bigspec.__file__).parents[1]),
        # The lock of numcodecs is open, for ours is to be seen.
        "NUMCODECS_ALLOW_UNSAFE_PICKLE_DECODE": "1",
    }
    for start in range(0, len(made), AT_ONCE):
        child = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "tests.hostile_child"],
            input=json.dumps(made[start : start + AT_ONCE]),
            capture_output=True,
            text=True,
            timeout=120,
            env=environment,
            cwd=Path(__file__).parents[1],
        )
        for line in child.stdout.splitlines():
            answer = json.loads(line)
            told[answer["name"], answer["door"]] = answer
        told["errors", start] = child.stderr
    return told


EVERY = [(name, door) for name, case in CASES.items() for door in case.doors]


@pytest.mark.parametrize(("name", "door"), EVERY)
def test_a_hostile_source_gets_a_short_answer(name, door, told):
    errors = [text for key, text in told.items() if key[0] == "errors"]
    assert (name, door) in told, errors  # no answer within ten seconds, or the process died
    answer = told[name, door]
    assert answer["kind"] in dir(bigspec.errors), answer
    assert_said(CASES[name].said, answer["message"])
    assert answer["peak"] < LIMIT + SPARE, answer
    assert not answer["left"], answer


def assert_said(said, message):
    with pytest.raises(ValueError, match=said):
        raise ValueError(message)


# Numbers in Matrix Market ----------------------------------------------------------------------

INTEGERS = HEAD.replace("real", "integer")
COMPLEX = HEAD.replace("real", "complex")
SYMMETRIC = HEAD.replace("general", "symmetric")
ONE = "2 2 1\n"
VALUES = {
    "Fortran's D": (HEAD + ONE + "1 1 2.5D+01\n", 25.0),
    "a small d": (HEAD + ONE + "1 1 2.5d1\n", 25.0),
    "a bare exponent": (HEAD + ONE + "1 1 0.25+002\n", 25.0),
    "Q": (HEAD + ONE + "1 1 0.25Q+02\n", 25.0),
    "a leading plus": (HEAD + ONE + "1 +1 +2.5e+1\n", 25.0),
    "D in a complex number": (COMPLEX + ONE + "1 1 1.5D1 -2.0d+1\n", 25.0),
    "a whole number with an exponent": (INTEGERS + ONE + "1 1 1e+05\n", 100000.0),
    "comments between entries": (HEAD + "2 2 2\n1 1 3\n% one\n\n  %\n2 2 25\n", 25.0),
    "a single % before the banner": ((HEAD + ONE + "1 1 25\n")[1:], 25.0),
    "a mark of byte order": ("\ufeff" + HEAD + ONE + "1 1 25\n", 25.0),
    "lines that end in CR LF": ((HEAD + ONE + "1 1 25\n").replace("\n", "\r\n"), 25.0),
    "the upper triangle": (SYMMETRIC + ONE + "1 2 25\n", 25.0),
    "a real diagonal": (COMPLEX.replace("general", "hermitian") + ONE + "1 1 25 0\n", 25.0),
}
REFUSED = {
    "a decimal comma": (HEAD + ONE + "1 1 1,5\n", "line 3.*'1,5' is not a number"),
    "hexadecimal": (HEAD + ONE + "1 1 0x1.8p+3\n", "line 3.*is not a number"),
    "an underscore": (HEAD + ONE + "1 1 1_000\n", "line 3.*is not a number"),
    "1.#INF": (HEAD + ONE + "1 1 1.#INF\n", "line 3.*is not a number"),
    "1.#QNAN": (HEAD + ONE + "1 1 1.#QNAN\n", "line 3.*is not a number"),
    "two points": (HEAD + ONE + "1 1 1.2.3\n", "line 3.*is not a number"),
    "a fraction under integer": (INTEGERS + ONE + "1 1 11.9989\n", "line 3.*not a whole number"),
    "an index with a point": (HEAD + ONE + "1.0 1 5\n", "line 3.*'1.0' is not an index"),
    "a value in a pattern": (
        HEAD.replace("real", "pattern") + ONE + "1 1 5\n",
        "expected 'row column' in line 3.*3 numbers, 2 expected",
    ),
    "one part of a complex number": (COMPLEX + ONE + "1 1 5\n", "line 3.*3 numbers, 4 expected"),
    "a comment behind an entry": (HEAD + ONE + "1 1 5 % five\n", "line 3.*5 numbers, 3 exp"),
    "an imaginary diagonal": (
        COMPLEX.replace("general", "hermitian") + ONE + "1 1 5 1\n",
        "whose diagonal is real; line 3",
    ),
    "a skew diagonal": (
        HEAD.replace("general", "skew-symmetric") + ONE + "1 1 5\n",
        "whose diagonal is 0; line 3",
    ),
    "both triangles": (
        SYMMETRIC + "2 2 2\n1 2 5\n2 1 5\n",
        "only one triangle is stored, with entries in both; line 4",
    ),
    "symmetric, not square": (SYMMETRIC + "2 3 1\n1 1 5\n", "expected a square matrix"),
}
MARKET_DOORS = ("path", "svds", "expression", "minus", "convert")


@pytest.mark.parametrize("name", ["A.mtx", "A.MTX", "A.mtx.gz"])
@pytest.mark.parametrize("case", VALUES)
def test_a_number_is_read_whole_at_every_door(case, name, tmp_path):
    text, value = VALUES[case]
    data = text.encode()
    source = market(gzip.compress(data) if name.endswith("gz") else data, name)(tmp_path)
    for door in MARKET_DOORS if name == "A.mtx" else ("path", "convert"):
        assert DOORS[door](source, tmp_path) == pytest.approx(value, rel=1e-9), door


@pytest.mark.parametrize("case", REFUSED)
def test_a_line_that_is_no_entry_is_named_at_every_door(case, tmp_path):
    text, said = REFUSED[case]
    source = market(text)(tmp_path)
    for door in MARKET_DOORS:
        with pytest.raises(DataError, match=said):
            DOORS[door](source, tmp_path)


def test_a_line_is_named_by_its_number_in_a_later_block(tmp_path, monkeypatch):
    monkeypatch.setattr("bigspec.sources.files.BLOCK_BYTES", 200)
    lines = [f"{k} {k} 1.5\n" for k in range(1, 100)]
    lines[60:60] = ["% here\n", "\n"]
    lines[90] = "89 89 1.5.5\n"
    (tmp_path / "A.mtx").write_text(HEAD + "99 99 99\n" + "".join(lines))
    with pytest.raises(DataError, match=r"line 93, .*'1.5.5' is not a number"):
        bigspec.norm(tmp_path / "A.mtx")
