"""A result file is written beside the old one, then moved over it: a full disk does no harm."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

__all__ = ["replacing", "write_text"]

NOT_BESIDE = {errno.EACCES, errno.EPERM, errno.EROFS}
NOT_IN_PLACE = {errno.EBUSY, errno.EXDEV, errno.EACCES, errno.EPERM}
"""A file that is a mount of its own, in a container say, cannot be replaced: it is overwritten."""


def write_text(path: str | os.PathLike[str], text: str, *, errors: str = "strict") -> None:
    """Write a text as UTF-8; what lies at `path` stays as it is until the new file is whole."""
    content = text.encode("utf-8", errors)
    with replacing(path) as file:
        file.write(content)


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Yield a file that takes the place of `path` once it is whole, with its permissions.

    Devices and pipes, and files in a folder that takes no others, are written where they are.

    Raises
    ------
    OSError
        `path` holds what it held before.
    """
    place = Path(path).resolve()
    before = _status(place)
    part = place.with_name(f".bigspec-{uuid.uuid4().hex[:12]}.part")
    special = before is not None and not stat.S_ISREG(before.st_mode)
    try:
        file = None if special else part.open("xb")
    except OSError as error:
        if before is None or error.errno not in NOT_BESIDE:
            raise
        file = None
    if file is None:
        with place.open("wb") as file:
            yield file
        return
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # some file systems say only now that there was no room
        if before is not None:
            with suppress(OSError):
                part.chmod(stat.S_IMODE(before.st_mode))
        try:
            part.replace(place)
        except OSError as error:
            if before is None or error.errno not in NOT_IN_PLACE:
                raise
            shutil.copyfile(part, place)
    finally:
        part.unlink(missing_ok=True)


def _status(place: Path) -> os.stat_result | None:
    try:
        return place.stat()
    except FileNotFoundError:
        return None
