"""Verdicts over whole intervals: sound for every norm inside, attained at the ends, and early."""

import json
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import bigspec
from bigspec import Gate
from bigspec.algorithms import Lanczos
from bigspec.certificate import Facts
from bigspec.errors import ArgumentError
from bigspec.results.gate import relative_change
from bigspec.run import Known
from tests.checkpoint.runs import assert_same_bits
from tests.matrices import gapped
from tests.monte_carlo import DiagonalPass, states
from tests.run.test_pass_counts import DELTA, SPECTRA

norms = st.floats(0.0, 1e308) | st.sampled_from([5e-324, 1e-300, 1e300, 1.0])
intervals = st.tuples(norms, norms).map(sorted).map(tuple)
shares = st.floats(0.0, 1.0)


def between(interval, share):
    lower, upper = interval
    return min(max(lower + share * (upper - lower), lower), upper)


def changed(s0, s1):
    """|s1 - s0| / s0, exactly."""
    if s0 == 0:
        return 0 if s1 == 0 else math.inf
    return abs(Fraction(s1) - Fraction(s0)) / Fraction(s0)


@given(reference=intervals, now=intervals, share=shares, other=shares)
@example(reference=(1.0, 1.0), now=(1.0, 1.0), share=0.0, other=0.0)
@example(reference=(5e-324, 1.0), now=(0.0, 1e308), share=0.0, other=1.0)
def test_the_change_of_any_two_norms_lies_in_its_interval(reference, now, share, other):
    low, high = relative_change(reference, *now)
    s0, s1 = between(reference, share), between(now, other)
    assert low <= changed(s0, s1) <= high


@pytest.mark.parametrize(
    ("reference", "now", "change"),
    [
        ((4, 5), (4, 5), (0, 0.25)),  # the ends nearest to each other coincide
        ((4, 5), (10, 12), (1.0, 2.0)),
        ((8, 10), (2, 4), (0.5, 0.8)),
        ((4, 8), (5, 6), (0.0, 0.5)),
        ((0, 2), (4, 5), (1.0, math.inf)),
        ((0, 0), (0, 0), (0.0, 0.0)),
        ((0, 0), (1, 2), (math.inf, math.inf)),
        ((0, 0), (0, 2), (0.0, math.inf)),
        ((4, 5), (4, math.inf), (0.0, math.inf)),
        ((5e-324, 5e-324), (1e308, 1e308), (np.finfo(float).max, math.inf)),
    ],
)
def test_the_interval_of_the_change_is_attained(reference, now, change):
    assert relative_change(reference, *now) == change


@given(reference=intervals, now=intervals, limit=st.floats(0.0, 10.0), share=shares, other=shares)
def test_a_verdict_holds_for_every_norm_in_the_interval(reference, now, limit, share, other):
    gate = Gate(min_norm=0.5, max_norm=2.0, max_change=limit, reference=reference)
    s0, s1 = between(reference, share), between(now, other)
    true = {
        "max_norm": s1 <= 2.0,
        "min_norm": s1 >= 0.5,
        "max_change": changed(s0, s1) <= Fraction(limit),
    }
    verdict = gate.judge(*now)
    for check in verdict.checks:
        if check.outcome != "undecided":
            assert (check.outcome == "passed") is true[check.name], check
    if verdict.outcome == "passed":
        assert all(true.values())
    if verdict.outcome == "failed":
        assert not all(true.values())


@pytest.mark.parametrize(
    ("gate", "interval", "outcome", "reason"),
    [
        (Gate(max_norm=2), (1.0, 2.0), "passed", "does not exceed max_norm 2.0: it is at most 2.0"),
        (Gate(max_norm=2), (2.0, 2.5), "undecided", "max_norm 2.0 lies inside the interval"),
        (Gate(max_norm=2), (2.1, 3.0), "failed", "exceeds max_norm 2.0: it is at least 2.1"),
        (Gate(min_norm=2), (1.0, 1.5), "failed", "is below min_norm 2.0: it is at most 1.5"),
        (Gate(min_norm=2), (1.0, 2.0), "undecided", "min_norm 2.0 lies inside the interval"),
        (Gate(min_norm=2), (2.0, math.inf), "passed", "not below min_norm 2.0: it is at least 2.0"),
        (Gate(1, 0.5), (2.0, 3.0), "failed", "exceeds max_norm 1.0"),  # one failed, one passed
        (Gate(max_change=0.1), (1.0, 2.0), "passed", "no accepted run to compare with"),
        (Gate(max_change=0.1, reference=(1, 1)), (1.02, 1.05), "passed", "by at most 5.01e-02"),
        (Gate(max_change=0.1, reference=(1, 1)), (1.2, 1.3), "failed", "at least 0.199"),
        (Gate(max_change=0.1, reference=(1, 1.2)), (1.2, 1.2), "undecided", "[0, 0.200]"),
    ],
)
def test_each_verdict_says_the_decisive_number(gate, interval, outcome, reason):
    verdict = gate.judge(*interval)
    assert (verdict.outcome, reason in verdict.reason) == (outcome, True), verdict.reason
    assert verdict.exit_status == {"passed": 0, "failed": 3, "undecided": 4}[outcome]


def test_what_passes_a_limit_on_change_stops_only_as_a_reference_for_the_next():
    gate = Gate(max_change=0.1, reference=(1.0, 1.0))
    assert gate.judge(1.0, 1.05).outcome == "passed"
    assert not gate.decides(1.0, 1.05)
    assert gate.decides(1.0, 1.0 + 0.1 / 8)
    assert gate.decides(1.2, 9.0)  # failed: no reason to go on
    assert not Gate(max_change=0.1).decides(1.0, math.inf)
    assert gate.decides(1.0, 1.0)


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({}, "expected at least one of max_norm, min_norm and max_change"),
        ({"reference": (1, 2)}, "expected at least one of"),
        ({"max_norm": -1}, "max_norm: expected a finite number >= 0, got -1"),
        ({"max_norm": "3"}, "got '3'"),
        ({"min_norm": math.nan}, "min_norm: expected a finite number"),
        ({"max_norm": 1, "min_norm": 2}, "expected min_norm <= max_norm, got 2.0 > 1.0"),
        ({"max_change": True}, "max_change: expected a finite number"),
        ({"max_change": 0.1, "reference": (2, 1)}, "reference: expected finite (lower, upper)"),
        ({"max_change": 0.1, "reference": (1, math.inf)}, "reference: expected finite"),
        ({"max_change": 0.1, "reference": 3}, "reference: expected finite"),
    ],
)
def test_gates_that_mean_nothing_are_refused(limits, said):
    with pytest.raises(ArgumentError) as caught:
        Gate(**limits)
    assert said in str(caught.value)


def test_another_object_is_no_gate():
    with pytest.raises(ArgumentError, match=r"gate: expected a bigspec\.Gate, got 2\.0"):
        bigspec.norm(np.eye(3), gate=2.0)


# Early ---------------------------------------------------------------------------------------


TAKEN = {  # gates at 2, 0.5, 1.01 and 0.99 times the norm
    "1/i": (1, 1, 2, 1),
    "i^-1/2": (2, 1, 3, 2),
    "gap .707": (2, 1, 5, 3),
    "cluster of 8": (2, 1, 7, 4),
    "flat edge": (2, 1, None, None),  # 10 and 6: not waited for here
}


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_a_far_gate_takes_two_passes_at_most_and_a_near_one_what_it_needs(spectrum):
    """Block Lanczos at b = 16; sums of the matrix of no help."""
    values = SPECTRA[spectrum] ** 2
    facts = Facts(float(values.sum()), 1e9, 1e9, 1.0, False)
    algorithm, known = Lanczos(16), Known()
    waiting = {
        Gate(max_norm=share): most
        for share, most in zip((2.0, 0.5, 1.01, 0.99), TAKEN[spectrum], strict=True)
        if most is not None
    }
    passes, most = DiagonalPass(values, facts=facts), max(waiting.values())
    for number, state in enumerate(states(algorithm, passes, 0, None, most), start=1):
        known = known.updated(algorithm.bounds(state, DELTA, complex_=False), 0)
        ends = known.interval.lower, known.interval.upper
        assert all(number <= allowed for allowed in waiting.values())
        waiting = {gate: k for gate, k in waiting.items() if not gate.decides(*ends)}
        if not waiting:
            break
    assert not waiting


ASKED = {"algorithm": "lanczos", "block_size": 4, "seed": 3}


def test_a_decided_gate_ends_the_run_and_the_json_says_why():
    A = gapped(300, 200)
    whole = bigspec.norm(A, **ASKED)
    est = bigspec.norm(A, gate=Gate(max_norm=3.0, min_norm=0.1), **ASKED)
    assert est.passes < whole.passes
    assert (est.stopped_by, est.converged) == ("gate", False)
    assert est.upper <= 3.0
    assert "the gate is decided (passed)" in est.status
    data = json.loads(est.to_json())["gate"]
    assert (data["outcome"], data["exit_status"], data["max_norm"]) == ("passed", 0, 3.0)
    assert [check["name"] for check in data["checks"]] == ["max_norm", "min_norm"]
    assert "gate         passed: the norm does not exceed max_norm 3.0" in est.summary()
    assert est.history == tuple(
        # times differ; the numbers of a run do not depend on when it is stopped
        type(r)(**vars(r) | {k: getattr(mine, k) for k in vars(r) if "seconds" in k})
        for r, mine in zip(whole.history, est.history, strict=False)
    )


def test_a_gate_inside_the_interval_is_undecided_at_the_end():
    A = gapped(300, 200)  # sigma_1 = 1
    est = bigspec.norm(A, gate=Gate(max_norm=1.0000001), rtol=1e-2, **ASKED)
    assert est.stopped_by == "converged"
    assert est.gate.outcome == "undecided"
    est = bigspec.norm(A, gate=Gate(max_norm=1.0000001), max_passes=2, **ASKED)
    assert (est.stopped_by, est.gate.exit_status) == ("passes", 4)


def test_a_run_that_a_gate_ended_goes_on_from_its_checkpoint(tmp_path):
    A = gapped(300, 200)
    where = tmp_path / "run"
    first = bigspec.norm(A, gate=Gate(max_norm=3.0), checkpoint=where, **ASKED)
    assert first.stopped_by == "gate"
    assert not bigspec.show(where).finished
    again = bigspec.norm(A, gate=Gate(max_norm=3.0), checkpoint=where, **ASKED)
    assert (again.passes, again.stopped_by, again.run_id) == (first.passes, "gate", first.run_id)
    rest = bigspec.norm(A, checkpoint=where, **ASKED)
    assert rest.converged
    assert rest.run_id == first.run_id == bigspec.show(where).to_dict()["run_id"]
    assert_same_bits(rest, bigspec.norm(A, **ASKED))


def test_every_run_has_an_id_of_its_own():
    first, second = (bigspec.norm(np.eye(3), seed=1) for _ in range(2))
    assert len(first.run_id) == 32
    assert first.run_id != second.run_id
