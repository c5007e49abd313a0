"""Differentiable hierarchical visual tokenization: adaptive image tokens for PyTorch."""

from . import ops, reference  # noqa: F401
from ._native import backend, register_reference, warn_once

__version__ = "0.1.0"

register_reference()
warn_once()
