# What each name of this room is; see `bigspec/__init__.pyi`.

from .drawing import figure, page, table
from .layers import LAYERS_STYLE, layers_by_source, layers_of, layers_section
from .row import Row
from .store import History

__all__ = [
    "LAYERS_STYLE",
    "SCHEMA",
    "History",
    "Row",
    "figure",
    "layers_by_source",
    "layers_of",
    "layers_section",
    "page",
    "table",
]

SCHEMA: str
