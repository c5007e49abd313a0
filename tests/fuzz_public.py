"""Fuzzed arguments of the public functions, made from those of the operators that they call."""

from typing import Any, NamedTuple

import fuzz_segments
import fuzz_soft
import fuzz_trees
import fuzz_vector
import torch
from fuzz_values import FINITE
from grid import DTYPES

import dhvt_kernels
from dhvt_kernels.ops import Arcs, Chains, MergeTree, Moments, SoftClusters


class Call(NamedTuple):
    """Arguments by name; whether floats bind; the arguments that gradients flow to; comparisons as of `Case`."""

    arguments: dict[str, Any]
    compared: bool
    differentiable: tuple[str, ...] = ()
    own: Any = None


def srgb_to_lab(draw):
    case = fuzz_soft.srgb_to_lab(draw)
    return Call({"images": case.arguments[0]}, case.compared, ("images",))


def gaussian_blur(draw):
    case = fuzz_soft.gaussian_blur(draw)
    images, mask, sigma = case.arguments
    return Call({"images": images, "sigma": sigma, "mask": mask}, case.compared, ("images",))


def relabel(draw):
    return Call(dict(zip(("labels", "table"), fuzz_segments.relabel(draw).arguments, strict=True)), True)


def trace(draw):
    return Call({"labels": fuzz_segments.trace(draw).arguments[0]}, True)


def color_sums(draw):
    image, labels, segments = fuzz_segments.color_sums(draw).arguments
    return Call({"image": image, "labels": labels, "num_segments": segments}, True)


def _arcs(points, offsets, closed):
    """Arcs of which nothing but the points counts."""
    beside, none = torch.zeros(len(closed), dtype=torch.int32), torch.zeros(0, dtype=torch.int32)
    return Arcs(points, offsets, beside, beside, closed, none, torch.zeros(1, dtype=torch.int64), none, none.bool())


def simplify(draw):
    *columns, tolerance, method = fuzz_vector.simplify(draw).arguments
    return Call({"arcs": _arcs(*columns), "tolerance": tolerance, "method": method}, True)


def edge_points(draw):
    *columns, image, labels, planes, noise = fuzz_vector.edge_points(draw).arguments
    return Call({"arcs": _arcs(*columns), "image": image, "labels": labels, "planes": planes, "noise": noise}, True)


def fit_curves(draw):
    *columns, tolerance = fuzz_vector.fit_curves(draw).arguments
    return Call({"chains": Chains(*columns), "tolerance": tolerance}, True)


def svg_paths(draw):
    *columns, curves, scale, height, width = fuzz_vector.svg_paths(draw).arguments
    points, offsets, left, right, rings, ring_offsets, opaque = columns
    corners = torch.zeros(4 * len(left), 2, dtype=torch.int32)
    arcs = _arcs(corners, torch.arange(len(left) + 1) * 4, torch.zeros(len(left), dtype=torch.bool))
    arcs = arcs._replace(left=left, right=right, ring_arcs=rings, ring_offsets=ring_offsets)
    arguments = {"points": points, "offsets": offsets, "arcs": arcs}
    size = (height, width) if height and width else None
    return Call({**arguments, "opaque": opaque, "curves": curves, "scale": scale, "size": size}, True)


def _soft_numbers(coefficients, cell, compactness, temperature):
    """Numbers, or the two tensors that learn."""
    if coefficients is not None:
        compactness, temperature = coefficients.unbind()
    return {"cell": cell, "compactness": compactness, "temperature": temperature}


def soft_assign(draw):
    case = fuzz_soft.soft_assign(draw)
    features, centers, positions, mass, mask, *numbers = case.arguments
    arguments = {"features": features, "centers": centers, "positions": positions, **_soft_numbers(*numbers)}
    return Call(
        {**arguments, "mass": mass, "mask": mask},
        case.compared,
        ("features", "centers", "positions", "compactness", "temperature"),
        case.own,
    )


def soft_cluster(draw):
    case = fuzz_soft.soft_cluster(draw)
    features, mask, *numbers, iterations = case.arguments
    arguments = {"features": features, **_soft_numbers(*numbers), "iterations": iterations, "mask": mask}
    arguments["grad"] = draw.pick("full", "last")
    return Call(arguments, case.compared, ("features", "compactness", "temperature"), case.own)


def soft_pool(draw):
    case = fuzz_soft.soft_pool(draw)
    features, values, centers, positions, mass, mask, *numbers = case.arguments
    clusters = SoftClusters(centers, positions, mass, torch.empty(0))
    arguments = {"features": features, "values": values, "clusters": clusters, **_soft_numbers(*numbers), "mask": mask}
    return Call(arguments, case.compared, ("features", "values", "compactness", "temperature"))


def connected_components(draw):
    labels, features, min_size, largest_only = fuzz_segments.connected_components(draw).arguments
    arguments = {"labels": labels, "features": features, "min_size": min_size, "largest_only": largest_only}
    return Call(arguments, True)


def segment_moments(draw):
    case = fuzz_segments.segment_moments(draw)
    return Call(
        dict(zip(("features", "labels", "num_segments"), case.arguments, strict=True)), case.compared, ("features",)
    )


def region_graph(draw):
    labels, segments, capacity = fuzz_segments.region_graph(draw).arguments
    return Call({"labels": labels, "num_segments": segments, "capacity": draw.pick(None, capacity)}, True)


def merge_pixels(draw):
    case = fuzz_trees.merge_pixels(draw)
    features, mask, distance, compactness, _, noise = case.arguments
    arguments = {"features": features, "mask": mask, "distance": distance, "compactness": compactness, "noise": noise}
    return Call(arguments | {"depth": draw.pick(None, 1, 2, 5)}, case.finite, ("features",))


def merge_tree(draw):
    kind, moments, edges, lengths = fuzz_trees.graph(draw)
    moments = Moments(*moments)
    arguments = {
        "moments": moments,
        "edges": edges,
        "lengths": lengths,
        "distance": draw.pick(*fuzz_trees.DISTANCES),
        "order": draw.pick("rounds", "best"),
        "compactness": draw.pick(0.0, 0.3, 1e6),
        "depth": draw.pick(None, 1, 2, 5),
        "noise": draw.pick(16.0, 1e-3, 1e6),
    }
    # Gradients of counts that wrap around int32 have no truth to hold them to.
    return Call(arguments, kind in FINITE and bool((moments.count < 1000).all()), ("moments",))


def similarity_pool(draw):
    case = fuzz_trees.similarity_pool(draw)
    features, count, parent, round_ = case.arguments
    none = features.new_empty(0)
    tree = MergeTree(parent, round_, Moments(count, none, none, none, none, none))
    return Call({"features": features, "tree": tree}, case.compared, ("features",))


def _criterion(draw):
    case = fuzz_segments.information_criterion(draw)
    count, m2, boundary, num_pixels, criterion, noise, rho = case.arguments
    other = m2.new_zeros(*count.shape, 2)
    arguments = {
        "moments": Moments(count, m2, m2, other, count.new_zeros(*count.shape, 4), boundary),
        "criterion": criterion,
        "noise": noise,
        "pixel_correlation": rho,
        "num_pixels": draw.pick(None, num_pixels),
    }
    if arguments["num_pixels"] is None:  # a sum of INT_MAX and INT_MAX
        return arguments, case.compared and bool((count.abs() < 1000).all())
    return arguments, case.compared


def criterion_terms(draw):
    return Call(*_criterion(draw), ("moments",) if draw.chance(2) else ())


def information_criterion(draw):
    arguments, compared = _criterion(draw)
    batch, dtype = arguments["moments"].count.shape[0], draw.pick(torch.float32, torch.float64)
    strength = draw.pick(1.0, 0.0, 0.3, torch.full((batch, 1), 0.5, dtype=dtype))
    return Call({**arguments, "strength": strength}, compared, ("strength",))


def tree_cut(draw):
    case = fuzz_trees.tree_cut(draw)
    names = ("likelihood", "penalty", "parent", "round", "select", "strength", "max_tokens", "lookahead", "min_gain")
    arguments = dict(zip((*names, "selection_temperature"), case.arguments, strict=True))
    arguments["max_tokens"] = draw.pick(None, 1, 2, 5)
    return Call(arguments, case.finite, ("likelihood", "penalty"))


def scale_set(draw):
    case = fuzz_trees.scale_set(draw)
    return Call(dict(zip(("likelihood", "penalty", "parent", "round"), case.arguments, strict=True)), True)


def scale_cut(draw):
    names = ("lower", "parent", "round", "strength", "max_tokens", "num_segments")
    return Call(dict(zip(names, fuzz_trees.scale_cut(draw).arguments, strict=True)), True)


def saliency(draw):
    return Call(
        dict(zip(("labels", "lower", "parent", "round"), fuzz_trees.saliency(draw).arguments, strict=True)), True
    )


def segment_pool(draw):
    reduce = draw.pick("mean", "sum", "max")
    if reduce == "max":
        (features, labels, segments), weights, compared = fuzz_segments.segment_max(draw).arguments, None, True
    else:
        case = fuzz_segments.segment_sum(draw)
        (features, labels, weights, segments), compared = case.arguments, case.compared
        if weights is not None and reduce == "mean":
            weights = weights.abs() + 1  # masses that cancel divide by rounding errors
    arguments = {"features": features, "labels": labels, "num_segments": segments, "reduce": reduce}
    return Call({**arguments, "weights": weights}, compared, ("features", "weights"))


def segment_gather(draw):
    case = fuzz_segments.segment_gather(draw)
    values, labels, weights, _ = case.arguments
    return Call({"values": values, "labels": labels, "weights": weights}, case.finite, ("values", "weights"))


def mean_inject(draw):
    case = fuzz_segments.mean_inject(draw)
    arguments = dict(zip(("image", "tokens", "labels"), case.arguments, strict=True))
    return Call(arguments, case.compared, ("image", "tokens"))


def token_patches(draw):
    case = fuzz_segments.token_patches(draw)
    return Call(dict(zip(("image", "labels", "boxes", "size"), case.arguments, strict=True)), case.compared, ("image",))


def position_histogram(draw):
    labels, sizes, segments, *grid = fuzz_segments.position_histogram(draw).arguments
    return Call({"labels": labels, "num_segments": segments, "grid": tuple(grid), "sizes": sizes}, True)


def _rows(draw, *size):
    kind = draw.kind()
    return kind in FINITE, draw.values(kind, draw.pick(*DTYPES), *size)


def pack(draw):
    batch = draw.size(1, 2, 3, 7, 0)
    compared, values = _rows(draw, batch, draw.size(), draw.size(1, 2, 5, 64, 0))
    counts = draw.layout(draw.extremes(-1, values.shape[1] + 2, batch))
    return Call({"values": values, "counts": counts, "total": draw.pick(None, 0, 3, 20, 100)}, compared, ("values",))


def unpack(draw):
    compared, values = _rows(draw, draw.size(), draw.size(1, 2, 5, 64, 0))
    offsets = draw.layout(draw.integers(0, 4, draw.size(1, 2, 3, 7)).cumsum(0).int())
    return Call({"values": values, "cu_seqlens": offsets, "length": draw.pick(0, 1, 3, 8)}, compared, ("values",))


def pad(draw):
    batch = draw.size(1, 2, 3, 7, 0)
    compared, values = _rows(draw, batch, draw.size(), draw.size(1, 2, 5, 64, 0))
    counts = draw.layout(draw.extremes(-1, values.shape[1] + 2, batch))
    return Call({"values": values, "counts": counts, "length": draw.pick(0, 1, 3, 8, 70)}, compared, ("values",))


CALLS = {
    call.__name__: call
    for call in (
        srgb_to_lab,
        gaussian_blur,
        relabel,
        trace,
        color_sums,
        simplify,
        edge_points,
        fit_curves,
        svg_paths,
        soft_assign,
        soft_cluster,
        soft_pool,
        connected_components,
        segment_moments,
        region_graph,
        merge_pixels,
        merge_tree,
        similarity_pool,
        criterion_terms,
        information_criterion,
        tree_cut,
        scale_set,
        scale_cut,
        saliency,
        segment_pool,
        segment_gather,
        mean_inject,
        token_patches,
        position_histogram,
        pack,
        unpack,
        pad,
    )
}
assert set(CALLS) == {name for name in dhvt_kernels.ops.__all__ if name.islower()}
