"""Arguments for every operator of the schema, used by the tests that hold for all operators.

Each `samples_<area>.py` has `SAMPLES`: operator name -> function(dtype) -> list of argument tuples, the first of them
an ordinary case, the others degenerate ones (empty batch, one pixel).
"""

from collections.abc import Callable
from typing import Any

import samples_components
import samples_features
import samples_moments
import samples_soft
import samples_tokens
import samples_tree
import samples_vector
import torch

SAMPLES: dict[str, Callable[[torch.dtype], list[tuple[Any, ...]]]] = {
    **samples_moments.SAMPLES,
    **samples_components.SAMPLES,
    **samples_features.SAMPLES,
    **samples_soft.SAMPLES,
    **samples_tree.SAMPLES,
    **samples_tokens.SAMPLES,
    **samples_vector.SAMPLES,
}
