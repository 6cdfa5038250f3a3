"""Images of iterates under the outer factor of a product, carried from pass to pass.

A pass over ``B^H (A^H A (B V))`` begins with ``B V`` and ends with ``B^H``. Read by panels of its
columns, B gives ``Z = B^H T`` and ``X = B Z`` at once. Every algorithm takes its next block from
the span of Z and the blocks before: ``V = Z K + V_1 K_1 + V_2 K_2``. So
``B V = X K + (B V_1) K_1 + (B V_2) K_2`` needs no read of its own.

The coefficients are found here by projection, not by the algorithms, and the rest of V is
measured. The error of an image grows by about ``||H|| / beta`` a pass, beta the smallest singular
value of the residual block, like rounding in s-step and pipelined recurrences (Cools, Yetkin,
Agullo, Giraud & Vanroose 2018). An error E of ``B V`` makes an error ``B^H A^H (A E)``. E is
rounding in all directions, so A may multiply it by more than the range of B. If the estimate of
this error exceeds the accuracy, or the dot test shows more than the estimate, B is read once more,
and the image is exact again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bigspec.algorithms import iterates
from bigspec.certificate import Facts
from bigspec.certificate.quantiles import column_quantile
from bigspec.certificate.rounding import UNIT_ROUNDOFF
from bigspec.passes.contract import Accuracy

__all__ = ["Carried", "Images"]

Array = np.ndarray[Any, Any]

SHARE = 1e-3  # of the accuracy, for the error of an image
MOST_ERROR = 1e-8  # of ``||H||``
DEPENDENT = 1e-13  # relative, of singular values of Z without the blocks before
TESTED = 8.0  # the dot test may show so many times the estimated error, as in eps_H
ORTHOGONAL = 1e-4
RECENT = 2  # blocks before the last product: the recurrences have three terms


@dataclass(frozen=True)
class Carried:
    """Blocks and images from which the next pass combines the image of its block.

    Attributes
    ----------
    blocks : tuple of ndarray (n, b)
        The last blocks multiplied. Each is orthonormal, and they are nearly orthogonal.
    images : tuple of ndarray (p, b)
        ``B V`` of each.
    errors : tuple of float
        Estimates of the error of each image, in the 2-norm.
    Z : ndarray (n, b)
        The last product.
    X : ndarray (p, b)
        ``B Z``.
    outer, inner, whole : float
        Estimates of ``||B||``, of ``||A E|| / ||E||`` for errors E, and of ``||A B||``. They are
        the largest of all passes, since late blocks may lack the large singular vectors.
    effect : float
        Largest error of ``H V`` so far through an image that was not read, relative to ``||H||``.
    """

    blocks: tuple[Array, ...]
    images: tuple[Array, ...]
    errors: tuple[float, ...]
    Z: Array
    X: Array
    outer: float
    inner: float
    whole: float
    effect: float = 0.0

    def image(self, V: Array) -> tuple[Array, float]:
        """Return ``B V`` and an estimate of its error."""
        W, Y = self.Z.copy(), self.X.copy()
        unit = UNIT_ROUNDOFF * np.sqrt(len(V))
        norm = iterates.gram_norm
        error = unit * self.outer * norm(self.Z)
        for _ in range(2):
            for block, image, own in zip(self.blocks, self.images, self.errors, strict=True):
                C = iterates.inner(block, W)
                iterates.subtract(W, block, C)
                iterates.subtract(Y, image, C)
                error += norm(C) * (own + unit * norm(image))
        Q, R = iterates.qr(W)
        K = np.linalg.pinv(R, rcond=DEPENDENT) @ iterates.inner(Q, V)
        left = iterates.difference(V, W, K)
        Y, error = iterates.apply(Y, K), error * norm(K)
        for block, image, own in zip(self.blocks, self.images, self.errors, strict=True):
            C = iterates.inner(block, left)
            iterates.subtract(left, block, C)
            iterates.add(Y, image, C)
            error += norm(C) * own
        return Y, error + self.outer * iterates.frobenius(left)


class Images:
    """The image of the block of one pass, and the images for the next pass.

    Parameters
    ----------
    carried : Carried or None
        From the last pass.
    accuracy : Accuracy

    Attributes
    ----------
    after : Carried or None
        For the next pass.
    error : float
        Estimated error of the image, in the 2-norm; 0 if it was read.
    effect : float
        Estimated error of ``H V`` through it.
    """

    def __init__(self, carried: Carried | None, accuracy: Accuracy) -> None:
        self.carried = carried
        self.after: Carried | None = None
        self.limit = min(SHARE * accuracy.width, MOST_ERROR)
        self.failure_probability = accuracy.failure_probability
        self.error = self.effect = 0.0

    @property
    def outdated(self) -> bool:
        """Whether passes of a lower accuracy allowed more error than this one may have."""
        last = self.carried
        return last is not None and last.effect > self._allowed(last.Z)

    def find(self, V: Array) -> Array | None:
        """Return ``B V`` if it is known well enough; else None, and B must be read."""
        last = self.carried
        if last is None or last.Z.dtype != V.dtype:
            return None
        Y, error = last.image(V)
        if last.inner * error <= self._allowed(V) * last.whole:  # not if NaN
            self.error = error
            return Y
        return None

    def stands(self, V: Array, Z: Array, gram: Array) -> bool:
        """Whether the dot test shows no more than the error of an image; else B must be read.

        Parameters
        ----------
        V, Z : ndarray (n, b)
            The block and ``H V``.
        gram : ndarray (b, b)
            ``(A Y)^H (A Y)``, Y the image.
        """
        assert self.carried is not None
        defect = iterates.spectral_norm(iterates.inner(V, Z) - gram)
        whole = max(self.carried.whole, _root(gram))
        effect = self.error * self.carried.inner * whole
        if defect > max(TESTED * effect, self._allowed(V) * whole**2):
            return False
        self.effect = effect
        return True

    def note(
        self, V: Array, Y: Array, T: Array, gram: Array, Z: Array, X: Array, facts: Facts | None
    ) -> None:
        """Store the block of a pass, its image, its product and the image of the product.

        Parameters
        ----------
        V, Z : ndarray (n, b)
        Y, X : ndarray (p, b)
            ``B V`` and ``B Z``.
        T : ndarray (p, b)
            ``A^H (A Y)``.
        gram : ndarray (b, b)
            ``(A Y)^H (A Y)``.
        facts : Facts or None
            Of A; without them, the size of A is estimated by its products with blocks.
        """
        last, tiny = self.carried, float(np.finfo(float).tiny)
        norm = iterates.gram_norm
        if not (iterates.finite(X) and tiny < norm(X) < np.inf):
            return
        middle, size = max(_root(gram), tiny), max(norm(Y), tiny)
        outer = max(size, norm(X) / max(norm(Z), tiny))
        inner, whole = max(middle / size, norm(T) / middle), middle
        if facts is not None:
            # ||A E|| for E with independent entries of one size; never more than ||A|| ||E||.
            share = min(1.0, (1 + np.sqrt(V.shape[1])) / np.sqrt(len(Y)))
            bound = np.sqrt(facts.absolute_norm_squared)
            inner = max(inner, min(share * np.sqrt(facts.frobenius_squared), bound))
        if last is not None:
            outer, inner = max(outer, last.outer), max(inner, last.inner)
            whole = max(whole, last.whole)
        recent = [(V, Y, self.error)]
        if last is not None:
            earlier = zip(last.blocks, last.images, last.errors, strict=True)
            # Power iteration's blocks are not orthogonal; its next one is in the span of Z.
            apart = [one for one in earlier if norm(iterates.inner(one[0], V)) <= ORTHOGONAL]
            recent = [*apart, *recent][-RECENT:]
        blocks, images, errors = zip(*recent, strict=True)
        effect = max(self.effect / whole**2, 0.0 if last is None else last.effect)
        self.after = Carried(blocks, images, errors, Z, X, outer, inner, whole, effect)

    def _allowed(self, V: Array) -> float:
        """Return the error of ``H V`` that the interval allows, relative to ``||H||``.

        An error of H moves the upper bound by ``sqrt(b / q)`` times its size, q the quantile of
        the bound. That is a million times for one column, and three times for 16.
        """
        b = V.shape[1]
        q = column_quantile(self.failure_probability, b, complex_=V.dtype.kind == "c")
        return self.limit * min(1.0, float(np.sqrt(q / b)))


def _root(gram: Array) -> float:
    return float(np.sqrt(np.linalg.norm(gram, 2))) if np.isfinite(gram).all() else np.inf
