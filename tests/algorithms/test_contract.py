"""What every algorithm promises. A newcomer joins with one row."""

import json
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass

import numpy as np
import pytest

from bigspec.algorithms import REGISTRY, Gram, Lanczos, Power, TopLanczos
from bigspec.algorithms.iterates import draw_block
from bigspec.checkpoint import Codec
from bigspec.run import saved_types
from tests.algorithms.dense import DensePass, gaussian, residual_of, with_spectrum
from tests.algorithms.plain import Plain
from tests.monte_carlo import states

pytestmark = pytest.mark.usefixtures("blas_of_a_run")

N = 40


@dataclass(frozen=True)
class Row:
    """An algorithm, and where its state has what the contract speaks of.

    `basis` gives the orthonormal iterates of a state and the block after them, from all states so
    far. `orthonormal` says how far back these are orthonormal whatever happens, in blocks.
    """

    algorithm: object
    basis: Callable | None = None
    orthonormal: int = 1


def all_blocks(past):
    return [state.V_last for state in past], past[-1].V_next


def one_block(past):
    """The block of a power iterate; the part of its image outside it has no name in the state."""
    V, relation = past[-1].V, past[-1].relation
    W = past[-1].Z - V @ relation.T
    return [V], W @ np.linalg.pinv(relation.B)


ROWS = {
    "lanczos, basis": Row(Lanczos(3, 1 << 30), all_blocks, 2),
    "lanczos, three blocks": Row(Lanczos(3, 0), all_blocks, 2),
    # The basis is given up after four blocks of 3 columns.
    "lanczos, basis dropped": Row(Lanczos(3, 4 * 3 * N * 8), all_blocks, 2),
    "lanczos for 5 values": Row(TopLanczos(3, 1 << 30, count=5), all_blocks, 2),
    "power": Row(Power(3), one_block),
    "gram": Row(Gram()),
    "of a third party": Row(Plain()),
}
ALL = pytest.mark.parametrize("name", ROWS)
DTYPES = pytest.mark.parametrize("complex_", [False, True], ids=["real", "complex"])


def test_every_algorithm_of_the_registry_has_a_row():
    there = {type(row.algorithm) for row in ROWS.values()}
    assert {row.kind for row in REGISTRY.rows} <= there


@pytest.fixture
def passes(complex_):
    return DensePass(with_spectrum(np.random.default_rng(1), np.arange(1, N + 1) ** -1.0, complex_))


def starts(passes, *, warm):
    """Old vectors: exact, twice, and almost, so that S is rank-deficient and B ill-conditioned."""
    if not warm:
        return None
    x = np.linalg.eigh(passes.A.conj().T @ passes.A)[1][:, -1:]
    noise = gaussian(np.random.default_rng(2), N, 1, passes.complex_)
    return np.concatenate([x, x, x + 1e-9 * noise], axis=1)


@DTYPES
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.basis])
def test_the_relation_holds_within_eps_after_every_step(name, warm, passes, complex_):
    row, past = ROWS[name], []
    H = passes.A.conj().T @ passes.A
    for state in states(row.algorithm, passes, 5, starts(passes, warm=warm), 12):
        past.append(state)
        blocks, after = row.basis(past)
        V, relation = np.concatenate(blocks, axis=1), state.relation
        assert residual_of(relation, H, V, after) <= relation.eps
        # A QR is orthonormal to a few units a column, and so is what it is done against.
        near = np.concatenate(blocks[-row.orthonormal :], axis=1)
        np.testing.assert_allclose(near.conj().T @ near, np.eye(near.shape[1]), atol=1e-14)
        if relation.orthonormal:
            tight = 1e-6 if getattr(state, "basis", None) == () else 1e-13
            np.testing.assert_allclose(V.conj().T @ V, np.eye(V.shape[1]), atol=tight)
        if row.basis is all_blocks:
            G = draw_block(N, 3, 5, complex_=complex_)
            tie = state.tie @ blocks[0].conj().T
            np.testing.assert_allclose(tie, G.conj().T, atol=state.start_defect)
            near = np.concatenate([near, after], axis=1)
            np.testing.assert_allclose(near.conj().T @ near, np.eye(near.shape[1]), atol=1e-14)


@ALL
@DTYPES
def test_the_reference_lies_in_every_interval_and_bounds_make_no_pass(name, passes, complex_):
    algorithm = ROWS[name].algorithm
    values = np.linalg.svd(passes.A, compute_uv=False) ** 2
    for number, state in enumerate(states(algorithm, passes, 7, None, 6), start=1):
        assert state.passes == passes.count == number
        bounds = algorithm.bounds(state, 1e-6, complex_=complex_)
        k = len(bounds.lower)
        assert np.all(bounds.lower <= values[:k] * (1 + 1e-14))
        for bound in bounds.uppers:
            assert bound.values.shape == (k,)
            assert np.all(bound.values >= values[:k] * (1 - 1e-14))
        V = algorithm.vector(state)
        if V is not None:
            V = V.reshape(N, -1)
            np.testing.assert_allclose(V.conj().T @ V, np.eye(V.shape[1]), atol=1e-12)
            attained = np.linalg.svd(passes.A @ V, compute_uv=False)[0] ** 2
            assert attained >= bounds.lower[0] * (1 - 1e-14)
        old = algorithm.leading(state, 2)
        assert old is None or old.shape[0] == N
        assert algorithm.has_room(state)
        assert passes.count == number


@ALL
@DTYPES
def test_a_state_that_was_saved_goes_on_to_the_same_bits(name, passes):
    algorithm, blocks = ROWS[name].algorithm, {}
    codec = Codec(saved_types(algorithm))

    def put(array):
        assert array.flags.c_contiguous or array.flags.f_contiguous
        blocks[str(len(blocks))] = array.copy()
        return str(len(blocks) - 1)

    for state in states(algorithm, passes, 3, starts(passes, warm=True), 4):
        for array in arrays(state):  # the memory order of others could not be restored
            assert array.flags.c_contiguous or array.flags.f_contiguous
        text = json.dumps(codec.encode(state, put), allow_nan=False)
        loaded = codec.decode(json.loads(text), blocks.__getitem__)
        assert_same_bits(loaded, state)
        assert_same_bits(algorithm.step(passes, loaded), algorithm.step(passes, state))


def arrays(value):
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from arrays(item)
    elif is_dataclass(value):
        for field in fields(value):
            yield from arrays(getattr(value, field.name))


def assert_same_bits(one, other):
    assert type(one) is type(other)
    for mine, its in zip(arrays(one), arrays(other), strict=True):
        np.testing.assert_array_equal(mine, its)
        assert mine.flags.c_contiguous == its.flags.c_contiguous
    for field in fields(one):
        value = getattr(one, field.name)
        if isinstance(value, (int, float)):
            assert value == getattr(other, field.name)
