"""Tensors that mean something only together: scales, vectors of a normalisation, its lengths."""

from __future__ import annotations

import re
from collections.abc import Mapping

from bigspec.networks.entry import Entry
from bigspec.networks.forms import Form, Masked, Part, Scaled, Spectral, WeightNorm
from bigspec.networks.tensors import Tensor

__all__ = ["companions_of", "scales_of"]

SCALES = ("{0}_scale_inv", "{0}_scale", "{1}.scale_weight", "{1}.scale")
ODD_SCALES = (
    "{0}_scale_2", "{0}_global_scale", "{0}_scales", "{0}.scale", "{0}.scales", "{0}_scale_inverse",
    "{1}.scales", "{1}.scale_inv", "{1}.weight_scale_inverse",
)  # fmt: skip
SMALL_FLOATS = ("float8", "float6", "float4")
PACKED = (
    "scale", "scales", "qzeros", "g_idx", "absmax", "quant_map", "quant_state.bitsandbytes__nf4",
    "quant_state.bitsandbytes__fp4", "nested_absmax", "SCB", "weight_scale", "weight_zero_point",
    "weight_shape", "zero_point",
)  # fmt: skip
BLOCK = 128
QUANTISED = (
    "integers of a quantised weight: what they stand for needs its scales and a scheme that the "
    "file does not spell out. Scan the model that it was made from"
)


def companions_of(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Entry], dict[str, str]]:
    """Return rows in place of tensors, and the other tensors that these rows use."""
    rows: dict[str, Entry] = {}
    taken: dict[str, str] = {}
    for name, tensor in tensors.items():
        for look in (_scaled, _spectral, _masked, _weight_norm, _unsaid, _quantised):
            found = look(name, tensor, tensors)
            if found is not None:
                rows[name], others = found
                taken |= others
                break
    return rows, taken


Found = tuple[Entry, dict[str, str]] | None


def _scaled(name: str, tensor: Tensor, tensors: Mapping[str, Tensor]) -> Found:
    """Find the scale of a weight of 8-bit or smaller floats."""
    if not tensor.dtype.startswith(SMALL_FLOATS) or len(tensor.shape) < 2 or not tensor.size:
        return None
    found = scales_of(name, tensors)
    if not found:
        return None
    scale = tensors[found[0]]
    known = len(found) == 1 and found[0] in _names(name, SCALES) and len(tensor.shape) == 2
    block = _block(tensor.shape, scale.shape) if known and _real(scale) else None
    taken = dict.fromkeys(found, "scale")
    if block is None:
        what = f"{len(found)} scales, {' and '.join(found)}" if len(found) > 1 else (
            f"scales of the shape {list(scale.shape)} in {found[0]}"
        )  # fmt: skip
        note = (
            f"expected one scale, one a row, or one for each block of {BLOCK} x {BLOCK} of "
            f"{list(tensor.shape)}, got {what}"
        )
        return _entry(name, tensor, "refused", None, note), taken
    return _entry(name, tensor, "matrix, times its scales", Scaled(tensor, scale, block)), taken


def scales_of(name: str, tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the names beside a tensor that are, or may be, its scales."""
    return [other for other in _names(name, SCALES + ODD_SCALES) if other in tensors]


def _names(name: str, patterns: tuple[str, ...]) -> list[str]:
    """Return names built from a weight's name, or from its layer's if it is called weight."""
    layer = name.removesuffix(".weight")
    wanted = [text for text in patterns if layer != name or "{0}" in text]
    return list(dict.fromkeys(text.format(name, layer) for text in wanted))


def _real(tensor: Tensor) -> bool:
    return tensor.dtype.startswith(("float", "bfloat"))


def _block(shape: tuple[int, ...], scale: tuple[int, ...]) -> tuple[int, int] | None:
    """Return the rows and columns that share a scale; None if the shapes do not tell.

    Blocks of 128 x 128 may be cut off at the ends. Other blocks are squares, or parts of a row,
    and divide the weight.
    """
    m, n = shape
    product = 1
    for length in scale:
        product *= length
    if product == 1:
        return m, n
    if scale in ((m,), (m, 1)):
        return 1, n
    if scale == (1, n):
        return m, 1
    if len(scale) != 2 or not product:
        return None
    if scale == (-(-m // BLOCK), -(-n // BLOCK)):
        return BLOCK, BLOCK
    if m % scale[0] or n % scale[1]:
        return None
    block = m // scale[0], n // scale[1]
    return block if block[0] in (1, block[1]) else None


def _spectral(name: str, tensor: Tensor, tensors: Mapping[str, Tensor]) -> Found:
    """Find the vectors of a power iteration beside a weight."""
    if len(tensor.shape) < 2 or not tensor.size:
        return None
    if name.endswith("_orig"):
        stem = name.removesuffix("_orig")
        u, v = tensors.get(f"{stem}_u"), tensors.get(f"{stem}_v")
    elif match := re.fullmatch(r"(.*parametrizations\..+)\.original", name):
        u, v = (tensors.get(f"{match[1]}.0._{which}") for which in "uv")
    else:
        return None
    if u is None or len(u.shape) != 1:
        return None
    lengths = [tensor.shape[axis] for axis in (0, 1)]
    first = 0 if u.shape[0] == lengths[0] else 1
    taken = {t.name: "vector of a power iteration" for t in (u, v) if t is not None}
    rows = tensor.shape[first]
    if u.shape[0] != rows or (v is not None and v.shape != (tensor.size // rows,)):
        note = (
            f"expected u and v as long as the rows and columns of {list(tensor.shape)}, got "
            f"{list(u.shape)} and {list(v.shape) if v is not None else 'none'}"
        )
        return _entry(name, tensor, "refused", None, note), taken
    shape = rows, tensor.size // rows
    either = len(tensor.shape) > 2 and lengths[0] == lengths[1]
    form = Spectral(tensor, shape, first=first, u=u, v=v, either=either)
    kind = "matrix before spectral normalisation"
    if len(tensor.shape) > 2:
        kind = "conv kernel, flattened, before spectral normalisation"
    return _entry(name, tensor, kind, form, EITHER if either else "", shape=shape), taken


EITHER = (
    "its first two axes are equally long: flattened along the one that u and v fit better, the "
    "second of a transposed convolution"
)


def _masked(name: str, tensor: Tensor, tensors: Mapping[str, Tensor]) -> Found:
    """Find the mask of a pruned weight, which the layer multiplies it by."""
    mask = tensors.get(f"{name.removesuffix('_orig')}_mask") if name.endswith("_orig") else None
    if mask is None or len(tensor.shape) < 2 or not tensor.size:
        return None
    taken = {mask.name: "mask of a pruned weight"}
    if mask.shape != tensor.shape:
        note = f"expected a mask of the shape {list(tensor.shape)}, got {list(mask.shape)}"
        return _entry(name, tensor, "refused", None, note), taken
    kind = "matrix, pruned" if len(tensor.shape) == 2 else "conv kernel, flattened, pruned"
    shape = tensor.shape[0], tensor.size // tensor.shape[0]
    return _entry(name, tensor, kind, Masked(tensor, mask), shape=shape), taken


def _unsaid(name: str, tensor: Tensor, _: Mapping[str, Tensor]) -> Found:
    """Find a tensor from which a layer makes its weight, in a way that the file does not say."""
    made = re.search(r"(?:^|\.)parametrizations\.[^.]+\.original$|(?:^|[._])weight\w*_orig$", name)
    floating = not tensor.dtype.startswith(("int", "uint", "bool"))
    if made is None or len(tensor.shape) < 2 or not tensor.size or not floating:
        return None
    shape = tensor.shape[0], tensor.size // tensor.shape[0]
    kind = "matrix before a parametrization"
    if len(tensor.shape) > 2:
        kind = "tensor, flattened, before a parametrization"
    return _entry(name, tensor, kind, Part(tensor, shape), UNSAID, shape=shape), {}


UNSAID = (
    "the layer makes its weight of this tensor in a way that the file does not say: the norm is "
    "that of the tensor"
)


def _weight_norm(name: str, tensor: Tensor, tensors: Mapping[str, Tensor]) -> Found:
    """Find the lengths beside the directions of a weight normalisation."""
    if match := re.fullmatch(r"(.*parametrizations\..+)\.original1", name):
        g = tensors.get(f"{match[1]}.original0")
    elif re.search(r"weight\w*_v$", name) and f"{name.removesuffix('_v')}_orig" not in tensors:
        g = tensors.get(f"{name.removesuffix('_v')}_g")
    else:
        return None
    if g is None or len(tensor.shape) < 2 or not tensor.size:
        return None
    taken = {g.name: "lengths of a weight normalisation"}
    # One length for each slice; a single number is the length of all.
    long = [k for k, length in enumerate(g.shape) if length > 1]
    fits = len(g.shape) == len(tensor.shape) and all(g.shape[k] == tensor.shape[k] for k in long)
    if not fits or len(long) > 1:
        note = (
            f"expected one length for each slice of {list(tensor.shape)}, got {list(g.shape)} in "
            f"{g.name}"
        )
        return _entry(name, tensor, "refused", None, note), taken
    kind = "matrix, weight-normalised"
    if len(tensor.shape) > 2:
        kind = "conv kernel, flattened, weight-normalised"
    shape = tensor.shape[0], tensor.size // tensor.shape[0]
    return _entry(name, tensor, kind, WeightNorm(g, tensor), shape=shape), taken


def _quantised(name: str, tensor: Tensor, tensors: Mapping[str, Tensor]) -> Found:
    """Refuse the integers of a quantised weight."""
    if not tensor.dtype.startswith(("int", "uint")) or not tensor.size:
        return None
    stem, _, last = name.rpartition(".")
    beside = {other for other in PACKED if f"{stem}.{other}" in tensors}
    own = any(f"{name}{ending}" in tensors for ending in (".absmax", "_scale", "_scale_inv"))
    if name.endswith("_blocks") and (scales := f"{name.removesuffix('blocks')}scales") in tensors:
        return _entry(name, tensor, "refused", None, QUANTISED), {scales: "scales of blocks"}
    weight = last in {"qweight", "weight", "weight_packed", "in_proj_weight"}
    if not weight or not (own or beside or last in {"qweight", "weight_packed"}):
        return None
    taken = {
        other: "part of a quantised weight"
        for other in tensors
        if other != name and (other.startswith(f"{name}.") or other in {
            f"{stem}.{part}" for part in PACKED} or other == f"{name}_scale")
    }  # fmt: skip
    return _entry(name, tensor, "refused", None, QUANTISED), taken


def _entry(
    name: str,
    tensor: Tensor,
    kind: str,
    form: Form | None,
    note: str = "",
    shape: tuple[int, int] | None = None,
) -> Entry:
    if form is not None and shape is None:
        shape = (tensor.shape[0], tensor.shape[1])
    return Entry(name, tensor.file, tensor.dtype, tensor.shape, kind, form, shape, note)
