"""The algorithms: each a frozen value with ``init``, ``step`` and ``bounds``, and no loop."""

from bigspec.algorithms.contract import Algorithm, Bounds, State
from bigspec.algorithms.gram import Gram
from bigspec.algorithms.lanczos import Lanczos
from bigspec.algorithms.power import Power

__all__ = ["Algorithm", "Bounds", "Gram", "Lanczos", "Power", "State"]
