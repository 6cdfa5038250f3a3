"""The norm of a convolution whose kernel moves: its products, its drift, its certificate.

The kernel is small and the images are in this process, so everything here is NumPy's.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bigspec.api.convolutions import conv
from bigspec.api.norm import norm
from bigspec.certificate.drift import Anchor, grown
from bigspec.certificate.rounding import UNIT_ROUNDOFF
from bigspec.errors import NonFiniteError
from bigspec.networks.tracking import all_values

__all__ = ["ConvolutionWeight"]

Array = np.ndarray[Any, Any]


class ConvolutionWeight:
    r"""The matrix of a convolution, with the methods of `bigspec.networks.tracking.DenseWeight`.

    Let R be the kernel as a matrix (out, in x taps), and P the matrix that copies an image into its
    patches. ``A x`` is R times each patch, so ``||A|| <= ||R|| ||P||``. ``P^H P`` is diagonal and
    says how many patches an input position is in, at most ``uses`` of them. So

        ||A|| <= ||R||_F uses^(1/2),

    for every padding, and for the transpose. That bounds the drift, as A is linear in the kernel,
    the rounding of products, and what rounding of the kernel's entries does. The spectrum has no
    gaps to speak of, so Weyl's bound is the only one here.

    Parameters
    ----------
    kernel : ndarray
        In its own type. It is not changed.
    input_shape : sequence of int
    settings : mapping
        Of `bigspec.conv`: stride, padding, mode and so on.
    rtol : float
        Half of it is the width that a certificate aims at.
    name : str
        For messages.
    """

    xp = np
    host = staticmethod(np.asarray)

    def __init__(
        self,
        kernel: Array,
        input_shape: Sequence[int],
        settings: Mapping[str, Any],
        rtol: float,
        name: str = "weight",
    ) -> None:
        if not np.isfinite(kernel).all():
            msg = (
                f"{name}: expected finite entries, got a NaN or an infinity; the step before has "
                "diverged (is the learning rate too large?)"
            )
            raise NonFiniteError(msg)
        self.own, self.rtol, self.name = kernel, rtol, name
        self.input_shape, self.settings = tuple(input_shape), dict(settings)
        self.complex_ = kernel.dtype.kind == "c"
        wide = kernel.astype(np.complex128 if self.complex_ else np.float64)
        largest = float(np.abs(wide).max(initial=0.0))
        self.scale = 1.0 if 1e-30 < largest < 1e30 or largest == 0.0 else (
            2.0 ** -math.frexp(largest)[1])  # fmt: skip
        self.entries = wide * self.scale
        self.matrix = conv(self.entries, self.input_shape, **self.settings)
        self.shape = self.matrix.shape
        self.uses = math.prod(_most_uses(axis.table) for axis in self.matrix.axes)
        self.frobenius = self._size(self.entries)

    def products(self, V: Array) -> tuple[Array, Array]:
        """Return ``A V`` and ``A^H A V``."""
        Y = self.matrix.apply(V)
        return Y, self.matrix.apply_adjoint(Y)

    def slope(self, left: Array, right: Array) -> Array:
        """Return S with ``Re left^H A right = Re sum K conj(S)`` for every kernel K."""
        made, given = (right, left) if self.matrix.flipped else (left, right)
        shapes = self.matrix.shapes[:: -1 if self.matrix.flipped else 1]
        groups, outputs, inputs = self.matrix.kernel.shape[:3]
        axes = self.matrix.axes
        image = given.reshape(groups, inputs, *shapes[0][1:])
        # A zero behind each axis, which the index -1 reads.
        image = np.pad(image, [(0, 0), (0, 0), *((0, 1) for _ in axes)])
        places: list[Any] = []
        for number, axis in enumerate(axes):
            shape = [1] * (2 * len(axes))
            shape[number], shape[len(axes) + number] = axis.out, axis.taps
            places.append(axis.table.reshape(shape))
        whole: Any = slice(None)
        patches = image[(whole, whole, *places)].conj()
        result = made.reshape(groups, outputs, *shapes[1][1:])
        out = list(range(3, 3 + len(axes)))
        taps = list(range(3 + len(axes), 3 + 2 * len(axes)))
        slope = np.einsum(result, [0, 1, *out], patches, [0, 2, *out, *taps], [0, 1, 2, *taps])
        slope = slope.conj() if self.matrix.flipped else slope
        return np.asarray(slope).reshape(self.own.shape)

    def drift(self, reference: Array) -> float:
        """Bound ``||A - A_0||_2`` by ``||R||_2``, which is much less than its Frobenius norm."""
        difference = self.entries - np.asarray(reference) * self.scale
        size = self._size(difference) * (1 + 8 * UNIT_ROUNDOFF)
        if size == 0.0:
            return 0.0
        R = difference.reshape(len(difference), -1)
        upper = float(all_values(R, 1, self._size(difference)).uppers[0])
        return min(size, upper * math.sqrt(self.uses) * (1 + 16 * UNIT_ROUNDOFF))

    def start(self, b: int, entropy: int) -> Array:
        """Return an orthonormal block of random columns."""
        rng = np.random.default_rng([entropy, 0])
        V = rng.standard_normal((self.shape[1], b))
        return self.orthonormal(V + 1j * rng.standard_normal(V.shape) if self.complex_ else V)

    def orthonormal(self, V: Array) -> Array:
        """Return an orthonormal basis."""
        return np.linalg.qr(V)[0]

    def like(self, V: Array) -> Array:
        """Return it as it is."""
        return V

    def copy(self) -> Array:
        """Return a copy of the kernel in its own type, to be kept."""
        return self.own.copy()

    def certificate(self, k: int, delta: float, seed: int) -> tuple[Anchor, bool]:
        """Bound sigma_1 afresh; the values after it get the same bound."""
        found = norm(
            self.matrix, rtol=self.rtol / 2, failure_probability=delta, seed=seed, right=False
        )
        return Anchor(found.lower, np.full(k, found.upper)), not found.deterministic

    def digest(self) -> bytes:
        """Return a hash of the kernel."""
        return hashlib.sha256(np.ascontiguousarray(self.entries).data).digest()

    def _size(self, kernel: Array) -> float:
        """``||R||_F uses^(1/2)``, a bound of the norm of a kernel's matrix."""
        size = float(np.linalg.norm(kernel)) * math.sqrt(self.uses)
        return size * (1 + grown(kernel.size, complex_=self.complex_))


def _most_uses(table: Array) -> int:
    """Return how often an input position of one axis is read, at most."""
    read = table[table >= 0]
    return int(np.bincount(read).max()) if read.size else 1
