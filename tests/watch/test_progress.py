import io
import math
import re
import sys
import threading
import warnings

import pytest

from bigspec.errors import ArgumentError
from bigspec.results import PassRecord
from bigspec.watch import Observer
from bigspec.watch.live import LiveProgress, make_observer


class Terminal(io.StringIO):
    """A stream that says it is a terminal, and knows what would be left on its screen."""

    def isatty(self):
        return True

    @property
    def screen(self):
        rows = []
        for row in self.getvalue().split("\n"):
            shown = ""
            for written in row.replace("\x1b[A", "").split("\r"):
                shown = written + shown[len(written) :]
            rows.append(shown.rstrip())
        return rows


class Gone(Terminal):
    """A terminal whose other end was closed."""

    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")


def record(number, lower=9.0, upper=11.0, retries=0):
    bounds = "Christoffel", "Ritz value"
    return PassRecord(
        number, lower, upper, *bounds, False, (lower,), 4 * 10**9, 2.0, 3.0, 1.0, 4, retries
    )


def two_passes(progress, seconds_a_panel=0.5):
    progress.run_started("A.zarr", {"orientation": "rows", "panels": 4, "cuts": [0, 1]})
    for number, lower, upper in ((1, 9.0, 11.0), (2, 9.9, 10.1)):
        progress.pass_started(number, 4)
        for done in range(1, 5):
            progress.panels_done(done, 4, done * 10**9, done * seconds_a_panel)
        progress.pass_finished(record(number, lower, upper))


def test_a_log_gets_one_line_a_pass():
    stream = io.StringIO()
    with LiveProgress(stream) as progress:
        two_passes(progress)
    lines = stream.getvalue().splitlines()
    assert lines == [
        "A.zarr: 4 panels of rows",
        "pass 1: sigma_1 in [9.00, 11.00], width 0.23 (Christoffel); 3.7 GiB in 2 s, 1.9 GiB/s",
        (
            "pass 2: sigma_1 in [9.900, 10.100], width 2.1e-02 (Christoffel); 3.7 GiB in 2 s, 1.9"
            " GiB/s"
        ),
    ]


def test_a_long_pass_in_a_log_says_how_far_it_is():
    stream = io.StringIO()
    progress = LiveProgress(stream, heartbeat=math.inf)
    progress.pass_started(3, 100)
    progress.beat(60.0)
    progress.panels_done(30, 100, 30 * 10**9, 75.0)
    progress.beat(120.0)
    assert stream.getvalue().splitlines() == [
        "pass 3: 0 of 100 panels; 60 s so far",
        "pass 3: 30 of 100 panels, 381.5 MiB/s; 2 min 0 s so far",
    ]


def test_a_heart_beats_by_itself_while_a_panel_hangs_and_stops_with_its_pass():
    said = threading.Event()

    class Log(io.StringIO):
        def write(self, text):
            said.set()
            return super().write(text)

    stream = Log()
    with LiveProgress(stream, heartbeat=0.001) as progress:
        progress.pass_started(1, 4)
        assert said.wait(60)
        progress.pass_finished(record(1))
        assert progress._heartbeat._stopped is None
    assert stream.getvalue().startswith("pass 1: 0 of 4 panels; 0.0")


def test_a_terminal_has_a_bar_and_no_heartbeat():
    with LiveProgress(Terminal(), heartbeat=1e-3) as progress:
        progress.pass_started(1, 4)
        assert progress._heartbeat._stopped is None


def test_a_terminal_shows_panels_throughput_and_the_interval_then_only_the_lines_that_stay():
    stream = Terminal()
    with LiveProgress(stream) as progress:
        two_passes(progress)
        progress.pass_started(3, 4)
        progress.panels_done(1, 4, 10**9, 60.0)
    written = stream.getvalue()
    assert "/4 panels" in written
    assert "sigma_1 in [9.00, 11.00], width 0.23" in written
    rows = stream.screen
    assert [row.split(":")[0] for row in rows] == ["A.zarr", "pass 1", "pass 2", ""]


def test_the_bar_moves_with_throughput(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr("tqdm.tqdm.monitor_interval", 0)
    progress = LiveProgress(stream)
    progress.pass_started(1, 4)
    progress._bar.mininterval = 0
    progress.panels_done(3, 4, 3 * 10**9, 2.0)
    progress.close()
    assert re.search(r"pass 1 \|.*3/4 panels, .* left, 1.4 GiB/s", stream.getvalue())


def test_an_error_in_the_middle_of_a_pass_leaves_a_clean_line():
    stream = Terminal()

    def fail(progress):
        progress.pass_started(1, 4)
        progress.panels_done(1, 4, 10**9, 1.0)
        raise RuntimeError

    with pytest.raises(RuntimeError), LiveProgress(stream) as progress:
        fail(progress)
    assert stream.screen == [""]
    progress.close()
    progress.close()


def test_reads_that_were_tried_again_are_told():
    stream = io.StringIO()
    LiveProgress(stream).pass_finished(record(1, retries=2))
    assert "2 reads retried" in stream.getvalue()


def test_a_terminal_that_went_away_does_not_end_the_run():
    with LiveProgress(Gone()) as progress:
        two_passes(progress)


def test_a_closed_log_does_not_end_the_run():
    stream = io.StringIO()
    with LiveProgress(stream) as progress:
        stream.close()
        two_passes(progress)


def test_a_process_without_standard_error_can_ask_for_progress(monkeypatch):
    monkeypatch.setattr("sys.stderr", None)
    two_passes(make_observer(True))


def test_a_notebook_gets_the_output_cell(monkeypatch, capsys):
    monkeypatch.setattr("bigspec.watch.live._in_notebook", lambda: True)
    monkeypatch.setattr("tqdm.auto.tqdm", pytest.importorskip("tqdm").tqdm)
    with LiveProgress() as progress:
        two_passes(progress)
    captured = capsys.readouterr()
    assert "pass 2: sigma_1 in [9.900, 10.100]" in captured.out
    assert captured.err == ""


class WithoutWidgets:
    """The module `tqdm.auto` where ipywidgets is missing."""

    @property
    def tqdm(self):
        warnings.warn("IProgress not found. Please update jupyter and ipywidgets.", stacklevel=2)
        return pytest.importorskip("tqdm").tqdm


def test_a_notebook_without_widgets_gets_a_bar_of_text_and_no_warning(monkeypatch, capsys):
    monkeypatch.setattr("bigspec.watch.live._in_notebook", lambda: True)
    monkeypatch.setitem(sys.modules, "tqdm.auto", WithoutWidgets())
    with LiveProgress() as progress:
        two_passes(progress)
    assert capsys.readouterr().out.count("pass 2: sigma_1 in [9.900, 10.100]") == 1


def test_progress_true_false_or_an_observer():
    own = Observer()
    assert make_observer(own) is own
    assert isinstance(make_observer(True), LiveProgress)
    assert type(make_observer(False)) is Observer


def test_any_other_progress_is_refused_by_name():
    with pytest.raises(ArgumentError, match=r"progress: expected True, False or .*, got str"):
        make_observer("yes")
