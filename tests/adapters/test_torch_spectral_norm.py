"""`bigspec.torch.spectral_norm` in PyTorch itself, as a module of a network meets it."""

import copy
import io

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.nn.utils import parametrizations, parametrize  # noqa: E402

import bigspec  # noqa: E402
from bigspec.errors import ArgumentError, NonFiniteError  # noqa: E402
from bigspec.torch import SpectralNorm, spectral_norm  # noqa: E402

LAYERS = {
    "Linear": (lambda: torch.nn.Linear(30, 20), (4, 30)),
    "wide": (lambda: torch.nn.Linear(7, 50), (4, 7)),
    "Conv1d": (lambda: torch.nn.Conv1d(4, 6, 3), (2, 4, 9)),
    "Conv2d": (lambda: torch.nn.Conv2d(4, 6, 3, stride=2, padding=1), (2, 4, 8, 8)),
    "Conv3d": (lambda: torch.nn.Conv3d(2, 4, 2), (2, 2, 4, 4, 4)),
    "ConvTranspose1d": (lambda: torch.nn.ConvTranspose1d(4, 6, 3), (2, 4, 9)),
    "ConvTranspose2d": (lambda: torch.nn.ConvTranspose2d(4, 6, 3, stride=2), (2, 4, 8, 8)),
    "Embedding": (lambda: torch.nn.Embedding(40, 12), None),
}


def layer(name, **options):
    torch.manual_seed(0)
    return spectral_norm(LAYERS[name][0](), **options)


def parametrization(module, name="weight"):
    return module.parametrizations[name][0]


def flat(weight, dim):
    return weight.detach().double().movedim(dim, 0).flatten(1)


def norm(weight, dim=0):
    return float(torch.linalg.matrix_norm(flat(weight, dim), 2))


def buffers(module):
    return {name: value.clone() for name, value in module.named_buffers()}


@pytest.mark.parametrize("name", sorted(LAYERS))
def test_it_takes_the_place_of_torchs_with_a_norm_of_at_most_one(name):
    ours = layer(name)
    torch.manual_seed(0)
    theirs = parametrizations.spectral_norm(LAYERS[name][0](), n_power_iterations=50)
    dim = 1 if name.startswith("ConvTranspose") else 0
    assert parametrization(ours).dim == parametrization(theirs).dim == dim
    for _ in range(20):
        ours.weight, theirs.weight  # noqa: B018 - a forward each
    assert 0.99 <= norm(ours.weight, dim) <= 1.0
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-3, atol=1e-6)
    if LAYERS[name][1] is not None:
        x = torch.randn(LAYERS[name][1])
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["Linear", "Conv2d", "ConvTranspose2d"])
def test_in_training_the_norm_never_exceeds_one_and_the_weights_learn(name):
    module = layer(name)
    dim = parametrization(module).dim
    shape = LAYERS[name][1]
    optimizer = torch.optim.Adam(module.parameters(), 1e-3)
    before, names = module.weight.detach().clone(), set()
    for _ in range(30):
        loss = (module(torch.randn(shape)) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert 0.98 <= norm(module.weight, dim) <= 1.0
        step = parametrization(module).last
        original = norm(module.parametrizations.weight.original, dim)
        assert step.lower * (1 - 1e-12) <= original <= step.upper * (1 + 1e-12)
        names.add(step.name)
    assert not torch.equal(before, module.weight)
    assert names & {"Weyl", "Lehmann", "certificate"}


def test_the_gradient_is_that_of_the_quotient():
    module = layer("Linear").double()
    for _ in range(60):
        module.weight  # noqa: B018 - until the block has converged
    target = torch.randn(20, 30, dtype=torch.float64)
    (module.weight * target).sum().backward()
    got = module.parametrizations.weight.original.grad
    W = module.parametrizations.weight.original.detach().clone().requires_grad_()
    ((W / torch.linalg.matrix_norm(W, 2)) * target).sum().backward()
    torch.testing.assert_close(got, W.grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["Conv2d", "ConvTranspose2d"])
def test_the_true_convolution_is_divided_by_its_own_norm(name):
    shape = LAYERS[name][1][1:]
    module = layer(name, input_shape=shape, rtol=0.02)
    weight = module.weight.detach()
    settings = {"stride": module.stride, "padding": module.padding}
    A = bigspec.conv(weight.double().numpy(), shape, transposed="T" in name, **settings)
    dense = A.apply(np.eye(A.shape[1]))
    x = torch.randn(1, *shape, dtype=torch.float64)
    bias = module.bias.detach().double().reshape(-1, 1, 1)
    y = copy.deepcopy(module)(x.float()).double() - bias
    np.testing.assert_allclose(dense @ x.numpy().ravel(), y.detach().numpy().ravel(), atol=1e-5)
    assert 0.97 <= np.linalg.norm(dense, 2) <= 1.0
    # The flattened kernel has another norm, and no quotient of it would do.
    assert abs(norm(weight, parametrization(module).dim) - 1) > 0.1
    (module(torch.randn(LAYERS[name][1])) ** 2).sum().backward()
    step = parametrization(module).last
    W = module.parametrizations.weight.original.detach().clone().requires_grad_()
    u, v = (torch.as_tensor(part) for part in (step.left, step.right))
    function = torch.nn.functional.conv_transpose2d if "T" in name else torch.nn.functional.conv2d
    image = v.reshape(1, *shape)
    s = (function(image, W.double(), **settings).reshape(-1) * u).sum()
    s.backward()
    opened = parametrization(module)._opened(W)
    slope = parametrization(module)._slope(W, opened, step)
    torch.testing.assert_close(slope, W.grad, rtol=1e-5, atol=1e-6)


def test_two_forwards_before_a_backward():
    module = layer("Linear")
    x = torch.randn(4, 30)
    loss = (module(x) - module(x + 1)).square().sum()
    loss.backward()
    assert torch.isfinite(module.parametrizations.weight.original.grad).all()


def test_a_second_derivative_as_a_gradient_penalty_takes_it():
    module = layer("Linear")
    x = torch.randn(4, 30, requires_grad=True)
    (slope,) = torch.autograd.grad(module(x).sum(), x, create_graph=True)
    slope.square().sum().backward()
    assert torch.isfinite(module.parametrizations.weight.original.grad).all()


def test_buffers_survive_a_deepcopy_and_a_state_dict():
    module = layer("Linear")
    for _ in range(3):
        with torch.no_grad():
            module.parametrizations.weight.original.add_(1e-4)
        module.weight  # noqa: B018
    twin = copy.deepcopy(module)
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    torch.manual_seed(9)
    other = spectral_norm(torch.nn.Linear(30, 20))
    other.load_state_dict(torch.load(file, weights_only=True))
    for one in (twin, other):
        for name, value in module.named_buffers():
            assert torch.equal(dict(one.named_buffers())[name], value), name
        assert torch.equal(one.eval().weight, module.eval().weight)
    module.train()
    assert torch.equal(twin.train().weight, module.weight)


def test_other_weights_loaded_are_certified_anew():
    module = layer("Linear")
    state = dict(module.state_dict())
    state["parametrizations.weight.original"] = torch.randn(20, 30) * 3
    module.load_state_dict(state)
    module.eval()
    assert 0.98 <= norm(module.weight) <= 1.0
    assert 0.98 <= norm(module.train().weight) <= 1.0


def test_in_eval_mode_nothing_changes():
    module = layer("Linear").eval()
    before = buffers(module)
    first = module.weight
    assert torch.equal(first, module.weight)
    with torch.no_grad():
        module.parametrizations.weight.original.mul_(1.5)
    assert norm(module.weight) <= 1.0
    for name, value in module.named_buffers():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_zero_weights_stay_zero(mode):
    plain = torch.nn.Linear(30, 20)
    torch.nn.init.zeros_(plain.weight)
    module = getattr(spectral_norm(plain), mode)()
    assert torch.equal(module.weight, torch.zeros(20, 30))
    module(torch.randn(2, 30)).sum().backward()
    assert torch.isfinite(module.parametrizations.weight.original.grad).all()
    with torch.no_grad():
        module.parametrizations.weight.original.normal_()
    assert 0.98 <= norm(module.train().weight) <= 1.0


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "complex64"])
def test_the_quotient_as_it_is_rounded_has_a_norm_of_at_most_one(dtype):
    kind = getattr(torch, dtype)
    torch.manual_seed(0)
    plain = torch.nn.Linear(64, 48)
    plain.weight = torch.nn.Parameter(torch.randn(48, 64, dtype=torch.float32).to(kind))
    module = spectral_norm(plain)
    assert module.weight.dtype == kind
    wide = module.weight.detach().to(torch.complex128 if kind.is_complex else torch.float64)
    reached = float(torch.linalg.matrix_norm(wide, 2))
    assert {"bfloat16": 0.96, "float16": 0.99}.get(dtype, 0.999) <= reached <= 1.0
    module.weight.abs().sum().backward()
    gradient = module.parametrizations.weight.original.grad
    assert torch.isfinite(gradient.abs()).all()


def test_a_cast_of_the_module_leaves_the_certificate_alone():
    module = layer("Linear")
    before = buffers(module)
    module.half()
    for name, value in module.named_buffers():
        assert value.dtype == before[name].dtype, name
        assert torch.equal(value, before[name])
    assert module.weight.dtype == torch.float16
    assert norm(module.weight) <= 1.0
    assert norm(module.float().weight) <= 1.0


def test_under_autocast_the_certificate_is_as_fine_as_without():
    module = layer("Linear")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = module(torch.randn(4, 30))
        assert 0.99 <= norm(module.weight) <= 1.0
    assert y.dtype == torch.bfloat16


def test_a_vector_is_divided_by_its_length():
    module = torch.nn.LayerNorm(8)
    torch.nn.init.normal_(module.weight)
    spectral_norm(module)
    torch.testing.assert_close(module.weight.norm(), torch.tensor(1.0))


def test_the_same_seed_of_torch_makes_the_same_run_and_the_block_may_be_one():
    runs = []
    for _ in range(2):
        module = layer("Linear", block=1, n_power_iterations=3, certify_every=2)
        optimizer = torch.optim.SGD(module.parameters(), 0.1)
        for _ in range(4):
            optimizer.zero_grad()
            module(torch.randn(4, 30)).square().sum().backward()
            optimizer.step()
        runs.append(module.weight.detach().clone())
        assert norm(runs[-1]) <= 1.0
    assert torch.equal(*runs)


def test_it_comes_off_again():
    module = layer("Linear")
    weight = module.weight.detach().clone()
    parametrize.remove_parametrizations(module, "weight")
    torch.testing.assert_close(module.weight, weight, rtol=1e-6, atol=0)


def test_what_it_says_of_itself_and_refuses():
    module = layer("Linear")
    assert "block=8, rtol=0.01" in repr(module)
    assert isinstance(parametrization(module), SpectralNorm)
    for options, why in [
        ({"name": "strength"}, "name: expected a parameter of Linear, got 'strength'"),
        ({"block": 0}, "block: expected a whole number of at least 1, got 0"),
        ({"n_power_iterations": -1}, "n_power_iterations: expected a whole number of at least 0"),
        ({"certify_every": 0}, "certify_every: expected a whole number of at least 1"),
        ({"rtol": 1.0}, "rtol: expected a number between 0 and 1, got 1.0"),
        ({"eps": 0.0}, "eps: expected a number between 0 and 1, got 0.0"),
        ({"input_shape": (1, 4, 4)}, "input_shape: expected None, or a convolution's weight"),
    ]:
        with pytest.raises(ArgumentError, match=why):
            spectral_norm(torch.nn.Linear(3, 3), **options)
    with torch.no_grad():
        module.parametrizations.weight.original[3, 4] = float("nan")
    with pytest.raises(NonFiniteError, match="expected finite entries, got a NaN or an infinity"):
        module.weight  # noqa: B018
