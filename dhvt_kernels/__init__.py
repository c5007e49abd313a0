"""Differentiable hierarchical visual tokenization: adaptive image tokens for PyTorch."""

from . import heads, losses
from . import ops as _operators
from ._backends import backend, register_backends, supports
from .features import ConvEncoder, SmoothedLab
from .hierarchy import Hierarchy, Selection
from .injection import MeanInjection
from .ops import *  # noqa: F403
from .partition import Partition, SoftLeaves
from .retrofit import Adapter, GridTokenizer, Retrofit, retrofit
from .svg_search import Vectorized, render_svg, search_svg, svg_psnr
from .tokenizer import Tokenizer, pad_images
from .vectorize import to_svg, vector_hierarchy
from .viewer import to_html

__version__ = "0.1.0"

__all__ = [
    *_operators.__all__,
    "Adapter",
    "ConvEncoder",
    "GridTokenizer",
    "Hierarchy",
    "MeanInjection",
    "Partition",
    "Retrofit",
    "Selection",
    "SmoothedLab",
    "SoftLeaves",
    "Tokenizer",
    "Vectorized",
    "backend",
    "heads",
    "losses",
    "pad_images",
    "render_svg",
    "retrofit",
    "search_svg",
    "supports",
    "svg_psnr",
    "to_html",
    "to_svg",
    "vector_hierarchy",
]

register_backends()
