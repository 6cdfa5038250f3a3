"""A scan in a checkpoint: which scan it is, and the rows that are done."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from bigspec.checkpoint import Writer
from bigspec.errors import CheckpointError, CheckpointInUseError, ResumeError
from bigspec.names import shown
from bigspec.networks.row import Row
from bigspec.networks.state import SCAN_TYPES, Batches, ScanState, as_bytes
from bigspec.run.identity import as_checkpoint
from bigspec.watch import Observer

__all__ = ["Saver", "check_scan", "saver_of"]

GRACE = 20.0  # seconds that an interrupt waits for the last save
NAMED = 5  # how many of the tensors that differ are named


class Saver:
    """Saves rows as they are done; without a checkpoint, does nothing.

    Attributes
    ----------
    run : dict
        Which scan this is, with the entropy and the id of the one in the checkpoint.
    rows : dict
        Rows that the checkpoint had.
    where : str or None
        The checkpoint, if it holds all rows that are done.
    """

    def __init__(
        self, writer: Writer | None, run: dict[str, Any], state: ScanState, observer: Observer
    ) -> None:
        self.writer, self.run, self.observer = writer, run, observer
        self.rows = dict(state.rows)
        self._batches = Batches(state.batches)
        self._tokens = as_bytes(run["tensors"])
        if writer is not None:
            for row in state.first.values():
                self._batches.add(row)

    @property
    def where(self) -> str | None:
        """The checkpoint, if it holds all rows that are done; else None."""
        return self.writer.store.where if self.writer is not None and self.writer.complete else None

    def add(self, row: Row) -> None:
        """Save a row that is done at once, in the background.

        While one save is written, the next one waits, and collects the rows until then.
        """
        self.rows[row.name] = row
        if self.writer is not None:
            self._batches.add(row)
            self._offer("step")

    def finish(self, *, complete: bool) -> None:
        """Save the end, and wait until it is written."""
        if self.writer is None:
            return
        try:
            self._offer("finished" if complete else "step")
        except CheckpointInUseError as error:  # the answer is there all the same
            self.observer.warned(str(error))
        self.writer.flush()
        self._tell()

    def interrupted(self, error: BaseException) -> None:
        """Called on an error: wait for the last save, and say where everything is."""
        if self.writer is None or isinstance(error, CheckpointInUseError):
            return
        with suppress(CheckpointInUseError):
            self._offer("step")
            self.writer.flush(GRACE, strict=True)
            if self.writer.complete:
                where = self.writer.store.where
                error.saved = where  # type: ignore[attr-defined]
                error.add_note(f"Everything up to here is saved in {where}.")
        self._tell()

    def _offer(self, kind: str) -> None:
        if self.writer is not None:
            plain = {key: value for key, value in self.run.items() if key != "tensors"}
            state = ScanState(plain, batches=self._batches.arrays(), tokens=self._tokens)
            self.writer.offer(kind, state)
            self._tell()

    def _tell(self) -> None:
        assert self.writer is not None
        while self.writer.messages:
            self.observer.warned(shown(self.writer.messages.popleft()))


@contextmanager
def saver_of(checkpoint: Any, run: dict[str, Any], observer: Observer) -> Iterator[Saver]:
    """Own a checkpoint while inside, and take up the scan that it holds.

    Parameters
    ----------
    checkpoint : path, URL, Checkpoint or None
    run : dict
        Which scan this is: "tensors" maps names to content tokens, "options" holds all that
        changes a row, "entropy" is None where the caller gave no seed.
    observer : Observer

    Raises
    ------
    ResumeError
        It holds another scan; the message names what differs.
    CheckpointError, CheckpointInUseError
    """
    options = as_checkpoint(checkpoint)
    begun = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    fresh: dict[str, Any] = {"id": uuid.uuid4().hex, "begun": begun}
    if run["entropy"] is None:
        fresh["entropy"] = int(np.random.SeedSequence().entropy)  # type: ignore[arg-type]
    if options is None:
        yield Saver(None, run | fresh, ScanState(), observer)
        return
    writer = Writer(options, SCAN_TYPES)
    try:
        state = writer.open()
        while writer.messages:
            observer.warned(shown(writer.messages.popleft()))
        if state is None:
            yield Saver(writer, run | fresh, ScanState(), observer)
            return
        was = check_scan(state, writer.store.where)
        _compare(was, run)
        yield Saver(writer, was, state, observer)
    finally:
        writer.close()


def check_scan(state: Any, where: str) -> dict[str, Any]:
    """Return which scan a record holds, with its tokens.

    Raises
    ------
    CheckpointError
        It holds no scan.
    """
    keys = {"id", "begun", "options", "entropy", "model"}
    try:
        tensors, rows = state.tensors, state.rows
        whole = all(isinstance(row, Row) and row.name == name for name, row in rows.items())
        whole = whole and all(isinstance(text, str) for text in tensors.values())
    except (ValueError, TypeError, LookupError, AttributeError):
        whole = False
    if not whole or not keys <= state.run.keys() or not isinstance(state.run["entropy"], int):
        msg = f"{where}: expected a scan, got another record; name another place"
        raise CheckpointError(msg)
    return {**state.run, "tensors": tensors}


def _compare(was: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse another scan's checkpoint, by names and content."""
    differences = _tensors(was["tensors"], now["tensors"])
    for name in sorted(was["options"].keys() | now["options"].keys()):
        old, new = was["options"].get(name), now["options"].get(name)
        if old != new:
            differences.append(f"{name} was {old!r}, is {new!r}")
    if now["entropy"] is not None and now["entropy"] != was["entropy"]:
        differences.append(f"seed was {was['entropy']!r}, is {now['entropy']!r}")
    if differences:
        msg = (
            f"checkpoint: it holds another scan, of {was['model']} started {was['begun']}: "
            f"{'; '.join(differences)}. Name another place for this scan, or ask for that one again"
        )
        raise ResumeError(msg)


def _tensors(was: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    said = []
    groups = {
        "gone": [name for name in was if name not in now],
        "new": [name for name in now if name not in was],
        "of other content": [name for name in now if name in was and was[name] != now[name]],
    }
    for word, names in groups.items():
        if names:
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            said.append(f"{word}: {', '.join(names[:NAMED])}{more}")
    return said
