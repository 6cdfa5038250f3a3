"""A matrix that changes under its run is noticed, named, and never gives a number."""

from dataclasses import replace

import dask
import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp
import zarr
from click.testing import CliRunner
from hypothesis import example, given, settings
from hypothesis import strategies as st
from zarr.codecs import Crc32cCodec

import bigspec
from bigspec import cli
from bigspec.cli import watching
from bigspec.errors import ChunkError, MatrixChangedError
from bigspec.kernels.tokens import LEAST, STRIDE, block_token
from bigspec.panels.choose_layout import choose_layout
from bigspec.watch import Observer
from tests.checkpoint.runs import ASKED, Stepwise, assert_same_bits
from tests.matrices import decaying

pytestmark = pytest.mark.usefixtures("many_rounds", "every_step")

A = decaying(120, 40, 0.5).astype("f4")
OTHER = decaying(120, 40, 0.5, seed=9).astype("f4")
CHANGED = slice(60, 72)  # chunk 5 of the chunked ones


def save(path, **options):
    options = {"chunks": (12, 40), "compressors": None} | options
    store = zarr.create_array(path, shape=A.shape, dtype="f4", **options)
    store[:] = A
    return path


def rewrite(path):
    zarr.open_array(path, mode="r+")[CHANGED] = OTHER[CHANGED]


@pytest.fixture
def path(tmp_path):
    return save(tmp_path / "A.zarr")


class After(Observer):
    """Does something when pass `number` is finished."""

    def __init__(self, number, action):
        self.number, self.action = number, action

    def pass_finished(self, record):
        if record.number == self.number:
            self.action()


NAMED = (
    r"A.zarr: expected the entries of the first pass, got others in panel 5 \(rows 60 to 71, "
    r"from chunk c/5/0 on; 1 panel\(s\) in all so far\).*no interval holds"
)


@pytest.mark.parametrize("number", [1, 3])
def test_a_chunk_rewritten_between_passes(number, path, tmp_path, monkeypatch):
    place = tmp_path / "run"
    watcher = Stepwise(monkeypatch, {number + 1: lambda: rewrite(path)})
    with pytest.raises(MatrixChangedError, match=NAMED) as caught:
        bigspec.norm(path, checkpoint=place, progress=watcher, **ASKED)
    assert caught.value.exit_status == 65
    saved = bigspec.show(place)  # evidence: the steps before
    assert (saved.passes, saved.rounds, saved.place["damage"]) == (number, 0, [])
    assert saved.lower <= 1.0 <= saved.upper
    assert f"next        pass {number + 1}" in str(saved)


def test_the_command_line_says_so_and_exits_with_65(path, tmp_path, monkeypatch):
    place = tmp_path / "run"

    class Quiet(watching.Quiet):
        def pass_started(self, number, panels):
            if number == 3:
                rewrite(path)

    monkeypatch.setattr(watching, "Quiet", Quiet)
    command = ["norm", str(path), "--checkpoint", str(place), "--quiet", "--rtol", "1e-7"]
    command += ["--no-pin"]
    result = CliRunner().invoke(cli.main, [*command, "--block-size", "4"])
    assert result.exit_code == 65
    assert result.stdout == ""
    assert "got others in panel 5 (rows 60 to 71, from chunk c/5/0 on" in result.stderr
    shown = CliRunner().invoke(cli.main, ["show", str(place)])
    assert shown.exit_code == 0
    assert "passes " in shown.stdout


def test_a_chunk_rewritten_between_two_runs(path, tmp_path):
    place = tmp_path / "run"
    bigspec.norm(path, checkpoint=place, max_passes=2, **ASKED)
    before = bigspec.show(place)
    rewrite(path)
    for _ in range(2):
        with pytest.raises(MatrixChangedError, match=NAMED):
            bigspec.norm(path, checkpoint=place, **ASKED)
    assert bigspec.show(place).history == before.history
    zarr.open_array(path, mode="r+")[:] = A  # put back, it is the matrix of the first pass
    assert_same_bits(bigspec.norm(path, checkpoint=place, **ASKED), bigspec.norm(path, **ASKED))


def test_one_rewritten_after_an_interrupted_pass_is_noticed_in_the_rest_of_it(path, tmp_path):
    class Stop(Observer):
        left = 10 + 5

        def panels_done(self, *_):
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt

    place = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt), dask.config.set(scheduler="synchronous"):
        bigspec.norm(path, checkpoint=place, progress=Stop(), **ASKED)
    saved = bigspec.show(place)
    assert (saved.passes, saved.rounds) == (1, 1)
    rewrite(path)
    with pytest.raises(MatrixChangedError, match="in panel 5 "):
        bigspec.norm(path, checkpoint=place, **ASKED)


def test_several_changed_panels_are_counted_and_the_first_is_named(path):
    def change():
        zarr.open_array(path, mode="r+")[24:36] = OTHER[24:36]
        zarr.open_array(path, mode="r+")[:12] = OTHER[:12]

    with pytest.raises(MatrixChangedError, match=r"in panel 0 \(rows 0 to 11"):
        bigspec.norm(path, progress=After(1, change), **ASKED)


def test_a_chunk_that_vanishes_is_a_change(path):
    with pytest.raises(MatrixChangedError, match="in panel 5 "):
        bigspec.norm(path, progress=After(1, (path / "c/5/0").unlink), **ASKED)


def test_columns_are_named_in_a_wide_matrix(tmp_path):
    path = tmp_path / "W.zarr"
    store = zarr.create_array(path, shape=(40, 120), chunks=(40, 12), dtype="f4")
    store[:] = A.T

    def change():
        zarr.open_array(path, mode="r+")[:, CHANGED] = OTHER.T[:, CHANGED]

    with pytest.raises(MatrixChangedError, match=r"panel 5 \(columns 60 to 71, from chunk c/0/5"):
        bigspec.norm(path, progress=After(2, change), **ASKED)


# Every kind of source: (matrix, how it is changed) -------------------------------------------


def zarr_direct(folder):
    path = save(folder / "A.zarr")
    assert bigspec.open_matrix(path).direct is not None
    return path, lambda: rewrite(path)


def zarr_sharded(folder):
    path = save(folder / "A.zarr", chunks=(4, 40), shards=(12, 40))
    assert bigspec.open_matrix(path).direct is None
    return path, lambda: rewrite(path)


def zarr_fortran(folder):
    path = folder / "A.zarr"
    zarr.create_array(path, shape=A.shape, chunks=(12, 20), dtype="f4", zarr_format=2, order="F")
    zarr.open_array(path, mode="r+")[:] = A
    return path, lambda: rewrite(path)


def numpy_array(folder):
    array = A.copy()
    return array, lambda: array.__setitem__(CHANGED, OTHER[CHANGED])


def memory_map(folder):
    array = np.memmap(folder / "A.bin", "f4", "w+", shape=A.shape, order="F")
    array[:] = A
    seen = np.memmap(folder / "A.bin", "f4", "r", shape=A.shape, order="F")
    return seen, lambda: array.__setitem__(CHANGED, OTHER[CHANGED])


def sparse(kind):
    def make(folder):
        matrix = getattr(sp, f"{kind}_array")(np.where(A > 0.02, A, 0))
        return matrix, lambda: matrix.data.__imul__(2)

    return make


def dask_array(folder):
    array = A.copy()
    lazy = da.from_array(np.zeros(A.shape, "f4"), chunks=(12, 20))
    lazy = lazy.map_blocks(lambda block, block_info: cut(array, block_info), dtype="f4")
    return lazy, lambda: array.__setitem__(CHANGED, OTHER[CHANGED])


def dask_sparse(folder):
    array = A.copy()
    lazy = da.from_array(np.zeros(A.shape, "f4"), chunks=(12, 40))
    lazy = lazy.map_blocks(
        lambda block, block_info: sp.csr_array(cut(array, block_info)),
        dtype="f4",
        meta=sp.csr_array((0, 0), dtype="f4"),
    )
    return lazy, lambda: array.__setitem__(CHANGED, OTHER[CHANGED])


def cut(array, block_info):
    return array[tuple(slice(*ends) for ends in block_info[0]["array-location"])].copy()


KINDS = {
    "zarr, decoded directly": zarr_direct,
    "zarr, sharded": zarr_sharded,
    "zarr v2, F order": zarr_fortran,
    "ndarray": numpy_array,
    "memory map, F order": memory_map,
    "CSR": sparse("csr"),
    "CSC": sparse("csc"),
    "dask": dask_array,
    "dask, sparse chunks": dask_sparse,
}


@pytest.mark.parametrize(
    ("kind", "reads"),
    [(kind, 1) for kind in KINDS]
    + [(kind, 2) for kind in KINDS if not kind.startswith("CS") and "sparse" not in kind],
)
def test_every_kind_of_source_has_tokens(kind, reads, tmp_path, monkeypatch):
    if reads == 2:

        def tiles(*args, **options):
            return replace(choose_layout(*args, **options), slab_cells=1, tile_cells=1)

        monkeypatch.setattr("bigspec.run.planner.choose_layout", tiles)
    matrix, change = KINDS[kind](tmp_path)
    assert bigspec.norm(matrix, **ASKED).layout["reads_per_pass"] == reads
    with pytest.raises(MatrixChangedError, match=r"got others in panel \d+ \((rows|columns) "):
        bigspec.norm(matrix, progress=After(2, change), **ASKED)


def test_a_dask_array_with_other_numbers_each_time_it_is_computed(tmp_path):
    def draw(block):
        return np.random.default_rng().standard_normal(block.shape)

    array = da.zeros((120, 40), chunks=(12, 40)).map_blocks(draw, dtype="f8")
    with pytest.raises(MatrixChangedError, match="expected the entries of the first pass"):
        bigspec.norm(array, checkpoint=tmp_path / "run", **ASKED)
    assert bigspec.show(tmp_path / "run").passes == 1


def test_a_byte_flipped_in_a_checksummed_chunk_is_damage_and_not_a_change(tmp_path):
    """The checksum tells first, and names the chunk; mended, the run goes on to the same bits."""
    path = save(tmp_path / "A.zarr", compressors=[Crc32cCodec()])
    chunk, place = path / "c/5/0", tmp_path / "run"
    stored = chunk.read_bytes()

    def flip():
        chunk.write_bytes(stored[:100] + bytes([stored[100] ^ 1]) + stored[101:])

    with pytest.raises(ChunkError, match=r"chunk c/5/0 is damaged .*CRC32C") as caught:
        bigspec.norm(path, checkpoint=place, progress=After(2, flip), **ASKED)
    assert caught.value.saved == str(place)
    assert bigspec.show(place).passes == 2
    chunk.write_bytes(stored)
    assert_same_bits(bigspec.norm(path, checkpoint=place, **ASKED), bigspec.norm(path, **ASKED))


# Tokens --------------------------------------------------------------------------------------

SHAPES = st.tuples(st.integers(1, 300), st.integers(1, 300))
DTYPES = st.sampled_from(["f4", "f8", "c8", "c16", "i2", "u1", "?"])


def entries(shape, dtype, seed):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(dtype)


@settings(max_examples=60, deadline=None)
@given(SHAPES, DTYPES, st.integers(0, 9), st.integers(0, 2**32 - 1))
@example((1, 1), "f4", 0, 0)
def test_tokens_do_not_know_the_memory_order(shape, dtype, seed, before):
    block = entries(shape, dtype, seed)
    token = block_token(block, before)
    assert token == block_token(np.asfortranarray(block), before)
    assert token == block_token(np.repeat(block, 2, axis=1)[:, ::2], before)
    assert token == block_token(np.repeat(block, 2, axis=0)[::2], before)


@settings(max_examples=100, deadline=None)
@given(
    st.tuples(st.integers(1, 4000), st.integers(1, 4000)).filter(lambda s: s[0] * s[1] > STRIDE),
    st.sampled_from(["f4", "i2", "c8"]),
    st.floats(0, 1),
    st.sampled_from("CF"),
)
@example((STRIDE, 2), "f4", 1.0, "C")
@example((3000, 3000), "f4", 1.0, "C")
def test_a_change_of_as_many_neighbours_as_a_stride_is_seen(shape, dtype, place, order):
    block = np.zeros(shape, dtype)
    first = round(place * (block.size - STRIDE))
    changed = block.copy()
    changed.reshape(-1)[first : first + STRIDE] = 1
    blocks = (np.asarray(one, order=order) for one in (block, changed))
    assert len({block_token(one) for one in blocks}) == 2


@given(st.integers(1, 2 * LEAST - 1), st.floats(0, 1, exclude_max=True))
@settings(deadline=None)
def test_any_change_in_a_small_block_is_seen(size, place):
    block = np.zeros((1, size), "f4")
    changed = block.copy()
    changed[0, int(place * size)] = 1
    assert block_token(block) != block_token(changed)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 60), st.sampled_from(["csr_array", "csc_array"]), st.data())
def test_any_change_in_a_small_sparse_block_is_seen(n, kind, data):
    dense = np.triu(np.ones((n, n)))
    i = data.draw(st.integers(0, n - 1))
    j = data.draw(st.integers(0, n - 1))
    changed = dense.copy()
    changed[i, j] = 2.0
    assert block_token(getattr(sp, kind)(dense)) != block_token(getattr(sp, kind)(changed))
    changed[i, j] = 1.0 - dense[i, j]
    assert block_token(getattr(sp, kind)(dense)) != block_token(getattr(sp, kind)(changed))


def test_tokens_follow_one_another():
    one, two = entries((5, 7), "f4", 1), entries((5, 7), "f4", 2)
    assert block_token(two, block_token(one)) != block_token(one, block_token(two))
    assert block_token(two, block_token(one)) != block_token(two)


def test_tokens_fit_what_they_are_saved_in():
    assert 0 <= block_token(entries((50, 70), "f4", 1), 2**32 - 1) < 2**32
    assert block_token(np.zeros((0, 7), "f4"), 5) == 5
