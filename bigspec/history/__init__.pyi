# What each name of this room is; see `bigspec/__init__.pyi`.

from .drawing import figure, page, table
from .row import Row
from .store import History

__all__ = [
    "SCHEMA",
    "History",
    "Row",
    "figure",
    "page",
    "table",
]

SCHEMA: str
