"""Watching a run while it works: the observer, the live line, the log, the heartbeat."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
