# What each name of this room is; see `bigspec/__init__.pyi`.

from .json_log import JsonLog, taking_over
from .live import LiveProgress
from .observer import CheckpointWarning, Observer

__all__ = [
    "CheckpointWarning",
    "JsonLog",
    "LiveProgress",
    "Observer",
    "taking_over",
]
