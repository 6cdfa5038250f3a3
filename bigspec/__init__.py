"""The certified spectral norm of a matrix that does not fit in memory.

>>> import numpy as np, bigspec
>>> est = bigspec.norm(np.diag([3.0, 4.0]))
>>> bool(est.lower <= 4.0 <= est.upper)
True
"""

from bigspec.api import connect, norm, open_matrix, plan, show
from bigspec.checkpoint import Checkpoint
from bigspec.compose import centered, hstack, low_rank, scaled, standardized, vstack
from bigspec.conversion import Conversion, convert
from bigspec.decompose import svds
from bigspec.errors import BigspecError
from bigspec.gates import Gate
from bigspec.history import History
from bigspec.matrices import Matrix
from bigspec.planning import Plan
from bigspec.results import Estimate, PassRecord
from bigspec.triplets import Triplets

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
