"""What of SciPy's bigspec stands in for: ``from bigspec.scipy import svds``."""

from bigspec.adapters.scipy_svds import svds

__all__ = ["svds"]
