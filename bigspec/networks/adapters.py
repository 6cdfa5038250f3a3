"""Low-rank pairs: which tensors make one, and what their product is scaled by."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from bigspec.networks.adapter_matrices import Hadamard
from bigspec.networks.companions import scales_of
from bigspec.networks.entry import Entry
from bigspec.networks.forms import Kronecker, Product
from bigspec.networks.tensors import Model, Tensor

__all__ = ["pairs_of"]

DOWN = re.compile(
    r"^(?P<stem>.+?)[._](?:lora_A|lora_down|lora\.down|lora_embedding_A)"
    r"(?P<rest>(?:\.[^.]+)??)(?P<weight>\.weight)?$"
)
UP = {
    "lora_A": "lora_B", "lora_down": "lora_up", "lora.down": "lora.up",
    "lora_embedding_A": "lora_embedding_B",
}  # fmt: skip
LOKR = re.compile(r"^(?P<stem>.+)\.lokr_w1(?:_a)?$")
LOHA = re.compile(r"^(?P<stem>.+)\.hada_w1_a$")
WHOLE = "merge it into its weight, and scan that"
UNSCALED = "no alpha was found: the product of the factors as they are"


def pairs_of(model: Model) -> tuple[dict[str, Entry], dict[str, str]]:
    """Return the rows of low-rank pairs by the name of their first tensor, and what they use up.

    Returns
    -------
    rows : dict
        From the name of one of the tensors to the row that stands in its place.
    taken : dict
        From the name of every other tensor of a pair to what it is.
    """
    rows: dict[str, Entry] = {}
    taken: dict[str, str] = {}
    for name in model:
        if DOWN.match(name):
            row, others = _lora(name, model)
        else:
            row, others = _loha(name, model) if LOHA.match(name) else _lokr(name, model)
        if row is not None:
            rows[name] = row
            taken |= others
    return rows, taken


def _lora(name: str, model: Model) -> tuple[Entry | None, dict[str, str]]:
    match = DOWN.match(name)
    assert match is not None
    marks = [mark for mark in UP if mark in name]
    mark = max(marks, key=len)
    head, _, tail = name.rpartition(mark)
    up, down = model.get(head + UP[mark] + tail), model[name]
    if up is None or not _fit(up.shape, down.shape):
        return None, {}
    stem = match["stem"]
    alpha, rooted, note = _alpha(stem, model)
    taken = {up.name: "factor of a LoRA pair"}
    magnitudes = _magnitudes(stem, match["rest"] or "", model)
    if magnitudes:
        note = "; ".join(filter(None, [note, DORA]))
        taken |= dict.fromkeys(magnitudes, "magnitudes of DoRA")
    if isinstance(alpha, Tensor):
        taken[alpha.name] = "alpha of a LoRA pair"
    rank = down.shape[0]
    m, n = up.size // rank, down.size // rank
    form: Product | None = Product(up, down, alpha, rooted)
    kind = "LoRA product" if len(down.shape) == 2 else "LoRA product of kernels, flattened"
    shape: tuple[int, int] | None = (m, n)
    refusal, others = _refusal(up, down, f"{stem}.lora_mid.weight", model)
    if refusal:
        kind, form, shape, note, taken = "refused", None, None, refusal, taken | others
    entry = Entry(
        f"{stem}{match['rest'] or ''} (LoRA)", down.file, down.dtype, (m, n), kind, form, shape,
        note,
    )  # fmt: skip
    return entry, taken


DORA = "DoRA: the norm of the low-rank product alone, its magnitudes are not in it"


def _magnitudes(stem: str, rest: str, model: Model) -> list[str]:
    """Return the names of the lengths that DoRA gives the columns of weight and product."""
    ends = [".dora_scale", *(f".lora_magnitude_vector{rest}{end}" for end in ("", ".weight"))]
    return [f"{stem}{end}" for end in ends if f"{stem}{end}" in model]


def _refusal(up: Tensor, down: Tensor, middle: str, model: Model) -> tuple[str, dict[str, str]]:
    """Return why two factors alone are not the product, and the tensors that say so."""
    if middle in model:
        said = "a core (lora_mid) stands between the factors: their product has no norm here"
        return f"{said}; {WHOLE}", {middle: "core of a LoRA pair"}
    for factor in (up, down):
        scales = scales_of(factor.name, model)
        integers = factor.dtype.startswith(("int", "uint", "bool"))
        if integers or (scales and factor.dtype.startswith("float8")):
            said = f"quantised factors ({factor.dtype}): their scales are not known here; {WHOLE}"
            return said, dict.fromkeys(scales, "scale")
    return "", {}


def _loha(name: str, model: Model) -> tuple[Entry | None, dict[str, str]]:
    """Find an entrywise product of two low-rank products."""
    stem = name.removesuffix(".hada_w1_a")
    ends = ("hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2", "alpha", "dora_scale")
    taken = {f"{stem}.{end}": "part of LoHa" for end in ends if f"{stem}.{end}" in model}
    found = [model.get(f"{stem}.hada_w{k}_{side}") for k in (1, 2) for side in "ab"]
    first = model[name]
    factors = [tensor for tensor in found if tensor is not None]
    if len(factors) < 4:
        return None, {}
    (a, b, c, d), core = factors, any(f"{stem}.hada_t{k}" in model for k in (1, 2))
    fits = all(len(t.shape) == 2 and t.size for t in factors)
    fits = fits and a.shape[1] == b.shape[0] and c.shape[1] == d.shape[0]
    fits = fits and (a.shape[0], b.shape[1]) == (c.shape[0], d.shape[1])
    integers = any(t.dtype.startswith(("int", "uint", "bool")) for t in factors)
    integers |= any(scales_of(t.name, model) for t in factors)
    if core or not fits or integers:
        why = "a core (hada_t1, hada_t2) between its factors" if core else (
            "quantised factors" if integers else "factors that do not fit"
        )  # fmt: skip
        note = f"LoHa with {why} has no norm here: {WHOLE}"
        return Entry(f"{stem} (LoHa)", first.file, first.dtype, (), "refused", note=note), taken
    alpha = model.get(f"{stem}.alpha")
    note = UNSCALED if alpha is None else ""
    if f"{stem}.dora_scale" in model:
        note = "; ".join(filter(None, [note, DORA]))
    shape = a.shape[0], b.shape[1]
    form = Hadamard((a, b), (c, d), alpha)
    entry = Entry(
        f"{stem} (LoHa)", first.file, first.dtype, shape, "LoHa product", form, shape, note
    )
    return entry, taken


def _fit(up: tuple[int, ...], down: tuple[int, ...]) -> bool:
    """Whether the columns of one are the rows of the other, kernels folded."""
    if len(up) < 2 or len(down) < 2 or not all((*up, *down)):
        return False
    return up[1] == down[0] and all(length == 1 for length in up[2:])


def _alpha(stem: str, model: Model) -> tuple[Any, bool, str]:
    """Return alpha, whether it goes with the root of the rank, and what to say of it."""
    stored = model.get(f"{stem}.alpha")
    if stored is not None and stored.size == 1:
        return stored, False, ""
    config = model.notes.get("adapter")
    if not isinstance(config, Mapping):
        return None, False, UNSCALED
    alpha = _of_module(config.get("alpha_pattern"), stem, config.get("lora_alpha"))
    if not isinstance(alpha, (int, float)) or isinstance(alpha, bool):
        return None, False, UNSCALED
    return float(alpha), config.get("use_rslora") is True, ""


def _of_module(patterns: Any, stem: str, default: Any) -> Any:
    """Look up a module in a table of PEFT by the end of its name; else return the default.

    A key that looks like a regular expression may or may not mean this module: then None, no alpha.
    """
    if not isinstance(patterns, Mapping):
        return default
    for pattern, value in patterns.items():
        if stem == pattern or stem.endswith(f".{pattern}"):
            return value
        if set(str(pattern)) & set("\\^$*+?()[]{}|"):  # the first that fits counts
            return None
    return default


def _lokr(name: str, model: Model) -> tuple[Entry | None, dict[str, str]]:
    match = LOKR.match(name)
    if match is None:
        return None, {}
    stem = match["stem"]
    first, second = (_factor(f"{stem}.lokr_w{k}", model) for k in (1, 2))
    if not first or not second:
        return None, {}
    file, dtype = first[0].file, first[0].dtype
    tucker = model.get(f"{stem}.lokr_t2")
    parts = {t.name: "factor of a LoKr pair" for t in (*first, *second) if t.name != name}
    if tucker is not None:
        parts[tucker.name] = "factor of a LoKr pair"
        note = "a Tucker core (lokr_t2) stands between the factors: their product has no norm here"
        return Entry(f"{stem} (LoKr)", file, dtype, (), "refused", note=note), parts
    alpha = model.get(f"{stem}.alpha")
    low = [pair for pair in (first, second) if len(pair) == 2]
    rank = low[-1][1].shape[0] if low else 1
    # LyCORIS scales only factors that are low-rank themselves.
    alpha_used = alpha if low else None
    note = UNSCALED if low and alpha is None else ""
    if alpha is not None:
        parts[alpha.name] = "alpha of a LoKr pair"
    magnitudes = _magnitudes(stem, "", model)
    if magnitudes:
        note = "; ".join(filter(None, [note, DORA]))
        parts |= dict.fromkeys(magnitudes, "magnitudes of DoRA")
    (a, b), (c, d) = (_folded(pair) for pair in (first, second))
    form = Kronecker(first, second, alpha_used, rank)
    shape = a * c, b * d
    return Entry(f"{stem} (LoKr)", file, dtype, shape, "LoKr product", form, shape, note), parts


def _factor(name: str, model: Model) -> tuple[Tensor, ...]:
    whole = model.get(name)
    if whole is not None:
        return (whole,) if len(whole.shape) >= 2 and whole.size else ()
    a, b = model.get(f"{name}_a"), model.get(f"{name}_b")
    if a is None or b is None or len(a.shape) != 2 or len(b.shape) < 2:
        return ()
    return (a, b) if a.shape[1] == b.shape[0] and a.size and b.size else ()


def _folded(pair: tuple[Tensor, ...]) -> tuple[int, int]:
    first, last = pair[0], pair[-1]
    return first.shape[0], last.size // last.shape[0]
