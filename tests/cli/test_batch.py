"""The command as a batch job: where options come from, what the log says, which workers it gets."""

import json
import logging
import threading
import warnings

import dask
import numpy as np
import pytest
import zarr
from click.testing import CliRunner

import bigspec
from bigspec import cli, errors, passes
from bigspec.api.arguments import as_seconds
from bigspec.watch.json_log import JsonLog, taking_over
from tests.cli.test_cli import Backend, backend, estimate  # noqa: F401 - a fixture
from tests.matrices import decaying


def command(*args, **environment):
    env = {name: str(value) for name, value in environment.items()}
    return CliRunner().invoke(cli.main, [str(a) for a in args], prog_name="bigspec", env=env)


@pytest.fixture
def config(tmp_path):
    def write(text):
        (tmp_path / "b.toml").write_text(text)
        return tmp_path / "b.toml"

    return write


# Where options come from -----------------------------------------------------------------------


def test_flags_win_then_the_environment_then_the_file_then_the_defaults(backend, config):  # noqa: F811
    file = config("rtol = 0.5\nblock-size = 3\nseed = 7\nmax-norm = 1e9\n")
    result = command(
        "norm", "A.zarr", "--config", file, "--rtol", 0.01,
        BIGSPEC_RTOL=0.1, BIGSPEC_BLOCK_SIZE=5,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    asked = backend.options
    assert (asked["rtol"], asked["block_size"], asked["seed"]) == (0.01, 5, 7)
    assert asked["failure_probability"] == 1e-6
    assert asked["gate"] == bigspec.Gate(max_norm=1e9)


def test_the_file_may_be_named_by_the_environment_and_serve_several_commands(backend, config):  # noqa: F811
    file = config('rtol = 0.5\nseed = 7\n[plan]\nrtol = 0.25\nmemory-limit = "1GiB"\n')
    assert command("plan", "A", BIGSPEC_CONFIG=file).exit_code == 0
    assert (backend.options["rtol"], backend.options["memory_limit"]) == (0.25, "1GiB")
    assert command("norm", "A", BIGSPEC_CONFIG=file).exit_code == 0
    assert (backend.options["rtol"], backend.options["seed"]) == (0.5, 7)
    assert backend.options["memory_limit"] is None


def test_every_option_of_every_command_has_its_variable():
    for name, each in cli.main.commands.items():
        for option in each.params:
            if option.param_type_name == "option":
                long = max(option.opts, key=len)
                assert option.envvar == "BIGSPEC_" + long.lstrip("-").upper().replace("-", "_"), (
                    name
                )


def test_switches_bare_numbers_and_an_empty_variable(backend, config):  # noqa: F811
    file = config('quiet = true\ntime-limit = 90\njson = "-"\nmemory-limit = 1000000\n')
    result = command("norm", "A", "--config", file, BIGSPEC_SEED="", BIGSPEC_STEAL="0")
    assert json.loads(result.stdout)["lower"] == backend.answer.lower
    assert result.stderr == ""
    assert (backend.options["time_limit"], backend.options["memory_limit"]) == (90.0, 1_000_000)
    assert backend.options["seed"] is None


def test_a_flag_replaces_the_cluster_of_the_environment(backend):  # noqa: F811
    assert command("norm", "A", "--workers", 2, BIGSPEC_SCHEDULER="tcp://h:1").exit_code == 0
    assert backend.connected[0]["workers"] == 2
    assert backend.connected[0]["scheduler"] is None
    both = command("norm", "A", BIGSPEC_WORKERS=2, BIGSPEC_SCHEDULER="tcp://h:1")
    assert both.exit_code == 2
    assert "--scheduler and --workers exclude each other" in both.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("max_norm = 3", "unknown key 'max_norm'; did you mean 'max-norm'?"),
        ("rtoll = 3", "unknown key 'rtoll'; did you mean 'rtol'?"),
        ("zzz = 3", "unknown key 'zzz'; known: accept, "),
        ("[norms]\nrtol = 1", "unknown table 'norms'; did you mean 'norm'?"),
        ("[plan]\nseed = 1", "unknown key of [plan] 'seed'"),
        ('config = "b.toml"', "unknown key 'config'"),
        ("rtol = ", "cannot read"),
        ('rtol = "small"', "'small' is not a valid float. (from the file of --config)"),
        ("rtol = true", "rtol: expected a value, got True"),
        ('quiet = "yes"', "quiet: expected true or false, got 'yes'"),
        ("seed = [1, 2]", "seed: expected a number or a text, got [1, 2]"),
        ("seed = 1.5", "seed: expected a whole number, got 1.5"),
        ('algorithm = "magic"', "from the file of --config"),
        ("max-norm = nan", "expected a finite number >= 0, got nan (from the file of --config)"),
    ],
)
def test_a_file_that_means_nothing_is_refused_by_name(backend, config, text, said):  # noqa: F811
    result = command("norm", "A.zarr", "--config", config(text))
    assert (result.exit_code, said in " ".join(result.stderr.split())) == (2, True), result.stderr
    assert backend.source == ""


def test_a_missing_file_and_a_wrong_variable_are_named(backend, tmp_path):  # noqa: F811
    assert "does not exist" in command("norm", "A", "--config", tmp_path / "no.toml").stderr
    result = command("norm", "A", BIGSPEC_RTOL="small")
    assert result.exit_code == 2
    assert "(from the environment variable BIGSPEC_RTOL)" in result.stderr


# The log -------------------------------------------------------------------------------------


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def stored(tmp_path):
    A = decaying(300, 60, 0.5)
    zarr.create_array(tmp_path / "A.zarr", shape=A.shape, chunks=(50, 60), dtype=A.dtype)[:] = A
    return tmp_path / "A.zarr"


def test_the_json_log_has_a_line_a_pass_and_one_for_the_start_and_the_end(stored):
    asked = ("--algorithm", "lanczos", "--block-size", 4, "--max-norm", 0.5, "--rtol", 1e-6)
    result = command("norm", stored, "--log-format", "json", "--json", "-", *asked)
    data, log = json.loads(result.stdout), lines(result.stderr)
    assert [line["event"] for line in log] == [
        "run_started", *["pass_finished"] * data["passes"], "run_finished", "ended",
    ]  # fmt: skip
    assert {line["run"] for line in log} == {data["run_id"]}
    assert [line["pass"] for line in log[1:-2]] == [r["number"] for r in data["history"]]
    assert [line["lower"] for line in log[1:-2]] == [r["lower"] for r in data["history"]]
    assert log[0]["schema"] == "bigspec.log/1"
    assert log[-2]["gate"]["outcome"] == "failed"
    assert (log[-1]["exit_status"], log[-1]["level"]) == (result.exit_code, "warning")
    assert all(line["time"].endswith("Z") for line in log)


def test_errors_and_warnings_are_lines_too_also_when_quiet(stored, tmp_path):
    asked = ("--log-format", "json", "--quiet")
    (line,) = lines(command("norm", tmp_path / "no.zarr", *asked).stderr)
    assert (line["event"], line["exit_status"], line["run"]) == ("error", 66, None)
    assert "nothing lies there" in line["message"]
    history = ("--history", tmp_path / "h", "--max-change", 1)
    (line,) = lines(command("norm", stored, *asked, *history).stderr)
    assert (line["level"], line["event"]) == ("warning", "warning")


def test_what_python_and_other_packages_say_becomes_lines_and_is_as_before_afterwards(capsys):
    other = logging.getLogger("other")
    other.propagate = False
    other.addHandler(handler := logging.StreamHandler())
    log = JsonLog()
    with warnings.catch_warnings(), taking_over(log):
        warnings.simplefilter("always")
        warnings.warn("careful", stacklevel=1)
        other.warning("a worker is slow: %d", 3)
        logging.getLogger("root.less").error("lost")
    assert other.handlers == [handler]
    said = [(line["level"], line["message"]) for line in lines(capsys.readouterr().err)]
    assert "careful" in said[0][1]
    assert said[1:] == [("warning", "a worker is slow: 3"), ("error", "lost")]
    other.removeHandler(handler)


def test_a_heartbeat_is_a_line_with_how_far_the_pass_is(capsys):
    log = JsonLog(heartbeat=1e-3)
    beaten = threading.Event()
    say = log.say

    def heard(level, event, **values):
        say(level, event, **values)
        if event == "heartbeat" and values["panels_done"] == 2:
            beaten.set()

    log.say = heard
    with log:
        log.identified("abc")
        log.pass_started(3, 7)
        log.panels_done(2, 7, 10**6, 0.5)
        assert beaten.wait(60)
    last = lines(capsys.readouterr().err)[-1]
    assert (last["run"], last["pass"], last["panels"], last["bytes_read"]) == ("abc", 3, 7, 10**6)


def test_a_log_that_nobody_reads_ends_no_run():
    class Gone:
        def write(self, text):
            raise BrokenPipeError

    log = JsonLog(Gone())
    log.warned("hello")


# Workers -------------------------------------------------------------------------------------


def test_the_workers_to_wait_for_reach_the_cluster(backend):  # noqa: F811
    asked = ("--scheduler", "tcp://h:1", "--min-workers", 3, "--worker-timeout", "2min")
    assert command("plan", "A", *asked).exit_code == 0
    assert backend.connected[0]["min_workers"] == 3
    assert backend.connected[0]["worker_timeout"] == "2min"
    result = command("norm", "A", "--min-workers", 3)
    assert result.exit_code == 2
    assert "need --scheduler, --scheduler-file or --workers" in result.stderr


def test_too_few_workers_end_the_command_with_how_many_came(stored, tmp_path):
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0"
    ) as cluster:
        asked = ("--scheduler", cluster.scheduler_address, "--history", tmp_path / "h")
        result = command("norm", stored, *asked, "--min-workers", 2, "--worker-timeout", "0.2s")
        assert result.exit_code == 69
        assert "expected 2 worker(s) within 0.2 s, got 1. Start more" in result.stderr
        assert command("norm", stored, *asked, "--min-workers", 1).exit_code == 0
    assert [r.exit_status for r in bigspec.History(tmp_path / "h").rows()] == [69, 0]


@pytest.mark.parametrize(("text", "seconds"), [("30min", 1800), ("5 min", 300), ("2m", 120)])
def test_minutes_are_read_as_the_help_writes_them(text, seconds):
    assert as_seconds(text) == seconds


def test_a_scheduler_that_comes_late_is_waited_for(monkeypatch):
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0"
    ) as cluster:
        start, refused = passes.connection._client, []

        def late(address, *, timeout):
            if len(refused) < 2:
                refused.append(timeout)
                raise OSError("Timed out trying to connect")
            return start(address, timeout=timeout)

        monkeypatch.setattr(passes.connection, "_client", late)
        where = cluster.scheduler_address
        with bigspec.connect(scheduler=where, timeout=5, min_workers=1):  # waits 300 s
            pass
        assert refused == [5, 5]  # each try, and a scheduler lost later: no longer than `timeout`
        monkeypatch.setattr(passes.connection, "_client", start)
        with (
            pytest.raises(errors.ClusterError, match=r"an answer and a worker within 0\.3 s"),
            bigspec.connect(scheduler="tcp://127.0.0.1:9", timeout=0.1, worker_timeout="0.3s"),
        ):
            pass


def test_more_workers_than_are_started_and_a_time_that_is_none_are_refused():
    def connect(**options):
        with bigspec.connect(**options):
            pass

    with pytest.raises(errors.ArgumentError, match="expected at most workers=2, got 3"):
        connect(workers=2, min_workers=3)
    with pytest.raises(errors.ArgumentError, match="worker_timeout: expected positive seconds"):
        connect(scheduler="tcp://h:1", worker_timeout="soon")


def test_a_scheduler_file_that_nobody_writes_is_not_waited_for_without_end(tmp_path):
    file = tmp_path / "s.json"
    said = r"s\.json: .*the scheduler has not written it"
    with (
        pytest.raises(errors.ClusterError, match=said),
        bigspec.connect(scheduler_file=file, timeout=0.01),
    ):
        pass


def test_tls_comes_from_the_configuration_of_dask(stored, tmp_path):
    pytest.importorskip("cryptography")
    from distributed import Client, LocalCluster
    from distributed.security import Security

    keys = Security.temporary()
    tls = {
        "distributed.comm.tls.ca-file": keys.tls_ca_file,
        "distributed.comm.tls.client.key": keys.tls_client_key,
        "distributed.comm.tls.client.cert": keys.tls_client_cert,
        "distributed.comm.require-encryption": True,
    }
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, security=keys, dashboard_address=":0"
    ) as cluster:
        address = cluster.scheduler_address
        assert address.startswith("tls://")
        with dask.config.set(tls), bigspec.connect(scheduler=address):
            est = bigspec.norm(stored)
        assert "worker" in est.layout["where"]
        with (
            pytest.raises(errors.ClusterError, match="perhaps check your TLS configuration"),
            bigspec.connect(scheduler=address, timeout=1),
        ):
            pass
        with pytest.raises(ValueError, match="No clients"):  # none stays behind as the active one
            Client.current()
    assert est.lower <= np.linalg.norm(decaying(300, 60, 0.5), 2) * (1 + 1e-12)
