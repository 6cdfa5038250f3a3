"""Partial work beside the destination: what was done, for whom, and one owner at a time.

::

    DST.partial/progress.json   what is done, replaced as a whole after every step
    DST.partial/lock            held by the process that works; the system lets go of a dead one's
    DST.partial/matrix          the group, which gets its attributes last
    DST.partial/buckets         triplets on their way, here or in the scratch folder
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from bigspec.conversion.entries import digest
from bigspec.errors import ArgumentError, CheckpointInUseError, ResumeError

__all__ = ["Work"]

SCHEMA = "bigspec.conversion.partial/1"


class Work:
    """The folder of one conversion that is not complete.

    Parameters
    ----------
    destination : Path
    scratch : Path or None
        Where buckets go; beside the destination by default.
    wanted : dict
        Source and target; other partial work is refused.
    overwrite : bool
        Replace what lies at the destination, and partial work for something else.

    Raises
    ------
    ArgumentError
        Something lies at the destination.
    ResumeError
        Partial work of another source or target lies beside it.
    CheckpointInUseError
        Another process works on it.
    """

    def __init__(
        self, destination: Path, scratch: Path | None, wanted: dict[str, Any], *, overwrite: bool
    ) -> None:
        self.destination = destination
        self.folder = destination.with_name(destination.name + ".partial")
        self.matrix = self.folder / "matrix"
        key = digest(str(destination).encode())[:12]
        self.buckets = self.folder / "buckets" if scratch is None else scratch / f"bigspec-{key}"
        self.wanted = json.loads(json.dumps({"schema": SCHEMA} | wanted))
        if not overwrite and os.path.lexists(destination):
            msg = (
                f"dst: expected a place where nothing lies, got {destination}; name another, or "
                "give --overwrite (overwrite=True)"
            )
            raise ArgumentError(msg)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock()
        try:
            self.state = self._held(overwrite=overwrite)
            self.matrix.mkdir(exist_ok=True)
            self.buckets.mkdir(parents=True, exist_ok=True)
        except BaseException:
            self.close()
            raise

    def _lock(self) -> None:
        self._handle = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._handle)
            msg = f"{self.folder}: another process converts to this place; wait for it"
            raise CheckpointInUseError(msg) from error

    def _held(self, *, overwrite: bool) -> dict[str, Any]:
        """Return what is done, or begin anew."""
        try:
            held = json.loads((self.folder / "progress.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            held = None
        except ValueError:
            held = {"wanted": {}}
        if held is not None and held.get("wanted") == self.wanted:
            return dict(held)
        strange = {path.name for path in self.folder.iterdir()} - {"lock", "matrix", "buckets"}
        if (held is not None or strange) and not overwrite:
            old = {} if held is None else held.get("wanted", {})
            other = [key for key, value in self.wanted.items() if old.get(key) != value]
            changes = "; ".join(f"{key} was {old.get(key)}, is {self.wanted[key]}" for key in other)
            msg = (
                f"dst: expected no partial work, or work for the same source, in "
                f"{self.folder}, got other work ({changes}). Remove that "
                "folder, or give --overwrite (overwrite=True)"
            )
            raise ResumeError(msg)
        for path in (self.matrix, self.buckets):
            shutil.rmtree(path, ignore_errors=True)
        return {"wanted": self.wanted, "stage": "new"}

    def save(self, **changes: Any) -> None:
        """Note what is done: the old note stays until the new one is whole."""
        self.state |= changes
        path = self.folder / "progress.json"
        half = path.with_suffix(".new")
        half.write_text(json.dumps(self.state), encoding="utf-8")
        half.replace(path)

    def publish(self) -> None:
        """Put the finished group in its place in one step, and remove the rest."""
        old = self.folder / "old"
        if self.matrix.exists():  # else the process died after the replacement
            if os.path.lexists(self.destination):
                shutil.rmtree(old, ignore_errors=True)
                self.destination.replace(old)
            self.matrix.replace(self.destination)
        self.remove()

    def remove(self) -> None:
        """Remove the partial work."""
        shutil.rmtree(self.buckets, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def close(self) -> None:
        """Let another process work."""
        with suppress(OSError):
            os.close(self._handle)
