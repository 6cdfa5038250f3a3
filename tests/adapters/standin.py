"""As much of PyTorch as a parametrization uses, over NumPy: no gradients, one device.

So the suite runs `bigspec.adapters.torch_spectral_norm` without the 3 GB of the real one, which
`test_torch_spectral_norm.py` uses where it is there. Names and meanings are PyTorch's.
"""

import contextlib
import importlib
import sys
import types

import numpy as np


class Device:
    type = "cpu"


class Tensor(np.ndarray):
    """An array with the methods of a tensor."""

    requires_grad = True
    device = Device()

    def detach(self):
        return self

    cpu = detach

    def clone(self):
        return self.copy()

    def numpy(self):
        return np.asarray(self)

    def to(self, kind):
        return self.astype(kind) if isinstance(kind, np.dtype) else self

    def float(self):
        return self.astype(np.float32)

    def movedim(self, source, target):
        return np.moveaxis(self, source, target)

    def flatten(self, start):
        return self.reshape(*self.shape[:start], -1)

    def numel(self):
        return self.size

    def is_complex(self):
        return self.dtype.kind == "c"

    def is_floating_point(self):
        return self.dtype.kind == "f"

    def copy_(self, other):
        self[...] = other

    def item(self):
        return np.asarray(self).item()

    # A tensor of no axes where NumPy would return a number.

    def sum(self, axis=None):
        return as_tensor(np.asarray(self).sum(axis))

    def max(self):
        return as_tensor(np.asarray(self).max())


def as_tensor(a, dtype=None, device=None):
    return np.asarray(a, dtype).view(Tensor)


class Module:
    """Buffers by name, a mode, and casts that go through `_apply`."""

    def __init__(self):
        self._buffers, self.training = {}, True

    def register_buffer(self, name, value):
        self._buffers[name] = value

    def __getattr__(self, name):
        if name != "_buffers" and name in self.__dict__.get("_buffers", {}):
            return self._buffers[name]
        raise AttributeError(name)

    def __setattr__(self, name, value):
        if name in self.__dict__.get("_buffers", {}):
            self._buffers[name] = value
        else:
            super().__setattr__(name, value)

    def _apply(self, fn, recurse=True):
        self._buffers = {name: fn(value) for name, value in self._buffers.items()}
        return self

    def half(self):
        return self._apply(lambda t: t.to(np.dtype("f2")) if t.is_floating_point() else t)

    def state_dict(self):
        return {name: value.clone() for name, value in self._buffers.items()}

    def load_state_dict(self, state):
        for name, value in state.items():
            self._buffers[name].copy_(value)


def register_parametrization(module, name, parametrization):
    """From now on the attribute is what the parametrization makes of the original."""
    module.originals = {name: getattr(module, name)}
    module.parametrizations = {name: [parametrization]}
    delattr(module, name)
    quotient = property(lambda self: parametrization.forward(self.originals[name]))
    module.__class__ = type(type(module).__name__, (type(module),), {name: quotient})


def layer(kind, weight, **settings):
    """A module of a class of that name, with a weight."""
    made = type(kind, (Module,), {})()
    made.weight = as_tensor(weight)
    for name, value in settings.items():
        setattr(made, name, value)
    return made


def normalize(weight, dim, eps):
    return weight / max(float(np.linalg.norm(weight)), eps)


class Generator:
    rng = np.random.default_rng(0)


def modules():
    """Return the modules by their names, for `sys.modules`."""
    torch = types.ModuleType("torch")
    for name in ("float16", "float32", "float64", "complex64", "complex128", "int64"):
        setattr(torch, name, np.dtype(name))
    torch.bfloat16 = object()
    torch.Tensor, torch.as_tensor, torch.finfo = Tensor, as_tensor, np.finfo
    torch.outer = lambda u, v: as_tensor(np.outer(u, v))
    torch.tensor = as_tensor
    torch.is_grad_enabled = lambda: True
    torch.no_grad = contextlib.nullcontext
    torch.autocast = lambda device, enabled: contextlib.nullcontext()
    torch.randint = lambda high, size: as_tensor(Generator.rng.integers(0, high))
    torch.compiler = types.SimpleNamespace(disable=lambda function: function)
    torch.linalg = types.SimpleNamespace(
        qr=np.linalg.qr,
        eigvalsh=lambda a: as_tensor(np.linalg.eigvalsh(a)),
        vector_norm=lambda a: as_tensor(np.linalg.norm(a)),
    )
    nn, utils = types.ModuleType("torch.nn"), types.ModuleType("torch.nn.utils")
    nn.Module, nn.utils = Module, utils
    nn.functional = types.SimpleNamespace(normalize=normalize)
    utils.parametrize = types.SimpleNamespace(register_parametrization=register_parametrization)
    torch.nn = nn
    return {"torch": torch, "torch.nn": nn, "torch.nn.utils": utils}


DOORS = ("bigspec.torch", "bigspec.adapters.torch_spectral_norm")


@contextlib.contextmanager
def in_place_of_torch():
    """Yield `bigspec.torch` as it is with the stand-in; afterwards everything is as before."""
    names = [name for name in sys.modules if name == "torch" or name.startswith("torch.")]
    before = {name: sys.modules.pop(name) for name in [*names, *DOORS] if name in sys.modules}
    sys.modules.update(modules())
    try:
        yield importlib.import_module("bigspec.torch")
    finally:
        for name in [*modules(), *DOORS]:
            sys.modules.pop(name, None)
        for name in DOORS:
            package, _, last = name.rpartition(".")
            vars(sys.modules[package]).pop(last, None)
        sys.modules.update(before)
