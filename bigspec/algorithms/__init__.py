"""The algorithms: each a frozen value with ``init``, ``step`` and ``bounds``, and no loop."""

from bigspec.algorithms.contract import Algorithm, Bounds, State
from bigspec.algorithms.gram import Gram, GramState
from bigspec.algorithms.lanczos import Lanczos, LanczosState
from bigspec.algorithms.power import Power, PowerState

__all__ = [
    "Algorithm",
    "Bounds",
    "Gram",
    "GramState",
    "Lanczos",
    "LanczosState",
    "Power",
    "PowerState",
    "State",
]
