# What each name of this room is; see `bigspec/__init__.pyi`.

from .arguments import as_bytes, as_options, is_url
from .cluster import Recording, recorded
from .matrices import open_within

__all__ = [
    "Recording",
    "as_bytes",
    "as_options",
    "is_url",
    "open_within",
    "recorded",
]
