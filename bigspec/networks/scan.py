"""The Python door of a scan: checks the arguments, opens the model, reads no entry."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bigspec.api.arguments import as_budget, as_bytes, as_probability, as_seed
from bigspec.errors import ArgumentError
from bigspec.networks.fused import split_of
from bigspec.networks.limits import as_limits
from bigspec.networks.models import as_model, with_shapes
from bigspec.networks.plan import Choice
from bigspec.networks.rows import Options, Scan
from bigspec.run.identity import as_checkpoint
from bigspec.sources.storage_options import as_options
from bigspec.watch import Observer
from bigspec.watch.live import make_observer

__all__ = ["scan"]


def scan(
    model: Any,
    *,
    minus: Any = None,
    only: str | Iterable[str] = (),
    leave_out: str | Iterable[str] = (),
    rtol: float = 1e-2,
    failure_probability: float = 1e-6,
    split: str | Sequence[str] | Mapping[str, Any] | None = None,
    everything: bool = False,
    missing_chunks: str = "fill",
    seed: int | None = None,
    checkpoint: Any = None,
    time_limit: float | str | None = None,
    memory_limit: int | str | None = None,
    pin: bool = True,
    max_norm: float | None = None,
    gate: Any = None,
    progress: bool | Observer = False,
    storage_options: Mapping[str, Any] | None = None,
    input_shape: Sequence[int] | Mapping[str, Sequence[int]] | None = None,
) -> Scan:
    """Bracket the spectral norm of every matrix of a trained network.

    Parameters
    ----------
    model : path, URL, or mapping of str to array
        A checkpoint of a network, or a state dict. See docs/networks.md for the formats.
    minus : path, URL, or mapping, optional
        Another model: the rows are of the differences ``A - B`` of the tensors of equal names, and
        say what share of ``||B||`` they are.
    only, leave_out : str or iterable of str
        Patterns of names, with ``*`` and ``?``.
    rtol : float
        Relative width of each interval.
    failure_probability : float
        That any of the intervals misses, over the random starts alone. Matrices whose smaller
        side is small need none; the others share it equally, by their number alone.
    split : str, several, or mapping, optional
        How fused weights are cut: ``"qkv=3"``, ``{"qkv": (4096, 1024, 1024)}``. Well-known names
        are cut without it.
    everything : bool
        Also list tensors that are not matrices: vectors, integers, scales.
    missing_chunks : {"fill", "error"}
        A chunk that is not in a Zarr group counts as the fill value, which its row says, or is an
        error.
    seed : int, optional
        Entropy of all random starts; fresh and recorded by default.
    checkpoint : path, URL or Checkpoint, optional
        Save each row as soon as it is done. The same call goes on there, to the same table.
    time_limit : float or str, optional
        Rows that are not done by then are listed without an interval.
    memory_limit : int or str, optional
        Of one process, as in `norm`. A tensor that does not fit is read from its file in each pass.
    pin : bool
        Let parts of such a tensor stay in memory for its later passes; see `norm`.
    max_norm : float, optional
        Limit on all rows; a row's passes end as soon as its interval decides it.
    gate : path, mapping or Gate, optional
        Limits by patterns of names: a TOML file of tables ``["*.attn.*"]`` with `max_norm`,
        `min_norm`.
    progress : bool or Observer
        Show a live line.
    storage_options : mapping, optional
        Credentials, endpoint and settings for the URLs of this call; see `bigspec.open_matrix`.
    input_shape : sequence of int, or mapping of str to that, optional
        Of an ONNX model: the shape of its input, batch included, or the shapes of several by name.
        The norm of each convolution is then that of its layer, on an image of its size; else it is
        that of all sizes.

    Returns
    -------
    Scan
        A mapping from names to rows. Nothing but headers has been read when it is returned.

    Raises
    ------
    ArgumentError
        An argument is out of range, or no tensor matches.
    ChunkError
        When rows are computed: a chunk is missing, and that is to be an error.
    SourceError, DataError
        The file cannot be opened. What is wrong with a single tensor is in its row instead.
    ResumeError, CheckpointError, CheckpointInUseError
        When rows are computed: the checkpoint holds another scan, or is damaged or in use.

    Notes
    -----
    Cost: each tensor is read once. A matrix whose Gram matrix is cheap takes one pass and has a
    certain interval: the Gram matrix in float64, Lanczos steps for the lower end, a Cholesky
    factorisation for the upper end (Rump, BIT 46, 2006). Others take passes of 16 columns in
    memory, one task a tensor, on Dask's threads or the workers of an active client. Memory: as
    many tensors as tasks run.
    """
    choice = Choice(
        _patterns("only", only),
        _patterns("leave_out", leave_out),
        everything,
        tuple(split_of(split)),
    )
    storage = as_options(storage_options, model, minus, checkpoint)
    budget = as_budget(rtol, None, time_limit)
    options = Options(
        rtol=float(budget.rtol),
        failure_probability=as_probability(failure_probability),
        seed=as_seed(seed),
        limits=as_limits(max_norm, gate),
        memory_limit=as_bytes(memory_limit),
        time_limit=budget.time_limit,
        checkpoint=as_checkpoint(checkpoint, storage),
        observer=make_observer(progress),
        missing_chunks=missing_chunks,
        pin=bool(pin),
        input_shape=None if input_shape is None else _plain(input_shape),
    )
    first = as_model(model, missing_chunks, storage)
    second = None if minus is None else as_model(minus, missing_chunks, storage)
    if input_shape is not None:
        first = with_shapes(first, model, input_shape)
        if second is not None and second.format == "onnx":
            second = with_shapes(second, minus, input_shape)
    return Scan(first, second, choice, options)


def _plain(shape: Any) -> Any:
    """Return an input's shape as a checkpoint and JSON have it."""
    if isinstance(shape, Mapping):
        return {str(name): [int(n) for n in one] for name, one in sorted(shape.items())}
    return [int(n) for n in shape]


def _patterns(name: str, patterns: str | Iterable[str]) -> tuple[str, ...]:
    found = (patterns,) if isinstance(patterns, str) else tuple(patterns)
    if not all(isinstance(pattern, str) and pattern for pattern in found):
        msg = f"{name}: expected patterns of names, got {found!r}"
        raise ArgumentError(msg)
    return found
