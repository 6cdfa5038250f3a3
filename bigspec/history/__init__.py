"""The runs of a matrix that changes: a file of them, what the next run takes from it, the trend."""

from bigspec.history.drawing import figure, page, table
from bigspec.history.row import Row
from bigspec.history.store import History

SCHEMA = "bigspec.history/1"
"""Name and version of the JSON layout of `bigspec history --json`."""

__all__ = ["SCHEMA", "History", "Row", "figure", "page", "table"]
