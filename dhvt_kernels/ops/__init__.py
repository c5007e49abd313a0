"""The public operators: documentation, validation, fake kernels and gradients."""

from .color_sums import color_sums
from .connected_components import Components, connected_components
from .gaussian_blur import gaussian_blur
from .information_criterion import CRITERIA, criterion_terms, information_criterion
from .mean_inject import mean_inject
from .merge_pixels import merge_pixels
from .merge_tree import DISTANCES, MergeTree, merge_tree
from .pack import pack, pad, unpack
from .position_histogram import position_histogram
from .region_graph import RegionGraph, region_graph
from .relabel import relabel
from .saliency import saliency
from .scale_cut import ScaleCut, scale_cut
from .scale_set import ScaleSet, scale_set
from .segment_moments import Moments, segment_moments
from .segment_pool import segment_gather, segment_pool
from .similarity_pool import similarity_pool
from .soft_assign import SoftAssignment, soft_assign
from .soft_cluster import SoftClusters, soft_cluster
from .soft_pool import soft_pool
from .srgb_to_lab import srgb_to_lab
from .token_patches import token_patches
from .trace import Arcs, trace
from .tree_cut import SELECTIONS, TreeCut, tree_cut

__all__ = [
    "CRITERIA",
    "DISTANCES",
    "SELECTIONS",
    "Arcs",
    "Components",
    "MergeTree",
    "Moments",
    "RegionGraph",
    "ScaleCut",
    "ScaleSet",
    "SoftAssignment",
    "SoftClusters",
    "TreeCut",
    "color_sums",
    "connected_components",
    "criterion_terms",
    "gaussian_blur",
    "information_criterion",
    "mean_inject",
    "merge_pixels",
    "merge_tree",
    "pack",
    "pad",
    "position_histogram",
    "region_graph",
    "relabel",
    "saliency",
    "scale_cut",
    "scale_set",
    "segment_gather",
    "segment_moments",
    "segment_pool",
    "similarity_pool",
    "soft_assign",
    "soft_cluster",
    "soft_pool",
    "srgb_to_lab",
    "token_patches",
    "trace",
    "tree_cut",
    "unpack",
]
