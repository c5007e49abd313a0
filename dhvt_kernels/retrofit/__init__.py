"""Pretrained Vision Transformers on adaptive tokens (docs/retrofit.md)."""

from .adapter import Adapter
from .grid import GridTokenizer
from .model import Retrofit, retrofit

__all__ = ["Adapter", "GridTokenizer", "Retrofit", "retrofit"]
