"""Training with a certified norm: a discriminator on synthetic data, beside PyTorch's own.

python -P benchmarks/training.py run  # 300 steps: the true norm at each, and what a step costs
python -P benchmarks/training.py run --convolution  # two convolutions by their true norms
python -P benchmarks/training.py layers  # the forward alone, for layers of several sizes

The generator is a small network, the discriminator two layers with spectral normalisation, hinge
loss, Adam at 2e-4 with betas (0, 0.9), as in Miyato et al. (ICLR 2018). All parametrizations train
from the same start on the same data, in turns of one step. After each step the norm of every
normalised layer is taken by an SVD in float64. Times are medians of the steps without that SVD.
Needs PyTorch.
"""

import argparse
import json
import statistics
import time
from collections import Counter

import numpy as np
import torch
from torch.nn.utils import parametrizations

import bigspec
from bigspec.torch import spectral_norm

KINDS = ("bigspec", "torch", "none")
IMAGE = (1, 12, 12)


def discriminator(kind, *, width, convolution, rtol):
    """Two layers, each normalised as `kind` says."""
    torch.manual_seed(0)
    if convolution:
        layers = [
            torch.nn.Conv2d(1, width, 3, padding=1),
            torch.nn.Conv2d(width, width, 4, stride=2, padding=1),
        ]
        shapes = [IMAGE, (width, *IMAGE[1:])]
    else:
        layers = [torch.nn.Linear(64, width), torch.nn.Linear(width, width)]
        shapes = [None, None]
    wrap = {
        "none": lambda layer, shape: layer,
        "torch": lambda layer, shape: parametrizations.spectral_norm(layer),
        "bigspec": lambda layer, shape: spectral_norm(layer, input_shape=shape, rtol=rtol),
    }[kind]
    layers = [wrap(layer, shape) for layer, shape in zip(layers, shapes, strict=True)]
    head = torch.nn.Linear(width * (36 if convolution else 1), 1)
    flat = torch.nn.Flatten()
    leaky = torch.nn.LeakyReLU
    net = torch.nn.Sequential(layers[0], leaky(0.1), layers[1], leaky(0.1), flat, head)
    return net, list(zip(layers, shapes, strict=True))


def generator(convolution):
    torch.manual_seed(1)
    size = int(np.prod(IMAGE)) if convolution else 64
    parts = [torch.nn.Linear(16, 64), torch.nn.ReLU(), torch.nn.Linear(64, size)]
    return torch.nn.Sequential(*parts, torch.nn.Unflatten(1, IMAGE if convolution else (size,)))


def real(rng, count, convolution):
    """A mixture of eight Gaussians; as images, one bright bar each."""
    kind = rng.integers(0, 8, count)
    size = int(np.prod(IMAGE)) if convolution else 64
    centres = np.random.default_rng(5).standard_normal((8, size)) * 2
    x = centres[kind] + 0.3 * rng.standard_normal((count, size))
    return torch.as_tensor(
        x.reshape(count, *(IMAGE if convolution else (size,))), dtype=torch.float32
    )


def true_norm(layer, weight, shape):
    weight = weight.double()
    if shape is None:
        return float(np.linalg.norm(weight.numpy(), 2))
    A = bigspec.conv(weight.numpy(), shape, stride=layer.stride, padding=layer.padding)
    return float(np.linalg.norm(A.apply(np.eye(A.shape[1])), 2))


class Run:
    """One discriminator, its generator and their optimizers."""

    def __init__(self, kind, options):
        self.kind, self.convolution = kind, options.convolution
        self.net, self.layers = discriminator(
            kind, width=options.width, convolution=options.convolution, rtol=options.rtol
        )
        self.making = generator(options.convolution)
        settings = {"lr": options.rate, "betas": (0.0, 0.9)}
        self.first = torch.optim.Adam(self.net.parameters(), **settings)
        self.second = torch.optim.Adam(self.making.parameters(), **settings)
        self.seconds, self.norms, self.names, self.certified = [], [], Counter(), 0
        self.used = []
        for layer, shape in self.layers if kind != "none" else ():
            # What a forward of the layer has used, not what another look would compute.
            layer.parametrizations.weight.register_forward_hook(
                lambda _module, _given, made, layer=layer, shape=shape: self.used.append(
                    (layer, made.detach(), shape)
                )
            )

    def step(self, x, z):
        began = time.perf_counter()
        fake = self.making(z)
        loss = torch.relu(1 - self.net(x)).mean() + torch.relu(1 + self.net(fake.detach())).mean()
        self.first.zero_grad()
        loss.backward()
        self.first.step()
        self.seconds.append(time.perf_counter() - began)
        self.note()
        self.second.zero_grad()
        (-self.net(fake).mean()).backward()
        self.note()
        self.second.step()

    def note(self):
        for layer, weight, shape in self.used:
            self.norms.append(true_norm(layer, weight, shape))
        for layer, _ in self.layers if self.kind == "bigspec" else ():
            last = layer.parametrizations.weight[0].last
            self.names[last.name] += 1
            self.certified += last.certified
        self.used.clear()


def run(options):
    torch.set_num_threads(options.threads)
    rng = np.random.default_rng(7)
    runs = [Run(kind, options) for kind in KINDS]
    for _ in range(options.steps):
        x, z = real(rng, 64, options.convolution), torch.as_tensor(
            rng.standard_normal((64, 16)), dtype=torch.float32)  # fmt: skip
        for one in runs:
            one.step(x, z)
    plain = statistics.median(runs[-1].seconds)
    for one in runs:
        took = statistics.median(one.seconds)
        told = {
            "kind": one.kind,
            "steps": options.steps,
            "ms_a_step": round(1e3 * took, 3),
            "ms_above_none": round(1e3 * (took - plain), 3),
        }
        if one.norms:
            told |= {
                "norm_least": min(one.norms),
                "norm_most": max(one.norms),
                "above_1": sum(norm > 1 for norm in one.norms),
                "norms": len(one.norms),
            }
        if one.names:
            told |= {"bounds": dict(one.names), "certified": one.certified}
        print(json.dumps(told))


def layers(options):
    """Time a forward of the parametrization alone, while the weight moves by small steps."""
    torch.set_num_threads(options.threads)
    for m, n in ((64, 64), (256, 256), (512, 512), (1024, 1024), (512, 4608), (3072, 768)):
        made = {}
        for kind, wrap in (("bigspec", spectral_norm), ("torch", parametrizations.spectral_norm)):
            torch.manual_seed(0)
            plain = torch.nn.Linear(n, m, bias=False)
            with torch.no_grad():  # a spike, as trained layers have
                u, v = torch.randn(m, 1) / m**0.5, torch.randn(1, n) / n**0.5
                plain.weight += 2 * u @ v
            made[kind] = wrap(plain)
        took = {kind: [] for kind in made}
        for _ in range(options.repeats):
            for kind, module in made.items():
                original = module.parametrizations.weight.original
                with torch.no_grad():
                    original += 2e-3 / (m * n) ** 0.5 * torch.randn(m, n)
                began = time.perf_counter()
                module.weight  # noqa: B018
                took[kind].append(time.perf_counter() - began)
        last = made["bigspec"].parametrizations.weight[0].last
        ours, theirs = (1e3 * statistics.median(took[kind]) for kind in ("bigspec", "torch"))
        width, ratio = last.upper / last.lower - 1, ours / theirs
        print(
            f"{m} x {n}: bigspec {ours:.2f} ms, torch {theirs:.2f} ms, ratio {ratio:.1f}; ", end=""
        )
        print(f"{last.name}, width {width:.1e}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=["run", "layers"])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--rate", type=float, default=2e-4)
    parser.add_argument("--rtol", type=float, default=1e-2)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--convolution", action="store_true")
    options = parser.parse_args()
    {"run": run, "layers": layers}[options.what](options)


if __name__ == "__main__":
    main()
