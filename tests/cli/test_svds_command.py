"""What `svds` shares with `norm`: options, gate, history, warm start, report, plot, log."""

import json
import re
from dataclasses import replace

import click
import numpy as np
import pytest
import zarr
from click.testing import CliRunner

import bigspec
from bigspec import Gate, History, cli
from bigspec.checkpoint import Checkpoint
from bigspec.results.text import interval_text
from tests.matrices import decaying

OWN = {"norm": {"algorithm"}, "svds": {"count", "u_store", "v_file"}}
NARROW = ("--block-size", 6)  # the whole space would be certain after one pass


def command(*args):
    return CliRunner().invoke(cli.main, [str(arg) for arg in args], prog_name="bigspec")


@pytest.fixture
def tall(tmp_path):
    A = decaying(120, 40)
    zarr.create_array(tmp_path / "A.zarr", shape=A.shape, chunks=(30, 40), dtype=A.dtype)[:] = A
    return tmp_path / "A.zarr"


@pytest.fixture
def wide(tmp_path):
    A = decaying(120, 40).T.copy()
    zarr.create_array(tmp_path / "W.zarr", shape=A.shape, chunks=(40, 30), dtype=A.dtype)[:] = A
    return tmp_path / "W.zarr"


def svds(matrix, *args):
    return command("svds", matrix, "-k", 3, "--seed", 1, *NARROW, "--quiet", *args)


def sigma(matrix):
    return np.linalg.svd(zarr.open_array(matrix, mode="r")[:], compute_uv=False)


# The options ---------------------------------------------------------------------------------


def test_both_commands_take_the_same_options_besides_their_own():
    taken = {
        name: {p.name for p in cli.main.commands[name].params if isinstance(p, click.Option)}
        for name in OWN
    }
    assert taken["norm"] - OWN["norm"] == taken["svds"] - OWN["svds"]


@pytest.mark.parametrize("name", OWN)
def test_help_lists_options_by_subject_and_each_line_says_what_it_is_about(name):
    shown = command(name, "--help").stdout
    order = [shown.index(f"\n{subject}:\n") for subject in (
        "Matrix", "Accuracy and effort", "Where it runs", "Checkpoint", "Gate and history",
        "Output", "Others",
    )]  # fmt: skip
    assert order == sorted(order)
    for option in cli.main.commands[name].params:
        if isinstance(option, click.Option):
            assert re.match(r"[A-Z]\w+[ ,':]", option.help or ""), option.name
            assert not (option.help or "").startswith(("Of ", "The same")), option.name


def test_checkpoint_options_reach_the_run(tall, tmp_path, monkeypatch):
    asked, made = {}, bigspec.svds

    def watched(*args, **options):
        asked.update(options)
        return made(*args, **options)

    monkeypatch.setattr("bigspec.svds", watched)
    place = str(tmp_path / "run")
    assert svds(
        tall, "--checkpoint", place, "--keep-blocks", "--checkpoint-interval", 5
    ).exit_code == 0  # fmt: skip
    assert asked["checkpoint"] == Checkpoint(place, 5.0, keep_blocks=True)
    kept = [path for path in (tmp_path / "run" / "records").iterdir() if path.is_dir()]
    assert len(kept) > 2  # all steps, where two stay by default


# The gate ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "passes", "status", "outcome"),
    [(2.0, 40, 0, "passed"), (0.5, 40, 3, "failed"), (1.0, 1, 4, "undecided")],
)
def test_a_gate_looks_at_the_largest_value(tall, share, passes, status, outcome):
    largest = float(sigma(tall)[0])
    limits = ("--max-norm", share * largest, "--max-passes", passes)
    done = svds(tall, *limits, "--json", "-")
    assert done.exit_code == status, done.output
    data = json.loads(done.stdout)
    assert data["gate"]["outcome"] == outcome
    assert data["gate"]["exit_status"] == status
    (check,) = data["gate"]["checks"]
    assert (check["lower"], check["upper"]) == (data["lower"][0], data["upper"][0])
    assert (outcome in done.stderr) == bool(status)


def test_a_decided_gate_ends_the_run_and_the_vectors_are_made():
    A = decaying(300, 200)
    whole = bigspec.svds(A, 3, seed=1, block_size=6)
    tri = bigspec.svds(A, 3, seed=1, block_size=6, gate=Gate(max_norm=100.0))
    assert (tri.stopped_by, tri.gate.outcome, whole.gate) == ("gate", "passed", None)
    assert tri.passes < whole.passes
    assert "the gate is decided (passed), at largest relative width" in tri.status
    np.testing.assert_allclose(tri.u.T @ tri.u, np.eye(3), atol=1e-13)
    assert "gate         passed" in tri.summary()


# The history ---------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["tall", "wide"])
def test_a_row_is_of_the_largest_value_and_the_next_run_starts_from_its_vectors(
    shape, tmp_path, request
):
    matrix, file = request.getfixturevalue(shape), tmp_path / "h.sqlite"
    past = ("--history", file, "--warm")
    assert svds(matrix, *past, "--rtol", 1e-9).exit_code == 0
    done = command(
        "svds", matrix, "-k", 3, *NARROW, "--quiet", *past, "--max-change", 0.01, "--json", "-"
    )
    assert done.exit_code == 0, done.output
    warm = json.loads(done.stdout)
    cold, later = History(file).rows()
    assert cold.lower <= sigma(matrix)[0] <= cold.upper
    assert (cold.accepted, cold.warm_from, cold.stable_rank_lower > 1) == (True, None, True)
    assert (later.warm_from, later.passes) == (cold.run_id, warm["passes"])
    assert (warm["start_columns"], warm["run_id"]) == (3, later.run_id)
    assert warm["passes"] < cold.passes
    reference = warm["gate"]["reference"]
    assert reference == [cold.lower, cold.upper]


def test_norm_and_svds_of_one_matrix_are_one_series(tall, tmp_path):
    past = ("--history", tmp_path / "h.sqlite", "--warm", "--max-change", 0.01)
    assert svds(tall, *past).exit_code == 0
    asked = ("--algorithm", "lanczos", *NARROW, "--quiet", "--json", "-")
    done = command("norm", tall, *asked, *past)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["start_columns"] == 3
    assert svds(tall, *past, "--seed", 5).exit_code == 0
    rows = History(tmp_path / "h.sqlite").rows()
    assert [row.warm_from for row in rows] == [None, rows[0].run_id, rows[1].run_id]


def test_a_run_that_fails_leaves_a_row(tall, tmp_path):
    file = tmp_path / "h.sqlite"
    done = svds(tall, "--history", file, "--u", tall)
    assert done.exit_code == 2
    (row,) = History(file).rows()
    assert (row.exit_status, row.accepted) == (2, False)
    assert "u_store: expected an empty place" in row.error


# What is shown -------------------------------------------------------------------------------


def test_a_report_has_every_value_and_a_chart_of_them(tall, tmp_path):
    file = tmp_path / "r.html"
    done = svds(tall, "--report", file, "--json", tmp_path / "r.json")
    assert done.exit_code == 0, done.output
    page, data = file.read_text(encoding="utf-8"), json.loads((tmp_path / "r.json").read_text())
    assert "<h1>Singular values of" in page
    for lower, upper in zip(data["lower"], data["upper"], strict=True):
        low, high = interval_text(lower, upper).strip("[]").split(", ")
        assert low in page
        assert high in page
    assert page.count("<svg") == 3
    assert len(re.findall("<path ", page)) == 3
    assert not re.search(r"<script|<link|src=", page)


def test_charts_of_values_that_no_logarithm_has_are_left_out():
    tri = bigspec.svds(np.zeros((40, 30)), 2)
    assert "Singular values with their intervals" not in tri.to_html()
    half = replace(bigspec.svds(decaying(40, 30), 2), upper=np.array([np.inf, np.inf]))
    assert "<path" not in half.to_html()
    assert "inf" in half._repr_html_()


def test_a_figure_shows_widths_values_and_ritz_values():
    tri = bigspec.svds(decaying(120, 90), 3, seed=1, block_size=6)
    widths, values, ritz = tri.plot().axes
    assert widths.get_ylabel() == "largest relative width"
    assert widths.lines[0].get_ydata().tolist() == [record.width for record in tri.history]
    (bars,) = values.containers
    np.testing.assert_allclose(bars.lines[0].get_ydata().astype(float), tri.s, rtol=2e-3)
    assert ritz.get_yscale() == "log"


def test_the_log_has_the_events_of_a_run_and_its_id(tall):
    done = command("svds", tall, "-k", 3, *NARROW, "--log-format", "json", "--max-norm", 1e-9)
    assert done.exit_code == 3
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    events = [line["event"] for line in lines]
    assert (events[0], events[-2:]) == ("run_started", ["run_finished", "ended"])
    passes = [line for line in lines if line["event"] == "pass_finished"]
    assert [len(line["lowers"]) for line in passes] == [3] * len(passes)
    assert len({line["run"] for line in lines}) == 1
    assert re.fullmatch("[0-9a-f]{32}", lines[0]["run"])
    assert lines[-2]["gate"]["outcome"] == "failed"
    assert lines[-1]["exit_status"] == 3
