"""Fuzzed arguments of the operators on trees: graphs with any edges, parents that run in circles or point nowhere."""

import torch
from fuzz_values import FINITE, INT_MAX, Case
from samples_tree import DISTANCES, pixel_graph, random_forest

from dhvt_kernels._schema import ops

ACCUMULATION = (torch.float32, torch.float64)


def graph(draw):
    """Moments, edges and lengths of merge_tree; a kind of its features."""
    dtype, kind = draw.pick(*ACCUMULATION), draw.kind()
    size = draw.size(1, 2, 0), draw.size(1, 2, 3, 0), draw.size(1, 2, 3, 4), draw.size(1, 2, 3)
    features = draw.values(kind, dtype, *size)
    count, mean, m2, centroid, box, boundary, edges, lengths = pixel_graph(features)
    batch, leaves = count.shape
    if draw.chance(2):
        count = draw.extremes(0, 9, batch, leaves)
        m2 = draw.values(kind, dtype, *m2.shape).abs()
        boundary = draw.extremes(0, 9, batch, leaves)
        number = draw.size(1, 3, 12, 40, 0)
        edges, lengths = draw.extremes(-1, leaves, batch, number, 2), draw.extremes(0, 9, batch, number)
        box = draw.extremes(0, 9, batch, leaves, 4)
    moments = tuple(draw.layout(part) for part in (count, mean, m2, centroid, box, boundary))
    return kind, moments, draw.layout(edges), draw.layout(lengths)


def merge_numbers(draw):
    """Distance, compactness, depth and noise."""
    rounds = draw.pick(0, 1, 2, 3, INT_MAX, -1)
    return draw.pick(*DISTANCES), draw.pick(0.0, 0.3, 1e6), rounds, draw.pick(16.0, 1e-3, 1e6)


def merge_tree(draw):
    kind, moments, edges, lengths = graph(draw)
    numbers = merge_numbers(draw)
    # Counts are int32: what a sum of more pixels does to the means is not defined.
    countable = bool((moments[0].clamp(min=0).sum(1, dtype=torch.int64) <= INT_MAX).all())
    return Case((*moments, edges, lengths, *numbers), compared=countable, finite=countable and kind in FINITE)


def merge_best(draw):
    return merge_tree(draw)


def merge_pixels(draw):
    batch, height, width = draw.image_size()
    kind = draw.kind()
    features = draw.layout(draw.values(kind, draw.dtype(), batch, draw.size(1, 2, 3, 0), height, width))
    numbers = merge_numbers(draw)
    return Case((features, draw.mask(batch, height, width), *numbers), finite=kind in FINITE)


def merge_tree_backward(draw):
    kind, moments, edges, lengths = graph(draw)
    parent, _, count, mean, *_ = ops.merge_tree(*moments, edges, lengths, "ward", 0.0, 0)
    if draw.chance(2):
        parent, count = draw.extremes(-1, parent.shape[1] + 1, *parent.shape), draw.extremes(0, 9, *count.shape)
    kinds = draw.kind(), draw.kind()
    grads = [draw.values(k, mean.dtype, *mean.shape) for k in kinds]
    calm = all(k in FINITE for k in (kind, *kinds)) and bool((count.abs() < 1000).all()) and bool((count > 0).all())
    return Case((*grads, draw.layout(parent), draw.layout(count), draw.layout(mean)), compared=calm, finite=calm)


def _forest(draw):
    """Likelihood, penalty, parent, round; whether the numbers are ordinary."""
    batch, leaves, dtype = draw.size(1, 2, 0), draw.size(1, 2, 3, 5, 9, 0), draw.pick(*ACCUMULATION)
    nodes = max(2 * leaves - 1, 0)
    if draw.chance(2):
        kinds = draw.kind(), draw.kind()
        likelihood, penalty = (draw.values(kind, dtype, batch, nodes) for kind in kinds)
        parent, round_ = draw.extremes(-1, nodes, batch, nodes), draw.extremes(-1, 4, batch, nodes)
        return likelihood, penalty, draw.layout(parent), draw.layout(round_), all(kind in FINITE for kind in kinds)
    torch.manual_seed(int(draw.integers(0, 1 << 30, 1)))
    if leaves == 0:
        batch = 0
    likelihood, penalty, parent, round_ = random_forest(batch, leaves or 1, dtype, roots=draw.pick(0.1, 0.5))
    ties = draw.chance(3)
    return likelihood.round() if ties else likelihood, penalty, parent, round_, True


def tree_cut(draw):
    *tree, ordinary = _forest(draw)
    numbers = (
        draw.pick("optimal", "greedy"),
        draw.pick(1.0, 0.0, 0.3, 1e-40, 3e38),
        draw.pick(0, 1, 2, 5, INT_MAX, -1),
        draw.pick(1, 2, 3, 100),
        draw.pick(0.0, 0.1, -1.0, 1e9),
        draw.pick(1.0, 16.0, 1e-30, 1e30),
    )
    return Case((*tree, *numbers), finite=ordinary and numbers[1] < 2)


def tree_cut_backward(draw):
    likelihood, penalty, parent, round_, ordinary = _forest(draw)
    kind = draw.kind()
    grad = draw.values(kind, likelihood.dtype, *likelihood.shape)
    strength = draw.layout(torch.full((len(parent),), draw.pick(1.0, 0.0, 0.3, 3e38), dtype=torch.float32))
    calm = ordinary and kind in FINITE and bool((strength < 2).all())
    return Case((grad, likelihood, penalty, parent, round_, strength, draw.pick(1.0, 16.0)), calm, calm)


def scale_set(draw):
    *tree, _ = _forest(draw)
    return Case(tuple(tree))


def _scales(draw):
    """lower, parent and round of a scale set, or of any numbers."""
    likelihood, penalty, parent, round_, _ = _forest(draw)
    lower, _ = ops.scale_set(likelihood, penalty, parent, round_)
    if draw.chance(3):
        lower = draw.values(draw.kind(), torch.float32, *lower.shape)
    return draw.layout(lower), parent, round_


def scale_cut(draw):
    cuts = draw.size(1, 3, 9, 0)
    strength = draw.values(draw.kind(), torch.float32, cuts)
    budgets = draw.layout(draw.extremes(-1, 6, cuts))
    return Case((*_scales(draw), strength, budgets, draw.pick(0, 1, 5, 20)), finite=True)


def saliency(draw):
    scales = _scales(draw)
    size = scales[0].shape[0], draw.size(1, 2, 5, 0), draw.size(1, 3, 40)
    return Case((draw.layout(draw.extremes(-1, scales[0].shape[1] // 2 + 2, *size)), *scales), finite=True)


def similarity_pool(draw):
    likelihood, _, parent, round_, _ = _forest(draw)
    kind = draw.kind()
    leaves = (parent.shape[1] + 1) // 2
    features = draw.values(kind, likelihood.dtype, len(parent), leaves, draw.size(1, 2, 3, 0))
    count = draw.extremes(0, 9, *parent.shape)
    return Case((features, draw.layout(count), parent, round_), kind in FINITE, kind in FINITE)


def similarity_pool_backward(draw):
    features, count, parent, round_ = similarity_pool(draw).arguments
    nodes, share = ops.similarity_pool(features, count, parent, round_)
    kind = draw.kind()
    grad = draw.values(kind, nodes.dtype, *nodes.shape)
    if draw.chance(2):
        share = draw.values(draw.kind(), nodes.dtype, *share.shape)
    calm = kind in FINITE and bool(features.isfinite().all()) and bool((share.abs() <= 1).all())
    return Case((grad, draw.layout(nodes), draw.layout(share), count, parent, round_), calm, calm)


CASES = {
    case.__name__: case
    for case in (
        merge_best,
        merge_pixels,
        merge_tree,
        merge_tree_backward,
        similarity_pool,
        similarity_pool_backward,
        tree_cut,
        tree_cut_backward,
        scale_set,
        scale_cut,
        saliency,
    )
}
