"""Histories: whole rows or none, what the next run takes from one, and nothing lost with one."""

import json
import math
import os
import sqlite3
import subprocess
import sys
import threading
from dataclasses import replace
from html.parser import HTMLParser

import dask
import numpy as np
import pytest
import zarr
from click.testing import CliRunner

import bigspec
from bigspec import Gate, History, cli
from bigspec.errors import ArgumentError, HistoryError, MemoryLimitError
from bigspec.history import Row, page, store, table
from tests.matrices import decaying, gapped

ASKED = {"algorithm": "lanczos", "block_size": 8}


def command(*args):
    return CliRunner().invoke(cli.main, [str(arg) for arg in args], prog_name="bigspec")


def save(path, A):
    zarr.create_array(path, shape=A.shape, chunks=(100, A.shape[1]), dtype="f8", overwrite=True)[
        :
    ] = A


@pytest.fixture
def matrix(tmp_path):
    save(tmp_path / "A.zarr", gapped(400, 200))
    return tmp_path / "A.zarr"


@pytest.fixture
def file(tmp_path):
    return tmp_path / "h.sqlite"


def norm(matrix, file, *args):
    asked = ("--algorithm", "lanczos", "--block-size", 8, "--history", file, "--quiet")
    return command("norm", matrix, *asked, *args)


# Rows ----------------------------------------------------------------------------------------


def test_a_row_holds_the_run_as_it_was(file):
    est = bigspec.norm(gapped(300, 200), gate=Gate(max_norm=2.0), **ASKED)
    written = History(file).record(est, series="A", source="A.zarr")
    (row,) = History(file).rows()
    assert row == written
    assert (row.lower, row.upper, row.frobenius) == (est.lower, est.upper, est.frobenius)
    assert (row.stable_rank_lower, row.stable_rank_upper) == tuple(est.stable_rank)
    assert (row.run_id, row.seed, row.passes) == (est.run_id, str(est.seed), est.passes)
    assert row.matrix == json.loads(est.to_json())["matrix"]
    assert row.versions == est.versions
    assert row.gate["outcome"] == "passed"
    assert row.accepted


def test_one_row_a_run_however_often_it_was_gone_on_with(file):
    history, est = History(file), bigspec.norm(np.eye(5))
    history.write(Row(est.run_id, "A", "A.zarr", exit_status=75, error="terminated"))
    history.record(est, series="A")
    (row,) = history.rows()
    assert (row.attempts, row.exit_status, row.error) == (2, 0, None)


def test_rows_come_oldest_first_by_series_and_the_newest_of_them(file):
    history = History(file)
    for k in range(6):
        history.write(Row(f"run{k}", "AB"[k % 2], "x", exit_status=0, lower=1.0, upper=math.inf))
    assert [row.run_id for row in history.rows("A")] == ["run0", "run2", "run4"]
    assert [row.run_id for row in history.rows(last=2)] == ["run4", "run5"]
    assert history.rows()[0].upper == math.inf
    assert history.rows()[0].to_dict()["upper"] is None


def test_only_accepted_runs_are_references_and_a_person_may_accept_one(file):
    history = History(file)
    for run_id, upper, accepted in (("aa1", 1.0, True), ("bb1", 3.0, False), ("bb2", None, False)):
        lower = None if upper is None else 1.0
        history.write(Row(run_id, "A", "x", lower=lower, upper=upper, accepted=accepted))
    assert history.gate("A", max_change=0.1).reference == (1.0, 1.0)
    assert history.gate("B", max_change=0.1).reference is None
    assert history.last_accepted("A", but="aa1") is None
    history.accept("bb1")
    assert history.gate("A", max_change=0.1).reference == (1.0, 3.0)
    for wrong, said in (("bb", "2 of them"), ("cc", "none"), ("", "none"), ("bb2", "has none")):
        with pytest.raises(ArgumentError, match=said):
            history.accept(wrong)


def test_many_writers_at_once_lose_no_row(file):
    code = (
        "import sys; from bigspec.history import History, Row\n"
        "for k in range(15): History(sys.argv[1]).write(Row(f'{sys.argv[2]}-{k}', 'A', 'x'))"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code, file, str(i)]) for i in range(2)]
    threads = [
        threading.Thread(target=lambda i=i: [History(file).write(Row(f"{i}.{k}", "A", "x"))
                                             for k in range(15)])
        for i in range(2)
    ]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [process.wait(100) for process in processes] == [0, 0]
    assert len(History(file).rows()) == 60


# What the next run takes from it -------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "passes"),
    [(decaying, 1), (gapped, 2), (lambda m, n: decaying(m, n, 0.5), 2)],
    ids=["1/i", "gap .707", "i^-1/2"],
)
def test_a_warm_start_of_a_matrix_changed_by_a_thousandth_takes_one_or_two_passes(
    file, make, passes
):
    A = make(400, 200)
    history = History(file)
    cold = bigspec.norm(A, **ASKED)
    history.record(cold, series="A")
    start, run = history.start("A")
    E = np.random.default_rng(1).standard_normal(A.shape)
    A = A + 1e-3 * E / np.linalg.norm(E, 2)
    warm = bigspec.norm(A, start=start, **ASKED)
    assert run == cold.run_id
    assert (warm.passes, warm.start_columns) == (passes, 4)
    assert cold.passes > warm.passes
    assert warm.lower <= np.linalg.norm(A, 2) <= warm.upper


def test_where_old_vectors_do_not_fit_in_memory_the_run_starts_cold_and_says_so(file, tmp_path):
    A = np.random.default_rng(5).standard_normal((4000, 2000))
    history = History(file)
    history.record(bigspec.norm(A, max_passes=1, **ASKED), series="A")
    start, _ = history.start("A")
    with dask.config.set(num_workers=1):
        limit = bigspec.plan(A, **ASKED).layout.memory.total
    options = {"start": start, "checkpoint": tmp_path / "run", "memory_limit": limit} | ASKED
    first = bigspec.norm(A, max_passes=1, **options)
    assert first.start_columns == 0
    assert any("started cold: no memory for the old vectors" in choice for choice in first.choices)
    with pytest.raises(MemoryLimitError):
        bigspec.norm(A, **(options | {"start": start.right, "checkpoint": None}))


def test_no_seed_of_the_series_is_used_twice(file):
    history, A = History(file), gapped(300, 200)
    for seed in (1, 2):
        history.record(bigspec.norm(A, seed=seed, **ASKED), series="A")
    start, _ = history.start("A")
    for seed in (1, 2):
        with pytest.raises(ArgumentError, match="is the seed of the run given as start"):
            bigspec.norm(A, seed=seed, start=start, **ASKED)
    assert bigspec.norm(A, seed=3, start=start, **ASKED).converged


def test_vectors_are_few_and_of_bounded_size(file, monkeypatch):
    history = History(file)
    ests = [bigspec.norm(gapped(60, 40, seed=k), **ASKED) for k in range(5)]
    for est in ests:
        history.record(est, series="A")
    for est in ests[:3]:
        failed = replace(est, run_id=f"f{est.run_id}")
        history.record(failed, series="A", exit_status=3)
    history.record(replace(ests[0], run_id="other"), series="B")
    with sqlite3.connect(file) as db:
        kept = {name for (name,) in db.execute("SELECT run_id FROM vectors")}
    db.close()
    assert kept == {*(est.run_id for est in ests[2:]), f"f{ests[2].run_id}", "other"}
    monkeypatch.setattr(store, "VECTOR_BYTES", 10)
    history.record(replace(ests[0], run_id="long"), series="C")
    assert history.start("C") is None


def test_a_vector_that_no_longer_fits_is_a_cold_start_with_a_warning(matrix, file):
    assert norm(matrix, file).exit_code == 0
    save(matrix, gapped(400, 220))
    result = norm(matrix, file, "--warm")
    assert result.exit_code == 0
    assert "started cold: the old vectors have length" in result.stdout
    assert [row.warm_from for row in History(file).rows()] == [None, None]


def test_nights_are_warm_gated_by_the_last_accepted_and_accepted_by_hand(matrix, file):
    results = [norm(matrix, file, "--warm", "--max-change", 0.05, "--json", "-") for _ in range(2)]
    assert [r.exit_code for r in results] == [0, 0]
    assert "has nothing to compare with, so it passes" in results[0].stderr
    assert results[1].stderr == ""
    save(matrix, 1.2 * gapped(400, 200))
    result = norm(matrix, file, "--warm", "--max-change", 0.05)
    assert result.exit_code == 3
    assert "failed: the norm changed by more than max_change 0.05" in result.stderr
    first, second, failed = History(file).rows()
    assert second.warm_from == first.run_id
    assert second.passes == 2 < first.passes
    assert second.gate["reference"] == [first.lower, first.upper]
    assert failed.gate["reference"] == [second.lower, second.upper]
    refused = command("history", file, "--accept", failed.run_id[:12])  # it stopped early
    assert refused.exit_code == 2
    assert "too wide to compare with at max_change 0.05. Run the command once" in refused.stderr
    assert norm(matrix, file, "--warm").exit_code == 0
    assert norm(matrix, file, "--warm", "--max-change", 0.05).exit_code == 0
    assert len(History(file).rows()) == 5


def test_a_preempted_run_goes_on_with_the_vector_it_began_with(matrix, file, tmp_path):
    assert norm(matrix, file).exit_code == 0
    warm = ("--warm", "--rtol", "1e-9", "--checkpoint", tmp_path / "run")
    assert norm(matrix, file, *warm, "--max-passes", 1).exit_code == 0
    begun = History(file).rows()[-1].run_id
    assert norm(matrix, file).exit_code == 0  # another run is accepted meanwhile
    result = norm(matrix, file, *warm)
    assert result.exit_code == 0, result.stderr
    row = History(file).rows()[-1]
    assert (row.run_id, row.attempts, row.converged) == (begun, 2, True)


def test_a_difference_is_a_series_of_its_own(matrix, file, tmp_path):
    save(tmp_path / "B.zarr", 0.5 * gapped(400, 200))
    assert norm(matrix, file).exit_code == 0
    result = norm(matrix, file, "--minus", tmp_path / "B.zarr", "--max-change", 0.05)
    assert result.exit_code == 0
    assert "has nothing to compare with" in result.stderr
    assert [row.series for row in History(file).rows()] == [
        str(matrix), f"{matrix} --minus {tmp_path / 'B.zarr'}",
    ]  # fmt: skip


# Failures ------------------------------------------------------------------------------------


def test_a_run_without_an_answer_has_a_row_with_the_error(matrix, file):
    A = gapped(400, 200)
    A[7, 3] = np.nan
    save(matrix, A)
    assert norm(matrix, file).exit_code == 65
    assert norm(matrix.with_name("B.zarr"), file).exit_code == 66
    bad, missing = History(file).rows()
    assert "expected finite entries, got a NaN" in bad.error
    assert (bad.exit_status, bad.lower, bad.accepted, len(bad.run_id)) == (65, None, False, 32)
    assert missing.exit_status == 66
    assert History(file).last_accepted(str(matrix)) is None


class Full(History):
    def write(self, *args, **kwargs):
        raise HistoryError("history h: cannot be written: database or disk is full")


@pytest.mark.parametrize(
    ("limits", "status"), [((), 74), (("--max-norm", "0.1"), 3)], ids=["answered", "failed gate"]
)
def test_a_full_disk_loses_no_answer(matrix, file, tmp_path, monkeypatch, limits, status):
    monkeypatch.setattr("bigspec.History", Full)
    result = norm(matrix, file, "--json", tmp_path / "a.json", *limits)
    assert result.exit_code == status
    assert result.stdout.startswith("sigma_1 in")
    assert "error: history h: cannot be written: database or disk is full" in result.stderr
    assert json.loads((tmp_path / "a.json").read_text())["lower"] > 0


def test_sqlite_itself_says_when_the_disk_is_full(file):
    history = History(file)
    history.prepare()
    with sqlite3.connect(file) as db:
        pages = db.execute("PRAGMA page_count").fetchone()[0]
    db.close()

    class Small(History):
        def _check(self, db, *, write):
            super()._check(db, write=write)
            db.execute(f"PRAGMA max_page_count = {pages}")

    def fill():
        for k in range(100):
            Small(file).write(Row(f"{k}", "A", "x", error="e" * 1000))

    with pytest.raises(HistoryError, match=r"cannot be written: database or disk is full"):
        fill()
    assert all(row.error == "e" * 1000 for row in history.rows())


def other_sqlite(file):
    with sqlite3.connect(file) as db:
        db.execute("CREATE TABLE mine (x)")
    db.close()


def newer(file):
    History(file).prepare()
    with sqlite3.connect(file) as db:
        db.execute("PRAGMA user_version = 2")
    db.close()


def truncated(file):
    for k in range(40):
        History(file).write(Row(f"{k}", "A", "x", error="e" * 1000))
    file.write_bytes(file.read_bytes()[:20000])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda file: file.write_bytes(b"no database" * 999), "got a file that is none or is"),
        (other_sqlite, "expected a bigspec history, got another SQLite file"),
        (newer, "expected layout 1 or older, got 2: a newer bigspec wrote it. Upgrade"),
        (truncated, "is none or is damaged"),
        (lambda file: file.mkdir(), "cannot be written"),
    ],
)
def test_a_file_that_is_no_history_is_refused_before_anything_is_read(make, said, file, matrix):
    make(file)
    held = None if file.is_dir() else file.read_bytes()
    result = norm(matrix, file) if not file.is_dir() else None
    if result is not None:
        assert result.exit_code == 74, result.output
        assert said in result.stderr
        assert result.stdout == ""
        assert file.read_bytes() == held
    with pytest.raises(HistoryError, match=r"h\.sqlite"):
        History(file).prepare()


@pytest.mark.parametrize(
    "change",
    [
        "lower = 'low'", "upper = NULL", "matrix = '{'", "matrix = '[1]'", "gate = '{}'",
        "gate = printf('%.*c', 100000, '[')", "ended = 5", "seconds = 'long'", "passes = x'00'",
        "stopped_by = 5", "exit_status = 'a'", "seed = x'ff'",
        "lower = 5, upper = 1", "lower = -5, upper = -1",
    ],
)  # fmt: skip
def test_rows_that_were_tampered_with_are_no_reference(change, file, matrix):
    assert norm(matrix, file).exit_code == 0
    with sqlite3.connect(file) as db:
        db.execute(f"UPDATE runs SET {change}")
        db.execute("UPDATE vectors SET data = x'00'")
    for result in (norm(matrix, file, "--max-change", 0.1), command("history", file)):
        assert result.exit_code == 74
        assert "expected rows as bigspec writes them, got others" in result.stderr
    assert norm(matrix, file, "--warm").exit_code == 0  # the vector is passed over


def test_seeds_that_are_no_numbers(file, matrix):
    """A warm start asks for them alone."""
    assert norm(matrix, file).exit_code == 0
    with sqlite3.connect(file) as db:
        db.execute("UPDATE runs SET seed = 'z'")
    with pytest.raises(HistoryError, match="expected seeds as bigspec writes them"):
        History(file).start(series_of(file))


def series_of(file):
    with sqlite3.connect(file) as db:
        return db.execute("SELECT series FROM runs").fetchone()[0]


def test_a_text_without_end_is_cut_off(file, matrix, tmp_path):
    assert norm(matrix, file).exit_code == 0
    with sqlite3.connect(file) as db:
        db.execute("UPDATE runs SET error = printf('%.*c', 5000000, 'x'), exit_status = 70")
    run = command("history", file, "--html", tmp_path / "page.html")
    assert run.exit_code == 0
    assert len(run.stdout) < 10_000
    assert (tmp_path / "page.html").stat().st_size < 100_000


def test_nothing_there_and_places_without_locks(file, matrix):
    assert command("history", file).exit_code == 74
    assert "nothing lies there" in command("history", file).stderr
    assert not file.exists()
    result = norm(matrix, "s3://bucket/h.sqlite")
    assert result.exit_code == 2
    assert "expected a local path, got 's3://bucket/h.sqlite': a store without" in result.stderr
    assert norm(matrix, file.parent / "no" / "h.sqlite").exit_code == 74


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--warm",), "--warm, --max-change and --series need --history FILE"),
        (("--max-change", "0.1"), "need --history FILE"),
        (("--history", "h", "--warm", "--start", "s.npy"), "--warm and --start exclude each other"),
        (("--history", "h", "--max-change", "-1"), "-1.0 is not in the range"),
    ],
)
def test_options_that_need_a_history(args, said):
    result = command("norm", "A.zarr", *args)
    assert (result.exit_code, said in result.stderr) == (2, True), result.stderr


# Shown ---------------------------------------------------------------------------------------


ROWS = [
    Row("a" * 32, "A", "A", ended="2026-01-01T02:00:00Z", lower=1.0, upper=1.01, accepted=True,
        passes=3, seconds=2.0),
    Row("b" * 32, "A", "A", ended="2026-01-02T02:00:00Z", lower=1.99, upper=2.0, accepted=True,
        passes=1, seconds=1.0, warm_from="a" * 32),
    Row("c" * 32, "A", "A", ended="2026-01-03T02:00:00Z", exit_status=65, error="a <NaN> & more"),
    Row("d" * 32, "B", "B", ended="2026-01-03T03:00:00Z", lower=0.0, upper=math.inf, passes=0),
]  # fmt: skip


def test_the_table_draws_each_interval_and_the_trend():
    lines = table(ROWS).splitlines()
    assert lines[0] == "A"
    assert lines[2].startswith("  aaaaaaaa  2026-01-01T02:00:00Z  [1.0000, 1.0101]  1.1e-02  3")
    assert lines[2].endswith("█·······················")
    assert lines[3].endswith("warm   -     0     ·······················█")
    assert lines[5] == "  cccccccc: a <NaN> & more"
    assert lines[6] == "  trend ▁█x  [1.00, 2.00]"
    assert table(ROWS, ascii_only=True).isascii()
    assert table([]) == "no runs"


def test_the_command_lists_as_text_json_and_files(file, tmp_path):
    for row in ROWS:
        History(file).write(row)
    result = command("history", file, "--json", "-")
    data = json.loads(result.stdout)
    assert data["schema"] == "bigspec.history/1"
    assert [run["run_id"][0] for run in data["runs"]] == list("abcd")
    assert data["runs"][3]["upper"] is None
    html, png = tmp_path / "h.html", tmp_path / "h.png"
    result = command("history", file, "--series", "A", "--last", 2, "--html", html, "--plot", png)
    assert result.exit_code == 0, result.output
    assert "aaaaaaaa" not in result.stdout
    assert png.read_bytes().startswith(b"\x89PNG")
    assert "a &lt;NaN&gt; &amp; more" in html.read_text()
    assert command("history", file, "--plot", tmp_path / "h.nonsense").exit_code == 74


def many(file, count, series="A"):
    """Write so many rows in one transaction."""
    History(file).prepare()
    row = ROWS[0]
    names = ", ".join(store.COLUMNS)
    marks = ", ".join("?" * len(store.COLUMNS))
    rows = (replace(row, run_id=f"{k:032x}", accepted=k % 7 == 0).to_sql() for k in range(count))
    with sqlite3.connect(file) as db:
        db.executemany(f"INSERT INTO runs ({names}) VALUES ({marks})", rows)


def test_of_many_runs_those_are_read_that_are_needed(file, tmp_path, monkeypatch):
    many(file, 3000)
    loaded, load = [], Row.from_sql
    monkeypatch.setattr(Row, "from_sql", lambda row: loaded.append(1) or load(row))
    assert History(file).last_accepted("A").run_id == f"{2996:032x}"
    assert History(file).last_accepted("A", but=f"{2996:032x}").run_id == f"{2989:032x}"
    assert len(loaded) == 2
    History(file).accept(f"{1234:032x}")
    with pytest.raises(ArgumentError, match="10 or more of them"):
        History(file).accept("0000")
    assert len(loaded) == 13
    result = command("history", file, "--html", tmp_path / "h.html")
    assert len(loaded) == 1013
    assert result.stdout.endswith(
        "The newest 1000 of 3000 runs are shown; --last N shows N of them\n"
    )
    assert "The newest 1000 of 3000 runs" in (tmp_path / "h.html").read_text()
    assert (tmp_path / "h.html").stat().st_size < 1 << 20
    assert len(json.loads(command("history", file, "--json", "-").stdout)["runs"]) == 3000


ENDLESS = "WITH RECURSIVE t(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM t)"


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (f"DROP TABLE runs; CREATE VIEW runs AS {ENDLESS} SELECT x AS run_id FROM t", "no table"),
        ("DROP TABLE vectors; CREATE VIEW vectors AS SELECT 1 AS run_id", "no table 'vectors'"),
        ("CREATE TRIGGER t AFTER INSERT ON runs BEGIN SELECT 1; END", "a trigger 't' on one"),
    ],
)
def test_a_file_that_computes_is_refused(harm, said, file, matrix):
    History(file).write(ROWS[0])
    with sqlite3.connect(file) as db:
        db.executescript(harm)
    for result in (command("history", file), norm(matrix, file, "--max-change", 0.1)):
        assert result.exit_code == 74
        assert said in result.stderr


def test_a_file_that_computes_for_ever_is_given_up(file, monkeypatch):
    History(file).prepare()
    monkeypatch.setattr(store, "PATIENCE", 0.0)
    monkeypatch.setattr(store, "OPERATIONS", 1)
    with pytest.raises(HistoryError, match="cannot be read: interrupted"):
        History(file).count()


def test_the_page_is_whole_escaped_and_loads_nothing():
    class Reader(HTMLParser):
        def __init__(self):
            super().__init__()
            self.tags = []

        def handle_starttag(self, tag, attrs):
            self.tags.append(tag)
            assert not {"src", "href", "onload"} & {name for name, _ in attrs}

    text = page([*ROWS, replace(ROWS[0], series="<script>alert(1)</script>")])
    reader = Reader()
    reader.feed(text)
    assert "script" not in reader.tags
    assert reader.tags.count("svg") == 2
    assert reader.tags.count("tr") == 3 + len(ROWS) + 1


def test_the_chart_marks_what_was_not_accepted_and_draws_the_limit():
    gate = {"outcome": "failed", "max_norm": 1.2, "verdict": "the norm exceeds max_norm 1.2"}
    nights = [
        Row("a", "A", "x", "2026-01-01T02:00:00Z", lower=1.0, upper=1.01, accepted=True),
        Row("b", "A", "x", "2026-01-02T02:00:00Z", exit_status=69, error="no cluster"),
        Row("c", "A", "x", "2026-01-03T02:00:00Z", exit_status=3, lower=1.5, upper=1.6, gate=gate),
    ]
    text = page(nights)
    assert text.count("2026-01-01") - text.count("2026-01-01T") == 3  # axis, label, table
    assert "max_norm 1.2</text>" in text
    assert text.count("<polygon") == 2  # the run, the legend
    assert text.count("&#215;") == 2
    assert "[1.0000,</span>" in text.split("the last accepted run")[0]
    assert "The last run: not accepted, the norm exceeds max_norm 1.2." in text
    assert "not accepted" not in page(nights[:1])
    assert page(nights[:1]).count("2026-01-01<") == 2  # one day stands once on the axis


def test_a_terminal_without_block_characters_gets_plain_ones(file):
    History(file).write(ROWS[0])
    done = subprocess.run(
        [sys.executable, "-m", "bigspec", "history", str(file)],
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True, check=True, timeout=100,
    )  # fmt: skip
    assert done.stdout.isascii()
    assert b"trend 5  [1.0000, 1.0101]" in done.stdout
