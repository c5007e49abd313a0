"""Plain PyTorch implementation of every operator: readable, the ground truth of the tests, and the last resort.

Each function has the name and the signature of an operator of `_schema.py`.
"""

from .color_sums import color_sums as color_sums
from .connected_components import connected_components as connected_components
from .edge_points import edge_points as edge_points
from .fit_curves import fit_curves as fit_curves
from .gaussian_blur import gaussian_blur as gaussian_blur
from .gaussian_blur import gaussian_blur_backward as gaussian_blur_backward
from .information_criterion import information_criterion as information_criterion
from .information_criterion import information_criterion_backward as information_criterion_backward
from .mean_inject import mean_inject as mean_inject
from .merge_best import merge_best as merge_best
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
from .simplify import simplify as simplify
from .soft_assign import soft_assign as soft_assign
from .soft_assign import soft_assign_backward as soft_assign_backward
from .soft_assign import soft_cluster as soft_cluster
from .soft_assign import soft_cluster_backward as soft_cluster_backward
from .soft_assign import soft_pool as soft_pool
from .soft_assign import soft_pool_backward as soft_pool_backward
from .srgb_to_lab import srgb_to_lab as srgb_to_lab
from .srgb_to_lab import srgb_to_lab_backward as srgb_to_lab_backward
from .svg_paths import svg_paths as svg_paths
from .token_patches import token_patches as token_patches
from .token_patches import token_patches_backward as token_patches_backward
from .trace import trace as trace
from .tree_cut import tree_cut as tree_cut
from .tree_cut import tree_cut_backward as tree_cut_backward
