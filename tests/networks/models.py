"""Networks in memory for tests: headers without numbers, and small ones with known norms."""

import math
from dataclasses import dataclass

import numpy as np

from bigspec.networks.tensors import Model, Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Header(Tensor):
    """A tensor that must not be read."""

    file: str = "model.safetensors"

    def read(self):
        msg = f"{self.name} was read"
        raise AssertionError(msg)

    def token(self):
        return self.name


def header(name, shape, *, dtype="float32", **fields):
    return Header(name=name, shape=shape, dtype=dtype, nbytes=4 * math.prod(shape), **fields)


def headers(notes=None, /, **shapes):
    """A model of headers; `__` in a keyword is a dot."""
    return headers_of({name.replace("__", "."): shape for name, shape in shapes.items()}, notes)


def headers_of(shapes, notes=None, dtypes=None):
    tensors = {
        name: header(name, shape, dtype=(dtypes or {}).get(name, "float32"))
        for name, shape in shapes.items()
    }
    return Model("m", "safetensors", tensors, notes or {})


def transformer(layers=3, n=24, seed=0):
    """A small network: fused and plain matrices, a kernel, vectors, one of 40 times the norm."""
    rng = np.random.default_rng(seed)
    W = {"embed.weight": rng.standard_normal((200, n))}
    for k in range(layers):
        W[f"layers.{k}.attn.qkv.weight"] = rng.standard_normal((3 * n, n))
        W[f"layers.{k}.attn.out.weight"] = rng.standard_normal((n, n))
        W[f"layers.{k}.mlp.weight"] = rng.standard_normal((4 * n, n))
        W[f"layers.{k}.norm.weight"] = np.ones(n)
    W["conv.weight"] = rng.standard_normal((6, 3, 3, 3))
    return {name: array.astype(np.float32) for name, array in W.items()}


def sigma(array):
    return np.linalg.norm(np.asarray(array).reshape(len(array), -1).astype(np.float64), 2)
