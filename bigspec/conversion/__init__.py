"""Writing matrices: sparse ones into a chunked group, and any one divided by its norm."""

from bigspec.conversion.convert import convert
from bigspec.conversion.normal import normalize
from bigspec.conversion.normalization import Normalization
from bigspec.conversion.outcome import Conversion

__all__ = ["Conversion", "Normalization", "convert", "normalize"]
