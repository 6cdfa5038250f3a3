"""A scan in a checkpoint: killed at any row, interrupted, out of time, or another one's."""

import signal

import numpy as np
import pytest

from bigspec import Checkpoint, norm, scan, show
from bigspec.checkpoint import INLINE, Writer, load_latest
from bigspec.errors import CheckpointError, CheckpointInUseError, ResumeError
from bigspec.networks import state
from bigspec.networks.row import Row
from bigspec.networks.state import SCAN_TYPES
from bigspec.networks.table import brief_text
from bigspec.watch import Observer
from tests.networks.killing import killed
from tests.networks.models import transformer


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    from safetensors.numpy import save_file

    file = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_file(transformer(layers=4, n=16), file)
    return file


def table(found):
    """All rows without what a clock says."""
    return [{k: v for k, v in row.to_dict().items() if k != "seconds"} for row in found.values()]


@pytest.fixture(scope="module")
def reference(path):
    return table(scan(path, seed=5, rtol=1e-4))


@pytest.mark.parametrize("rows", range(1, 21))
def test_killed_at_one_of_twenty_moments_and_run_again(rows, path, reference, tmp_path):
    """After the k-th row, and for odd k while the next one is being saved."""
    assert killed(path, tmp_path / "run", rows) == -signal.SIGKILL
    assert len(load_latest(tmp_path / "run", SCAN_TYPES).rows) >= rows
    found = scan(path, checkpoint=tmp_path / "run", seed=5, rtol=1e-4)
    assert table(found) == reference


def test_killed_again_and_again(path, reference, tmp_path):
    before = 0
    for rows in (1, 2, 5, 4):
        assert killed(path, tmp_path / "run", rows) == -signal.SIGKILL
        now = len(load_latest(tmp_path / "run", SCAN_TYPES).rows)
        assert now >= before + rows
        before = now
    found = scan(path, checkpoint=tmp_path / "run", seed=5, rtol=1e-4)
    assert table(found) == reference


class Stopping(Observer):
    """Presses Ctrl-C after so many tasks."""

    def __init__(self, tasks):
        self.tasks = tasks

    def stage_advanced(self, done, entries, size, seconds):
        self.tasks -= 1
        if self.tasks == 0:
            raise KeyboardInterrupt


def test_an_interrupt_is_saved_and_gone_on_from(path, tmp_path):
    with pytest.raises(KeyboardInterrupt) as caught:
        scan(path, checkpoint=tmp_path / "run", progress=Stopping(3)).run()
    assert caught.value.saved == str(tmp_path / "run")
    kept = load_latest(tmp_path / "run", SCAN_TYPES)
    assert 3 <= len(kept.rows) < len(scan(path))
    found = scan(path, checkpoint=tmp_path / "run").run()
    assert found.complete
    assert found.seed == kept.run["entropy"]
    assert {n: found[n] for n in kept.rows} == kept.rows  # seconds too: they were not run again


def test_an_interrupt_without_a_checkpoint_has_the_rows_that_are_done(path):
    with pytest.raises(KeyboardInterrupt) as caught:
        scan(path, progress=Stopping(2)).run()
    found = caught.value.estimate
    assert (found.stopped_by, found.complete) == ("interrupted", False)
    assert 2 <= sum(row.lower is not None for row in found.values()) < len(found)


def test_a_finished_scan_reads_nothing(path, tmp_path, monkeypatch):
    first = scan(path, checkpoint=tmp_path / "run")
    before = table(first)
    monkeypatch.setattr("bigspec.networks.work._row", lambda *_: pytest.fail("a row was computed"))
    assert table(scan(path, checkpoint=tmp_path / "run")) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rtol": 1e-3}, "rtol was 0.01, is 0.001"),
        ({"failure_probability": 1e-3}, "failure_probability was 1e-06, is 0.001"),
        ({"seed": 7}, "seed was 5, is 7"),
        ({"only": "layers.0*"}, "gone: conv.weight, embed.weight, layers.1"),
        ({"everything": True}, "new: layers.0.norm.weight"),
        ({"max_norm": 3.0}, "gate was None, is"),
        ({"minus": {"embed.weight": np.ones((200, 16))}}, "minus was False, is True"),
    ],
)
def test_other_options_are_another_scan(options, message, path, tmp_path):
    scan(path, checkpoint=tmp_path / "run", seed=5).run()
    with pytest.raises(ResumeError, match=message) as caught:
        scan(path, checkpoint=tmp_path / "run", **options).run()
    assert str(caught.value).startswith("checkpoint: it holds another scan, of ")
    assert "Name another place for this scan, or ask for that one again" in str(caught.value)


def test_a_tensor_that_has_changed_is_named(tmp_path):
    W = transformer()
    scan(W, checkpoint=tmp_path / "run").run()
    W["layers.1.mlp.weight"] = W["layers.1.mlp.weight"] + np.float32(1e-6)
    with pytest.raises(ResumeError, match=r"of other content: layers\.1\.mlp\.weight\. Name"):
        scan(W, checkpoint=tmp_path / "run").run()


def test_a_checkpoint_of_a_run_and_one_of_a_scan(path, tmp_path):
    norm(np.eye(5), checkpoint=tmp_path / "norm")
    with pytest.raises(CheckpointError, match=r"got 'Progress'\. .* use `bigspec norm`"):
        scan(path, checkpoint=tmp_path / "norm").run()
    scan(path, checkpoint=tmp_path / "scan").run()
    with pytest.raises(CheckpointError, match=r"got 'Scan'\. .* use `bigspec scan`"):
        norm(np.eye(5), checkpoint=tmp_path / "scan")


def test_two_scans_on_one_checkpoint(path, tmp_path):
    class Second(Observer):
        refused = None

        def stage_advanced(self, done, entries, size, seconds):
            if self.refused is None:
                with pytest.raises(CheckpointInUseError) as caught:
                    scan(path, checkpoint=tmp_path / "run").run()
                self.refused = caught.value

    watch = Second()
    scan(path, checkpoint=tmp_path / "run", progress=watch).run()
    assert watch.refused is not None
    assert scan(path, checkpoint=Checkpoint(tmp_path / "run", steal=True)).run().complete


def test_the_time_limit_keeps_what_is_done(path, tmp_path, monkeypatch):
    found = scan(path, checkpoint=tmp_path / "run", time_limit=1e-9).run()
    assert (found.stopped_by, found.checkpoint) == ("time", str(tmp_path / "run"))
    assert found.missing == found.names
    again = scan(path, checkpoint=tmp_path / "run").run()
    assert again.complete
    assert again.seed == found.seed


def test_a_forged_record_is_refused(path, tmp_path):

    writer = Writer(Checkpoint(tmp_path / "run"), SCAN_TYPES)
    writer.open()
    writer.offer("step", state.ScanState({"id": "x"}, {}))
    writer.flush()
    writer.close()
    with pytest.raises(CheckpointError, match="expected a scan, got another record"):
        scan(path, checkpoint=tmp_path / "run").run()


def test_rows_in_full_batches_and_those_since_are_all_there():
    """Names of batches stay few, and full ones are the same arrays, which are written once."""
    rows = [Row(f"layers.{k}.w", "m", (k, 3), "f", "matrix", lower=k / 7) for k in range(1500)]
    batches, before = state.Batches(), ()
    for row in rows:
        batches.add(row)
        arrays = batches.arrays()
        assert sum(array.nbytes <= INLINE for array in arrays) <= 1
        same = {id(array) for array in before} & {id(array) for array in arrays}
        assert len(same) >= len(before) - 2 - state.JOINED
        before = tuple(array for array in arrays if array.nbytes > INLINE)
    assert 16 < len(before) + state.JOINED < 64
    found = state.ScanState(batches=batches.arrays()).rows
    assert list(found.values()) == rows
    again = state.Batches(batches.arrays())
    again.add(rows[0])
    assert len(state.ScanState(batches=again.arrays()).rows) == len(rows)


def test_every_row_is_offered_to_the_checkpoint_as_soon_as_it_is_done(tmp_path, monkeypatch):
    net = {f"m{k}": np.full((2, 2), k + 1.0) for k in range(150)}
    offered = []
    offer = Writer.offer

    def counted(self, kind, value):
        offered.append(sum(batch.tobytes().count(b"\n") for batch in value.batches))
        offer(self, kind, value)

    monkeypatch.setattr(Writer, "offer", counted)
    scan(net, checkpoint=tmp_path / "run").run()
    assert offered == [*range(1, 151), 150]
    assert len(load_latest(tmp_path / "run", SCAN_TYPES).rows) == 150


def test_a_record_of_an_older_version_is_gone_on_from(path, tmp_path):
    """It had all rows as objects, and the tokens among what says which scan it is."""
    whole = scan(path, seed=5, checkpoint=tmp_path / "new")
    kept = dict(list(whole.items())[:4])
    new = load_latest(tmp_path / "new", SCAN_TYPES)
    writer = Writer(Checkpoint(tmp_path / "old"), SCAN_TYPES)
    writer.open()
    writer.offer("step", state.ScanState({**new.run, "tensors": new.tensors}, kept))
    writer.flush()
    writer.close()
    found = scan(path, seed=5, checkpoint=tmp_path / "old").run()
    assert {name: found[name] for name in kept} == kept
    assert table(found) == table(whole)
    assert len(load_latest(tmp_path / "old", SCAN_TYPES).rows) == len(
        load_latest(tmp_path / "new", SCAN_TYPES).rows
    )


@pytest.mark.parametrize("batch", [b"{}", b"[1]", b"nonsense", b'{"object": "Scan", "fields": {}}'])
def test_a_batch_that_no_scan_wrote_is_refused(batch, path, tmp_path):
    scan(path, seed=5, checkpoint=tmp_path / "new").run()
    new = load_latest(tmp_path / "new", SCAN_TYPES)
    writer = Writer(Checkpoint(tmp_path / "old"), SCAN_TYPES)
    writer.open()
    forged = (np.frombuffer(batch, np.uint8),)
    writer.offer("step", state.ScanState(new.run, {}, forged, new.tokens))
    writer.flush()
    writer.close()
    with pytest.raises(CheckpointError, match="expected a scan, got another record"):
        scan(path, checkpoint=tmp_path / "old").run()


def test_show_says_how_far_a_scan_is(path, tmp_path):
    assert killed(path, tmp_path / "run", 4) == -signal.SIGKILL
    saved = show(tmp_path / "run")
    done = len(saved.rows)
    assert (done >= 4, saved.expected, saved.finished) == (True, len(scan(path)), False)
    text = str(saved)
    assert f"  rows        {done} of {saved.expected} done, {done} certain" in text
    assert "which is gone: the same command goes on" in text
    assert f"{done} of {saved.expected} rows are done: the same command goes on with" in text


def test_show_says_what_a_gate_has_found_and_the_largest_norm(path, tmp_path):
    found = scan(path, checkpoint=tmp_path / "run", gate={"*.mlp.*": {"max_norm": 1.0}}).run()
    saved = show(tmp_path / "run")
    assert saved.failed == tuple(sorted(found.ruling.named("failed")))
    top = max(found.values(), key=lambda row: row.lower)
    assert saved.largest == top
    said = str(saved)
    assert f"  largest     {brief_text(top.lower, top.upper)}, {top.name}\n" in said
    assert "*.mlp.*: max_norm 1; broken by layers.0.mlp.weight, " in said
    data = saved.to_dict()
    assert (data["rows_done"], data["finished"], data["rows"]) == (len(found), True, len(found))
    assert data["gate"] == [["*.mlp.*", {"max_norm": 1.0}]]
