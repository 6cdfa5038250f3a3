"""The runs of a matrix that changes: a file of them, what the next run takes from it, the trend."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

SCHEMA = "bigspec.history/1"
"""Name and version of the JSON layout of `bigspec history --json`."""
