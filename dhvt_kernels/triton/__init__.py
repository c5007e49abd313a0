"""Triton kernels of every operator that runs on GPUs: for machines without a CUDA compiler, and to be read.

Each function has the name and the signature of an operator of `_schema.py`, and gives the same outputs in the same
dtypes and layouts.
"""

import torch

from .. import _native
from ._language import interpreted, missing
from .scale_cut import scale_cut as scale_cut
from .scale_set import scale_set as scale_set
from .srgb_to_lab import srgb_to_lab as srgb_to_lab
from .srgb_to_lab import srgb_to_lab_backward as srgb_to_lab_backward
from .tree_cut import tree_cut as tree_cut
from .tree_cut import tree_cut_backward as tree_cut_backward

#: The oldest GPU that Triton supports.
_OLDEST_GPU = (8, 0)


def missing_on(device: str) -> str | None:
    """Why Triton cannot run on tensors of a device, "cpu" or "cuda"; None when it can."""
    if missing is not None or interpreted:
        return missing
    if device == "cpu":
        return "Triton runs on CPU tensors only in its interpreter (TRITON_INTERPRET=1, set before the import)"
    reason = _native.gpu_missing()
    if reason is not None:
        return reason
    for index in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_capability(index)
        if found < _OLDEST_GPU:
            return f"device {index} is sm_{found[0]}{found[1]}; Triton runs from sm_{_OLDEST_GPU[0]}{_OLDEST_GPU[1]} on"
    return None
