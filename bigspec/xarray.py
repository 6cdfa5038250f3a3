"""The accessor of xarray's DataArrays: ``import bigspec.xarray``, then ``da.bigspec.norm()``."""

try:
    import xarray  # noqa: F401
except ImportError as error:
    msg = "bigspec.xarray needs xarray: pip install xarray"
    raise ImportError(msg) from error

from bigspec.adapters.xarray_accessor import BigspecAccessor

__all__ = ["BigspecAccessor"]
