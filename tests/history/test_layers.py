"""The layers of a network over its runs: which moved, what is drawn, and where."""

import re
from pathlib import Path

import numpy as np
import pytest

from bigspec import History, scan
from bigspec.cli import main
from bigspec.history import Row, figure, layers_by_source, layers_of, layers_section, page
from bigspec.history.layers import moved_most


def row(run, name, ends, source="net"):
    lower, upper = ends or (None, None)
    return Row(
        f"{run} {name}", f"{source}:{name}", source, f"2026-01-0{run}T00:00:00Z",
        accepted=ends is not None, lower=lower, upper=upper,
        matrix={"name": name, "shape": [3, 3], "scan": str(run)},
    )  # fmt: skip


RUNS = [
    row(run, f"layers.{k}.{kind}", ends)
    for run, intervals in enumerate(
        [
            [(1.0, 1.1), (2.0, 2.1), (1.0, 1.1), (5.0, 5.5)],
            [(1.05, 1.2), (4.0, 4.2), (1.0, 1.1), None],
            [(1.0, 1.2), (3.0, 3.1), (1.3, 1.4), (5.4, 5.6)],
        ],
        1,
    )
    for (k, kind), ends in zip([(0, "q"), (1, "q"), (0, "up"), (1, "up")], intervals, strict=True)
]


def test_a_layer_moved_as_far_as_two_intervals_are_apart():
    layers = {one.name: one for one in layers_of(RUNS)}
    assert layers["layers.1.q"].factor == 4.0 / 2.1
    assert layers["layers.0.up"].factor == 1.3 / 1.1
    assert layers["layers.0.q"].factor == 1.0  # intervals that meet say nothing
    assert layers["layers.1.up"].factor == 1.0
    assert [one.name for one in moved_most(layers.values())][:2] == ["layers.1.q", "layers.0.up"]


def test_a_run_keeps_its_number_where_a_layer_has_no_answer():
    last = layers_of(RUNS)[-1]
    assert [number for number, _ in last.runs] == [1, 2, 3]
    assert [number for number, _, _ in last.known] == [1, 3]


def test_rows_of_older_histories_are_one_run_by_the_time_they_ended():
    old = [
        Row(f"{k}", f"net:{n}", "net", ended, lower=1.0, upper=1.0, matrix={"name": n})
        for k, (n, ended) in enumerate([("a", "t1"), ("b", "t1"), ("a", "t2"), ("b", "t2")])
    ]
    assert [[k for k, _ in one.runs] for one in layers_of(old)] == [[1, 2], [1, 2]]


def test_the_section_draws_what_moved_and_every_kind():
    drawn = layers_section(layers_of(RUNS))
    assert "4 layers over 3 runs, from 2026-01-01 to 2026-01-03. 2 moved for sure" in drawn
    assert drawn.count("<svg") == 2 + 2
    assert "by a factor of at least 1.9<" in drawn  # 4.0 / 2.1 is 1.904, never rounded up
    assert "by at least 18.1 %" in drawn
    assert "layers.1.up: no interval in run 2" in drawn
    assert drawn.count("<polyline") == 2 + 4
    assert layers_section(layers_of(RUNS[:4])) == ""  # one run is no trend


def test_nothing_that_moved_for_sure_is_said():
    still = [row(run, f"layers.{k}.q", (1.0, 1.1)) for run in (1, 2) for k in (0, 1)]
    assert "No layer moved for sure" in layers_section(layers_of(still))


def test_two_hundred_layers_take_few_charts():
    rng = np.random.default_rng(0)
    many = [
        row(run, f"layers.{k}.{kind}", (run * (1 + k / 9), run * (1.01 + k / 9)))
        for run in (1, 2, 3) for k in range(40) for kind in "qkvop"
    ]  # fmt: skip
    rng.shuffle(many[:200])
    drawn = layers_section(layers_of(many))
    assert drawn.count("<svg") == 12 + 5
    assert len(re.findall(r'<th scope="row"', drawn)) == 200


def test_a_page_has_networks_first_and_tables_only_while_they_are_few():
    assert list(layers_by_source([*RUNS, Row("x", "alone", "alone")])) == ["net"]
    few = page([*RUNS, Row("x", "alone", "alone", lower=1.0, upper=1.0)])
    assert few.index("net: every layer") < few.index("<h2>net:layers.0.q</h2>")
    many = page([row(run, f"layers.{k}.q", (1.0, 1.1)) for run in range(1, 10) for k in range(50)])
    assert "net: every layer" in many
    assert "<h2>net:layers.0.q</h2>" not in many


def test_a_name_that_is_html_is_written_out():
    bad = [row(run, name, (run, run + 0.1)) for run in (1, 2) for name in ("<script>", "b")]
    assert "<script>" not in layers_section(layers_of(bad))


def test_the_plot_of_a_history_has_axes_for_each_kind():
    pytest.importorskip("matplotlib")
    drawn = figure([*RUNS, Row("x", "alone", "alone", lower=1.0, upper=1.0, accepted=True)])
    assert [axes.get_title() for axes in drawn.axes] == [
        "net: layers.*.q", "net: layers.*.up", "alone",
    ]  # fmt: skip


def test_the_report_of_a_scan_draws_the_history_with_this_scan_in_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for step in (1, 2, 3):
        net = {f"layers.{k}.w": (step if k else 1) * np.eye(4) for k in range(3)}
        np.savez(f"step{step}.npz", **net)
        line = f"scan step{step}.npz --history h --series net --report r.html --quiet"
        with pytest.raises(SystemExit) as ended:
            main(line.split())
        assert ended.value.code == 0
        text = Path("r.html").read_text()
        assert ("Over the runs" in text) == (step > 1)
    assert "3 layers over 3 runs" in text
    assert "2 moved for sure" in text
    assert "factor of at least 2.99<" in text or "factor of at least 3<" in text
    past = History("h")
    assert "3 layers over 3 runs" in scan("step3.npz").to_html(past, "net")
    assert "Over the runs" not in scan("step3.npz").to_html(past, "another")
