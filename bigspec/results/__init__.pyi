# What each name of this room is; see `bigspec/__init__.pyi`.

from .estimate import Estimate
from .gate import Gate, Verdict
from .records import Interval, PassRecord, Range, plain_values, relative_width
from .triplets import Triplets

__all__ = [
    "Estimate",
    "Gate",
    "Interval",
    "PassRecord",
    "Range",
    "Triplets",
    "Verdict",
    "plain_values",
    "relative_width",
]
