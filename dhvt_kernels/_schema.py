"""Every operator's schema: the table of contents.

Names and shapes follow docs/design.md. `Tensor? mask` is bool [B,H,W], true where a pixel takes part. Operators take
plain tensors and Python numbers; the public functions in `ops/` validate, and wire the gradients.
"""

import torch

NAMESPACE = "dhvt_kernels"

_CLUSTER = "int cell, float compactness, float temperature"

SCHEMAS = {
    "srgb_to_lab": "(Tensor images) -> Tensor",
    "srgb_to_lab_backward": "(Tensor grad, Tensor images) -> Tensor",
    # total is the sum of the weights, 0 where a pixel does not exist.
    "gaussian_blur": "(Tensor images, Tensor? mask, float sigma) -> (Tensor blurred, Tensor total)",
    "gaussian_blur_backward": "(Tensor grad, Tensor total, float sigma) -> Tensor",
    # Soft assignment and leaves. `coefficients` [2] (compactness, temperature) overrides the two numbers.
    "soft_assign": "(Tensor features, Tensor centers, Tensor positions, Tensor? mass, Tensor? mask, "
    f"Tensor? coefficients, {_CLUSTER}) -> (Tensor assignment, Tensor labels)",
    "soft_assign_backward": "(Tensor grad_assignment, Tensor features, Tensor centers, Tensor positions, Tensor? mass, "
    f"Tensor? mask, Tensor? coefficients, {_CLUSTER}) "
    "-> (Tensor grad_features, Tensor grad_centers, Tensor grad_positions, Tensor grad_coefficients)",
    "soft_cluster": f"(Tensor features, Tensor? mask, Tensor? coefficients, {_CLUSTER}, int iterations) "
    "-> (Tensor centers, Tensor positions, Tensor mass, Tensor labels)",
    "soft_cluster_backward": "(Tensor grad_centers, Tensor grad_positions, Tensor grad_mass, Tensor features, "
    f"Tensor? mask, Tensor? coefficients, Tensor centers, Tensor positions, Tensor mass, {_CLUSTER}, bool last_only) "
    "-> (Tensor grad_features, Tensor grad_coefficients)",
    "soft_pool": "(Tensor features, Tensor values, Tensor centers, Tensor positions, Tensor mass, Tensor? mask, "
    f"Tensor? coefficients, {_CLUSTER}) -> (Tensor sums, Tensor mass)",
    "soft_pool_backward": "(Tensor grad_sums, Tensor grad_mass, Tensor features, Tensor values, Tensor centers, "
    f"Tensor positions, Tensor mass, Tensor? mask, Tensor? coefficients, {_CLUSTER}) "
    "-> (Tensor grad_features, Tensor grad_values, Tensor grad_centers, Tensor grad_positions, "
    "Tensor grad_coefficients)",
    "connected_components": "(Tensor labels, Tensor? features, int min_size, bool largest_only) "
    "-> (Tensor components, Tensor counts)",
    # Statistics
    "segment_moments": "(Tensor features, Tensor labels, int num_segments) "
    "-> (Tensor count, Tensor mean, Tensor m2, Tensor centroid, Tensor box, Tensor boundary)",
    "segment_moments_backward": "(Tensor grad_mean, Tensor grad_m2, Tensor features, Tensor labels, Tensor count, "
    "Tensor mean) -> Tensor",
    "information_criterion": "(Tensor count, Tensor m2, Tensor boundary, Tensor num_pixels, str criterion, "
    "float noise, float pixel_correlation) -> (Tensor likelihood, Tensor penalty)",
    "information_criterion_backward": "(Tensor grad_likelihood, Tensor count, Tensor m2, float noise, "
    "float pixel_correlation) -> Tensor",
    # Hierarchy. depth = 0 merges to the root.
    "region_graph": "(Tensor labels, int num_segments, int capacity) -> (Tensor edges, Tensor lengths, Tensor counts)",
    "merge_tree": "(Tensor count, Tensor mean, Tensor m2, Tensor centroid, Tensor box, Tensor boundary, Tensor edges, "
    "Tensor lengths, str distance, float compactness, int depth, float noise=16.0) -> (Tensor parent, Tensor round, "
    "Tensor node_count, Tensor node_mean, Tensor node_m2, Tensor node_centroid, Tensor node_box, "
    "Tensor node_boundary)",
    # The same with a merge per round, the nearest pair of all; on the CPU only.
    "merge_best": "(Tensor count, Tensor mean, Tensor m2, Tensor centroid, Tensor box, Tensor boundary, Tensor edges, "
    "Tensor lengths, str distance, float compactness, int depth, float noise=16.0) -> (Tensor parent, Tensor round, "
    "Tensor node_count, Tensor node_mean, Tensor node_m2, Tensor node_centroid, Tensor node_box, "
    "Tensor node_boundary)",
    "merge_pixels": "(Tensor features, Tensor? mask, str distance, float compactness, int depth, float noise=16.0) "
    "-> (Tensor parent, Tensor round, Tensor node_count, Tensor node_mean, Tensor node_m2, Tensor node_centroid, "
    "Tensor node_box, Tensor node_boundary)",
    "merge_tree_backward": "(Tensor grad_mean, Tensor grad_m2, Tensor parent, Tensor node_count, Tensor node_mean) "
    "-> (Tensor grad_leaf_mean, Tensor grad_leaf_m2)",
    # share is what a node's features count for in its parent's.
    "similarity_pool": "(Tensor features, Tensor count, Tensor parent, Tensor round) "
    "-> (Tensor node_features, Tensor share)",
    "similarity_pool_backward": "(Tensor grad, Tensor node_features, Tensor share, Tensor count, Tensor parent, "
    "Tensor round) -> Tensor",
    "tree_cut": "(Tensor likelihood, Tensor penalty, Tensor parent, Tensor round, str select, float strength, "
    "int max_tokens, int lookahead, float min_gain, float selection_temperature) "
    "-> (Tensor segment, Tensor node, Tensor counts, Tensor strength, Tensor probability)",
    "tree_cut_backward": "(Tensor grad_probability, Tensor likelihood, Tensor penalty, Tensor parent, Tensor round, "
    "Tensor strength, float selection_temperature) -> (Tensor grad_likelihood, Tensor grad_penalty)",
    # Strengths [lower, upper) at which each node is in the cut; N cuts, with a budget where max_tokens [N] is positive.
    "scale_set": "(Tensor likelihood, Tensor penalty, Tensor parent, Tensor round) -> (Tensor lower, Tensor upper)",
    "scale_cut": "(Tensor lower, Tensor parent, Tensor round, Tensor strength, Tensor max_tokens, int num_segments) "
    "-> (Tensor segment, Tensor node, Tensor counts, Tensor strength)",
    "saliency": "(Tensor labels, Tensor lower, Tensor parent, Tensor round) -> Tensor",
    "relabel": "(Tensor labels, Tensor table) -> Tensor",
    # One label map [H,W], on the CPU only; the sizes of the outputs depend on it.
    "trace": "(Tensor labels) -> (Tensor points, Tensor offsets, Tensor left, Tensor right, Tensor closed, "
    "Tensor ring_arcs, Tensor ring_offsets, Tensor ring_labels, Tensor holes)",
    "simplify": "(Tensor points, Tensor offsets, Tensor closed, float tolerance, str method) "
    "-> (Tensor points, Tensor offsets)",
    # From arcs to paths, on the CPU only. Chains of points along the arcs as the picture shows them; curves 3 n + 1.
    "edge_points": "(Tensor points, Tensor offsets, Tensor closed, Tensor image, Tensor labels, Tensor planes, "
    "Tensor noise) -> (Tensor points, Tensor offsets)",
    "fit_curves": "(Tensor points, Tensor offsets, Tensor closed, float tolerance) -> (Tensor points, Tensor offsets)",
    # height, width: those of the picture, where hidden boundaries may run elsewhere; 0 keeps them as they are.
    "svg_paths": "(Tensor points, Tensor offsets, Tensor left, Tensor right, Tensor ring_arcs, Tensor ring_offsets, "
    "Tensor opaque, bool curves, float scale, int height, int width) "
    "-> (Tensor text, Tensor text_offsets, Tensor segments)",
    # Of one picture uint8 [C,H,W], on the CPU only: n, y, x, yy, yx, xx, and of each channel c, yc, xc, cc.
    "color_sums": "(Tensor image, Tensor labels, int num_segments) -> Tensor",
    # Tokens. sum, gather and dot are the three derivatives of sum_i w_i sum_c values[k_i,c] features[i,c].
    "segment_sum": "(Tensor features, Tensor labels, Tensor? weights, int num_segments) -> (Tensor sums, Tensor mass)",
    "segment_gather": "(Tensor values, Tensor labels, Tensor? weights, bool channels_last) -> Tensor",
    "segment_dot": "(Tensor values, Tensor features, Tensor labels) -> Tensor",
    "segment_max": "(Tensor features, Tensor labels, int num_segments) -> (Tensor values, Tensor index)",
    "mean_inject": "(Tensor image, Tensor tokens, Tensor labels) -> Tensor",
    "token_patches": "(Tensor image, Tensor labels, Tensor boxes, int size) -> (Tensor patches, Tensor masks)",
    "token_patches_backward": "(Tensor grad_patches, Tensor boxes, int height, int width) -> Tensor",
    "position_histogram": "(Tensor labels, Tensor? sizes, int num_segments, int grid_height, int grid_width) -> Tensor",
    "pack": "(Tensor values, Tensor cu_seqlens, int total) -> Tensor",
    "unpack": "(Tensor values, Tensor cu_seqlens, int length) -> Tensor",
    "pad": "(Tensor values, Tensor counts, int length) -> Tensor",
}

#: What serves raster to vector only, one picture at a time on the CPU.
HOST_OPERATORS = ("merge_best", "trace", "simplify", "edge_points", "fit_curves", "svg_paths", "color_sums")

# Kept alive: a Library takes its definitions back when it is destroyed.
library = torch.library.Library(NAMESPACE, "DEF")
for _name, _schema in SCHEMAS.items():
    library.define(_name + _schema)

ops = getattr(torch.ops, NAMESPACE)
