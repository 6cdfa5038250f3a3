"""The public functions, each in a module of its own: validate once, choose, run, present."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
