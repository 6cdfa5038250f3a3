"""Checkpoints: any state of arrays and numbers, complete or invisible, on any store."""

from bigspec.checkpoint.codec import array_digest
from bigspec.checkpoint.keeper import Checkpoint, Keeper, describe, load_latest

__all__ = ["Checkpoint", "Keeper", "array_digest", "describe", "load_latest"]
