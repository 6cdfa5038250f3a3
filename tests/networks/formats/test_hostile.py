"""Headers of safetensors that lie, and mutations of every format: an error of ours, or numbers."""

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bigspec.errors import BigspecError, SourceError
from bigspec.networks.formats import open_model
from tests.memory import traced_peak
from tests.networks.formats.test_contract import FORMATS, numbers
from tests.networks.formats.writers import entry, safetensors_of

ROOT = Path(__file__).parents[3]
BODY = bytes(24)
SHAPE = (
    "expected a shape of whole lengths from 0 on, whose product fits 62 bits, for tensor 'a', got "
)
JSON = "its header cannot be read as JSON ({}); copy the file again"
LIES = {
    "a key twice": (b'{"a": 1, "a": 2}', JSON.format("the key 'a' is there twice")),
    "no JSON": (b"{", JSON.format("Expecting property name enclosed in double quotes: line 1 column 2 (char 1)")),
    "many brackets": (b'{"a":' + b"[" * 100_000, JSON.format("maximum recursion depth exceeded while decoding a JSON array from a unicode string")),
    "a number of a million digits": (b'{"a":' + b"1" * 5000 + b"}", JSON.format("Exceeds the limit (4300 digits) for integer string conversion: value has 5000 digits; use sys.set_int_max_str_digits() to increase the limit")),
    "bytes that are no text": (b'{"\xff": 1}', JSON.format("'utf-8' codec can't decode byte 0xff in position 2: invalid start byte")),
    "a list": (b"[1, 2]", "expected an object in JSON as its header, got list"),
    "no entry": ({"a": 3}, "expected dtype, shape and data_offsets of tensor 'a', got something else"),
    "an unknown type": ({"a": entry("F3")}, None),
    "a negative length": ({"a": entry(shape=(-2, -3))}, SHAPE + "[-2, -3]"),
    "a length of a half": ({"a": entry(shape=(2.5,))}, SHAPE + "[2.5]"),
    "a length that is true": ({"a": entry(shape=(True, 6))}, SHAPE + "[True, 6]"),
    "a shape that overflows": ({"a": entry(shape=(1 << 62, 4))}, SHAPE + f"[{1 << 62}, 4]"),
    "a product that overflows": ({"a": entry(shape=(1 << 31, 1 << 31, 4))}, SHAPE + f"[{1 << 31}, {1 << 31}, 4]"),
    "a product that wraps to 6": ({"a": entry(shape=(1 << 33, 1 << 33, 6))}, SHAPE + f"[{1 << 33}, {1 << 33}, 6]"),
    "another size": ({"a": entry(shape=(2, 2))}, "expected 16 bytes for tensor 'a' of shape [2, 2] and type F32, got offsets 0 to 24"),
    "half a byte": ({"a": entry("F4", (3,), (0, 2))}, "tensor 'a' has 12 bits of float4_e2m1fn, which are not whole bytes"),
    "offsets turned round": ({"a": entry(offsets=(24, 0))}, "expected 24 bytes for tensor 'a' of shape [2, 3] and type F32, got offsets 24 to 0"),
    "three offsets": ({"a": entry(offsets=(0, 12, 24))}, "expected two offsets of tensor 'a' from 0 to 24, got [0, 12, 24]; the file was cut short, or its header is wrong: copy it again"),
    "negative offsets": ({"a": entry(offsets=(-24, 0))}, "expected two offsets of tensor 'a' from 0 to 24, got [-24, 0]; the file was cut short, or its header is wrong: copy it again"),
    "past the end": ({"a": entry(shape=(1 << 40,), offsets=(0, 1 << 42))}, f"expected two offsets of tensor 'a' from 0 to 24, got [0, {1 << 42}]; the file was cut short, or its header is wrong: copy it again"),
    "an overlap": ({"a": entry(shape=(4,), offsets=(0, 16)), "b": entry(shape=(4,), offsets=(8, 24))}, None),
    "a hole": ({"a": entry(shape=(2,), offsets=(0, 8)), "b": entry(shape=(2,), offsets=(16, 24))}, None),
    "a hole at the end": ({"a": entry(shape=(2,), offsets=(0, 8))}, None),
    "a hole at the begin": ({"a": entry(shape=(2,), offsets=(16, 24))}, None),
    "metadata that is no text": ({"__metadata__": {"a": 1}}, "expected texts by name in __metadata__, got something else"),
    "a name that is no text": ({"\ud800": entry()}, "tensor '\\ud800' has a name that is not a text; write it again"),
}  # fmt: skip
ENDS = {
    "an unknown type": "F32, F16, BF16, F8_E4M3, ",
    "an overlap": "tensor 'b' overlaps tensor 'a': it begins at byte ",
    "a hole": ", before tensor 'b', belong to no tensor",
    "a hole at the end": ", at its end, belong to no tensor",
    "a hole at the begin": ", before tensor 'a', belong to no tensor",
}


@pytest.mark.parametrize("case", LIES)
def test_a_header_that_lies(case, tmp_path):
    header, said = LIES[case]
    path = safetensors_of(tmp_path / "m.safetensors", header, BODY)
    with pytest.raises(SourceError) as caught:
        open_model(path)
    got = str(caught.value).removeprefix(f"{path}: ")
    assert ENDS[case] in got if said is None else got == said


def test_a_header_length_of_2_to_the_63(tmp_path):
    path = tmp_path / "m.safetensors"
    for length, said in [
        (1 << 63, f"expected a header of at most 100000000 bytes, got a length of {1 << 63}"),
        (100_000_001, "expected a header of at most 100000000 bytes, got a length of 100000001"),
        (99, "expected its header at bytes 8 to 107, got a file of 10 bytes; it was cut short, or its header is wrong: copy it again"),
    ]:  # fmt: skip
        path.write_bytes(length.to_bytes(8, "little") + b"{}")
        with pytest.raises(SourceError) as caught:
            open_model(path)
        assert str(caught.value) == f"{path}: {said}"
    path.write_bytes(b"\1\2\3")
    with pytest.raises(SourceError) as caught:
        open_model(path)
    assert str(caught.value) == (
        f"{path}: expected the length of its header at bytes 0 to 8, got a file of 3 bytes; it was "
        "cut short, or its header is wrong: copy it again"
    )


WEIGHTS = {"a": numbers((3, 4), "f4"), "b": numbers((5,), "f4"), "c": numbers((2, 2), "f2")}
MUTATED = [name for name in FORMATS if name not in ("HDF5", "Zarr")]
MOST = 64 << 20
"""Bytes that opening and reading some hundred bytes may take, whatever they say."""


def mutation(raw, draw):
    """Change some bytes, cut the file, or copy one part of it over another."""
    out = bytearray(raw)
    kind = draw.random()
    if kind < 0.15:
        return bytes(out[: draw.randrange(len(out))])
    if kind < 0.3:
        start, to = draw.randrange(len(out)), draw.randrange(len(out))
        part = out[start : start + draw.randrange(1, 64)]
        out[to : to + len(part)] = part
        return bytes(out)
    for _ in range(draw.choice((1, 1, 2, 5))):
        place = draw.randrange(len(out))
        out[place] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256), out[place] ^ 1))
    return bytes(out)


def outcomes(name, folder, many):
    """Open and read mutated files; return how many were refused, and how many were read."""
    file, write, _ = FORMATS[name]
    raw = write(folder / file, WEIGHTS).read_bytes()
    draw = random.Random(f"formats {name}")
    path = folder / f"mutated{file}"
    refused = read = 0
    for _ in range(many):
        path.write_bytes(mutation(raw, draw))
        try:
            model = open_model(path)
            for tensor in model.values():
                got = tensor.refusal or tensor.read()
                tensor.token()
                assert tensor.refusal or got.shape == tensor.shape
            read += 1
        except BigspecError:
            refused += 1
    return refused, read


@pytest.mark.parametrize("name", MUTATED)
def test_a_mutation_is_an_error_of_ours_or_a_file_that_can_be_read(name, tmp_path):
    with traced_peak() as peak:
        refused, read = outcomes(name, tmp_path, 250)
    assert peak[0] < MOST
    assert min(refused, read) > 15


def test_mutations_of_hdf5_in_a_process_that_its_library_may_end(tmp_path):
    script = (
        "import pathlib, sys; from tests.networks.formats.test_hostile import outcomes; "
        "print(*outcomes('HDF5', pathlib.Path(sys.argv[1]), 300))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, str(tmp_path)],
        capture_output=True, text=True, timeout=120, check=False, cwd=ROOT,
    )  # fmt: skip
    assert not done.stderr
    refused, read = map(int, done.stdout.split())
    assert min(refused, read) > 15


def test_a_file_cut_short_anywhere_is_an_error(tmp_path):
    for name in ("safetensors", "PyTorch, old", "PyTorch, zip", "npz", "npz, packed"):
        file, write, _ = FORMATS[name]
        path = write(tmp_path / file, {"a": np.ones((2, 2), "f4")})
        raw = path.read_bytes()
        for length in range(0, len(raw), 5):
            path.write_bytes(raw[:length])
            with pytest.raises(BigspecError):
                open_model(path)
