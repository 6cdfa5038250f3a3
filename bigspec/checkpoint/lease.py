"""One owner of a place, such as a checkpoint: a document with a heartbeat. A crash loses it."""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from bigspec.checkpoint.documents import Damaged, Documents
from bigspec.errors import CheckpointInUseError

__all__ = ["TIMING", "Lease", "Timing", "gone"]


@dataclass(frozen=True)
class Timing:
    """Seconds: between heartbeats, until a silent owner is given up, and for races to settle."""

    beat: float = 10.0
    patience: float = 35.0
    settle: float = 0.5


TIMING = Timing()

OWNER = "owner"
TRIES = 10
"""Attempts at a conditional write: the owner that is robbed may beat in between."""

_held: set[str] = set()
"""Tokens of the leases that this process holds: one that it could not remove is not alive."""


class Lease:
    """The right to write to a place.

    Whether another owner lives is judged by whether its document changes while it is watched,
    not by comparing clocks; on one machine, by whether its process exists.

    Parameters
    ----------
    store : Documents
    steal : bool
        Take it from a live owner, which notices at its next heartbeat or save, and stops.

    Attributes
    ----------
    claimed : bool
        Whether this process was the owner when it last looked.
    lost : bool
        Whether another process has taken over, for good.
    """

    def __init__(self, store: Documents, *, steal: bool = False) -> None:
        self.store = store
        self.token = uuid.uuid4().hex
        self.beats = 0
        self.claimed = self.lost = False
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._steal = steal
        self._tag: Any = None  # of the version that was read or written last

    def claim(self) -> None:
        """Become the owner.

        Raises
        ------
        CheckpointInUseError
            Another process lives on it.
        OSError
            The document cannot be written; the run may go on without a lease.
        """
        owner = self._read()
        if owner and owner.get("token") != self.token and not self._steal:
            self._refuse_live(owner)
        _held.add(self.token)
        if self.store.conditional:
            self._claim_on_condition()
        elif owner is None and self.store.local:
            with suppress(FileExistsError):  # exclusive on a local store: no race is left
                self._write(new=True)
        else:
            self._write_and_settle()
        winner = self._read() or {}
        if winner.get("token") != self.token:
            raise self._in_use(winner)
        self.claimed = True
        if self._thread is None:
            self._thread = threading.Thread(target=self._beat, name="bigspec-lease", daemon=True)
            self._thread.start()

    def _write_and_settle(self) -> None:
        self._write()
        time.sleep(TIMING.settle)  # of several that saw no owner, the last to write has it

    def _claim_on_condition(self) -> None:
        """Write over exactly the version that was judged, or where there was none.

        Some servers accept a condition and ignore it. So the lease writes once more as if nothing
        were there, which an honest server refuses.
        """
        try:
            for _ in range(TRIES):
                if self._replace():
                    break
                if self._read() and not self._steal:  # another process was first
                    return
            if self.store.write_if(OWNER, self._document(), None) is None:
                return
        except NotImplementedError:
            pass
        self._write_and_settle()

    def _replace(self) -> bool:
        """Write over the version that was read last; False if it is not there any more."""
        tag = self.store.write_if(OWNER, self._document(), self._tag)
        self._tag = tag or self._tag
        return tag is not None

    def check(self) -> None:
        """Read the document, and raise `CheckpointInUseError` if another process has taken over.

        A document that is gone means that somebody cleaned up, or took over and has ended:
        `claimed` is false then, until it is claimed again.
        """
        owner = self._read() if self.claimed and not self.lost else {}
        if owner is None:
            self.claimed = False
        elif owner and owner.get("token") != self.token:
            self.lost = True
        if self.lost:
            raise self._in_use(self._read() or {})

    def release(self) -> None:
        """Release the lease, if this process still has it."""
        self._stopped.set()
        _held.discard(self.token)
        if self._thread is not None:
            self._thread.join(timeout=TIMING.beat)
        with suppress(Exception):
            if (self._read() or {}).get("token") == self.token:
                self.store.remove_document(OWNER)
        self.claimed = False

    def _beat(self) -> None:
        while not self._stopped.wait(TIMING.beat):
            try:
                self.check()
                if self.claimed:
                    self.beats += 1
                    self._beat_once()
            except CheckpointInUseError:
                return
            except Exception:  # noqa: BLE001, RUF100, S112 - a store may answer again later
                continue

    def _beat_once(self) -> None:
        """Write the heartbeat; on a condition, so that one that comes late harms no successor."""
        if self.store.conditional:
            with suppress(NotImplementedError):
                self._replace()  # if it is refused, the next check says why
                return
        self._write()

    def _refuse_live(self, owner: dict[str, Any]) -> None:
        """Raise if the owner lives; watch its heartbeat if only that can tell."""
        if owner.get("machine") == _machine():
            if _lives(owner):
                raise self._in_use(owner)
            return
        until = time.monotonic() + TIMING.patience
        while time.monotonic() < until:
            time.sleep(TIMING.beat / 4)
            now = self._read()
            if not now:
                return
            if now != owner:
                raise self._in_use(now)

    def _in_use(self, owner: dict[str, Any]) -> CheckpointInUseError:
        who = f"process {owner.get('pid', '?')} on {owner.get('host', '?')}"
        return CheckpointInUseError(
            f"{self.store.where}: in use by {who} since {owner.get('since', '?')}. "
            f"{self.store.advice}"
        )

    def _read(self) -> dict[str, Any] | None:
        """Return the document; None if there is none, empty if it is damaged."""
        try:
            found, self._tag = self.store.read_tagged(OWNER)
        except Damaged as error:
            self._tag = error.tag
            return {}
        return found

    def _write(self, *, new: bool = False) -> None:
        self.store.write_document(OWNER, self._document(), new=new)

    def _document(self) -> dict[str, Any]:
        return {
            "token": self.token,
            "host": socket.gethostname(),
            "machine": _machine(),
            "pid": os.getpid(),
            "started": _started(os.getpid()),
            "since": _since(),
            "beats": self.beats,
            "time": time.time(),
        }


def _since() -> str:
    started = psutil.Process().create_time()
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(started))


def _machine() -> str:
    """Name what process numbers are counted in: a host, a boot, a PID namespace."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def gone(owner: dict[str, Any]) -> bool:
    """Whether an owner is known to have ended: a process of this machine that does not live."""
    return owner.get("machine") == _machine() and not _lives(owner)


def _lives(owner: dict[str, Any]) -> bool:
    if owner.get("pid") == os.getpid():
        return owner.get("token") in _held
    return owner.get("started") is not None and owner["started"] == _started(owner.get("pid"))


def _started(pid: Any) -> str | None:
    """Tell a process from others that had its number; None if it does not live.

    In ticks since the boot where /proc has them: times of day move when clocks are set.
    """
    try:
        process = psutil.Process(int(pid))
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        with suppress(OSError, IndexError):
            stat = Path(f"/proc/{int(pid)}/stat").read_text(encoding="utf-8", errors="replace")
            return stat.rpartition(")")[2].split()[19]
        return f"{process.create_time():.0f}"
    except (psutil.Error, TypeError, ValueError):
        return None
