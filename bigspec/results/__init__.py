"""What a run returns, and how it is shown: these files describe and never compute."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
