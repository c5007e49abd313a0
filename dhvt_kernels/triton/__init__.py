"""Triton kernels of every operator that runs on GPUs: for machines without a CUDA compiler, and to be read.

Each function has the name and the signature of an operator of `_schema.py`, and gives the same outputs in the same
dtypes and layouts.
"""

import torch

from .. import _native
from ._language import interpreted, missing
from .gaussian_blur import gaussian_blur as gaussian_blur
from .gaussian_blur import gaussian_blur_backward as gaussian_blur_backward
from .information_criterion import information_criterion as information_criterion
from .information_criterion import information_criterion_backward as information_criterion_backward
from .soft_assign import soft_assign as soft_assign
from .soft_assign import soft_assign_backward as soft_assign_backward
from .soft_cluster import soft_cluster as soft_cluster
from .soft_cluster_backward import soft_cluster_backward as soft_cluster_backward
from .soft_pool import soft_pool as soft_pool
from .soft_pool import soft_pool_backward as soft_pool_backward
from .srgb_to_lab import srgb_to_lab as srgb_to_lab
from .srgb_to_lab import srgb_to_lab_backward as srgb_to_lab_backward

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
