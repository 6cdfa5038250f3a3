"""What `adapter_config.json` says of the LoRA matrices beside it (Hugging Face's PEFT)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bigspec.errors import SourceError
from bigspec.networks.formats.safetensors import parsed
from bigspec.sources.file_bytes import Content

__all__ = ["ADAPTER", "adapter_notes"]

ADAPTER = "adapter_config.json"
LONGEST = 1 << 20


def adapter_notes(content: Content) -> dict[str, Any]:
    """Return those of `lora_alpha`, `r`, `rank_pattern`, `alpha_pattern`, `use_rslora` it has.

    Raises
    ------
    SourceError
        It is no such document, or one of them is of another type.
    """
    if content.size > LONGEST:
        msg = f"{content.name}: expected at most {LONGEST} bytes, got {content.size}"
        raise SourceError(msg)
    raw = content.at(0, content.size, "its text").tobytes()
    document = parsed(raw, content.name, "its text")
    found = {}
    for key, fine in CHECKS.items():
        if (value := document.get(key)) is None:
            continue
        if not fine(value):
            msg = f"{content.name}: {key} is of the wrong type, {type(value).__name__}"
            raise SourceError(msg)
        found[key] = value
    return found


def _number(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < float("inf")


def _whole(value: Any) -> bool:
    return type(value) is int and value > 0


CHECKS: dict[str, Callable[[Any], bool]] = {
    "lora_alpha": _number,
    "r": _whole,
    "rank_pattern": lambda value: isinstance(value, dict) and all(map(_whole, value.values())),
    "alpha_pattern": lambda value: isinstance(value, dict) and all(map(_number, value.values())),
    "use_rslora": lambda value: isinstance(value, bool),
}
