"""Watching a run while it works: the observer, the live line, the log, the heartbeat."""

from bigspec.watch.observer import CheckpointWarning, Observer

__all__ = ["CheckpointWarning", "Observer"]
