"""The certified spectral norm of a matrix that does not fit in memory.

>>> import numpy as np, bigspec
>>> est = bigspec.norm(np.diag([3.0, 4.0]))
>>> bool(est.lower <= 4.0 <= est.upper)
True
"""

import lazy_loader

# A name is loaded when it is first used (SPEC 1 of Scientific Python): Dask, zarr and SciPy take a
# second, for which neither `bigspec --help` nor a program that only imports bigspec should wait.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = "0.1.0"
