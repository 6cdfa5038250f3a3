"""What each tensor of a network is: a matrix, a kernel, a stack of experts, a scale, a vector.

Headers alone decide, by shape and by name. Where neither says it clearly, the row says so, or has
a reason in the place of a number.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from bigspec.names import shown
from bigspec.networks.adapters import pairs_of
from bigspec.networks.companions import companions_of
from bigspec.networks.entry import Entry
from bigspec.networks.forms import Part
from bigspec.networks.fused import Split, cut_of
from bigspec.networks.layer import Layers, layers_for, layers_of
from bigspec.networks.tensors import Model, Tensor

__all__ = ["entries_of"]

MATRIX, PART = "matrix", "part of a fused matrix"
KERNEL, FLAT = "conv kernel, flattened", "tensor, flattened"
EXPERT, VECTOR, INTEGERS = "expert", "vector", "integers"
KERAS = re.compile(r"(?:^|[./])kernel(?::\d+)?$")  # and Flax: its last axis is that of outputs
EXPERTS = re.compile(r"experts?(?=$|[._/])|_exps(?=$|[._/])", re.IGNORECASE)  # GGUF says exps


def entries_of(model: Model, splits: Sequence[Split] = ()) -> list[Entry]:
    """Return the rows of a model in the order of its file, from headers alone.

    Raises
    ------
    ArgumentError
        A split does not fit a matrix that it names.
    """
    made, taken = pairs_of(model)
    rest = {n: t for n, t in model.items() if n not in taken and n not in made}
    more, used = companions_of(rest)
    special, gone = made | more, taken | used
    shapes = {name: tensor.shape for name, tensor in model.items()}
    layers = layers_of(model)
    entries: list[Entry] = []
    first: dict[tuple[object, ...], str] = {}
    for name, tensor in model.items():
        if name in special:
            entries.append(special[name])
        elif name in gone:
            kind = gone[name]
            entries.append(_listed(name, tensor, kind))
        else:
            last = model.format == "hdf5" or KERAS.search(name) is not None
            here = _roles(name, tensor, shapes, splits, channels_last=last, layers=layers)
            key = (tensor.storage, tensor.shape, tensor.dtype)
            if tensor.storage is not None:
                origin = first.setdefault(key, name)
                if origin != name:
                    here = [_tied(here[0], origin)]
            entries += here
    return _unique(entries)


def _unique(entries: list[Entry]) -> list[Entry]:
    """Give each row a name of its own, also as it is shown.

    A tensor may be called like the part of another one, or like another one once its line break
    is written out.
    """
    taken: set[str] = set()
    found = []
    for entry in entries:
        name, count = entry.name, 1
        while shown(name) in taken:
            count += 1
            name = f"{entry.name}:{count}"
        taken.add(shown(name))
        found.append(entry if name == entry.name else replace(entry, name=name))
    return found


def _roles(
    name: str,
    tensor: Tensor,
    shapes: dict[str, tuple[int, ...]],
    splits: Sequence[Split],
    *,
    channels_last: bool,
    layers: Layers,
) -> list[Entry]:
    """Return the rows of a tensor that stands for itself."""
    if tensor.refusal is not None:
        row = _listed(name, tensor, "refused")
        return [replace(row, hidden=False, form=None, note=tensor.refusal)]
    if not _floating(tensor):
        return [_listed(name, tensor, INTEGERS)]
    lengths = tuple(length for length in tensor.shape if length != 1)
    if tensor.size == 0 or len(tensor.shape) < 2:
        return [_listed(name, tensor, VECTOR)]
    if len(tensor.shape) == 2:
        return _matrices(name, tensor, shapes, splits)
    if len(tensor.shape) == 3 and EXPERTS.search(name):
        return _experts(name, tensor)
    many = len(tensor.shape) in (4, 5)
    named = "conv" in name.lower() or KERAS.search(name) is not None or name in layers
    named |= many and name.endswith("weight")
    if len(lengths) <= 1 and not named:
        return [_listed(name, tensor, VECTOR)]
    kernel = named or many
    if len(tensor.shape) == 3 and tensor.shape[0] == 1 and not kernel:
        return [_matrix(name, tensor, MATRIX, (tensor.shape[1], tensor.shape[2]))]
    first = -1 if kernel and channels_last else 0
    rows = tensor.shape[first]
    shape = rows, tensor.size // rows
    note = (
        f"the norm of the kernel as a matrix of its {'last' if first else 'first'} axis, not that "
        "of the layer"
    )
    if not kernel:
        note = "neither experts nor a kernel by its name: its first axis against the others"
    row = _matrix(name, tensor, KERNEL if kernel else FLAT, shape, note=note)
    used = layers_for(name, tensor, layers) if kernel else ()
    return [replace(row, form=Part(tensor, shape, first=first), layers=used)]


def _matrices(
    name: str, tensor: Tensor, shapes: dict[str, tuple[int, ...]], splits: Sequence[Split]
) -> list[Entry]:
    """Return the row of a matrix, and of its parts if it is fused."""
    m, n = tensor.shape
    asked = [split for split in splits if split.takes(name)]
    cut = asked[-1].cut(name, m) if asked else cut_of(name, (m, n), shapes)
    whole = _matrix(name, tensor, MATRIX, (m, n))
    if cut is None:
        return [whole]
    rows = [replace(whole, kind="fused matrix")]
    for part, span in zip(cut.names, cut.slices, strict=True):
        index = (span,) if cut.axis == 0 else (slice(None), span)
        length = span.stop - span.start
        shape = (length, n) if cut.axis == 0 else (m, length)
        form = Part(tensor, (m, n), index)
        rows.append(replace(whole, name=f"{name}[{part}]", kind=PART, form=form, matrix=shape))
    return rows


def _experts(name: str, tensor: Tensor) -> list[Entry]:
    count, m, n = tensor.shape
    whole = _matrix(name, tensor, EXPERT, (m, n))
    return [
        replace(whole, name=f"{name}[{k}]", form=Part(tensor, tensor.shape, (k,)), stack=name)
        for k in range(count)
    ]


def _matrix(
    name: str, tensor: Tensor, kind: str, shape: tuple[int, int], *, note: str = ""
) -> Entry:
    form = Part(tensor, shape)
    return Entry(name, tensor.file, tensor.dtype, tensor.shape, kind, form, shape, note)


def _listed(name: str, tensor: Tensor, kind: str) -> Entry:
    """Return the row of a tensor that is not a matrix: its length and its largest entry."""
    form = Part(tensor, (1, tensor.size)) if tensor.size else None
    return Entry(name, tensor.file, tensor.dtype, tensor.shape, kind, form, hidden=True)


def _tied(entry: Entry, origin: str) -> Entry:
    return replace(entry, tied_to=origin)


def _floating(tensor: Tensor) -> bool:
    integer = tensor.dtype.startswith(("int", "uint")) or tensor.dtype == "bool"
    return not integer
