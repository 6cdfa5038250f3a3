"""The identity of a source of triplets: a file's size and time, or a hash of samples."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

__all__ = ["digest", "file_identity"]


def file_identity(path: Path) -> dict[str, Any]:
    """Return where a file lies, its size and its time of modification."""
    status = path.stat()
    return {"where": str(path), "token": f"{status.st_size} {status.st_mtime_ns}"}


def digest(*parts: bytes) -> str:
    """Return a hash of parts and their lengths."""
    total = hashlib.sha256()
    for part in parts:
        total.update(len(part).to_bytes(8, "little") + part)
    return total.hexdigest()[:32]
