"""The Python door: checks the arguments, asks for the norms, and takes the least bound."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from bigspec.api.arguments import as_budget, as_bytes, as_probability, as_seed, as_whole
from bigspec.errors import ArgumentError
from bigspec.networks.lipschitz.items import as_stack
from bigspec.networks.lipschitz.lower import as_points, lower_end
from bigspec.networks.lipschitz.norms import Norms, Settings
from bigspec.networks.lipschitz.onnx_graph import read_onnx
from bigspec.networks.lipschitz.result import Lipschitz
from bigspec.networks.lipschitz.stack import Stack
from bigspec.networks.lipschitz.stack_file import read_stack
from bigspec.networks.lipschitz.steps import Linear
from bigspec.networks.lipschitz.upper import Bound, Search, UpperEnds
from bigspec.run.identity import versions
from bigspec.watch import Observer
from bigspec.watch.live import make_observer

__all__ = ["lipschitz"]

OWN_STREAM = 1 << 31  # norms have the streams 0, 1, ..


def lipschitz(
    layers: Sequence[Any] | str | os.PathLike[str],
    *,
    at: Any = None,
    input_shape: Sequence[int] | None = None,
    begin: str | None = None,
    end: str | None = None,
    rtol: float = 1e-3,
    failure_probability: float = 1e-6,
    window: int | None = None,
    rescale: bool = True,
    seed: int | None = None,
    memory_limit: int | str | None = None,
    max_constant: float | None = None,
    progress: bool | Observer = False,
) -> Lipschitz:
    """Bracket the Lipschitz constant of a stack of layers, in the Euclidean norm.

    Parameters
    ----------
    layers : list, or path of a TOML or ONNX file
        The first layer first. A matrix (m, n) is all that `open_matrix` takes; ``(matrix, bias)``
        gives its bias, which moves the points where a slope is taken and no bound. A text is the
        name of an activation, ``("leaky_relu", 0.1)`` one with parameters. See docs/lipschitz.md
        for all names, among them branches: ``("residual", [B, "relu", C])``.
    at : array_like (p, n), or int, optional
        Points for the lower end, one a row; more dimensions are flattened. A number draws so many
        from the normal distribution; 32 by default, 0 for none.
    input_shape : sequence of int, optional
        Of an ONNX file: the sizes of what the stack begins with, a batch of 1 in front, where the
        file leaves them open.
    begin, end : str, optional
        Of an ONNX file: the values between which the stack lies, by default input and output.
    rtol : float
        Relative width of each norm. The interval of the constant is much wider: its ends are
        different bounds.
    failure_probability : float
        That any of the norms misses, over the random starts alone. They share it equally, by their
        number alone, which is known before the first one is computed.
    window : int, optional
        Most matrices in a chain whose norm is taken. By default all of a stack of up to five, and
        three of a longer one.
    rescale : bool
        Also seek positive weights between the layers, and bound the scaled stack.
    seed : int, optional
        Entropy of all random starts; fresh and recorded by default.
    memory_limit : int or str, optional
        Of one process, as in `norm`.
    max_constant : float, optional
        A limit, whose outcome is in `Lipschitz.outcome`.
    progress : bool or Observer
        Show a live line.

    Returns
    -------
    Lipschitz
        The interval, the bound that gives its upper end, all bounds, and all norms behind them.

    Raises
    ------
    ArgumentError
        A layer is not understood, does not fit the one before, or has no Lipschitz constant; the
        message names it, with the reason.
    SourceError, DataError, MemoryLimitError, ChunkError, StoreUnavailableError
        As in `norm`, of each matrix.

    Notes
    -----
    Method: the upper end is the least of the product of norms; of a recursion over norms of chains
    (Combettes and Pesquet, SIAM J. Math. Data Sci. 2, 2020, with general slopes); of both for the
    stack with weights between the layers; and for matrices of one sign each, of the norm of their
    product. The lower end is what the derivative at one of the points does to one vector, with a
    bound of all rounding. See docs/method.md.

    Cost: for m matrices up to ``m (m + 1) / 2`` norms, or 3 m with a window, and twice as many
    with weights, whose search takes some 300 products of each matrix with 32 columns. There
    is no checkpoint: matrices of a network take milliseconds to seconds each.

    Examples
    --------
    >>> import numpy as np, bigspec
    >>> A, B = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[1.0, -1.0], [-1.0, 1.0]])
    >>> found = bigspec.lipschitz([A, "relu", B])
    >>> bool(found.lower <= found.upper < np.linalg.norm(A, 2) * np.linalg.norm(B, 2))
    True
    """
    began = time.monotonic()
    budget = as_budget(rtol)
    memory = as_bytes(memory_limit)
    given = as_seed(seed)
    entropy = int(np.random.SeedSequence().entropy) if given is None else given  # type: ignore[arg-type]
    limit, most = _limit(max_constant), _window(window)
    probability = as_probability(failure_probability)
    stack = as_stack(_listed(layers, input_shape, begin, end), memory)
    if stack.inputs is None or stack.outputs is None:
        msg = "layers: expected layers that say how many numbers they take, got none that does"
        raise ArgumentError(msg)
    words = _words(entropy)
    points = as_points(at, stack.inputs, words[0])
    observer = make_observer(progress)
    settings = Settings(float(budget.rtol), probability, entropy, memory, observer)
    try:
        norms, bounds = _bounded(stack, Search(most, rescale, words[1]), settings)
        below = lower_end(stack, points, words[2])
    finally:
        observer.close()
    behind = [norms.results[place] for place in bounds[0].norms] + norms.singles
    return Lipschitz(
        lower=below.lower,
        upper=bounds[0].upper,
        bound=bounds[0].name,
        bounds=bounds,
        norms=tuple(norms.results),
        failure_probability=probability,
        deterministic=all(one.deterministic for one in behind),
        rtol=float(budget.rtol),
        point=below.point,
        right=below.right,
        points=below.points,
        point_number=below.number,
        rounding=below.rounding,
        layers=tuple(step.label for step in stack.steps),
        inputs=stack.inputs,
        outputs=stack.outputs,
        rescaled=rescale,
        max_constant=limit,
        seed=entropy,
        seconds=time.monotonic() - began,
        versions=versions(),
    )


def _words(entropy: int) -> list[int]:
    """Return seeds of points, of the search for weights and of the vector at a point.

    No norm has their stream: the weights that the search finds must not depend on its start.
    """
    stream = np.random.SeedSequence(entropy, spawn_key=(OWN_STREAM,))
    return [int(word) for word in stream.generate_state(3, np.uint64)]


def _bounded(stack: Stack, search: Search, settings: Settings) -> tuple[Norms, tuple[Bound, ...]]:
    """Return all norms and all bounds; every matrix learns its norm, which bounds its rounding."""
    norms = Norms()
    ends = UpperEnds(stack, norms, search)
    norms.compute(settings)
    for step in stack.every:
        if isinstance(step, Linear):
            one = norms.single(step.matrix)
            step.size, step.rounding = one.upper, one.rounding
            if one.frobenius is not None:
                step.frobenius = one.frobenius * (1 + 1e-6)
    return norms, ends.bounds()


def _listed(layers: Any, shape: Any, begin: str | None, end: str | None) -> Any:
    """Return the stack that a file holds; what is no path is left as it is."""
    is_path = isinstance(layers, (str, os.PathLike))
    if is_path and os.fspath(layers).lower().endswith(".onnx"):
        return read_onnx(layers, shape, begin, end)
    if shape is not None or begin is not None or end is not None:
        msg = "input_shape, begin and end: expected with the path of an ONNX file, got another"
        raise ArgumentError(msg)
    return read_stack(layers) if is_path else layers


def _limit(value: Any) -> float | None:
    if value is None:
        return None
    real = isinstance(value, (int, float, np.floating)) and not isinstance(value, bool)
    if not (real and np.isfinite(value) and value >= 0):
        msg = f"max_constant: expected a finite number >= 0, got {value!r}"
        raise ArgumentError(msg)
    return float(value)


def _window(value: Any) -> int:
    most = as_whole("window", value)
    if most is not None and most < 1:
        msg = f"window: expected at least 1 matrix in a chain, got {most}"
        raise ArgumentError(msg)
    return most or 0
