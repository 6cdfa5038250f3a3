"""The public function that makes a matrix of a convolution, and its arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bigspec.convolutions import (
    MODES,
    SYMBOL,
    Axis,
    Convolution,
    convolution,
    most_outputs,
    norm_of_all_sizes,
)
from bigspec.errors import ArgumentError, NonFiniteError
from bigspec.kernels.entries import plain_array
from bigspec.results import Interval
from bigspec.sources.checks import check_dtype

__all__ = ["conv", "conv_norm"]

Array = np.ndarray[Any, Any]
Pairs = tuple[tuple[int, int], ...]
LARGEST = 1 << 40


def conv(
    kernel: Any,
    input_shape: Sequence[int],
    *,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[Any] = 0,
    mode: str = "zeros",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    transposed: bool = False,
    output_padding: int | Sequence[int] = 0,
) -> Convolution:
    """Open a convolution as a matrix, with the meaning that PyTorch gives it.

    Parameters
    ----------
    kernel : array_like (out, in / groups, k..)
        With one to three spatial axes. For a transposed convolution (in, out / groups, k..).
    input_shape : sequence of int
        Channels and positions of the input, ``(in, n..)``. There is no batch axis.
    stride, dilation : int or sequence of int
        One for all axes, or one for each.
    padding : int, {"same", "valid"}, sequence of int, or sequence of pairs of int
        One for all axes, one for each, or before and after for each. ``"same"`` keeps the size,
        with the odd one after, and needs a stride of 1.
    mode : {"zeros", "circular", "replicate", "reflect"}
        What stands beyond the edges.
    groups : int
    transposed : bool
        The transpose of the convolution that takes what this one gives. The adjoint of any
        convolution is its ``.H``.
    output_padding : int or sequence of int
        Added to the size of a transposed convolution's output, which its stride leaves open.

    Returns
    -------
    Convolution
        A matrix of ``prod(output_shape)`` rows and ``prod(input_shape)`` columns, channels first,
        as ``reshape(-1)`` lays them out. `norm`, `svds`, ``A @ B``, ``2 * A``, ``A.H`` and `scaled`
        take it, and so does `scipy.sparse.linalg.aslinearoperator`.

    Raises
    ------
    ArgumentError
        The geometry is not one; names the argument.
    NonFiniteError, UnsupportedTypeError
        Of the kernel.

    Notes
    -----
    A run of it begins with an upper end that holds with certainty, from the Fourier symbol of the
    kernel (Sedghi, Gupta and Long, ICLR 2019, and docs/method.md for what edges, strides and groups
    do to it), and with the waves that the symbol shows. Cost of a pass: two products of
    ``2 |kernel| prod(output positions) b`` flops. The kernel is copied.

    Examples
    --------
    >>> import numpy as np, bigspec
    >>> edges = np.array([[[-1.0, 2.0, -1.0]]])
    >>> A = bigspec.conv(edges, (1, 3), padding=1)
    >>> A.shape
    (3, 3)
    >>> round(bigspec.norm(A).value, 3)
    3.414
    >>> est = bigspec.norm(bigspec.conv(edges, (1, 30), padding=1, mode="circular"))
    >>> est.deterministic, round(est.upper, 6)
    (True, 4.0)
    """
    K = _kernel(kernel)
    d = K.ndim - 2
    stride_, dilation_ = (_each(name, value, d, 1) for name, value in (
        ("stride", stride), ("dilation", dilation)))  # fmt: skip
    extra = _each("output_padding", output_padding, d, 0)
    shape = _input_shape(input_shape, d)
    groups = _groups(groups, K, shape[0], transposed=transposed)
    if mode not in MODES:
        msg = f"mode: expected one of {', '.join(MODES)}, got {mode!r}"
        raise ArgumentError(msg)
    if transposed and mode != "zeros":
        msg = (
            f"mode: expected 'zeros' for a transposed convolution, got {mode!r}; the adjoint of a "
            "convolution with other edges is conv(...).H"
        )
        raise ArgumentError(msg)
    if any(extra) and not transposed:
        msg = f"output_padding: expected 0 for a convolution that is not transposed, got {extra}"
        raise ArgumentError(msg)
    taps = K.shape[2:]
    pads = _pads(padding, taps, stride_, dilation_, transposed=transposed)
    make = _transposed_axis if transposed else _axis
    axes = tuple(
        make(axis, (shape[1 + axis], taps[axis], stride_[axis], dilation_[axis]), pads[axis], *rest)
        for axis in range(d)
        for rest in [(extra[axis],) if transposed else (mode,)]
    )
    kind = "transposed conv" if transposed else "conv"
    sizes = "x".join(map(str, K.shape))
    name = f"{kind} {sizes} of {'x'.join(map(str, shape))}"
    return convolution(K.conj() if transposed else K, axes, groups, flipped=transposed, name=name)


def conv_norm(
    kernel: Any,
    *,
    stride: int | Sequence[int] = 1,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    transposed: bool = False,
) -> Interval:
    """Bracket the norm of a convolution over all sizes of image, with certainty and without a pass.

    That is the least number which no image of any size is stretched by more than, with zeros or
    the other end of the image beyond its edges. Large images come as near to it as you like.

    Parameters
    ----------
    kernel : array_like (out, in / groups, k..)
    stride, dilation, groups, transposed
        See `conv`.

    Returns
    -------
    Interval
        Its `upper` bounds ``conv(kernel, shape, ...)`` for every shape and padding in the mode
        ``"zeros"``. In the mode ``"circular"`` it does where the stride divides the image and
        each axis has at most ``image / stride`` outputs: with more padding, outputs repeat.

    Raises
    ------
    ArgumentError, NonFiniteError, UnsupportedTypeError
        See `conv`.

    Notes
    -----
    The largest norm of the kernel's Fourier symbol over all frequencies, found on a grid that is
    refined where the peak may be. Between the points of a grid the norm is held by Bernstein's
    inequality (docs/method.md). Cost: a few hundred eigenvalue problems of order
    ``min(out, in)``; wide kernels without a peak get a wider interval, of some percent.

    Examples
    --------
    >>> import numpy as np, bigspec
    >>> found = bigspec.conv_norm(np.array([[[-1.0, 2.0, -1.0]]]))
    >>> bool(found.lower <= 4.0 <= found.upper), found.upper < 4.001
    (True, True)
    """
    K = _kernel(kernel)
    d = K.ndim - 2
    stride_, dilation_ = _each("stride", stride, d, 1), _each("dilation", dilation, d, 1)
    groups = _groups(groups, K, None, transposed=transposed)
    axes = []
    for k, s, e in zip(K.shape[2:], stride_, dilation_, strict=True):
        axes.append(Axis(e * (k - 1) + 1, 1, k, s, e, 0, 0, "zeros"))
    lower, upper = norm_of_all_sizes(K, tuple(axes), groups)
    return Interval(lower, upper, SYMBOL, SYMBOL, deterministic=True)


def _kernel(kernel: Any) -> Array:
    K = plain_array(kernel, "kernel")
    check_dtype(K.dtype, "kernel")
    if K.dtype.kind not in "fc" or K.dtype.name == "bfloat16":
        K = K.astype(np.float64)
    if K.ndim not in (3, 4, 5) or 0 in K.shape:
        msg = (
            "kernel: expected (out, in / groups, k..) with one to three spatial axes and nothing "
            f"empty, got shape {K.shape}"
        )
        raise ArgumentError(msg)
    if not np.isfinite(K).all():
        msg = "kernel: expected finite numbers, got a NaN or an infinity"
        raise NonFiniteError(msg)
    return K


def _whole(value: Any, least: int) -> bool:
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, (bool, np.bool_))
    return bool(whole and least <= value < LARGEST)


def _each(name: str, value: Any, d: int, least: int) -> tuple[int, ...]:
    """Return one number for each axis."""
    values = (value,) * d if not isinstance(value, (tuple, list, np.ndarray)) else tuple(value)
    if len(values) != d or not all(_whole(one, least) for one in values):
        msg = (
            f"{name}: expected a whole number from {least} on, or one for each of {d} axes, got "
            f"{value!r}"
        )
        raise ArgumentError(msg)
    return tuple(map(int, values))


def _input_shape(shape: Any, d: int) -> tuple[int, ...]:
    sized = isinstance(shape, (tuple, list, np.ndarray))
    if not sized or len(shape) != d + 1 or not all(_whole(one, 1) for one in shape):
        names = ("in", *("depth", "height", "width")[3 - d :])
        msg = (
            f"input_shape: expected {d + 1} positive numbers ({', '.join(names)}), without a "
            f"batch, for a kernel with {d} spatial axes, got {shape!r}"
        )
        raise ArgumentError(msg)
    return tuple(map(int, shape))


def _groups(groups: Any, K: Array, channels: int | None, *, transposed: bool) -> int:
    if not _whole(groups, 1) or K.shape[0] % groups:
        msg = (
            f"groups: expected a whole number that divides the {K.shape[0]} first channels of the "
            f"kernel, got {groups!r}"
        )
        raise ArgumentError(msg)
    wanted = K.shape[0] if transposed else K.shape[1] * int(groups)
    if channels is not None and channels != wanted:
        msg = (
            f"input_shape: expected {wanted} channels for a kernel of shape {K.shape} with "
            f"groups={groups}, got {channels}"
        )
        raise ArgumentError(msg)
    return int(groups)


def _pads(
    padding: Any,
    taps: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    *,
    transposed: bool,
) -> Pairs:
    """Return what is added before and after each axis."""
    d = len(taps)
    if isinstance(padding, str):
        if padding == "valid":
            return ((0, 0),) * d
        if padding == "same" and not transposed and set(stride) == {1}:
            totals = [e * (k - 1) for k, e in zip(taps, dilation, strict=True)]
            return tuple((total // 2, total - total // 2) for total in totals)
        msg = (
            "padding: expected 'valid', or 'same' for a stride of 1 and no transposition, got "
            f"{padding!r} with stride {stride}; give numbers, or pairs (before, after)"
        )
        raise ArgumentError(msg)
    values = tuple(padding) if isinstance(padding, (tuple, list, np.ndarray)) else (padding,) * d
    pairs = [tuple(one) if isinstance(one, (tuple, list, np.ndarray)) else (one, one)
             for one in values]  # fmt: skip
    good = len(pairs) == d and all(
        len(pair) == 2 and all(_whole(one, 0) for one in pair) for pair in pairs
    )
    if not good:
        msg = (
            "padding: expected a whole number from 0 on, one for each of "
            f"{d} axes, a pair (before, after) for each, 'same' or 'valid', got {padding!r}"
        )
        raise ArgumentError(msg)
    return tuple((int(before), int(after)) for before, after in pairs)


def _axis(
    number: int, extents: tuple[int, int, int, int], pads: tuple[int, int], mode: str
) -> Axis:
    size, taps, stride, dilation = extents
    before, after = pads
    most = {"circular": size, "reflect": size - 1}.get(mode, LARGEST)
    if max(pads) > most:
        msg = (
            f"padding: expected at most {most} on axis {number} of {size} positions in mode "
            f"{mode!r}, which has no more to put there, got {pads}"
        )
        raise ArgumentError(msg)
    out = most_outputs(size + before + after, taps, stride, dilation)
    if out < 1:
        msg = (
            f"input_shape: expected at least {dilation * (taps - 1) + 1} positions, padding "
            f"included, on axis {number} for {taps} taps of dilation {dilation}, got "
            f"{size + before + after}"
        )
        raise ArgumentError(msg)
    return Axis(size, out, taps, stride, dilation, before, after, mode)


def _transposed_axis(
    number: int, extents: tuple[int, int, int, int], pads: tuple[int, int], extra: int
) -> Axis:
    """Return the axis of the convolution whose transpose it is: from the output to the input."""
    out, taps, stride, dilation = extents
    before, after = pads
    if extra >= max(stride, dilation):
        msg = (
            f"output_padding: expected less than the stride or the dilation on axis {number}, "
            f"which are {stride} and {dilation}, got {extra}"
        )
        raise ArgumentError(msg)
    size = (out - 1) * stride + dilation * (taps - 1) + 1 + extra - before - after
    if size < 1:
        msg = (
            f"padding: expected an output of at least one position on axis {number}, got {pads}, "
            f"which leaves {size}"
        )
        raise ArgumentError(msg)
    return Axis(size, out, taps, stride, dilation, before, after, "zeros")
