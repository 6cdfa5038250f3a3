"""What of scikit-learn's bigspec stands in for: ``from bigspec.sklearn import PCA``."""

try:
    import sklearn  # noqa: F401
except ImportError as error:
    msg = "bigspec.sklearn needs scikit-learn: pip install scikit-learn"
    raise ImportError(msg) from error

from bigspec.adapters.sklearn_pca import PCA
from bigspec.adapters.sklearn_svd import TruncatedSVD

__all__ = ["PCA", "TruncatedSVD"]
