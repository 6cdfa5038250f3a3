"""Partial work beside the destination: its progress, its source and target, and its one owner.

::

    DST.partial/progress.json   the progress, replaced as a whole after every step
    DST.partial/lock            locked by the working process; the system unlocks it when that dies
    DST.partial/matrix          the store, which gets its attributes last; or the file
    DST.partial/buckets         triplets that wait to be sorted, here or in the scratch folder
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bigspec.conversion.identity import digest
from bigspec.errors import (
    ArgumentError,
    CheckpointInUseError,
    DataError,
    DestinationError,
    MemoryLimitError,
    ResumeError,
)
from bigspec.watch import Observer

__all__ = ["Work", "local_place", "working"]

SCHEMA = "bigspec.conversion.partial/1"
ZARR_FILES = {"zarr.json", ".zgroup", ".zarray", ".zattrs"}
UNWRITABLE = {
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG,
    errno.ENAMETOOLONG,
}  # fmt: skip


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
    file : bool
        The destination is a file of safetensors, not a store.

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
        self,
        destination: Path,
        scratch: Path | None,
        wanted: dict[str, Any],
        *,
        overwrite: bool,
        file: bool = False,
    ) -> None:
        self.destination, self.file = destination, file
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
                if not file:
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
        if self.file:
            if not self.destination.is_file():
                msg = (
                    f"dst: expected a file to replace, got {self.destination}, which is a folder; "
                    "name another place, or remove it first"
                )
                raise ArgumentError(msg)
            return
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
                if not self.file:  # a file is replaced as it is: one step
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


@contextmanager
def working(work: Work, observer: Observer) -> Iterator[None]:
    """Do the work, and clear up as the end of it asks.

    Raises
    ------
    DestinationError
        The place cannot be written, as on a full disk; the partial work stays.
    DataError, MemoryLimitError
        As they were raised; the partial work is removed, as going on would not help.
    """
    try:
        yield
    except (DataError, MemoryLimitError) as error:
        work.remove()
        error.saved = None  # a run of the work says where it lay
        error.__notes__ = []
        raise
    except OSError as error:
        if error.errno in UNWRITABLE:
            msg = (
                f"{work.destination}: cannot be written ({error.strerror}). The work so far is "
                f"in {work.folder}: make room and run it again, or remove that folder"
            )
            raise DestinationError(msg) from error
        raise
    except KeyboardInterrupt as error:
        error.saved = str(work.folder)  # type: ignore[attr-defined]
        raise
    finally:
        work.close()
        observer.close()


def local_place(dst: str | os.PathLike[str]) -> Path:
    """Return the absolute path of a destination on this machine.

    Raises
    ------
    ArgumentError
        It is a URL, a place inside a store or an archive, or its folder does not exist.
    """
    text = os.fspath(dst)
    for scheme in ("file://", "local://"):
        text = text.removeprefix(scheme)
    if "://" in text or "::" in text or text.endswith(".zip"):
        msg = (
            f"dst: expected a local folder such as A.zarr, got {text!r}; write it locally, then "
            "copy it to the store"
        )
        raise ArgumentError(msg)
    path = Path(os.path.abspath(Path(text).expanduser()))  # noqa: PTH100
    if not path.name or not path.parent.is_dir():
        msg = f"dst: expected a folder that exists, got {path.parent} in {text!r}; create it"
        raise ArgumentError(msg)
    return path
