"""`algorithm=` takes an object, of bigspec's classes or of a third party's."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from scipy.sparse.linalg import aslinearoperator

import bigspec
from bigspec.algorithms import REGISTRY, Gram, Lanczos, Power, StateType, TopLanczos
from bigspec.errors import ArgumentError, CheckpointError, MemoryLimitError, ResumeError
from tests.algorithms.plain import Plain, PlainState
from tests.matrices import Chunked, contains, decaying


@pytest.fixture
def matrix():
    return Chunked.of(decaying(200, 60, 0.5), (20, 60))


def assert_same_bits(one, other):
    assert (one.lower, one.upper, one.passes) == (other.lower, other.upper, other.passes)
    np.testing.assert_array_equal(one.right, other.right)


@pytest.mark.parametrize("name", REGISTRY.names)
def test_an_object_gives_the_bits_of_its_name(name, matrix):
    made = {"lanczos": Lanczos(4, 1 << 20), "power": Power(4), "gram": Gram()}[name]
    size = {} if name == "gram" else {"block_size": 4}
    one = bigspec.norm(matrix, algorithm=made, seed=1)
    other = bigspec.norm(matrix, algorithm=name, seed=1, **size)
    assert_same_bits(one, other)
    assert (one.algorithm, one.block_size) == (name, other.block_size)


def test_an_algorithm_of_a_third_party_runs_and_is_planned(matrix):
    est = bigspec.norm(matrix, algorithm=Plain(), max_passes=3)
    assert contains(est, 1.0)
    assert (est.algorithm, est.block_size, est.passes) == ("plain", 3, 3)
    planned = bigspec.plan(matrix, algorithm=Plain())
    assert "plain, block of 3" in str(planned)
    six = bigspec.plan(matrix, algorithm="lanczos", block_size=3)
    assert planned.layout.memory.iterates < six.layout.memory.iterates  # 4 blocks, not 6


def test_it_goes_on_from_a_checkpoint_to_the_same_bits(matrix, tmp_path):
    asked = {"algorithm": Plain(), "seed": 1}
    whole = bigspec.norm(matrix, max_passes=4, **asked)
    bigspec.norm(matrix, max_passes=2, checkpoint=tmp_path / "run", **asked)
    assert_same_bits(
        bigspec.norm(matrix, max_passes=4, checkpoint=tmp_path / "run", **asked), whole
    )
    with pytest.raises(ResumeError, match="block_size was 3, is 5"):
        bigspec.norm(matrix, algorithm=Plain(5), seed=1, checkpoint=tmp_path / "run")


@pytest.mark.parametrize("door", ["norm", "show", "start"])
def test_its_checkpoint_without_it_is_no_damage_and_names_what_is_lacking(door, matrix, tmp_path):
    run = tmp_path / "run"
    bigspec.norm(matrix, algorithm=Plain(), max_passes=1, checkpoint=run)
    doors = {
        "norm": lambda: bigspec.norm(matrix, checkpoint=run),
        "show": lambda: bigspec.show(run),
        "start": lambda: bigspec.norm(matrix, start=run),
    }
    with pytest.raises(CheckpointError, match=r"known algorithm, got 'tests.Plain/1'"):
        doors[door]()


def test_a_checkpoint_needs_names_for_the_states(matrix, tmp_path):
    class Nameless(Plain):
        name, states = "nameless", ()

    assert bigspec.norm(matrix, algorithm=Nameless(), max_passes=1).passes == 1
    with pytest.raises(ArgumentError, match="'nameless' does not name the classes of its states"):
        bigspec.norm(matrix, algorithm=Nameless(), checkpoint=tmp_path / "run")
    assert not (tmp_path / "run").exists()

    class Taken(Plain):
        name = "taken"
        states = (StateType(PlainState, "Facts", "passes exponent facts V Z exhausted"),)

    class Short(Plain):
        name, states = "short", (StateType(PlainState, "short", "passes"),)

    for made in (Taken(), Short()):
        with pytest.raises(ArgumentError, match="cannot be saved"):
            bigspec.norm(matrix, algorithm=made, checkpoint=tmp_path / "run")


def test_a_state_of_a_class_without_a_name_is_refused_and_not_lost(matrix, tmp_path):
    @dataclass(frozen=True)
    class Other(PlainState):
        pass

    class Changing(Plain):
        name = "changing"

        def init(self, passes, entropy, start):
            return Other(**vars(super().init(passes, entropy, start)))

    with pytest.raises(CheckpointError, match=r"cannot save the state .* got Other"):
        bigspec.norm(matrix, algorithm=Changing(), checkpoint=tmp_path / "run")


class Half:
    name, init, step = "half", None, None


class Posing(Plain):
    name = "power"


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (3, r"expected one of auto, lanczos, power, gram, or an object .* got 3 without name"),
        (Half(), "without bounds, has_room, vector, leading"),
        (Lanczos, "got the class Lanczos; call it"),
        (TopLanczos(4), "bounds sigma_1 alone"),
        (Posing(), "got Posing with the name 'power', which another one has"),
        (replace(Plain(), block_size=0), "block_size of at least 1"),
        ("svd", "expected one of auto, lanczos, power, gram, got 'svd'"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_is_no_algorithm_is_refused_by_name(given, named, matrix, tmp_path):
    with pytest.raises(ArgumentError, match=named):
        bigspec.norm(matrix, algorithm=given)
    with pytest.raises(ArgumentError, match=named):
        bigspec.norm(matrix, algorithm=given, checkpoint=tmp_path / "run")
    with pytest.raises(ArgumentError, match=named):
        bigspec.plan(matrix, algorithm=given)
    assert not matrix.log.reads


def test_what_contradicts_an_object_is_refused(matrix):
    with pytest.raises(
        ArgumentError, match="block_size: expected none, because the algorithm is an object"
    ):
        bigspec.norm(matrix, algorithm=Plain(), block_size=4)
    with pytest.raises(ArgumentError, match="got 'gram', which needs entries"):
        bigspec.norm(aslinearoperator(np.eye(9)), algorithm=Gram())
    with pytest.raises(MemoryLimitError, match="for its basis"):
        bigspec.norm(matrix, algorithm=Lanczos(4, 1 << 40), memory_limit="1GiB")
    with pytest.raises(ArgumentError, match="expected 'lanczos' or 'auto' for triplets"):
        bigspec.plan(matrix, algorithm=Plain(), k=3)
