"""Partial work beside the destination: its progress, its source and target, and its one owner.

::

    DST.partial/progress.json   the progress, replaced as a whole after every step
    DST.partial/lock            locked by the working process; the system unlocks it when that dies
    DST.partial/matrix          the group, which gets its attributes last
    DST.partial/buckets         triplets that wait to be sorted, here or in the scratch folder
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from bigspec.conversion.identity import digest
from bigspec.errors import ArgumentError, CheckpointInUseError, DestinationError, ResumeError

__all__ = ["Work"]

SCHEMA = "bigspec.conversion.partial/1"
ZARR_FILES = {"zarr.json", ".zgroup", ".zarray", ".zattrs"}


class Work:
    """The folder of one conversion that is not complete.

    Parameters
    ----------
    destination : Path
    scratch : Path or None
        Folder of the buckets; by default they lie beside the destination.
    wanted : dict
        Source and target; partial work for others is refused.
    overwrite : bool
        Replace the store at the destination, and partial work for another source or target.

    Raises
    ------
    ArgumentError
        The destination exists.
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
        self.overwrite = overwrite
        if os.path.lexists(destination) and not self._is_published(self._read_progress()):
            self._check_destination(overwrite=overwrite)
        self._lock()
        try:
            self.state = self._load_state(overwrite=overwrite)
            if not self._is_published(self.state):
                self.matrix.mkdir(exist_ok=True)
                self.buckets.mkdir(parents=True, exist_ok=True)
        except BaseException:
            self.close()
            raise

    def _check_destination(self, *, overwrite: bool) -> None:
        if not overwrite:
            msg = (
                f"dst: expected a new place, got {self.destination}, which exists; name another, "
                "or give --overwrite (overwrite=True)"
            )
            raise ArgumentError(msg)
        folder = self.destination.is_dir()
        names = {path.name for path in self.destination.iterdir()} if folder else set()
        if not folder or (names and not names & ZARR_FILES):
            msg = (
                f"dst: expected a Zarr store to replace, got {self.destination}, which is not one; "
                "name another place, or remove it first"
            )
            raise ArgumentError(msg)

    def _lock(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            msg = f"{self.destination}: cannot be written ({error.strerror}: {self.folder})"
            raise DestinationError(msg) from error
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._handle)
            msg = f"{self.folder}: another process converts to this place; wait for it"
            raise CheckpointInUseError(msg) from error

    def _read_progress(self) -> dict[str, Any] | None:
        """Return the saved progress; None if there is none."""
        try:
            state = json.loads((self.folder / "progress.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError:
            state = None
        return state if isinstance(state, dict) else {"wanted": {}}

    def _is_published(self, state: dict[str, Any] | None) -> bool:
        """Whether a process published this work, and died right after."""
        mine = state is not None and state.get("wanted") == self.wanted
        done = mine and state is not None and state.get("stage") == "publish"
        return done and not self.matrix.exists() and self.destination.exists()

    def _load_state(self, *, overwrite: bool) -> dict[str, Any]:
        """Return the saved progress of this work, or begin a new one."""
        state = self._read_progress()
        if state is not None and state.get("wanted") == self.wanted:
            lost = state.get("stage") == "publish" and not self.matrix.exists()
            if not lost or self._is_published(state):
                return dict(state)
            overwrite = True  # it was published, and then removed
        strange = {path.name for path in self.folder.iterdir()} - {"lock", "matrix", "buckets"}
        if (state is not None or strange) and not overwrite:
            old = {} if state is None else state.get("wanted", {})
            other = [key for key, value in self.wanted.items() if old.get(key) != value]
            changes = "; ".join(f"{key} was {old.get(key)}, is {self.wanted[key]}" for key in other)
            msg = (
                f"dst: expected no partial work, or work for the same source, in "
                f"{self.folder}, got other work ({changes}). Remove that "
                "folder, or give --overwrite (overwrite=True)"
            )
            raise ResumeError(msg)
        if (old := self.folder / "old").exists() and not os.path.lexists(self.destination):
            old.replace(self.destination)  # a process died between the two steps of publish
        for path in (self.matrix, self.buckets):
            shutil.rmtree(path, ignore_errors=True)
        return {"wanted": self.wanted, "stage": "new"}

    def save(self, **changes: Any) -> None:
        """Save the progress: the old file stays until the new one is whole."""
        self.state |= changes
        path = self.folder / "progress.json"
        half = path.with_suffix(".new")
        half.write_text(json.dumps(self.state), encoding="utf-8")
        half.replace(path)

    def publish(self) -> None:
        """Move the finished group to its place in one step, and remove the rest.

        Raises
        ------
        ArgumentError
            The destination exists by now; the work stays.
        """
        old = self.folder / "old"
        if self.matrix.exists():  # else the process died after the replacement
            if os.path.lexists(self.destination):
                self._check_destination(overwrite=self.overwrite)
                shutil.rmtree(old, ignore_errors=True)
                self.destination.replace(old)
            self.matrix.replace(self.destination)
        self.remove()

    def remove(self) -> None:
        """Remove the partial work."""
        for path in (self.buckets, self.matrix, self.folder / "old"):
            shutil.rmtree(path, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)  # last, because the progress is in it

    def close(self) -> None:
        """Let another process work."""
        with suppress(OSError):
            os.close(self._handle)
