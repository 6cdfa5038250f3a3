# What each public name is; read by type checkers, and by the lazy loader when the name is used.

from . import errors, watch
from .api.cluster import connect
from .api.convolutions import conv, conv_norm
from .api.matrices import (
    centered,
    hstack,
    low_rank,
    open_matrix,
    scaled,
    standardized,
    vstack,
)
from .api.norm import norm, plan
from .api.svds import svds
from .checkpoint.options import Checkpoint
from .conversion.convert import convert
from .conversion.normal import normalize
from .conversion.normalization import Normalization
from .conversion.outcome import Conversion
from .errors import BigspecError
from .history.store import History
from .matrices import Matrix
from .networks.lipschitz.door import lipschitz
from .networks.lipschitz.result import Lipschitz
from .networks.normalized import NormalizedModel
from .networks.normalizing import normalize_model
from .networks.scan import scan
from .networks.show import show
from .results.estimate import Estimate
from .results.gate import Gate
from .results.records import PassRecord
from .results.triplets import Triplets
from .run.plan import Plan

__all__ = [
    "BigspecError",
    "Checkpoint",
    "Conversion",
    "Estimate",
    "Gate",
    "History",
    "Lipschitz",
    "Matrix",
    "Normalization",
    "NormalizedModel",
    "PassRecord",
    "Plan",
    "Triplets",
    "centered",
    "connect",
    "conv",
    "conv_norm",
    "convert",
    "errors",
    "hstack",
    "lipschitz",
    "low_rank",
    "norm",
    "normalize",
    "normalize_model",
    "open_matrix",
    "plan",
    "scaled",
    "scan",
    "show",
    "standardized",
    "svds",
    "vstack",
    "watch",
]
__version__: str
