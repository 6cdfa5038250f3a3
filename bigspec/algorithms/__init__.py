"""The algorithms: each is one file and one row here, without a loop."""

from bigspec.algorithms.block_lanczos import LanczosState
from bigspec.algorithms.contract import Algorithm, BlockStore, State, StoredBlock
from bigspec.algorithms.gram import Gram, GramState
from bigspec.algorithms.lanczos import Lanczos
from bigspec.algorithms.power import Power, PowerState
from bigspec.algorithms.registry import Registry, Row, StateType
from bigspec.algorithms.top import TopLanczos, TopState

__all__ = [
    "REGISTRY",
    "Algorithm",
    "BlockStore",
    "Gram",
    "GramState",
    "Lanczos",
    "LanczosState",
    "Power",
    "PowerState",
    "Row",
    "State",
    "StateType",
    "StoredBlock",
    "TopLanczos",
    "TopState",
]

# Of block Lanczos for a gap of 0.7 (method, section 9).
PASSES = {1: 15, 2: 11, 4: 8, 8: 7, 16: 6, 32: 5}
# Of Gaussian matrices, 1000 x 1000 to 30000 x 1000 and 2500 x 2500 (benchmarks/planning.py).
FLAT = {1: 100, 2: 43, 4: 28, 8: 18, 16: 14, 32: 11}
RECURRENCE = "passes exponent facts V_last V_next T B tie basis eps start_defect narrowest collatz"

REGISTRY = Registry(
    Row(
        "lanczos",
        Lanczos,
        lambda block_size, basis_bytes, _: Lanczos(block_size, basis_bytes=basis_bytes),
        states=(StateType(LanczosState, "LanczosState", RECURRENCE),),
        basis=True,
        event="chi-square of the start block",
        passes=PASSES,
        flat=FLAT,
    ),
    Row(
        "power",
        Power,
        lambda block_size, *_: Power(block_size),
        states=(
            StateType(
                PowerState,
                "PowerState",
                "passes exponent facts V Z product log_scale log_norms eps start_defect",
            ),
        ),
        blocks=5,
        event="chi-square of the start block",
    ),
    Row(
        "gram",
        Gram,
        lambda *_: Gram(),
        states=(
            StateType(GramState, "GramState", "passes exponent facts values top eps exhausted"),
        ),
        blocks=3,
        entries=True,
        always=512,
    ),
    Row(
        "lanczos",
        TopLanczos,
        lambda block_size, basis_bytes, k: TopLanczos(block_size, basis_bytes=basis_bytes, count=k),
        states=(StateType(TopState, "TopState", RECURRENCE),),
        several=True,
        basis=True,
        event="windows of the start block",
    ),
)
