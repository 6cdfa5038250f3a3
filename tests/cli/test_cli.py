import contextlib
import dataclasses
import inspect
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from click.testing import CliRunner

import bigspec as library
from bigspec import Gate, cli, errors
from bigspec.checkpoint import Checkpoint
from bigspec.cli.interrupts import Terminated
from bigspec.results import Estimate, PassRecord
from bigspec.watch import Observer
from bigspec.watch.live import LiveProgress

OPTIONS_OF_NORM = {
    "rtol", "failure_probability", "algorithm", "block_size", "start", "seed", "max_passes",
    "time_limit", "memory_limit", "pin", "checkpoint", "gate", "storage_options",
}  # fmt: skip


def estimate(lower=167.9618, upper=167.9802, **changes):
    history = (
        PassRecord(
            1, lower, upper, "Christoffel", "Ritz value", False, (lower,), 10**9, 0.5, 0.4, 0.2, 4
        ),
    )
    fields = {
        "failure_probability": 1e-6,
        "converged": True,
        "stopped_by": "converged",
        "checkpoint": None,
        "status": "Converged.",
        "rtol": 1e-3,
        "right": np.ones(3),
        "left": None,
        "frobenius": 400.0,
        "upper_bound": "Christoffel",
        "lower_bound": "Ritz value",
        "deterministic": False,
        "rounding": 1e-12,
        "algorithm": "lanczos",
        "block_size": 8,
        "choices": ("lanczos: the basis fits.",),
        "seed": 7,
        "matrix": {"name": "A.zarr", "shape": (100, 30)},
        "layout": {"panels": 4},
        "history": history,
        "seconds": 0.5,
        "bytes_read": 10**9,
        "versions": {"bigspec": "0.1.0"},
    }
    return Estimate(lower, upper, **(fields | changes))


class OnTerminal(LiveProgress):
    def __init__(self, stream, **options):
        super().__init__(stream, **options)
        self._live = True


class FakePlan:
    def to_dict(self):
        return {"bytes_a_pass": 10**9}

    def __str__(self):
        return "reads 1 GiB a pass\nholds 1 MiB"


@dataclass
class Backend:
    """Stands in for `bigspec.norm`: answers what it is told to, and remembers what was asked."""

    answer: Any = field(default_factory=estimate)
    source: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    connected: list[dict[str, Any]] = field(default_factory=list)
    inside: bool = False

    def norm(self, a, *, progress=False, **options):
        self.source, self.options, self.observer = a, options, progress
        self.was_inside = self.inside
        if isinstance(progress, Observer):
            progress.run_started(a, {})
            progress.pass_started(1, 4)
        if isinstance(self.answer, BaseException):
            raise self.answer
        for record in self.answer.history:
            progress.pass_finished(record)
        gate = options["gate"]
        verdict = None if gate is None else gate.judge(self.answer.lower, self.answer.upper)
        answer = dataclasses.replace(self.answer, gate=verdict)
        progress.run_finished(answer)
        return answer

    def plan(self, a, **options):
        self.source, self.options, self.was_inside = a, options, self.inside
        if isinstance(self.answer, BaseException):
            raise self.answer
        return FakePlan()

    @contextlib.contextmanager
    def connect(self, **options):
        self.connected.append(options)
        if options["scheduler"] == "tcp://dead:8786":
            msg = "scheduler: nothing answers at tcp://dead:8786; start it"
            raise errors.ClusterError(msg)
        self.inside = True
        yield
        self.inside = False


@pytest.fixture
def backend(monkeypatch):
    fake = Backend()
    monkeypatch.setattr(library, "norm", fake.norm)
    monkeypatch.setattr(library, "plan", fake.plan)
    monkeypatch.setattr(library, "connect", fake.connect)
    return fake


def bigspec(*args):
    return CliRunner().invoke(cli.main, [str(arg) for arg in args], prog_name="bigspec")


def strict_json(text):
    def refuse(word):
        raise AssertionError(word)

    return json.loads(text, parse_constant=refuse)


# What is asked


def test_every_option_reaches_the_call(backend, tmp_path):
    start = tmp_path / "start.npy"
    np.save(start, np.ones(3))
    result = bigspec(
        "norm", "A.zarr", "--rtol", "1e-2", "--failure-probability", "1e-9", "--algorithm", "power",
        "--block-size", 16, "--seed", 5, "--start", start, "--max-passes", 9, "--time-limit",
        "30min", "--memory-limit", "1GiB", "--checkpoint", "run", "--checkpoint-interval", 5,
        "--keep-blocks", "--steal", "--max-norm", 9, "--min-norm", 2, "--no-pin",
    )  # fmt: skip
    assert result.exit_code == 3, result.output
    assert backend.source == "A.zarr"
    assert backend.options == {
        "right": False,
        "rtol": 1e-2, "failure_probability": 1e-9, "algorithm": "power", "block_size": 16,
        "seed": 5, "start": str(start), "max_passes": 9, "time_limit": "30min",
        "memory_limit": "1GiB", "checkpoint": Checkpoint("run", 5.0, True, True),
        "gate": Gate(max_norm=9.0, min_norm=2.0), "storage_options": None, "pin": False,
    }  # fmt: skip


STORE_OPTIONS = ["key=0123", "s3.anon=true", "client_kwargs.endpoint_url=http://h:9", "retries=3"]
READ = {
    "key": "0123", "s3": {"anon": True}, "client_kwargs": {"endpoint_url": "http://h:9"},
    "retries": 3,
}  # fmt: skip


@pytest.mark.parametrize("source", ["flag", "environment", "file"])
def test_options_of_a_store_reach_the_call(source, backend, tmp_path, monkeypatch):
    flags = []
    if source == "flag":
        flags = [part for text in STORE_OPTIONS for part in ("--storage-option", text)]
    elif source == "environment":
        monkeypatch.setenv("BIGSPEC_STORAGE_OPTION", " ".join(STORE_OPTIONS))
    else:
        path = tmp_path / "b.toml"
        path.write_text(f"storage-option = {json.dumps(STORE_OPTIONS)}\n")
        flags = ["--config", path]
    for command in ("norm", "plan"):
        result = bigspec(command, "s3://b/A.zarr", *flags)
        assert result.exit_code == 0, result.output
        assert backend.options["storage_options"] == READ


@pytest.mark.parametrize("text", ["hunter2", "=hunter2", "a..b=hunter2", ".=hunter2"])
def test_an_option_of_a_store_without_a_name_is_refused_unshown(text, backend):
    result = bigspec("norm", "s3://b/A.zarr", "--storage-option", text)
    assert result.exit_code == 2
    assert "expected NAME=VALUE" in result.stderr
    assert "hunter2" not in result.output + result.stderr


def test_options_of_a_store_without_a_url_are_refused(backend):
    for command in ("norm", "plan"):
        result = bigspec(command, "A.zarr", "--storage-option", "key=hunter2")
        assert result.exit_code == 2
        assert "storage_options: expected a URL such as" in result.stderr
        assert "hunter2" not in result.output + result.stderr
    bigspec("norm", "A.zarr", "--checkpoint", "s3://b/run", "--storage-option", "key=a")
    assert backend.options["storage_options"] == {"key": "a"}


def test_bare_numbers_are_seconds_and_bytes(backend):
    bigspec("norm", "A.zarr", "--time-limit", "90.5", "--memory-limit", "1000000")
    assert backend.options["time_limit"] == 90.5
    assert backend.options["memory_limit"] == 1_000_000


def test_the_defaults_are_those_of_the_library(backend):
    from bigspec.api.norm import norm, plan  # `backend` stands in for the public names

    bigspec("norm", "A.zarr")
    theirs = inspect.signature(norm).parameters
    defaults = {name: theirs[name].default for name in OPTIONS_OF_NORM}
    assert backend.options == defaults | {"right": False}  # a vector that nothing prints
    bigspec("plan", "A.zarr")
    theirs = inspect.signature(plan).parameters
    assert backend.options == {name: theirs[name].default for name in backend.options}


@pytest.mark.parametrize("command", ["norm", "plan"])
def test_without_a_cluster_option_nothing_is_connected(backend, command):
    assert bigspec(command, "A.zarr", "--memory-limit", "1GiB").exit_code == 0
    assert backend.connected == []


@pytest.mark.parametrize("command", ["norm", "plan"])
@pytest.mark.parametrize(
    ("options", "connected"),
    [
        (("--scheduler", "tcp://h:1"), {"scheduler": "tcp://h:1"}),
        (("--scheduler-file", "s.json"), {"scheduler_file": "s.json"}),
        (("--workers", 2, "--memory-limit", "1GiB"), {"workers": 2, "memory_limit": "1GiB"}),
        (("--scheduler", "tcp://h:1", "--memory-limit", "1GiB"), {"scheduler": "tcp://h:1"}),
    ],
)
def test_the_run_is_inside_the_cluster_that_was_named(backend, command, options, connected):
    assert bigspec(command, "A.zarr", *options).exit_code == 0
    nothing = dict.fromkeys(("scheduler", "scheduler_file", "workers", "memory_limit"))
    assert backend.connected == [nothing | connected]
    assert backend.was_inside


# What is answered


def test_people_read_the_interval_and_what_it_rests_on(backend):
    result = bigspec("norm", "A.zarr")
    assert result.exit_code == 0
    assert result.stdout == backend.answer.summary() + "\n"
    assert result.stdout.startswith("sigma_1 in [167.9618, 167.9802]  (relative width 1.1e-04, ")
    assert "pass 1: sigma_1 in" in result.stderr


def test_programs_read_json_and_only_json_on_stdout(backend):
    result = bigspec("norm", "A.zarr", "--json", "-")
    assert strict_json(result.stdout) == backend.answer.to_dict()
    assert "pass 1: sigma_1 in" in result.stderr


def test_json_of_an_interval_without_upper_end_is_strict_json(backend):
    backend.answer = estimate(upper=np.inf, converged=False)
    result = bigspec("norm", "A.zarr", "--json", "-")
    assert result.exit_code == 0
    assert strict_json(result.stdout)["upper"] is None
    assert strict_json(result.stdout)["converged"] is False


def test_a_json_file_comes_beside_the_text(backend, tmp_path):
    result = bigspec("norm", "A.zarr", "--json", tmp_path / "a.json")
    assert result.stdout.startswith("sigma_1 in")
    assert strict_json((tmp_path / "a.json").read_text()) == backend.answer.to_dict()


def test_a_report_comes_beside_either(backend, tmp_path):
    result = bigspec("norm", "A.zarr", "--json", "-", "--report", tmp_path / "a.html")
    assert result.exit_code == 0
    assert (tmp_path / "a.html").read_text() == backend.answer.to_html()


def test_a_run_out_of_budget_answers_and_says_so(backend):
    backend.answer = estimate(converged=False, status="Stopped by max_passes=1.")
    result = bigspec("norm", "A.zarr", "--max-passes", 1)
    assert result.exit_code == 0
    assert "converged    false" in result.stdout
    assert "converged false" in " ".join(bigspec("norm", "--help").stdout.split())


def test_quiet_means_no_progress(backend):
    result = bigspec("norm", "A.zarr", "--quiet")
    assert result.stderr == ""
    assert not isinstance(backend.observer, LiveProgress)


def test_a_plan_is_text_or_json(backend, tmp_path):
    assert bigspec("plan", "A.zarr").stdout == "reads 1 GiB a pass\nholds 1 MiB\n"
    assert strict_json(bigspec("plan", "A.zarr", "--json", "-").stdout) == FakePlan().to_dict()
    assert bigspec("plan", "A.zarr", "--json", tmp_path / "p").stdout.startswith("reads 1 GiB")
    assert strict_json((tmp_path / "p").read_text()) == FakePlan().to_dict()


def test_version():
    assert bigspec("--version").stdout.startswith("bigspec, version 0.")


# The gate


@pytest.mark.parametrize(
    ("limit", "status", "said"),
    [
        (170.0, 0, "does not exceed max_norm 170.0: it is at most 167.9802"),
        (167.9802, 0, "does not exceed max_norm 167.9802"),
        (160.0, 3, "the norm exceeds max_norm 160.0: it is at least 167.9618"),
        (0.0, 3, "the norm exceeds max_norm 0.0"),
        (167.97, 4, "lies inside the interval [167.9618, 167.9802]; narrow it"),
        (167.9618, 4, "undecided"),
    ],
)
def test_the_gate(backend, limit, status, said):
    result = bigspec("norm", "A.zarr", "--max-norm", limit, "--quiet")
    assert result.exit_code == status
    assert said in (result.stderr if status else result.stdout)
    assert result.stdout.startswith("sigma_1 in")
    as_json = bigspec("norm", "A.zarr", "--max-norm", limit, "--quiet", "--json", "-")
    assert as_json.exit_code == status
    assert strict_json(as_json.stdout)["gate"]["exit_status"] == status
    assert strict_json(as_json.stdout)["gate"]["max_norm"] == limit


def test_a_gate_that_is_not_passed_still_writes_its_files(backend, tmp_path):
    bigspec("norm", "A.zarr", "--max-norm", 1, "--json", tmp_path / "j", "--report", tmp_path / "r")
    assert strict_json((tmp_path / "j").read_text())["gate"]["exit_status"] == 3
    assert (tmp_path / "r").exists()


# Errors

STATUSES = {
    errors.BigspecError: 1,
    errors.ArgumentError: 2,
    errors.MemoryLimitError: 2,
    errors.DataError: 65,
    errors.UnsupportedTypeError: 65,
    errors.NonFiniteError: 65,
    errors.AdjointError: 65,
    errors.ChunkError: 65,
    errors.SourceError: 66,
    errors.MissingSourceError: 66,
    errors.StoreUnavailableError: 75,
    errors.DestinationError: 74,
    errors.ClusterError: 69,
    errors.ResumeError: 2,
    errors.MatrixChangedError: 65,
    errors.CheckpointError: 65,
    errors.CheckpointInUseError: 75,
    errors.HistoryError: 74,
}


def test_the_table_of_statuses_is_complete():
    assert {kind.__name__ for kind in STATUSES} == set(errors.__all__)


@pytest.mark.parametrize("command", ["norm", "plan"])
@pytest.mark.parametrize(("kind", "status"), STATUSES.items())
def test_each_error_is_one_message_and_its_status(backend, command, kind, status):
    backend.answer = kind("chunk (3, 0) of A.zarr: expected numbers, got NaN; clean it")
    result = bigspec(command, "A.zarr", *(["--quiet"] if command == "norm" else []))
    assert result.exit_code == status
    assert result.stdout == ""
    assert result.stderr == (
        "bigspec: error: chunk (3, 0) of A.zarr: expected numbers, got NaN; clean it\n"
    )


@pytest.mark.parametrize(
    ("exc", "said"),
    [
        (MemoryError(), "unexpected MemoryError; run again with --debug"),
        (KeyError("x"), "unexpected KeyError: 'x'; run again with --debug"),
        (RuntimeError("one\ntwo"), "unexpected RuntimeError: one; run again with --debug"),
        (BrokenPipeError(32, "Broken pipe"), "unexpected BrokenPipeError: [Errno 32] Broken pipe"),
    ],
)
def test_what_nobody_expected_is_named(backend, exc, said):
    backend.answer = exc
    result = bigspec("norm", "A.zarr", "--quiet")
    assert result.exit_code == 70
    assert result.stderr.startswith(f"bigspec: error: {said}")
    assert len(result.stderr.splitlines()) == 1


def test_debug_shows_the_traceback_above_the_message(backend):
    backend.answer = KeyError("x")
    result = bigspec("norm", "A.zarr", "--quiet", "--debug")
    lines = result.stderr.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert "KeyError: 'x'" in lines
    assert lines[-1].startswith("bigspec: error: unexpected KeyError")


def test_an_error_comes_after_the_bar_is_cleared(backend, monkeypatch):
    backend.answer = errors.ChunkError("chunk 3 is damaged")
    monkeypatch.setattr(library.watch, "LiveProgress", OnTerminal)
    result = bigspec("norm", "A.zarr")
    assert result.exit_code == 65
    assert "pass 1 |" in result.stderr
    assert result.stderr.endswith("\rbigspec: error: chunk 3 is damaged\n")


def test_interrupted(backend):
    backend.answer = KeyboardInterrupt()
    result = bigspec("norm", "A.zarr", "--quiet")
    assert result.exit_code == 130
    assert result.stderr == "bigspec: error: interrupted; there is no result\n"


@pytest.mark.parametrize("held", [{}, {"id": "abc"}])
@pytest.mark.parametrize(("signal", "status"), [(KeyboardInterrupt, 130), (Terminated, 143)])
def test_interrupted_before_the_run_in_the_checkpoint_was_restored(
    backend, monkeypatch, held, signal, status
):
    monkeypatch.setattr("bigspec.run.show.run_in", lambda place, _: held if place else {})
    backend.answer = signal()
    result = bigspec("norm", "A.zarr", "--quiet", "--checkpoint", "run")
    assert result.exit_code == (75 if held else status)
    assert ("saved in run: run the same command again" in result.stderr) == bool(held)


def test_a_cluster_that_does_not_answer(backend):
    result = bigspec("norm", "A.zarr", "--scheduler", "tcp://dead:8786")
    assert result.exit_code == 69
    assert result.stderr == (
        "bigspec: error: scheduler: nothing answers at tcp://dead:8786; start it\n"
    )
    assert backend.source == ""


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("norm",), "Missing argument 'SRC'"),
        (("norm", "A", "--rtol", "small"), "--rtol"),
        (("norm", "A", "--algorithm", "magic"), "'auto', 'lanczos', 'power', 'gram'"),
        (("norm", "A", "--workers", 0), "--workers"),
        (("norm", "A", "--steal"), "--keep-blocks and --steal need --checkpoint URL"),
        (("norm", "A", "--checkpoint", "run", "--checkpoint-interval", -1), "-1.0 is not in"),
        (("norm", "A", "--max-norm", "nan"), "expected a finite number >= 0, got nan"),
        (("norm", "A", "--max-norm", "inf"), "expected a finite number >= 0, got inf"),
        (("norm", "A", "--max-norm", "-1"), "expected a finite number >= 0, got -1.0"),
        (("norm", "A", "--json", "missing/a.json"), "is not a writable directory"),
        (("norm", "A", "--report", "missing/a.html"), "is not a writable directory"),
        (("norm", "A", "--workers", 2, "--scheduler", "s"), "--scheduler and --workers exclude"),
        (("plan", "A", "--workers", 2, "--scheduler-file", "s"), "exclude each other"),
        (("plan", "A", "--seed", 3), "No such option"),
        (("sing", "A"), "No such command"),
    ],
)
def test_wrong_usage_is_refused_before_anything_runs(backend, args, said):
    result = bigspec(*args)
    assert result.exit_code == 2
    assert said in result.stderr
    assert backend.source == ""
    assert backend.connected == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")  # noqa: PTH110
def test_a_full_disk_loses_no_result(backend):
    result = bigspec("norm", "A.zarr", "--json", "/dev/full", "--quiet")
    assert result.exit_code == 74
    assert result.stdout.startswith("sigma_1 in")
    assert result.stderr == (
        "bigspec: error: cannot write '/dev/full': No space left on device; "
        "the result is on standard output\n"
    )


# Real processes


def process(*args, **options):
    return subprocess.run(
        [sys.executable, "-m", "bigspec", *args], capture_output=True, text=True, timeout=100,
        check=False, **options,
    )  # fmt: skip


def test_a_real_process_fails_in_one_line(tmp_path):
    done = process("norm", str(tmp_path / "missing.zarr"), "--quiet")
    assert done.returncode == 66
    assert done.stdout == ""
    assert done.stderr.startswith("bigspec: error: ")
    assert "missing.zarr" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_scheduler_that_does_not_answer_ends_a_real_process_with_69():
    environment = os.environ | {"DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "1s"}
    done = process("norm", "A.zarr", "--scheduler", "tcp://127.0.0.1:1", env=environment)
    assert done.returncode == 69
    assert done.stdout == ""
    assert "scheduler tcp://127.0.0.1:1: expected an answer and a worker within 1 s" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_real_process_answers_in_json_with_a_gate(tmp_path):
    A = np.random.default_rng(0).standard_normal((60, 20))
    stored = zarr.create_array(tmp_path / "A.zarr", shape=A.shape, chunks=(20, 20), dtype=A.dtype)
    stored[:] = A
    norm = np.linalg.norm(A, 2)
    done = process("norm", str(tmp_path / "A.zarr"), "--json", "-", "--max-norm", str(norm / 2))
    assert done.returncode == 3
    data = strict_json(done.stdout)
    assert data["lower"] <= norm <= data["upper"]
    assert data["converged"] is True
    assert "pass 1: sigma_1 in" in done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")  # noqa: PTH110
def test_output_that_cannot_be_written_loses_neither_files_nor_the_gate(tmp_path):
    np.save(tmp_path / "A.npy", np.eye(4))
    files = ("--json", "out.json", "--report", "out.html")
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(
            [sys.executable, "-m", "bigspec", "norm", "A.npy", "--quiet", *files],
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=100, check=False, cwd=tmp_path,
        )  # fmt: skip
    said = "bigspec: error: cannot write to standard output: No space left on device\n"
    assert (done.returncode, done.stderr) == (74, said)
    assert strict_json((tmp_path / "out.json").read_text())["converged"] is True
    assert (tmp_path / "out.html").stat().st_size > 0


def test_a_gate_that_failed_matters_more_than_a_file(backend):
    result = bigspec("norm", "A.zarr", "--max-norm", "1", "--json", "/dev/full", "--quiet")
    assert result.exit_code == 3
    assert "cannot write '/dev/full'" in result.stderr
    assert "bigspec: failed: " in result.stderr


BROKEN_PIPE = """
import sys
import test_cli
import bigspec
from bigspec import cli
fake = test_cli.Backend()
bigspec.norm, bigspec.connect = fake.norm, fake.connect
cli.main(["norm", "A.zarr", "--max-norm", "1", "--quiet", "--report", sys.argv[1]])
"""


def test_a_reader_that_left_changes_neither_files_nor_status(tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-c", BROKEN_PIPE, str(tmp_path / "r.html")],
        stdout=writing, stderr=subprocess.PIPE, text=True, timeout=100, check=False,
        cwd=os.path.dirname(__file__),  # noqa: PTH120
    )  # fmt: skip
    os.close(writing)
    assert done.returncode == 3
    assert (
        done.stderr == "bigspec: failed: the norm exceeds max_norm 1.0: it is at least 167.9618\n"
    )
    assert (tmp_path / "r.html").exists()


# Dask's performance report ---------------------------------------------------------------------


@pytest.fixture
def stored_matrix(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    A = np.random.default_rng(0).standard_normal((120, 40)) / np.arange(1, 41.0)
    zarr.create_array("A.zarr", shape=A.shape, chunks=(30, 40), dtype=A.dtype)[:] = A
    return A


needs_bokeh = pytest.mark.skipif(find_spec("bokeh") is None, reason="needs bokeh")


def reported(cluster, *args):
    where = ("--scheduler", cluster.scheduler_address, "--performance-report", "dask.html")
    return bigspec(*args, "A.zarr", *where, "--quiet")


@needs_bokeh
@pytest.mark.parametrize("command", [("norm",), ("svds", "-k", 2)])
def test_the_performance_report_names_the_tasks_and_loads_nothing(cluster, stored_matrix, command):
    assert reported(cluster, *command).exit_code == 0
    page = Path("dask.html").read_text(encoding="utf-8")
    names = set(re.findall(r'"(bigspec-[a-z-]+)"', page))
    assert {"bigspec-panel", "bigspec-sum"} <= {name.replace("-pinned", "") for name in names}
    assert f"{command[0]} A.zarr" in page
    assert not re.search(r"<script[^>]* src=|<link[^>]* rel=.stylesheet", page)
    assert {path.name for path in Path().iterdir()} == {"A.zarr", "dask.html"}


@needs_bokeh
@pytest.mark.parametrize(
    ("ending", "status"), [(KeyboardInterrupt(), 130), (errors.ClusterError("lost"), 69)]
)
def test_the_performance_report_is_written_when_the_run_ends_badly(
    cluster, stored_matrix, monkeypatch, ending, status
):
    norm = library.norm

    def halfway(*args, **options):
        norm(*args, **options)
        raise ending

    monkeypatch.setattr(library, "norm", halfway)
    result = reported(cluster, "norm")
    assert result.exit_code == status
    assert "bigspec-panel" in Path("dask.html").read_text(encoding="utf-8")


@needs_bokeh
@pytest.mark.parametrize("trouble", [TimeoutError(), KeyboardInterrupt(), OSError("gone")])
def test_a_performance_report_that_fails_costs_neither_answer_nor_error(
    cluster, stored_matrix, monkeypatch, trouble
):
    from distributed import Client

    sync = Client.sync

    def failing(self, function, *args, **options):
        if function.__name__ == "__aexit__":  # of Dask's performance report
            raise trouble
        return sync(self, function, *args, **options)

    monkeypatch.setattr(Client, "sync", failing)
    Path("dask.html").write_text("of yesterday", encoding="utf-8")
    result = reported(cluster, "norm")
    assert result.exit_code == 74
    assert result.stdout.startswith("sigma_1 in")
    assert "cannot write 'dask.html': " in result.stderr
    assert reported(cluster, "norm", "--max-norm", 1).exit_code == 3

    def interrupted(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(library, "norm", interrupted)
    result = reported(cluster, "norm")
    assert result.exit_code == 130
    assert "warning: dask.html is not written: " in result.stderr
    assert Path("dask.html").read_text(encoding="utf-8") == "of yesterday"
    assert {path.name for path in Path().iterdir()} == {"A.zarr", "dask.html"}


def test_without_bokeh_or_a_cluster_no_performance_report_is_begun(
    cluster, stored_matrix, monkeypatch
):
    monkeypatch.setattr(library, "norm", None)
    result = bigspec("norm", "A.zarr", "--performance-report", "dask.html")
    assert result.exit_code == 2
    assert "--performance-report needs --scheduler" in result.stderr
    # What the scheduler of this cluster finds, which runs in this process.
    monkeypatch.setitem(sys.modules, "distributed.dashboard.components.scheduler", None)
    result = reported(cluster, "norm")
    assert result.exit_code == 2
    assert "it needs bokeh: pip install bokeh (or" in result.stderr


# svds ------------------------------------------------------------------------------------------


def test_svds_writes_vectors_and_json(stored_matrix):
    arguments = ["svds", "A.zarr", "-k", "3", "--u", "U.zarr", "--v", "V.npz", "--json", "-"]
    done = CliRunner().invoke(cli.main, [*arguments, "--quiet"])
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    sigma = np.linalg.svd(stored_matrix, compute_uv=False)[:3]
    assert np.all(np.array(data["lower"]) <= sigma * (1 + 1e-13))
    assert np.all(sigma <= np.array(data["upper"]) * (1 + 1e-13))
    with np.load("V.npz") as held:
        assert held["s"].tolist() == data["s"]
        u = zarr.open_array("U.zarr", mode="r")[:]
        np.testing.assert_allclose(stored_matrix @ held["vh"].T, u * held["s"], atol=1e-12)
    warm = CliRunner().invoke(cli.main, [*arguments[:4], "--start", "V.npz", "--quiet"])
    assert warm.exit_code == 0, warm.output
    assert warm.stdout.count("sigma_") == 3
    assert "left not made" in warm.stdout


def test_svds_of_an_expression(stored_matrix):
    done = CliRunner().invoke(
        cli.main, ["svds", "A.zarr", "-k", "2", "--center", "--json", "-", "--quiet"]
    )
    assert done.exit_code == 0, done.output
    A = stored_matrix - stored_matrix.mean(axis=0)
    sigma, data = np.linalg.svd(A, compute_uv=False)[:2], json.loads(done.stdout)
    assert np.all(np.array(data["lower"]) <= sigma * (1 + 1e-12))
    assert np.all(sigma <= np.array(data["upper"]) * (1 + 1e-12))


def test_a_plan_of_triplets(stored_matrix):
    done = CliRunner().invoke(cli.main, ["plan", "A.zarr", "-k", "3", "--block-size", "9"])
    assert done.exit_code == 0, done.output
    assert "the left vectors take one more pass" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["A.zarr"], 2, "Missing option '-k'"),
        (["A.zarr", "-k", "0"], 2, "k: expected an integer of at least 1"),
        (["A.zarr", "-k", "41"], 2, "k: expected 1 <= k <= min(m, n) = 40"),
        (["A.zarr", "-k", "2", "--u", "A.zarr"], 2, "u_store: expected an empty place"),
        (["A.zarr", "-k", "2", "--v", "no/V.npz"], 2, "not a writable directory"),
        (["A.zarr", "-k", "2", "--steal"], 2, "--steal need --checkpoint"),
        (["B.zarr", "-k", "2"], 66, "nothing lies there"),
    ],
)
def test_svds_errors_are_one_line_and_a_status(arguments, status, message, stored_matrix):
    done = CliRunner().invoke(cli.main, ["svds", *arguments])
    assert done.exit_code == status
    assert message in done.output


def test_svds_out_of_time_with_a_checkpoint_exits_75(stored_matrix):
    arguments = ["svds", "A.zarr", "-k", "2", "--checkpoint", "run", "--block-size", "8"]
    late = [*arguments, "--time-limit", "1us", "--quiet", "--u", "U.zarr"]
    done = CliRunner().invoke(cli.main, late)
    assert done.exit_code == 75, done.output
    assert "U.zarr is not written" in done.stderr
    assert "run the same command again" in done.stderr
    assert CliRunner().invoke(cli.main, [*arguments, "--quiet"]).exit_code == 0
    done = CliRunner().invoke(cli.main, late)  # finished, but for the pass for the vectors
    assert (done.exit_code, "U.zarr is not written" in done.stderr) == (75, True)


@pytest.mark.parametrize("flags", [("--center",), ("--scale", "std"), ("--minus", "A.zarr")])
def test_a_plan_of_an_expression_reads_nothing_and_is_the_plan_of_its_run(
    flags, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    A = np.random.default_rng(0).standard_normal((300, 40))
    zarr.create_array("A.zarr", data=A, chunks=(100, 40))
    chunks = list(Path("A.zarr", "c").rglob("*"))
    planned = json.loads(bigspec("plan", "A.zarr", *flags, "--json", "-").stdout)
    ran = json.loads(bigspec("norm", "A.zarr", *flags, "--json", "-", "--quiet").stdout)
    assert planned["layout"]["panels"] == ran["layout"]["panels"]
    assert planned["algorithm"] == ran["algorithm"]
    for chunk in chunks:
        if chunk.is_file():
            chunk.write_bytes(b"")
    again = json.loads(bigspec("plan", "A.zarr", *flags, "--json", "-").stdout)
    assert again == planned
    assert ("one pass of their own" in planned["choices"][-1]) == (flags[0] != "--minus")
