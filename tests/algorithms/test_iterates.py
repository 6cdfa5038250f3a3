"""Algorithms look inside no block: all of that is done by `bigspec.algorithms.iterates`."""

import inspect
import re
from functools import wraps
from pathlib import Path

import numpy as np
import pytest

from bigspec.algorithms import iterates
from tests.algorithms.dense import DensePass
from tests.algorithms.test_contract import ROWS, N, starts, states

OWN = [name for name, row in ROWS.items() if row.basis]  # gram is handed H itself, and no blocks
pytestmark = pytest.mark.usefixtures("blas_of_a_run")


class Opaque:
    """A block that has a shape and nothing to compute with."""

    __array_ufunc__ = None  # NumPy refuses it as an operand

    def __init__(self, block):
        self.block, self.shape, self.dtype = block, block.shape, block.dtype
        self.nbytes = block.nbytes

    def __array__(self, *_, **__):
        msg = "an algorithm made an array of a block"
        raise TypeError(msg)


def opened(value):
    """Blocks as arrays; those that are read one by one stay so."""
    if isinstance(value, Opaque):
        return value.block
    if isinstance(value, np.ndarray | np.dtype | int | float | None):
        return value
    return [opened(one) for one in value]


def hidden(value):
    """Arrays with a side of length N as blocks."""
    if isinstance(value, tuple):
        return tuple(hidden(one) for one in value)
    return Opaque(value) if isinstance(value, np.ndarray) and N in value.shape[:1] else value


@pytest.fixture
def opaque(monkeypatch):
    called = set()

    def through(name, function):
        @wraps(function)
        def call(*args, **options):
            called.add(name)
            return hidden(function(*map(opened, args), **options))

        return call

    for name in iterates.__all__:
        monkeypatch.setattr(iterates, name, through(name, getattr(iterates, name)))
    return called


class Hiding(DensePass):
    def run(self, V, *, exponent=None):
        result = super().run(opened(V), exponent=exponent)
        result.Z = hidden(result.Z)
        return result


@pytest.mark.parametrize("complex_", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize("name", OWN)
def test_blocks_are_opaque_to_the_algorithms(name, complex_, request):
    algorithm, rng = ROWS[name].algorithm, np.random.default_rng(0)
    A = rng.random((90, N)) + (1j * rng.random((90, N)) if complex_ else 0.0)
    plain = list(run(algorithm, DensePass(A), complex_))
    request.getfixturevalue("opaque")
    for mine, its in zip(run(algorithm, Hiding(A), complex_), plain, strict=True):
        for one, other in zip(mine, its, strict=True):
            np.testing.assert_array_equal(opened(one), other)


def run(algorithm, passes, complex_):
    """What a run makes of its states, after each of a few passes."""
    W = starts(DensePass(passes.A), warm=True)
    for state in states(algorithm, passes, 3, W, 5):
        bounds = algorithm.bounds(state, 1e-6, complex_=complex_)
        assert algorithm.has_room(state)
        vectors = [algorithm.vector(state), algorithm.leading(state, 2)]
        yield [bounds.lower, *(one for one in vectors if one is not None)]


def of_passes():
    """What `passes` and `run` ask of iterates, by their text."""
    package = Path(iterates.__file__).parents[1]
    texts = [
        path.read_text() for room in ("passes", "run") for path in (package / room).rglob("*.py")
    ]
    return {name for text in texts for name in re.findall(r"\biterates\.(\w+)", text)}


def test_every_function_of_the_protocol_is_called_by_an_algorithm_or_a_pass(opaque):
    for A in (np.random.default_rng(0).random((90, N)), np.zeros((90, N))):
        for name in OWN:
            list(run(ROWS[name].algorithm, Hiding(A), complex_=False))
    assert opaque | of_passes() == set(iterates.__all__)


def test_every_function_that_iterates_offers_is_of_the_protocol():
    there = {
        name
        for name, value in vars(iterates).items()
        if inspect.isfunction(value) and value.__module__ == iterates.__name__
    }
    assert there == set(iterates.__all__)
