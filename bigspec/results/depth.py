"""The number of a layer in the name of a tensor: what makes two tensors of one kind."""

from __future__ import annotations

import re

__all__ = ["kind_and_depth"]

NUMBER = re.compile(r"(?<=[._/\[])\d+(?=[._/\]]|$)|(?<=layers)\d+|(?<=layer)\d+|(?<=block)\d+")


def kind_and_depth(name: str) -> tuple[str, int | None]:
    """Return a name with a star for the number of its layer, and that number if it has one."""
    number = NUMBER.search(name)
    if number is None:
        return name, None
    return f"{name[: number.start()]}*{name[number.end() :]}", int(number[0])
