"""Losses of tokens, tokenizers and dense prediction (docs/heads.md)."""

from .alignment import BoundaryProbability, alignment_loss, boundary_probability
from .dense import dice_cross_entropy
from .reconstruction import reconstruction_loss
from .regularizer import token_count_loss, token_regularizer

__all__ = [
    "BoundaryProbability",
    "alignment_loss",
    "boundary_probability",
    "dice_cross_entropy",
    "reconstruction_loss",
    "token_count_loss",
    "token_regularizer",
]
