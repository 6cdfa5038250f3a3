"""The algorithms: each a frozen value with ``init``, ``step`` and ``bounds``, and no loop."""

from bigspec.algorithms.contract import Algorithm, Shelf, State, StoredBlock
from bigspec.algorithms.gram import Gram, GramState
from bigspec.algorithms.lanczos import Lanczos
from bigspec.algorithms.power import Power, PowerState
from bigspec.algorithms.recurrence import LanczosState
from bigspec.algorithms.top import TopLanczos, TopState

__all__ = [
    "Algorithm",
    "Gram",
    "GramState",
    "Lanczos",
    "LanczosState",
    "Power",
    "PowerState",
    "Shelf",
    "State",
    "StoredBlock",
    "TopLanczos",
    "TopState",
]
