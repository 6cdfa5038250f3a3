"""One pass over a matrix as Dask tasks. Only this package imports dask and distributed."""

from bigspec.panels.measure import Measurement, measure
from bigspec.passes.blas import one_blas_thread
from bigspec.passes.columns import column_sums
from bigspec.passes.connection import connect, parse_bytes, parse_timedelta
from bigspec.passes.contract import (
    Accuracy,
    DeadlinePassed,
    FirstRounds,
    Forward,
    Hooks,
    PassCost,
    PassResult,
)
from bigspec.passes.dask_array import DaskMatrix, is_dask_array, open_dask_array
from bigspec.passes.executor import Executor
from bigspec.passes.inline import InlineExecutor
from bigspec.passes.mapping import Job, map_jobs
from bigspec.passes.on_cluster import find_executor
from bigspec.passes.performance import Recording, recorded
from bigspec.passes.persistence import check_persisted
from bigspec.passes.products.images import Carried
from bigspec.passes.products.product import passes_over, where, with_factors
from bigspec.passes.single import Pass
from bigspec.passes.sizes import register_sizes

__all__ = [
    "Accuracy",
    "Carried",
    "DaskMatrix",
    "DeadlinePassed",
    "Executor",
    "FirstRounds",
    "Forward",
    "Hooks",
    "InlineExecutor",
    "Job",
    "Measurement",
    "Pass",
    "PassCost",
    "PassResult",
    "Recording",
    "check_persisted",
    "column_sums",
    "connect",
    "find_executor",
    "is_dask_array",
    "map_jobs",
    "measure",
    "one_blas_thread",
    "open_dask_array",
    "parse_bytes",
    "parse_timedelta",
    "passes_over",
    "recorded",
    "where",
    "with_factors",
]

# Workers import this package when they unpickle the tasks of a pass.
register_sizes()
