"""Saves a run while it works, and loads the newest save."""

from __future__ import annotations

import errno
import threading
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import numpy as np

from bigspec.checkpoint.codec import Codec, Former, Wire, array_digest
from bigspec.checkpoint.contents import block_names, newest
from bigspec.checkpoint.lease import Lease
from bigspec.checkpoint.options import Checkpoint
from bigspec.checkpoint.store import Damaged, Store
from bigspec.errors import CheckpointError, CheckpointInUseError
from bigspec.sources import retries

__all__ = ["Writer"]

Array = np.ndarray[Any, Any]

NAME_LENGTH = 40
KEPT = 2
EARLY = 0.6  # share of an interval; rounds in flight and the save take the rest
SHARE = 50  # a step is saved at once if the last save took less than 1/50 of the time since
CLOSING = 5.0  # seconds that the end of a run waits for a save that is given up
PATIENCE = 60.0  # seconds that the end of a run waits for its last save


class _Closed(Exception):  # noqa: N818
    """The run has ended; saves that still wait are not made."""


class Writer:
    """Owns a checkpoint for the length of a run.

    A thread of its own saves, so a slow store delays nothing. If several saves wait, only the
    newest is made. A save that fails leaves a message in `messages`, and the next one tries
    again. A checkpoint never ends a run, unless another process has taken it over.

    Parameters
    ----------
    options : Checkpoint
    types : iterable of Wire or Former
        The dataclasses of saved values.

    Attributes
    ----------
    messages : deque of str
        Messages for the user. The loop takes them out and passes them on.
    """

    def __init__(self, options: Checkpoint, types: Iterable[Wire | Former]) -> None:
        self.options = options
        self.codec = Codec(types)
        self.store = Store(options.where, storage=options.storage_options)
        self.lease = Lease(self.store, steal=options.steal)
        self.messages: deque[str] = deque()
        self._kept: dict[int, tuple[str, set[str]]] = {}  # record -> its kind, its blocks
        self._present: set[str] = set()
        self._shelved: set[str] = set()  # blocks that this run put there
        self._digests: dict[int, tuple[Array, str]] = {}
        self._number = 0
        self._cleaned = False
        self._failing = ""
        self._refused: CheckpointInUseError | None = None
        self._saved_at, self._took = time.monotonic(), 0.0
        self._queue: deque[tuple[str, Any]] = deque()
        self._busy = self._closed = False
        self._chunks = 0
        self._change = threading.Condition()
        self._blocks_lock = threading.RLock()
        self._thread: threading.Thread | None = None

    @property
    def complete(self) -> bool:
        """Whether the newest value, offered or loaded, is saved."""
        with self._change:
            waits = self._busy or self._queue
            return bool(self._kept) and not waits and not self._failing and not self._refused

    def open(self) -> Any:
        """Claim the checkpoint, and return the newest complete value, or None in a fresh place.

        Raises
        ------
        CheckpointInUseError
            Another process is using it.
        CheckpointError
            There are records, but all are damaged.
        """
        try:
            self.store.start()
            self.lease.claim()
        except CheckpointInUseError:
            raise
        except Exception as error:  # noqa: BLE001, RUF100 - the run itself can go on
            self._trouble(error)
        found, damage = newest(self.store, self.codec, self.store.read_block)
        numbers = self.store.records()
        self._number = max(numbers, default=0)
        self._present = set(self.store.names("blocks"))
        for number in numbers:
            with suppress(Damaged):
                data = self.store.read_record(number)
                if found is not None and data is not None and number <= found.number:
                    self._kept[number] = (data["kind"], set(block_names(data["value"])))
        if damage:
            self.messages.append(
                f"checkpoint {self.store.where}: {'; '.join(damage)}. The step before it is used"
            )
        self._thread = threading.Thread(target=self._work, name="bigspec-checkpoint", daemon=True)
        self._thread.start()
        return None if found is None else found.value

    def due(self, *, step: bool) -> bool:
        """Whether it is time to save: at once for a step that is cheap to save, else later."""
        since = time.monotonic() - self._saved_at
        cheap = self.options.keep_blocks or since >= SHARE * self._took
        return since >= EARLY * self.options.interval or (step and cheap)

    def offer(self, kind: str, value: Any) -> None:
        """Save `value` soon in the background, in place of an older one that still waits.

        With `keep_blocks` every step is saved; while two wait, this waits too.

        Raises
        ------
        CheckpointInUseError
            Another process has taken the checkpoint over.
        CheckpointError
            An object in the value has no name for records.
        """
        if self._refused is not None:
            raise self._refused
        try:  # in the background, the error would look like a failing store
            self.codec.encode(value, lambda _: "")
        except TypeError as error:
            msg = (
                f"{self.store.where}: cannot save the state of this algorithm: {error}. Name its "
                "class as a bigspec.algorithms.StateType, or run without a checkpoint"
            )
            raise CheckpointError(msg) from error
        self._saved_at = time.monotonic()
        with self._change:
            if self._queue and not (self.options.keep_blocks and self._queue[-1][0] == "step"):
                self._queue.pop()
            self._queue.append((kind, value))
            self._change.notify_all()
        if len(self._queue) > 2:
            self.flush()

    def put_block(self, array: Array) -> str:
        """Write a block now, and return its name. It stays as long as a record refers to it.

        Raises
        ------
        CheckpointInUseError, CheckpointError
            It cannot be written. Unlike a save, this cannot wait: the run needs the block.
        """
        with self._blocks_lock:
            self._own()
            name = array_digest(array)[:NAME_LENGTH]
            try:
                if not self._safe(name):
                    if name in self._present:  # a run that died left a part of it
                        self.store.remove_block(name)
                    self.store.write_block(array, name, on_chunk=self._progress)
            except OSError as error:
                msg = (
                    f"checkpoint {self.store.where}: a block of the basis, which does not fit in "
                    f"memory, cannot be written ({retries.cause_of(error)}). Make room "
                    "there, or give a larger memory_limit"
                )
                raise CheckpointError(msg) from error
            self._present.add(name)
            self._shelved.add(name)
            return name

    def _safe(self, name: str) -> bool:
        """Whether a block is there, whole, and will stay."""
        return name in self._shelved or any(name in kept for _, kept in self._kept.values())

    def get_block(self, name: str) -> Array:
        """Read a block of a record or of this run.

        Raises
        ------
        CheckpointError
            It is damaged.
        """
        try:
            return self.store.read_block(name)
        except Damaged as error:
            msg = (
                f"{self.store.where}: the basis of the run is damaged: {error}. Remove "
                "the checkpoint, or name another place, to start again"
            )
            raise CheckpointError(msg) from error

    def flush(self, patience: float | None = None, *, strict: bool = False) -> bool:
        """Wait until every offered value is written; return whether it is.

        Parameters
        ----------
        patience : float
            Seconds to wait for the store without progress; `PATIENCE` by default.
        strict : bool
            Wait no longer than that even if there is progress.
        """
        patience = PATIENCE if patience is None else patience
        with self._change:
            until, chunks = time.monotonic() + patience, self._chunks
            while self._busy or self._queue:
                if self._chunks != chunks and not strict:
                    until, chunks = time.monotonic() + patience, self._chunks
                left = until - time.monotonic()
                if left <= 0:
                    self.messages.append(
                        f"checkpoint {self.store.where}: the last save was not done within "
                        f"{patience:g} s; the save before it is used"
                    )
                    return False
                self._change.wait(left)
        if self._refused is not None:
            self.messages.append(f"not saved: {self._refused}")
        return not self._failing and self._refused is None

    def close(self) -> None:
        """Release the checkpoint. A save that hangs keeps the lease until it ends."""
        with self._change:
            self._closed = True
            self._queue.clear()
            self._change.notify_all()
        if self._thread is None:
            self.lease.release()
            return
        self._thread.join(timeout=CLOSING)

    def _work(self) -> None:
        while True:
            with self._change:
                while not self._queue and not self._closed:
                    self._change.wait()
                if self._closed:
                    break
                (kind, value), self._busy = self._queue.popleft(), True
            began = time.monotonic()
            failing = ""
            try:
                with self._blocks_lock:
                    self._save(kind, value)
            except CheckpointInUseError as error:
                self._refused = error
            except _Closed:
                break
            except Exception as error:  # noqa: BLE001, RUF100 - the run itself can go on
                failing = self._trouble(error)
            with self._change:
                self._failing = failing
                self._took = time.monotonic() - began
                self._busy = False
                self._change.notify_all()
        self.lease.release()

    def _save(self, kind: str, value: Any) -> None:
        self._own()
        number = self._number + 1
        written: list[str] = []
        blocks: set[str] = set()
        digests: dict[int, tuple[Array, str]] = {}

        def put(array: Array) -> str:
            held = self._digests.get(id(array))
            name = array_digest(array)[:NAME_LENGTH] if held is None else held[1]
            digests[id(array)] = (array, name)  # the array stays alive, so its id is not reused
            if name not in blocks and not self._safe(name):
                written.append(name)
                self._check_open()
                if name in self._present:  # a run that died left a part of it
                    self.store.remove_block(name)
                self.store.write_block(array, name, on_chunk=self._progress)
                self._present.add(name)
            blocks.add(name)
            return name

        try:
            data = {"kind": kind, "value": self.codec.encode(value, put), "saved": _now()}
            self.lease.check()  # because writing blocks may take long
            self._check_open()
            self.store.write_record(number, data)
        except (CheckpointInUseError, _Closed):
            raise  # without removing anything: it may be another owner's by now
        except BaseException as error:
            self.lease.check()
            with suppress(Exception):
                self.store.remove_record(number)  # the empty folder of a write that failed
            self._make_room(written, full=getattr(error, "errno", None) == errno.ENOSPC)
            raise
        self._number, self._digests = number, digests
        self._kept[number] = (kind, blocks | set(block_names(data["value"])))
        self._progress()
        self.lease.check()
        self._drop_old()

    def _check_open(self) -> None:
        if self._closed:
            raise _Closed

    def _own(self) -> None:
        """Make sure that this process owns the checkpoint, and nobody else has changed it."""
        self.lease.check()
        if self.lease.claimed:
            return
        # It was not writable when the run began, or somebody removed the owner's document.
        self.store.start()
        self.lease.claim()
        numbers, self._present = self.store.records(), set(self.store.names("blocks"))
        if max(numbers, default=0) > self._number:
            msg = (
                f"{self.store.where}: another process has continued this run: this process saved "
                f"record {self._number}, now there is record {max(numbers)}"
            )
            raise CheckpointInUseError(msg)
        self._kept = {
            number: kept
            for number, kept in self._kept.items()
            if number in numbers and kept[1] <= self._present
        }

    def _drop_old(self) -> None:
        """Remove old records, then the blocks that only they needed."""
        newest = sorted(self._kept)[-KEPT:]
        for number in sorted(self._kept):
            kind, _ = self._kept[number]
            if number in newest or (self.options.keep_blocks and kind != "partial"):
                continue
            self.store.remove_record(number)
            del self._kept[number]
        if not self._cleaned:  # a run that died left damaged or incomplete records
            for number in set(self.store.records()) - set(self._kept):
                self.store.remove_record(number)
            self.store.remove_litter()
            self._cleaned = True
        needed = set().union(self._shelved, *(kept for _, kept in self._kept.values()))
        for name in self._present - needed:
            self.store.remove_block(name)
            self._present.discard(name)

    def _make_room(self, written: list[str], *, full: bool) -> None:
        """Remove what a failed save wrote; on a full disk, the older step too."""
        for name in written:
            with suppress(Exception):
                self.store.remove_block(name)
                self._present.discard(name)
        if full and len(self._kept) > 1 and not self.options.keep_blocks:
            with suppress(Exception):
                oldest = min(self._kept)
                self.store.remove_record(oldest)
                del self._kept[oldest]
                self._drop_old()

    def _progress(self) -> None:
        with self._change:
            self._chunks += 1
            self._change.notify_all()

    def _trouble(self, error: Exception) -> str:
        text = retries.cause_of(error)
        kind = f"{type(error).__name__} {getattr(error, 'errno', text)}"  # its text names files
        if kind != self._failing:
            stands = f"record {max(self._kept)} stands" if self._kept else "nothing is saved yet"
            self.messages.append(
                f"checkpoint {self.store.where}: cannot be written ({text}); the run goes on, "
                f"{stands}, and the next save tries again"
            )
        self._failing = kind
        return kind


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
