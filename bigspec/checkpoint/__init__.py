"""Checkpoints: any state of arrays and numbers, complete or invisible, on any store."""

from bigspec.checkpoint.codec import Former, Wire, array_digest
from bigspec.checkpoint.contents import describe, load_latest
from bigspec.checkpoint.options import Checkpoint
from bigspec.checkpoint.writer import Writer

__all__ = ["Checkpoint", "Former", "Wire", "Writer", "array_digest", "describe", "load_latest"]
