"""What classes and fields are called in a record stays, whatever Python calls them."""

import json
import math
from dataclasses import dataclass, field, fields

import numpy as np
import pytest

import bigspec
from bigspec.checkpoint import Former, Wire
from bigspec.checkpoint.codec import Codec
from bigspec.results import PassRecord
from bigspec.run import SAVED_TYPES, Known
from tests.matrices import Chunked, decaying

# Runs that are saved somewhere hold these names. Never change one; a new field goes to the end,
# and needs a default.
NAMES = {
    "Progress": "run state running history begun tokens carried",
    "Known": "lower certain likely failed rounding before",
    "Running": "lower lower_name certain likely failed rounding",
    "RunningTop": "lower certain likely failed rounding before",
    "PassRecord": (
        "number lower upper upper_bound lower_bound deterministic ritz_values bytes_read seconds"
        " seconds_reading seconds_multiplying panels retries lowers uppers"
        " chunks missing_chunks bytes_pinned"
    ),
    "TripletPass": (
        "number lower upper upper_bound lower_bound deterministic ritz_values bytes_read seconds"
        " seconds_reading seconds_multiplying panels retries lowers uppers"
    ),
    "Begun": "rounds total seconds",
    "Carried": "blocks images errors Z X outer inner whole effect",
    "Partial": (
        "Z gram exponent facts tokens bytes_read seconds_reading seconds_multiplying retries"
        " chunks missing_chunks bytes_pinned"
    ),
    "RawFacts": "squares column_sums row_sum largest nonnegative magnitude chain",
    "Facts": (
        "frobenius_squared one_norm inf_norm largest nonnegative magnitude_squared chain"
        " terms given"
    ),
    "LanczosState": (
        "passes exponent facts V_last V_next T B tie basis eps start_defect narrowest collatz"
    ),
    "PowerState": "passes exponent facts V Z product log_scale log_norms eps start_defect",
    "GramState": "passes exponent facts values top eps exhausted",
    "TopState": (
        "passes exponent facts V_last V_next T B tie basis eps start_defect narrowest collatz"
    ),
    "StoredBlock": "block shape",
}
# Of a dictionary in a record, and of the one that says how panels were cut.
RUN = (
    "id matrix name algorithm block_size extra count basis_bytes failure_probability delta_ledger"
    " entropy start cut panels choices measured_bytes versions begun by"
)
CUT = "orientation panel_pieces slab_pieces tile_pieces round_panels fan_in"


def test_names_in_records_are_those_of_runs_that_lie_somewhere():
    assert {wire.name: " ".join(wire.table) for wire in SAVED_TYPES} == NAMES


WRITTEN = [one for one in SAVED_TYPES if isinstance(one, Wire)]
READ_ONLY = [one for one in SAVED_TYPES if isinstance(one, Former)]


@pytest.mark.parametrize("wire", WRITTEN, ids=lambda wire: wire.name)
def test_every_field_of_a_saved_class_has_one_name(wire):
    assert sorted(wire.table.values()) == sorted(f.name for f in fields(wire.kind))


def test_a_run_is_described_by_the_names_of_runs_that_lie_somewhere(tmp_path):
    A = Chunked.of(decaying(60, 20), (10, 20))
    bigspec.norm(A, algorithm="power", block_size=2, checkpoint=tmp_path / "run")
    run = bigspec.show(tmp_path / "run").run
    assert list(run) == RUN.split()
    assert list(run["cut"]) == CUT.split()


INFINITE = {"float": "inf"}
# As records were written while one value and k values had classes of their own.
ONE = {
    "lower": 3.0, "lower_name": "Ritz value", "certain": {"tuple": [5.0, "Frobenius"]},
    "likely": {"tuple": [4.0, "Lehmann"]}, "failed": False, "rounding": 2e-12,
}  # fmt: skip
ENDS = {"tuple": [{"tuple": [3.0, "Ritz value"]}, {"tuple": [0.0, "none"]}]}
OPEN = {"tuple": [{"tuple": [5.0, "Frobenius"]}, {"tuple": [INFINITE, "none"]}]}
SEVERAL = {
    "lower": ENDS, "certain": OPEN, "likely": OPEN, "failed": True,
    "rounding": {"tuple": [3e-12, INFINITE]}, "before": {"tuple": [6.0, INFINITE]},
}  # fmt: skip
PASS = {
    "number": 2, "lower": 3.0, "upper": 5.0, "upper_bound": "Lehmann", "lower_bound": "Ritz value",
    "deterministic": False, "ritz_values": {"tuple": [3.0]}, "bytes_read": 8, "seconds": 1.0,
    "seconds_reading": 0.5, "seconds_multiplying": 0.25, "panels": 4, "retries": 0,
}  # fmt: skip
CODEC = Codec(SAVED_TYPES)


def test_what_an_older_record_knows_of_one_value_is_known():
    known = CODEC.decode({"object": "Running", "fields": ONE}, refuse)
    assert known == Known(
        ((3.0, "Ritz value"),), ((5.0, "Frobenius"),), ((4.0, "Lehmann"),), False, (2e-12,)
    )
    assert known.ends == ((), ())
    assert not known.stalled(1e-15)


def test_what_an_older_record_knows_of_k_values_is_known_with_the_margin_that_is_there():
    known = CODEC.decode({"object": "RunningTop", "fields": SEVERAL}, refuse)
    open_ = ((5.0, "Frobenius"), (math.inf, "none"))
    assert (known.lower, known.certain) == (((3.0, "Ritz value"), (0.0, "none")), open_)
    assert (known.failed, known.before) == (True, (6.0, math.inf))
    assert known.rounding == (pytest.approx(2e-12), math.inf)  # 2 eps / l, where 3 was written
    assert known.ends == ((3.0, 0.0), (5.0, 5.0))


def test_a_pass_of_an_older_record_is_a_pass():
    one = CODEC.decode({"object": "PassRecord", "fields": PASS}, refuse)
    assert (one.number, one.lowers, one.width) == (2, (), 5.0 / 3.0 - 1)
    ends = {"lowers": {"tuple": [3.0, 1.0]}, "uppers": {"tuple": [5.0, 4.0]}}
    several = CODEC.decode({"object": "TripletPass", "fields": PASS | ends}, refuse)
    assert (type(several), several.uppers, several.width) == (PassRecord, (5.0, 4.0), 3.0)


@pytest.mark.parametrize("former", READ_ONLY, ids=lambda former: former.name)
def test_what_is_written_has_no_name_of_the_past(former):
    assert former.name not in {wire.name for wire in WRITTEN}
    with pytest.raises(TypeError):  # a field that is not there
        CODEC.decode({"object": former.name, "fields": {}}, refuse)


# A class as it was when records were written, and what became of it since.


@dataclass(frozen=True)
class Old:
    count: int
    V: object


@dataclass(frozen=True)
class New:
    block: object  # was V
    passes: int  # was count
    more: tuple = field(default=(1, 2))  # was not there


OLD = Codec([Wire(Old, "Old", "count V")])
NEW = Codec([Wire(New, "Old", "count V more", {"count": "passes", "V": "block"})])


def encoded(codec, value):
    return json.loads(json.dumps(codec.encode(value, refuse)))


def refuse(_):
    raise AssertionError


def test_a_record_from_before_a_class_and_its_fields_were_renamed_loads():
    V = np.arange(6.0).reshape(2, 3)
    back = NEW.decode(encoded(OLD, Old(3, V)), refuse)
    assert (type(back), back.passes, back.more) == (New, 3, (1, 2))
    np.testing.assert_array_equal(back.block, V)


def test_a_renamed_class_is_written_by_its_old_names_in_their_order():
    data = encoded(NEW, New(None, 3))
    assert data == {"object": "Old", "fields": {"count": 3, "V": None, "more": {"tuple": [1, 2]}}}
    assert list(data["fields"]) == ["count", "V", "more"]
    assert NEW.decode(data, refuse) == New(None, 3)


@pytest.mark.parametrize("name", ["Later", "New"])
def test_an_unknown_name_does_not_load(name):
    with pytest.raises(KeyError, match=name):
        NEW.decode({"object": name, "fields": {}}, refuse)
    with pytest.raises(KeyError, match="passes"):  # what Python calls it is not its name
        NEW.decode({"object": "Old", "fields": {"V": None, "passes": 3}}, refuse)


@pytest.mark.parametrize(
    ("names", "renamed"),
    [
        ("count", {}),
        ("count V more", {}),
        ("count V V", {}),
        ("count V more", {"more": "V"}),
        ("count V", {"V": "count"}),
        ("count V", {"passes": "count"}),
    ],
    ids=["too few", "too many", "twice", "one field twice", "a field without", "of nothing"],
)
def test_a_field_without_a_name_or_with_two_is_refused(names, renamed):
    with pytest.raises(ValueError, match=r"^Old: expected"):
        Wire(Old, "Old", names, renamed)


def test_two_classes_of_one_name_are_refused():
    with pytest.raises(ValueError, match="one name for each class"):
        Codec([Wire(Old, "Old", "count V"), Wire(New, "Old", "block passes more")])
    with pytest.raises(ValueError, match="one name for each class"):
        Codec([Wire(Old, "Old", "count V"), Wire(Old, "Older", "count V")])
