"""Checkpoints: any state of arrays and numbers, complete or invisible, on any store."""

from bigspec.checkpoint.codec import INLINE, Codec, Former, Wire, array_digest
from bigspec.checkpoint.contents import describe, load_latest
from bigspec.checkpoint.documents import Documents
from bigspec.checkpoint.lease import Lease
from bigspec.checkpoint.options import Checkpoint
from bigspec.checkpoint.writer import Writer

__all__ = [
    "INLINE",
    "Checkpoint",
    "Codec",
    "Documents",
    "Former",
    "Lease",
    "Wire",
    "Writer",
    "array_digest",
    "describe",
    "load_latest",
]
