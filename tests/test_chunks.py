"""Chunks of a dask array that are not what it says: an error that names the chunk, never a norm."""

import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp

import bigspec
from bigspec.errors import DataError, UnsupportedTypeError
from tests.matrices import contains, decaying, largest_singular_value

A = decaying(60, 24, seed=3)
LAZY = da.from_array(A, chunks=(15, 12))


def other(change, *, at=(2, 1), array=LAZY):
    """The array with one chunk, by default (2, 1), changed behind its back."""

    def work(block, block_id=None):
        return change(block) if tuple(block_id) == at else block

    return array.map_blocks(work, dtype=array.dtype, meta=np.zeros((0, 0), array.dtype))


def hidden(block):
    return np.ma.masked_array(block, mask=np.arange(block.size).reshape(block.shape) == 17)


BROKEN = {
    "masked": (hidden, DataError, r"got 1 masked entries; the first is at \[1, 5\]"),
    "complex": (lambda b: b * (1 + 1j), DataError, "dtype float64, got complex128"),
    "a mean with keepdims": (lambda b: b.mean(axis=0, keepdims=True), DataError, r"got \(1, 12\)"),
    "a row short": (lambda b: b[1:], DataError, r"got \(14, 12\)"),
    "transposed": (lambda b: np.ascontiguousarray(b.T), DataError, r"got \(12, 15\)"),
    "one-dimensional": (lambda b: b[0], DataError, r"got \(12,\)"),
    "three-dimensional": (lambda b: b[None], DataError, r"got \(1, 15, 12\)"),
    "a number": (lambda b: b.sum(), DataError, r"got \(\)"),
    "a Python number": (lambda _: 3.0, DataError, r"got \(\)"),
    "objects": (lambda b: b.astype(object), UnsupportedTypeError, "got object"),
    "extended": (lambda b: b.astype(np.longdouble), UnsupportedTypeError, "got (float128|longdou)"),
    "text": (lambda b: b.astype(str), UnsupportedTypeError, "got <U32"),
    "nothing": (lambda _: None, DataError, r"got builtins\.NoneType"),
    "sparse and complex": (lambda b: sp.csr_array(b * 1j), DataError, "got complex128"),
    "sparse and short": (lambda b: sp.csr_array(b[:9]), DataError, r"got \(9, 12\)"),
    "sparse and flat": (lambda b: sp.coo_array(b[0]), DataError, r"got \(12,\)"),
}
DOORS = {
    "a pass": lambda x: bigspec.norm(x, seed=1),
    "panels of columns": lambda x: bigspec.norm(x.T, seed=1),
    "a sum": lambda x: bigspec.norm(bigspec.open_matrix(x) - A, seed=1),
    "a product": lambda x: bigspec.norm(bigspec.open_matrix(x) @ A.T, seed=1),
    "means": lambda x: bigspec.centered(x),
    "vectors": lambda x: bigspec.svds(x, 2, seed=1),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_chunk_that_does_not_keep_its_word_is_named(kind):
    change, error, message = BROKEN[kind]
    place = r"chunk \(2, 1\) \(rows 30 to 44, columns 12 to 23\): .*"
    for ask in (DOORS["a pass"], DOORS["a sum"], DOORS["means"]):
        with pytest.raises(error, match=place + message):
            ask(other(change))


@pytest.mark.parametrize("door", DOORS)
def test_every_door_looks_at_every_chunk(door):
    with pytest.raises(DataError, match=r"chunk \(\d, \d\) .* masked entries"):
        DOORS[door](other(hidden))
    with pytest.raises(DataError, match="that the array's chunks say"):
        DOORS[door](other(lambda b: b[:, :1]))


@pytest.mark.usefixtures("client")
@pytest.mark.parametrize("kind", ["masked", "complex", "a row short", "objects"])
def test_a_chunk_is_named_on_a_cluster_too(kind):
    change, error, message = BROKEN[kind]
    with pytest.raises(error, match=rf"chunk \(2, 1\) .*{message}"):
        bigspec.norm(other(change), seed=1)


def test_a_mask_that_hides_nothing_is_its_data():
    masked = da.ma.masked_equal(LAZY, -1e300)
    assert contains(bigspec.norm(masked, seed=1), largest_singular_value(A))
    zero = bigspec.norm(bigspec.open_matrix(masked) - A, seed=1)
    assert zero.upper < 1e-10
    with pytest.raises(DataError, match="masked entries"):
        bigspec.norm(da.ma.masked_less(LAZY, 0), seed=1)


def test_entries_that_the_dtype_cannot_hold_are_refused():
    # A kernel for float32 does not look for squares that overflow or vanish.
    narrow = LAZY.astype(np.float32)
    with pytest.raises(DataError, match="dtype float32, got float64, which it cannot hold"):
        bigspec.norm(other(lambda b: b.astype(float) * 1e200, array=narrow), seed=1)
    whole = da.from_array(np.arange(600).reshape(30, 20), chunks=(10, 20))
    with pytest.raises(DataError, match="dtype int64, got float64"):
        bigspec.norm(other(lambda b: b / 3, at=(1, 0), array=whole), seed=1)
    held = other(lambda b: b.astype(np.float32))  # fits in what was said
    expected = A.copy()
    expected[30:45, 12:] = A[30:45, 12:].astype(np.float32)
    assert contains(bigspec.norm(held, seed=1), largest_singular_value(expected))


def test_extended_precision_is_refused_before_a_pass():
    with pytest.raises(UnsupportedTypeError, match="Products are made in float64"):
        bigspec.norm(LAZY.astype(np.longdouble))


MASKED = np.ma.masked_array(A[0], mask=np.arange(24) == 5)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: bigspec.centered(A, means=MASKED), "means"),
        (lambda: bigspec.centered(A, means=da.ma.masked_equal(LAZY[0], A[0, 5])), "means"),
        (lambda: bigspec.scaled(A, columns=MASKED), "columns"),
        (lambda: bigspec.low_rank(MASKED[None], np.ones(1), np.ones((1, 4))), "U"),
        (lambda: bigspec.low_rank(np.ones((24, 1)), MASKED[5:6], np.ones((1, 4))), "s"),
        (lambda: bigspec.norm(A, start=MASKED), "start"),
        (lambda: bigspec.norm(np.ma.masked_array(A, mask=A[1, 5] == A)), "NumPy array"),
        (lambda: bigspec.norm(bigspec.open_matrix(A) - np.ma.masked_equal(A, A[1, 5])), "NumPy"),
    ],
)
def test_arguments_with_masked_entries_are_refused(make, name):
    with pytest.raises(DataError, match=rf"^{name}.*: expected every entry to have a value, got 1"):
        make()


@pytest.mark.parametrize(
    "made",
    [
        lambda x: x - x.mean(axis=0),
        lambda x: x - x.mean(axis=0, keepdims=True),
        lambda x: (x - x.mean(axis=0)) / x.std(axis=0),
    ],
    ids=["means of columns", "kept as a row", "divided by deviations"],
)
def test_whoever_centres_by_hand_is_told_of_centered(made):
    assert "bigspec.centered" in bigspec.norm(made(LAZY)).choices[-1]
    assert "bigspec.centered" in bigspec.plan(made(LAZY)).choices[-1]


@pytest.mark.parametrize(
    "made",
    [
        lambda x: x,
        lambda x: x - 1,
        lambda x: x - x.mean(),
        lambda x: x - x.mean(axis=1, keepdims=True),
        lambda x: x - x.sum(axis=0),
        lambda x: x * x.mean(axis=0),
    ],
    ids=["as it is", "a number", "mean of all", "means of rows", "sums", "a product"],
)
def test_whoever_does_something_else_is_not(made):
    assert "bigspec.centered" not in " ".join(bigspec.norm(made(LAZY)).choices)


def test_the_advice_gives_the_same_norm():
    by_hand = bigspec.norm(LAZY - LAZY.mean(axis=0))
    advised = bigspec.norm(bigspec.centered(LAZY))
    assert max(by_hand.lower, advised.lower) <= min(by_hand.upper, advised.upper)
