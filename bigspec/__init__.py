"""The certified spectral norm of a matrix that does not fit in memory.

>>> import numpy as np, bigspec
>>> est = bigspec.norm(np.diag([3.0, 4.0]))
>>> bool(est.lower <= 4.0 <= est.upper)
True
"""

from bigspec.api.cluster import connect
from bigspec.api.matrices import (
    centered,
    hstack,
    low_rank,
    open_matrix,
    scaled,
    standardized,
    vstack,
)
from bigspec.api.norm import norm, plan
from bigspec.api.svds import svds
from bigspec.checkpoint import Checkpoint
from bigspec.conversion import Conversion, convert
from bigspec.errors import BigspecError
from bigspec.history import History
from bigspec.matrices import Matrix
from bigspec.results import Estimate, PassRecord
from bigspec.results.gate import Gate
from bigspec.results.triplets import Triplets
from bigspec.run.described import show
from bigspec.run.plan import Plan

__all__ = [
    "BigspecError",
    "Checkpoint",
    "Conversion",
    "Estimate",
    "Gate",
    "History",
    "Matrix",
    "PassRecord",
    "Plan",
    "Triplets",
    "centered",
    "connect",
    "convert",
    "hstack",
    "low_rank",
    "norm",
    "open_matrix",
    "plan",
    "scaled",
    "show",
    "standardized",
    "svds",
    "vstack",
]
__version__ = "0.1.0"


def __dir__() -> list[str]:
    """List the public names, and not the modules that lie beside them."""
    return [*__all__, "__doc__", "__version__", "errors", "watch"]
