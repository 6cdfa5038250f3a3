"""PyTorch's `spectral_norm`, with a divisor that is certified to be at least the norm."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torch.nn.utils import parametrize

from bigspec.certificate.drift import Anchor
from bigspec.certificate.scaling import Storage, factor_below
from bigspec.errors import ArgumentError
from bigspec.networks.convolution import ConvolutionWeight
from bigspec.networks.tracking import DenseWeight, State, Step, Wishes, advance, begin, look

__all__ = ["SpectralNorm", "spectral_norm"]

Tensor = Any

TRANSPOSED = ("ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d")
CONVOLUTIONS = ("Conv1d", "Conv2d", "Conv3d", *TRANSPOSED)
SETTINGS = ("stride", "dilation", "groups", "output_padding", "padding")
HALF = (torch.float16, torch.bfloat16)
WIDE = {torch.complex64: torch.complex128, torch.complex128: torch.complex128}
ENTROPY = 62  # bits of a number drawn from torch's generator


class SpectralNorm(torch.nn.Module):  # type: ignore[misc]
    """The parametrization ``W -> W / d``, with ``||W / d||_2 <= 1`` by certificate.

    Its buffers are those of `bigspec.networks.tracking.State`. They are part of `state_dict`, and
    keep their types when the module is cast.

    Parameters
    ----------
    weight : Tensor
    n_power_iterations : int
    eps : float
        Least divisor.
    dim : int
        The axis of the weight that makes the rows.
    wishes : Wishes
    block : int
    geometry : tuple, optional
        Input shape and settings of `bigspec.conv`, for the true convolution.

    Attributes
    ----------
    last : Step or None
        What the last forward found: the interval of the norm, and the bound behind it.
    """

    _vectors: Tensor
    _reference: Tensor
    _bounds: Tensor
    _numbers: Tensor

    def __init__(
        self,
        weight: Tensor,
        n_power_iterations: int,
        eps: float,
        dim: int,
        wishes: Wishes,
        block: int,
        geometry: tuple[tuple[int, ...], dict[str, Any]] | None = None,
    ) -> None:
        super().__init__()
        self.n_power_iterations, self.eps, self.dim = n_power_iterations, eps, dim
        self.wishes, self.block, self.geometry = wishes, block, geometry
        self.last: Step | None = None
        if weight.ndim > 1:
            # From torch's generator: `torch.manual_seed` makes a run repeatable.
            entropy = int(torch.randint(1 << ENTROPY, ()).item())
            with _plain(weight):
                state, self.last = begin(self._opened(weight), block, wishes, entropy)
            place = "cpu" if weight.device.type == "mps" else weight.device
            self.register_buffer("_vectors", torch.as_tensor(state.vectors).to(place))
            self.register_buffer("_reference", torch.as_tensor(state.reference).to(weight.device))
            bounds, numbers = _numbers_of(state)
            self.register_buffer("_bounds", bounds)
            self.register_buffer("_numbers", numbers)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight divided by a bound of its norm."""
        if weight.ndim == 1:  # a vector's norm needs no certificate
            return functional.normalize(weight, dim=0, eps=self.eps)
        step, opened = self._step(weight)
        self.last = step
        divisor = self._divisor(step, weight, getattr(opened, "uses", 1))
        wide = weight.float() if weight.dtype in HALF else weight
        return (wide / self._with_gradient(wide, opened, divisor)).to(weight.dtype)

    def right_inverse(self, value: Tensor) -> Tensor:
        """Return a weight to be normalised: any will do."""
        return value

    def extra_repr(self) -> str:
        """Say how it was made."""
        kind = "" if self.geometry is None else f", input_shape={self.geometry[0]}"
        return f"block={self.block}, rtol={self.wishes.rtol}{kind}"

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _step(self, weight: Tensor) -> tuple[Step, Any]:
        """Bound the norm; in training mode the state goes one step on."""
        with _plain(weight):
            opened, state = self._opened(weight), self._state()
            if not self.training or self.n_power_iterations == 0:
                return look(opened, state, self.wishes), opened
            state, step = advance(opened, state, self.wishes, self.n_power_iterations)
            self._keep(state, certified=step.certified)
            return step, opened

    def _divisor(self, step: Step, weight: Tensor, uses: int) -> float:
        """Return d with ``||fl(W / d)|| <= 1``, rounded up to the type that divides."""
        single = weight.dtype not in (torch.float64, torch.complex128)
        kind = torch.finfo(weight.dtype)
        # tiny * eps is the smallest subnormal number. A device may flush those of float32 (and of
        # bfloat16) to zero, which errs by tiny; conversions to float16 make them everywhere.
        smallest = kind.tiny * kind.eps if weight.dtype == torch.float16 else 2 * kind.tiny
        parts = weight.numel() * uses * (2 if weight.is_complex() else 1)
        work = 2.0**-24 if single else 2.0**-53
        storage = Storage(kind.eps / 2, smallest, parts, work)
        exact = self.eps
        if step.upper + storage.relative * step.size > self.eps / 2:
            exact = max(exact, 1.0 / factor_below(step.upper, step.size, 1.0, storage))
        kind_ = np.float32 if single else np.float64
        rounded = kind_(exact)
        if float(rounded) < exact:
            rounded = np.nextafter(rounded, kind_(np.inf))
        return float(rounded)

    def _with_gradient(self, wide: Tensor, opened: Any, divisor: float) -> Tensor:
        """Return the divisor, with the gradient of ``Re u^H W v`` times ``divisor / sigma``.

        Its value is the certified divisor to the last bit: the part with the gradient is a
        difference of equal numbers.
        """
        # u and v are constants, as in PyTorch's own.
        step: Any = self.last
        exact = torch.as_tensor(divisor, dtype=_real(wide.dtype), device=wide.device)
        if not (torch.is_grad_enabled() and wide.requires_grad) or step.lower == 0.0:
            return exact
        gradient = self._slope(wide, opened, step) * (divisor / step.lower)
        with torch.autocast(wide.device.type, enabled=False):
            sigma = (wide * gradient.conj()).sum().real if wide.is_complex() else (
                wide * gradient).sum()  # fmt: skip
        return exact + (sigma - sigma.detach())

    def _slope(self, wide: Tensor, opened: Any, step: Step) -> Tensor:
        """Return the derivative of ``Re u^H W v`` by W."""
        if self.geometry is None:
            u, v = (torch.as_tensor(part, device=wide.device) for part in (step.left, step.right))
            slope = torch.outer(u, v.conj()).to(wide.dtype)
            return _unflattened(slope, wide, self.dim)
        slope = opened.slope(step.left, step.right)
        return torch.as_tensor(slope, device=wide.device).to(wide.dtype)

    def _opened(self, weight: Tensor) -> Any:
        weight = weight.detach()
        if self.geometry is None:
            matrix = _flattened(weight, self.dim)
            # Apple's GPUs have no float64.
            matrix = matrix.cpu() if matrix.device.type == "mps" else matrix
            return DenseWeight(matrix, torch, _wide, _host, "weight")
        kernel = weight.float() if weight.dtype == torch.bfloat16 else weight
        return ConvolutionWeight(kernel.cpu().numpy(), *self.geometry, self.wishes.rtol)

    def _state(self) -> State:
        """Return the state that the buffers hold."""
        numbers = self._numbers.tolist()
        bounds = self._bounds.tolist()
        vectors, reference = self._vectors, self._reference
        if self.geometry is not None:
            reference = reference.float() if reference.dtype == torch.bfloat16 else reference
            vectors, reference = vectors.cpu().numpy(), reference.cpu().numpy()
        elif vectors.device.type == "mps":
            vectors, reference = vectors.cpu(), reference.cpu()
        anchor = Anchor(bounds[0], np.array(bounds[1:]))
        return State(vectors, reference, anchor, *numbers)

    def _keep(self, state: State, *, certified: bool) -> None:
        """Put a state into the buffers. The bounds stay on the CPU, where they are used."""
        self._vectors.copy_(torch.as_tensor(state.vectors))
        bounds, numbers = _numbers_of(state)
        self._bounds.copy_(bounds)
        self._numbers.copy_(numbers)
        if certified:
            self._reference = torch.as_tensor(state.reference).to(self._reference.device)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Move the buffers where the module goes, and leave their types alone.

        A cast would round what was certified.
        """
        before = {name: value for name, value in self._buffers.items() if value is not None}
        super()._apply(fn, recurse)
        for name, value in before.items():
            device = self._buffers[name].device
            kept = name in ("_bounds", "_numbers")
            if device.type == "meta":
                continue
            place = "cpu" if kept or (device.type == "mps" and name == "_vectors") else device
            self._buffers[name] = value.to(place)
        return self


def _numbers_of(state: State) -> tuple[Tensor, Tensor]:
    bounds = [state.anchor.lower, *map(float, state.anchor.uppers)]
    numbers = [state.certificates, state.steps, state.entropy]
    return torch.tensor(bounds, dtype=torch.float64), torch.tensor(numbers, dtype=torch.int64)


@contextmanager
def _plain(weight: Tensor) -> Iterator[None]:
    """No gradients, and no autocast to half precision."""
    with torch.no_grad(), torch.autocast(weight.device.type, enabled=False):
        yield


def spectral_norm(
    module: Any,
    name: str = "weight",
    n_power_iterations: int = 1,
    eps: float = 1e-12,
    dim: int | None = None,
    *,
    block: int = 8,
    input_shape: Sequence[int] | None = None,
    certify_every: int | None = None,
    rtol: float = 1e-2,
    failure_probability: float = 1e-6,
) -> Any:
    """Divide a weight of a module by its spectral norm: by certificate, the norm is at most 1.

    Takes the place of `torch.nn.utils.parametrizations.spectral_norm`, whose divisor is an
    estimate from below, so that the norm of its quotient is at least 1.

    Parameters
    ----------
    module : torch.nn.Module
    name : str
        Of the weight. Two axes or more: the matrix is that of PyTorch, rows along `dim` and
        everything else in the columns. With one axis it is divided by its length.
    n_power_iterations : int
        Passes a forward in training mode. Each is two products with a block of vectors.
    eps : float
        Least divisor: a weight of zeros stays zero.
    dim : int, optional
        By default 1 for `ConvTranspose1d`, `2d` and `3d`, and 0 for everything else.
    block : int
        Vectors of a pass. More are dearer, and see over wider clusters of singular values.
    input_shape : sequence of int, optional
        ``(channels, n..)``, without a batch, of the input of a convolution. Then the norm is that
        of the convolution itself, with its stride, padding, mode and groups, and not that of the
        flattened kernel, which is no bound of it.
    certify_every : int, optional
        Certify again after so many steps in any case. By default only where `rtol` asks for it.
    rtol : float
        The norm of the quotient lies between about ``1 / (1 + rtol)`` and 1. The weight is
        certified again when its bound becomes looser than that.
    failure_probability : float
        Of all certificates of this weight together, in large layers. In layers with a side of at
        most 1536, and of convolutions mostly, certificates are certain.

    Returns
    -------
    torch.nn.Module
        The module itself. ``module.parametrizations[name][0].last`` has the interval that the last
        forward found.

    Raises
    ------
    ArgumentError
        No such weight, or `input_shape` for what is not a convolution.
    NonFiniteError
        In a forward: the weight has become NaN or infinite.

    Notes
    -----
    Method: `bigspec.certificate.drift`. One certificate bounds sigma_1, sigma_2, .. of the weight
    as it then was. Later each has moved by at most the drift (Weyl), and with today's block that
    gives Lehmann's bound of sigma_1 with no new randomness. Where the leading singular values have
    no gaps beyond the drift, Weyl's bound of sigma_1 alone remains, and certificates come more
    often.

    Products are made in float64, on the weight's device (on the CPU for Apple's GPUs, and for the
    true convolution). `state_dict` has the buffers, among them the weight that was certified last,
    so it doubles the weight. In eval mode nothing changes; a bound that is too loose, as after
    loading other weights, is certified anew in each forward. The quotient is rounded in the
    weight's type: that is part of the certificate, and in half precision it costs about 4e-3
    (bfloat16) or 5e-4 (float16) times the root of the stable rank. What autocast does to the weight
    afterwards is not seen.

    Examples
    --------
    >>> import torch  # doctest: +SKIP
    >>> from bigspec.torch import spectral_norm  # doctest: +SKIP
    >>> layer = spectral_norm(torch.nn.Linear(20, 40))  # doctest: +SKIP
    >>> bool(torch.linalg.matrix_norm(layer.weight, 2) <= 1)  # doctest: +SKIP
    True
    """
    weight = getattr(module, name, None)
    if not isinstance(weight, torch.Tensor):
        msg = f"name: expected a parameter of {type(module).__name__}, got {name!r}"
        raise ArgumentError(msg)
    if not (weight.is_floating_point() or weight.is_complex()):
        msg = f"name: expected a floating parameter, got {name!r} of {weight.dtype}"
        raise ArgumentError(msg)
    _check(n_power_iterations, block, certify_every, rtol, failure_probability)
    if not 0.0 < eps < 1.0:
        msg = f"eps: expected a number between 0 and 1, got {eps!r}"
        raise ArgumentError(msg)
    kinds = {kind.__name__ for kind in type(module).__mro__}
    if dim is None:
        dim = 1 if kinds & set(TRANSPOSED) else 0
    geometry = None if input_shape is None else _geometry(module, name, kinds, input_shape)
    wishes = Wishes(rtol, certify_every, failure_probability)
    made = SpectralNorm(weight, n_power_iterations, eps, dim, wishes, block, geometry)
    parametrize.register_parametrization(module, name, made)
    return module


def _check(passes: Any, block: Any, every: Any, rtol: Any, failure: Any) -> None:
    for name, value, least in (
        ("n_power_iterations", passes, 0),
        ("block", block, 1),
        ("certify_every", every, 1),
    ):
        if value is not None and (not isinstance(value, int) or value < least):
            msg = f"{name}: expected a whole number of at least {least}, got {value!r}"
            raise ArgumentError(msg)
    for name, value in (("rtol", rtol), ("failure_probability", failure)):
        if not 0.0 < value < 1.0:
            msg = f"{name}: expected a number between 0 and 1, got {value!r}"
            raise ArgumentError(msg)


def _geometry(
    module: Any, name: str, kinds: set[str], input_shape: Sequence[int]
) -> tuple[tuple[int, ...], dict[str, Any]]:
    """Return what `bigspec.conv` needs to know of a layer."""
    if name != "weight" or not kinds & set(CONVOLUTIONS):
        msg = (
            f"input_shape: expected None, or a convolution's weight, got {name!r} of "
            f"{type(module).__name__}; leave it out for the flattened matrix"
        )
        raise ArgumentError(msg)
    transposed = bool(kinds & set(TRANSPOSED))
    names = SETTINGS if transposed else SETTINGS[:3] + SETTINGS[4:]
    settings = {key: getattr(module, key) for key in names}
    settings |= {"mode": module.padding_mode, "transposed": transposed}
    return tuple(map(int, input_shape)), settings


def _flattened(weight: Tensor, dim: int) -> Tensor:
    """Return PyTorch's matrix of a weight: rows along `dim`."""
    return weight.movedim(dim, 0).flatten(1)


def _unflattened(matrix: Tensor, weight: Tensor, dim: int) -> Tensor:
    shape = weight.movedim(dim, 0).shape
    return matrix.reshape(shape).movedim(0, dim)


def _wide(a: Tensor) -> Tensor:
    return a.to(WIDE.get(a.dtype, torch.float64))


def _real(dtype: Any) -> Any:
    return {torch.complex64: torch.float32, torch.complex128: torch.float64}.get(dtype, dtype)


def _host(a: Tensor) -> np.ndarray[Any, Any]:
    return np.asarray(a.detach().cpu().numpy())
