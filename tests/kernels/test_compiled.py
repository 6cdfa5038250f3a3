"""The compiled products: the same sums as NumPy's, and a run that says which it used."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import bigspec
from bigspec.errors import ResumeError
from bigspec.kernels import compiled

SOURCES = Path(__file__).parents[2] / "deploy" / "compiled"
BUILD = "import sys, build_kernel; build_kernel.builder.compile(tmpdir=sys.argv[1])"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The package, built as pip would build it."""
    if not all(importlib.util.find_spec(name) for name in ("cffi", "setuptools")):
        pytest.skip("needs cffi and setuptools")
    if not any(shutil.which(name) for name in ("cc", "gcc", "clang")):
        pytest.skip("needs a C compiler")
    folder = tmp_path_factory.mktemp("compiled")
    command = [sys.executable, "-c", BUILD, str(folder)]
    path = {**os.environ, "PYTHONPATH": str(SOURCES)}
    subprocess.run(command, cwd=folder, env=path, check=True, capture_output=True)
    shutil.copy(SOURCES / "bigspec_compiled" / "__init__.py", folder / "bigspec_compiled")
    return folder


@pytest.fixture(scope="module")
def package(folder):
    """The package, installed."""
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(folder)
    compiled.available.cache_clear()
    yield importlib.import_module("bigspec_compiled")
    patch.undo()
    for name in [name for name in sys.modules if name.startswith("bigspec_compiled")]:
        del sys.modules[name]
    compiled.available.cache_clear()


def store(tmp_path, dtype="f4", shape=(900, 70)):
    rng = np.random.default_rng(3)
    A = (rng.standard_normal(shape) * 0.9 ** np.arange(shape[1])).astype(dtype)
    path = tmp_path / f"A-{dtype}.zarr"
    zarr.create_array(path, shape=shape, chunks=(100, shape[1]), dtype=dtype)[:] = A
    return path, np.linalg.norm(A.astype(complex if A.dtype.kind == "c" else float), 2)


@settings(max_examples=60, deadline=None)
@given(
    m=st.integers(1, 40),
    n=st.integers(1, 1100),
    b=st.integers(1, 37),
    single=st.booleans(),
    order=st.sampled_from(["C", "F", "reversed", "every other"]),
    cuts=st.tuples(st.integers(0, 40), st.integers(0, 1100)),
)
def test_products_are_those_of_numpy_and_no_cut_changes_a_bit(
    package, m, n, b, single, order, cuts
):
    rng = np.random.default_rng(m * n + b)
    X = rng.standard_normal((2 * m, 2 * n)).astype("f4" if single else "f8")
    X = {
        "C": X[:m, :n],
        "F": np.asfortranarray(X[:m, :n]),
        "reversed": X[:m, :n][::-1, ::-1],
        "every other": X[::2, ::2],
    }[order]
    V, Y, Z = rng.standard_normal((n, b)), np.zeros((m, b)), np.zeros((n, b))
    package.forward(X, V, Y)
    package.backward(X, Y, Z)
    wide, u = np.abs(X.astype(float)), 2.0**-53
    assert (np.abs(Y - X.astype(float) @ V) <= 2 * n * u * (wide @ np.abs(V))).all()
    assert (np.abs(Z - X.T.astype(float) @ Y) <= 2 * m * u * (wide.T @ np.abs(Y))).all()
    row, column = min(cuts[0], m), min(cuts[1], n)
    again, back = np.zeros((m, b)), np.zeros((n, b))
    package.forward(X[:, :column], V[:column], again)
    package.forward(X[:, column:], V[column:], again)
    package.backward(X[:row], Y[:row], back)
    package.backward(X[row:], Y[row:], back)
    np.testing.assert_array_equal(again, Y)
    np.testing.assert_array_equal(back, Z)


@pytest.mark.parametrize(
    ("X", "V", "Y", "said"),
    [
        (np.ones((3, 4), "f4"), np.ones((3, 2)), np.zeros((3, 2)), "expected blocks for entries"),
        (np.ones((3, 4), "f4"), np.ones((4, 2), "f4"), np.zeros((3, 2)), "blocks of float64"),
        (np.ones((3, 4), "f4"), np.ones((2, 4)).T, np.zeros((3, 2)), "C-contiguous"),
        (np.ones((3, 4), ">f4"), np.ones((4, 2)), np.zeros((3, 2)), "native float32"),
        (np.ones((3, 4), "i4"), np.ones((4, 2)), np.zeros((3, 2)), "got int32"),
    ],
)
def test_operands_that_would_be_read_wrongly_are_refused(package, X, V, Y, said):
    with pytest.raises(ValueError, match=said):
        package.forward(X, V, Y)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("wide", [False, True])
def test_a_run_says_that_it_used_them_and_holds_the_norm(package, tmp_path, dtype, wide):
    path, norm = store(tmp_path, dtype, (60, 800) if wide else (900, 70))
    est = bigspec.norm(path, algorithm="lanczos", block_size=3, seed=1)
    assert est.lower <= norm <= est.upper
    assert est.layout["kernel"] == "compiled 1"
    assert "products by bigspec-compiled, from the second pass on" in est.choices
    assert est.passes > 2


def test_the_interval_is_that_of_numpy_but_for_the_last_bits(package, tmp_path, monkeypatch):
    path, _ = store(tmp_path)
    asked = {"algorithm": "lanczos", "block_size": 3, "seed": 1}
    ours = bigspec.norm(path, **asked)
    monkeypatch.setattr("bigspec.run.planner.available", lambda: False)
    plain = bigspec.norm(path, **asked)
    assert plain.layout["kernel"] == "numpy"
    np.testing.assert_allclose((ours.lower, ours.upper), (plain.lower, plain.upper), rtol=1e-9)
    assert ours.passes == plain.passes
    assert (ours.lower, ours.upper) != (plain.lower, plain.upper)


def test_what_is_no_array_of_floats_is_left_to_numpy(package, tmp_path):
    rng = np.random.default_rng(0)
    A = rng.standard_normal((80, 60))
    others = {
        "integers": rng.integers(-9, 9, (80, 60)),
        "complex": A + 1j * A[::-1],
        "sparse": sp.random_array((90, 60), density=0.2, rng=rng),
        "expression": bigspec.open_matrix(A) - 0.5 * bigspec.open_matrix(A[::-1].copy()),
    }
    for name, B in others.items():
        est = bigspec.norm(B, algorithm="lanczos", block_size=4, seed=1)
        assert est.layout["kernel"] == "numpy", name
        assert not any("compiled" in choice for choice in est.choices)


def test_extreme_entries_are_scaled_as_ever(package):
    A = np.random.default_rng(5).standard_normal((90, 40))
    for scale in (1e-300, 1e300):
        est = bigspec.norm(A * scale, algorithm="lanczos", block_size=3, seed=1)
        assert est.lower <= np.linalg.norm(A, 2) * scale <= est.upper


def test_a_nan_is_found_in_a_later_pass(package):
    A = np.random.default_rng(5).standard_normal((90, 40)).astype("f4")
    V = np.linalg.qr(np.random.default_rng(1).standard_normal((40, 3)))[0]
    from bigspec.kernels import Accumulator, NonFiniteFound

    total = Accumulator(
        V, 40, A.dtype, exponent=0, facts=False, transposed=False, kernel=compiled.COMPILED
    )
    total.add_slab([(0, A)])
    np.testing.assert_allclose(total.partial().Z, A.T.astype(float) @ (A @ V), rtol=1e-5, atol=1e-3)
    A[17, 5] = np.nan
    with pytest.raises(NonFiniteFound) as found:
        total.add_slab([(0, A)])
    assert found.value.args == (17, 5)


def test_a_run_goes_on_to_the_same_bits_and_not_without_the_package(package, tmp_path, monkeypatch):
    path, _ = store(tmp_path)
    asked = {"algorithm": "lanczos", "block_size": 3, "seed": 1}
    whole = bigspec.norm(path, **asked)
    saved = {**asked, "checkpoint": tmp_path / "run"}
    bigspec.norm(path, **saved, max_passes=2)
    with monkeypatch.context() as patch:
        patch.setattr("bigspec.run.planner.available", lambda: False)
        with pytest.raises(ResumeError, match="kernel 'compiled 1' of bigspec-compiled, which is"):
            bigspec.norm(path, **saved)
    est = bigspec.norm(path, **saved)
    assert (est.lower, est.upper, est.passes) == (whole.lower, whole.upper, whole.passes)


def test_a_run_that_numpy_began_is_ended_by_numpy(package, tmp_path, monkeypatch):
    path, _ = store(tmp_path)
    asked = {"algorithm": "lanczos", "block_size": 3, "seed": 1}
    with monkeypatch.context() as patch:
        patch.setattr("bigspec.run.planner.available", lambda: False)
        whole = bigspec.norm(path, **asked)
        bigspec.norm(path, **asked, checkpoint=tmp_path / "run", max_passes=2)
    est = bigspec.norm(path, **asked, checkpoint=tmp_path / "run")
    assert est.layout["kernel"] == "numpy"
    assert (est.lower, est.upper) == (whole.lower, whole.upper)


def install(folder):
    """Put the package where a worker finds it, or take it away with None."""
    sys.modules.pop("bigspec_compiled", None)
    sys.path[:] = [place for place in sys.path if "compiled0" not in place]
    if folder is not None:
        sys.path.insert(0, folder)
    importlib.import_module("bigspec.kernels.compiled").available.cache_clear()


def test_workers_give_the_bits_of_threads_and_without_the_package_those_of_numpy(
    package, folder, request, tmp_path
):
    path, norm = store(tmp_path)
    asked = {"algorithm": "lanczos", "block_size": 3, "seed": 1}
    here = bigspec.norm(path, **asked)
    client = request.getfixturevalue("client")
    client.run(install, str(folder))
    there = bigspec.norm(path, **asked)
    assert there.layout["kernel"] == "compiled 1"
    client.run(install, None)
    without = bigspec.norm(path, **asked)
    assert without.layout["kernel"] == "numpy"
    assert without.lower <= norm <= without.upper
    assert (here.lower, here.upper) == (there.lower, there.upper)


def test_another_revision_is_not_taken(package, monkeypatch):
    monkeypatch.setattr(package, "REVISION", 2)
    compiled.available.cache_clear()
    try:
        assert not compiled.available()
        with pytest.raises(ImportError, match="expected 'compiled 1', got 2"):
            compiled.Compiled()
    finally:
        compiled.available.cache_clear()
