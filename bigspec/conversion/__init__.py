"""Converting sparse matrices: any source into a chunked group, in bounded memory."""

from bigspec.conversion.convert import convert
from bigspec.conversion.outcome import Conversion

__all__ = ["Conversion", "convert"]
