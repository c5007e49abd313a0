"""Triton kernels of every operator that runs on GPUs: for machines without a CUDA compiler, and to be read.

Each function has the name and the signature of an operator of `_schema.py`, and gives the same outputs in the same
dtypes and layouts. Triton itself needs a C compiler, for what launches its kernels.
"""

import torch

from .. import _native
from ._language import driver_missing, interpreted, missing
from .connected_components import connected_components as connected_components
from .gaussian_blur import gaussian_blur as gaussian_blur
from .gaussian_blur import gaussian_blur_backward as gaussian_blur_backward
from .information_criterion import information_criterion as information_criterion
from .information_criterion import information_criterion_backward as information_criterion_backward
from .mean_inject import mean_inject as mean_inject
from .merge_pixels import merge_pixels as merge_pixels
from .merge_tree import merge_tree as merge_tree
from .merge_tree import merge_tree_backward as merge_tree_backward
from .pack import pack as pack
from .pack import pad as pad
from .pack import unpack as unpack
from .position_histogram import position_histogram as position_histogram
from .region_graph import region_graph as region_graph
from .relabel import relabel as relabel
from .saliency import saliency as saliency
from .scale_cut import scale_cut as scale_cut
from .scale_set import scale_set as scale_set
from .segment_moments import segment_moments as segment_moments
from .segment_moments import segment_moments_backward as segment_moments_backward
from .segment_pool import segment_dot as segment_dot
from .segment_pool import segment_gather as segment_gather
from .segment_pool import segment_max as segment_max
from .segment_pool import segment_sum as segment_sum
from .similarity_pool import similarity_pool as similarity_pool
from .similarity_pool import similarity_pool_backward as similarity_pool_backward
from .soft_assign import soft_assign as soft_assign
from .soft_assign import soft_assign_backward as soft_assign_backward
from .soft_cluster import soft_cluster as soft_cluster
from .soft_cluster_backward import soft_cluster_backward as soft_cluster_backward
from .soft_pool import soft_pool as soft_pool
from .soft_pool import soft_pool_backward as soft_pool_backward
from .srgb_to_lab import srgb_to_lab as srgb_to_lab
from .srgb_to_lab import srgb_to_lab_backward as srgb_to_lab_backward
from .token_patches import token_patches as token_patches
from .token_patches import token_patches_backward as token_patches_backward
from .tree_cut import tree_cut as tree_cut
from .tree_cut import tree_cut_backward as tree_cut_backward

#: The oldest GPU that Triton supports.
_OLDEST_GPU = (8, 0)


def missing_on(device: str) -> str | None:
    """Why Triton cannot run on tensors of a device, "cpu" or "cuda"; None when it can."""
    if missing is not None:
        return missing
    if device == "cpu":
        only = "Triton runs on CPU tensors only in its interpreter (TRITON_INTERPRET=1, set before the import)"
        return None if interpreted else only
    reason = _native.gpu_missing()
    if reason is not None or interpreted:
        return reason
    for index in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_capability(index)
        if found < _OLDEST_GPU:
            return (
                f"device {index} is sm_{found[0]}{found[1]}; Triton runs from sm_{_OLDEST_GPU[0]}{_OLDEST_GPU[1]} on "
                "(CUDA_VISIBLE_DEVICES can leave it out)"
            )
    return driver_missing()
