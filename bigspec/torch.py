"""Spectral normalisation for training, by certificate: ``bigspec.torch.spectral_norm(module)``."""

try:
    import torch  # noqa: F401
except ImportError as error:
    msg = "bigspec.torch needs PyTorch: pip install torch"
    raise ImportError(msg) from error

from bigspec.adapters.torch_spectral_norm import SpectralNorm, spectral_norm

__all__ = ["SpectralNorm", "spectral_norm"]
