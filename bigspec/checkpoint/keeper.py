"""Saving a run while it goes on, and loading what the last one left."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from bigspec.checkpoint.codec import Codec, array_digest
from bigspec.checkpoint.folder import Damaged, Folder
from bigspec.checkpoint.lease import Lease
from bigspec.errors import ArgumentError, BigspecError, CheckpointError, CheckpointInUseError

__all__ = ["Checkpoint", "Keeper", "describe", "load_latest"]

Array = np.ndarray[Any, Any]

NAME_LENGTH = 40
KEPT = 2
SHARE = 50  # a step is saved at once if the last save took less than 1/50 of the time since
PATIENCE = 60.0  # seconds that the end of a run waits for its last save


@dataclass(frozen=True)
class Checkpoint:
    """Where a run is saved, and how.

    Parameters
    ----------
    where : str or path
        A local path, or any fsspec URL. A Zarr group that `zarr.open` can read; it is made if
        it is not there. If it holds an unfinished run, that run goes on.
    interval : float
        Seconds of work that a failure may cost at most: partial sums of a pass are saved so
        often. Finished steps are saved as soon as that costs at most 2 % of the time.
    keep_blocks : bool
        Keep the blocks of all steps (the Krylov basis) and all steps' records. By default only
        the two newest steps are kept.
    steal : bool
        Take the checkpoint over from a process that runs on it.
    """

    where: str | os.PathLike[str]
    interval: float = 60.0
    keep_blocks: bool = False
    steal: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.where, (str, os.PathLike)) or not os.fspath(self.where):
            msg = f"checkpoint: expected a path, a URL or a Checkpoint, got {self.where!r}"
            raise ArgumentError(msg)
        if not self.interval >= 0:
            msg = f"checkpoint_interval: expected seconds >= 0, got {self.interval!r}"
            raise ArgumentError(msg)


class Keeper:
    """Owns a checkpoint for the length of a run.

    Saving happens in a thread of its own, so that a slow store delays nothing; of several
    saves that wait only the newest is made. A save that fails leaves a message in `messages`,
    and the next one tries again: nothing that happens to a checkpoint ends a run, but for
    another owner.

    Parameters
    ----------
    options : Checkpoint
    types : iterable of type
        Dataclasses that a saved value is made of.

    Attributes
    ----------
    messages : deque of str
        What the user should hear; whoever runs the loop takes them out.
    """

    def __init__(self, options: Checkpoint, types: Iterable[type]) -> None:
        self.options = options
        self.codec = Codec(types)
        self.folder = Folder(options.where)
        self.lease = Lease(self.folder, steal=options.steal)
        self.messages: deque[str] = deque()
        self.complete = True  # whether the newest value offered has been saved
        self._kept: dict[int, tuple[str, set[str]]] = {}  # record -> its kind, its blocks
        self._present: set[str] = set()
        self._digests: dict[int, tuple[Array, str]] = {}
        self._number = 0
        self._swept = False
        self._failing = ""
        self._refused: CheckpointInUseError | None = None
        self._saved_at, self._took = time.monotonic(), 0.0
        self._waiting: tuple[str, Any] | None = None
        self._busy = False
        self._closed = False
        self._change = threading.Condition()
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Claim the checkpoint, or raise `CheckpointInUseError` if another process lives on it."""
        try:
            self.folder.start()
            self.lease.claim()
        except CheckpointInUseError:
            raise
        except (OSError, BigspecError) as error:
            self._trouble(error)
        self._thread = threading.Thread(target=self._work, name="bigspec-checkpoint", daemon=True)
        self._thread.start()

    def load(self) -> Any:
        """Return the newest complete value, or None in a fresh place.

        Raises
        ------
        CheckpointError
            There are records, and not one can be used.
        """
        numbers = self.folder.records()
        self._number = numbers[-1] if numbers else 0
        self._present = set(self.folder.names("blocks"))
        value, used, damage = newest(self.folder, self.codec, numbers)
        if used is not None:
            for number in numbers[: numbers.index(used) + 1]:
                with suppress(Damaged):
                    data = self.folder.read_record(number)
                    self._kept[number] = (data["kind"], set(_blocks(data["value"])))
        if damage:
            self.messages.append(
                f"checkpoint {self.folder.where}: {'; '.join(damage)}. The step before is used"
            )
        return value

    def due(self, *, step: bool) -> bool:
        """Whether it is time to save: a step that is cheap to save, or anything after a while."""
        since = time.monotonic() - self._saved_at
        return since >= self.options.interval or (step and since >= SHARE * self._took)

    def offer(self, kind: str, value: Any) -> None:
        """Save `value` soon, in the background, in place of any that still waits."""
        if self._refused is not None:
            raise self._refused
        self._saved_at = time.monotonic()
        with self._change:
            self.complete = False
            self._waiting = (kind, value)
            self._change.notify_all()

    def flush(self, patience: float = PATIENCE) -> bool:
        """Wait until all is written; return whether it is."""
        until = time.monotonic() + patience
        with self._change:
            while self._busy or self._waiting is not None:
                left = until - time.monotonic()
                if left <= 0:
                    self.messages.append(
                        f"checkpoint {self.folder.where}: the last save was not done within "
                        f"{patience:g} s; the one before it stands"
                    )
                    return False
                self._change.wait(left)
        return self.complete

    def close(self) -> None:
        """Let the checkpoint go."""
        with self._change:
            self._closed = True
            self._change.notify_all()
        if self._thread is not None:
            self._thread.join(timeout=1.0)
        self.lease.release()

    def _work(self) -> None:
        while True:
            with self._change:
                while self._waiting is None:
                    if self._closed:
                        return
                    self._change.wait()
                (kind, value), self._waiting, self._busy = self._waiting, None, True
            began = time.monotonic()
            try:
                self._save(kind, value)
            except CheckpointInUseError as error:
                self._refused, self._failing = error, str(error)
            except Exception as error:  # noqa: BLE001, RUF100 - a run that could finish goes on
                self._trouble(error)
            else:
                self._failing = ""
            with self._change:
                self._took = time.monotonic() - began
                self._busy = False
                self.complete = not self._failing and self._waiting is None
                self._change.notify_all()

    def _save(self, kind: str, value: Any) -> None:
        if not self.lease.claimed:  # it could not be written when the run began
            self.folder.start()
            self.lease.claim()
        self.lease.look()
        self.lease.check()
        number = self._number + 1
        written: list[str] = []
        blocks: set[str] = set()
        digests: dict[int, tuple[Array, str]] = {}

        def put(array: Array) -> str:
            held = self._digests.get(id(array))
            name = array_digest(array)[:NAME_LENGTH] if held is None else held[1]
            digests[id(array)] = (array, name)  # holds the array, so that its id stays its own
            if name not in blocks and not any(name in kept for _, kept in self._kept.values()):
                written.append(name)
                self.folder.write_block(array, name, over=name in self._present)
                self._present.add(name)
            blocks.add(name)
            return name

        try:
            data = {"kind": kind, "value": self.codec.encode(value, put)}
            self.folder.write_record(number, data | {"saved": _now()})
        except BaseException as error:
            self._make_room(written, full=getattr(error, "errno", None) == errno.ENOSPC)
            raise
        self._number, self._digests = number, digests
        self._kept[number] = (kind, blocks)
        self._drop_old()

    def _drop_old(self) -> None:
        """Remove what no kept record needs: the record first, so that none lacks its blocks."""
        newest = sorted(self._kept)[-KEPT:]
        for number in sorted(self._kept):
            kind, _ = self._kept[number]
            if number in newest or (self.options.keep_blocks and kind == "step"):
                continue
            self.folder.remove_record(number)
            del self._kept[number]
        if not self._swept:  # records of a run that died, damaged or never complete
            for number in set(self.folder.records()) - set(self._kept):
                self.folder.remove_record(number)
            self._swept = True
        for name in self._present - set().union(*(kept for _, kept in self._kept.values())):
            self.folder.remove_block(name)
            self._present.discard(name)

    def _make_room(self, written: list[str], *, full: bool) -> None:
        """After a save that failed: take back what it wrote; on a full disk, the older step too."""
        for name in written:
            with suppress(Exception):
                self.folder.remove_block(name)
                self._present.discard(name)
        if full and len(self._kept) > 1 and not self.options.keep_blocks:
            with suppress(Exception):
                oldest = min(self._kept)
                self.folder.remove_record(oldest)
                del self._kept[oldest]
                self._drop_old()

    def _trouble(self, error: Exception) -> None:
        text = f"{type(error).__name__}: {error}"
        if text != self._failing:
            stands = f"record {max(self._kept)} stands" if self._kept else "nothing is saved yet"
            self.messages.append(
                f"checkpoint {self.folder.where}: cannot be written ({text}); the run goes on, "
                f"{stands}, and the next save tries again"
            )
        self._failing = text


def newest(folder: Folder, codec: Codec, numbers: list[int]) -> tuple[Any, int | None, list[str]]:
    """Return the newest whole value, its record's number, and what is wrong with later ones.

    Raises
    ------
    CheckpointError
        There are records, and not one can be used.
    """
    damage: list[str] = []
    for number in reversed(numbers):
        try:
            data = folder.read_record(number)
            return codec.decode(data["value"], folder.read_block), number, damage
        except Damaged as error:
            damage.append(str(error))
        except (KeyError, TypeError, ValueError) as error:
            damage.append(f"records/{number:06d} does not decode ({type(error).__name__})")
    if not numbers:
        return None, None, damage
    msg = (
        f"{folder.where}: expected at least one whole step, got {len(numbers)} damaged record(s): "
        f"{'; '.join(damage)}. Remove it, or name another place, to start again"
    )
    raise CheckpointError(msg)


def load_latest(where: str | os.PathLike[str], types: Iterable[type]) -> Any:
    """Read the newest whole value of a checkpoint without owning it.

    Raises
    ------
    CheckpointError
        Nothing there, or nothing whole.
    """
    folder = Folder(where, read_only=True)
    value, _, _ = newest(folder, Codec(types), folder.records())
    if value is None:
        msg = f"{folder.where}: expected a checkpoint, got nothing"
        raise CheckpointError(msg)
    return value


def describe(where: str | os.PathLike[str], types: Iterable[type]) -> tuple[Any, dict[str, Any]]:
    """Return the newest whole value, and facts about where it lies: when, by whom, how large."""
    folder = Folder(where, read_only=True)
    value, number, damage = newest(folder, Codec(types), folder.records())
    if number is None:
        msg = f"{folder.where}: expected a checkpoint, got nothing"
        raise CheckpointError(msg)
    record = folder.read_record(number)
    try:
        owner = folder.read_document("owner")
    except Damaged:
        owner = None
    return value, {
        "where": folder.where,
        "record": number,
        "kind": record["kind"],
        "saved": record["saved"],
        "blocks": len(folder.names("blocks")),
        "owner": owner,
        "damage": damage,
    }


def _blocks(data: Any) -> list[str]:
    """Return the names of the blocks that encoded data refers to."""
    if isinstance(data, list):
        return [name for item in data for name in _blocks(item)]
    if isinstance(data, dict):
        if isinstance(data.get("array"), dict) and "block" in data["array"]:
            return [data["array"]["block"]]
        return [name for item in data.values() for name in _blocks(item)]
    return []


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
