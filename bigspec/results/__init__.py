"""What a run returns, and how it is told: they describe and never compute."""

from bigspec.results.estimate import Estimate
from bigspec.results.gate import Gate, Verdict
from bigspec.results.records import (
    Interval,
    PassRecord,
    Range,
    plain_values,
    relative_width,
)
from bigspec.results.triplets import Triplets

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
