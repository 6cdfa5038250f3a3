"""Stacks in TOML files, and the command that reads them."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

import bigspec
from bigspec import cli
from bigspec.errors import ArgumentError, MissingSourceError, SourceError
from tests.networks.lipschitz.test_lipschitz import weights

A, B, C = weights(5, 6, 6, 4, seed=8)
BIAS = np.arange(6.0)
STACK = """
layers = [
    "a.npy",
    {layer = "leaky_relu", alpha = 0.1},
    {matrix = "m.safetensors::b", bias = "m.safetensors::bias"},
    {layer = "residual", branches = [["m.safetensors::b", "tanh", "m.safetensors::b"]]},
    {layer = "layer_norm", epsilon = 1e-2, gamma = "gamma.npy"},
    "m.npz::c",
]
"""


@pytest.fixture
def folder(tmp_path):
    np.save(tmp_path / "a.npy", A)
    np.save(tmp_path / "gamma.npy", BIAS)
    np.savez(tmp_path / "m.npz", c=C, a=A)
    save_file({"b": B, "bias": BIAS}, tmp_path / "m.safetensors")
    (tmp_path / "stack.toml").write_text(STACK)
    return tmp_path


def test_a_file_says_what_a_list_says(folder):
    layers = [
        A, ("leaky_relu", 0.1), (B, BIAS), ("residual", [B, "tanh", B]),
        ("layer_norm", 1e-2, BIAS), C,
    ]  # fmt: skip
    there, here = (bigspec.lipschitz(x, seed=1) for x in (folder / "stack.toml", layers))
    assert there.upper == pytest.approx(here.upper, rel=1e-9)
    assert there.lower == pytest.approx(here.lower, rel=1e-6)
    assert here.lower > 0


WRONG = {
    "layers = 3": "one list called layers",
    "layers = []\nmore = 1": "got more",
    "layers = [": "TOML",
    "layers = ['m.safetensors::bb']": "did you mean 'b'",
    "layers = [{kernel = 'a.npy'}]": r"layers\[0\].*matrix = or layer =",
    "layers = ['a.npy', {layer = 'rellu'}]": "did you mean 'relu'",
    "layers = ['a.npy', {layer = 'attention'}]": "Wq",
    "layers = ['a.npy', {layer = 'elu', beta = 2.0}]": "unknown parameter 'beta'",
    "layers = ['a.npy', {layer = 'scale', weights = 'none.npy'}]": "none.npy",
    "layers = ['a.npy', 3]": r"layers\[1\]",
    "layers = ['none.npy']": "none.npy",
    "layers = ['a.npy', {layer = 'prelu', alpha = [0.1, 0.2]}]": "6 columns",
    "layers = ['a.npy', {layer = 'prelu', alpha = [true]}]": "finite numbers",
    "layers = ['a.npy', {layer = 'hardtanh', low = 'a', high = 1}]": "two numbers",
    "layers = ['a.npy', {layer = 'batch_norm', gamma = 'gamma.npy', variance = 'gamma.npy', "
    "epsilon = [1]}]": "epsilon",
    "layers = [{layer = 'conv', kernel = 'a.npy', input_shape = 3}]": "channels and positions",
    "layers = [{layer = 'conv', kernel = 'a.npy', input_shape = ['a', 3]}]": "positions",
    "layers = [{layer = 'conv', kernel = [[[1, 2], [1]]], input_shape = [1, 4]}]": "a kernel",
    "layers = [{layer = 'max_pool', size = 2.5, input_shape = [1, 4]}]": "size as a whole",
    "layers = [{layer = 'max_pool', size = 2, input_shape = [4]}]": "channels and positions",
    "layers = ['a.npy', {layer = 'concat', branches = [[], ['relu']]}, 'm.npz::c']": "a branch",
    "layers = ['maxmin', 'a.npy']": "multiple of 2",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_file_is_refused_with_the_place(folder, text):
    (folder / "wrong.toml").write_text(text)
    with pytest.raises((ArgumentError, SourceError), match=WRONG[text]):
        bigspec.lipschitz(folder / "wrong.toml")


def test_a_file_that_is_not_there(folder):
    with pytest.raises(MissingSourceError, match="nowhere"):
        bigspec.lipschitz(folder / "nowhere.toml")


FAST = ("--no-rescale", "--window", 1)


def run(*arguments):
    return CliRunner().invoke(cli.main, ["lipschitz", *map(str, arguments), "--quiet"])


def test_the_command_prints_every_bound_and_writes_files(folder):
    out = folder / "l.json"
    result = run(folder / "stack.toml", "--seed", 1, "--json", out, "--report", folder / "l.html")
    assert result.exit_code == 0
    assert result.stdout.startswith("Lipschitz constant in [")
    document = json.loads(out.read_text())
    found = bigspec.lipschitz(folder / "stack.toml", seed=1)
    assert (document["lower"], document["upper"]) == (found.lower, found.upper)
    assert "Upper ends" in (folder / "l.html").read_text()
    only = run(folder / "stack.toml", "--seed", 1, "--json", "-", "--no-rescale", "--window", 1)
    names = {bound["name"] for bound in json.loads(only.stdout)["bounds"]}
    assert names == {"product", "recursion"}


def test_points_come_from_a_file_or_are_drawn(folder):
    np.save(folder / "x.npy", np.random.default_rng(0).standard_normal((3, 5)))
    for given, count in ((folder / "x.npy", 3), (7, 7), (0, 0)):
        result = run(folder / "stack.toml", "--at", given, "--json", "-", *FAST)
        assert json.loads(result.stdout)["points"] == count
    result = run(folder / "stack.toml", "--at", folder / "none.npy")
    assert result.exit_code == 66
    assert "--at" in result.stderr


@pytest.mark.parametrize(("limit", "status", "word"), [(1e9, 0, ""), (1e-9, 3, "failed"),
                                                       ("inside", 4, "undecided")])  # fmt: skip
def test_a_limit_decides_the_exit_status(folder, limit, status, word):
    if limit == "inside":
        found = bigspec.lipschitz(folder / "stack.toml", seed=1, rescale=False, window=1)
        limit = (found.lower + found.upper) / 2
    result = run(folder / "stack.toml", "--seed", 1, "--max", limit, *FAST)
    assert result.exit_code == status
    assert word in result.stderr


def test_wrong_usage_and_missing_files_have_their_statuses(folder):
    assert run(folder / "stack.toml", "--window", 0).exit_code == 2
    assert run(folder / "nowhere.toml").exit_code == 66
    (folder / "wrong.toml").write_text("layers = ['a.npy', 'swish2', 'a.npy']")
    result = run(folder / "wrong.toml")
    assert result.exit_code == 2
    assert "swish2" in result.stderr


def test_a_path_of_slopes_and_maxima_before_the_first_matrix(folder):
    np.save(folder / "slopes.npy", np.full(5, 0.5))
    (folder / "slopes.toml").write_text(
        "layers = [{layer = 'maxout', size = 3}, {layer = 'prelu', alpha = 'slopes.npy'}, 'a.npy']"
    )
    found = bigspec.lipschitz(folder / "slopes.toml", seed=1)
    assert found.inputs == 15
    norm = np.linalg.norm(A, 2)
    assert norm / 2 <= found.lower <= found.upper <= norm * (1 + 1e-3)
