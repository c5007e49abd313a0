"""Connected components of a label map; small and secondary ones join a neighbour."""

import torch
from torch import Tensor

STRIP_ROWS = 32  # as in csrc/connected_components.h: feature sums are taken strip by strip, so that both agree bitwise


def _roots(num_pixels: int, edges: Tensor) -> Tensor:
    """The lowest pixel of each connected set [N], for edges [2,E]: hook to lower roots, then shorten the paths."""
    parent = torch.arange(num_pixels, device=edges.device)
    while True:
        ends = parent[edges]
        open_ = ends[0] != ends[1]
        if not open_.any():
            return parent
        edges, ends = edges[:, open_], ends[:, open_]
        parent.scatter_reduce_(0, ends.amax(0), ends.amin(0), "amin")
        while not torch.equal(shorter := parent[parent], parent):
            parent = shorter


def _linked_pixels(labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """All pairs of 4-neighbours with a label [2,E]: along rows, along columns, and the lower row's y of the latter."""
    batch, height, width = labels.shape
    index = torch.arange(labels.numel(), device=labels.device).reshape(labels.shape)
    valid = labels >= 0
    row = valid[:, :, 1:] & valid[:, :, :-1]
    column = valid[:, 1:] & valid[:, :-1]
    y = torch.arange(1, max(height, 1), device=labels.device).reshape(1, -1, 1).expand(batch, -1, width)
    along_row = torch.stack([index[:, :, :-1][row], index[:, :, 1:][row]])
    return along_row, torch.stack([index[:, :-1][column], index[:, 1:][column]]), y[column]


def _means(features: Tensor, components: Tensor, size: Tensor, levels: list[Tensor]) -> Tensor:
    """Mean features [N,C] in float64. Each pixel's sum moves to its run, strip part and component, in raster order."""
    channels = features.shape[1]
    values = features.permute(1, 0, 2, 3).flatten(1).double()
    means = values.new_zeros(len(size), channels)
    inside = components >= 0
    for c in range(channels):
        at, total = torch.arange(len(components), device=size.device)[inside], values[c][inside]
        for root in levels:  # a set's sum is kept at its first pixel
            total = torch.zeros_like(values[c]).index_add_(0, root[at], total)
            at = root[at].unique()
            total = total[at]
        means[:, c] = total / size
    return means


def _distance(means: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    """Squared distances [E] in channel order; NaN counts as infinitely far."""
    total = torch.zeros(len(a), dtype=torch.float64, device=a.device)
    if means is not None:
        for c in range(means.shape[1]):
            total = total + (means[a, c] - means[b, c]).square()
    return torch.where(total.isnan(), torch.inf, total)


def _run_waves(leaf: Tensor, pairs: Tensor, means: Tensor | None, size: Tensor) -> Tensor:
    """Waves of fragments that touch a resolved component, until none is left; pairs [2,E] (fragment, neighbour)."""
    while True:
        u, v = pairs[:, (leaf[pairs[0]] < 0) & (leaf[pairs[1]] >= 0)]
        if len(u) == 0:
            return leaf
        target = leaf[v]
        for cost_of in (lambda u, k: _distance(means, u, k), lambda u, k: -size[k], lambda u, k: k):
            cost = cost_of(u, target)
            least = cost.new_zeros(len(leaf)).scatter_reduce_(0, u, cost, "amin", include_self=False)
            best = cost == least[u]
            u, target = u[best], target[best]
        leaf = leaf.index_put((u,), target)


def connected_components(
    labels: Tensor, features: Tensor | None, min_size: int, largest_only: bool
) -> tuple[Tensor, Tensor]:
    """Fragments join the resolved neighbour of nearest mean, in waves; results are numbered by their first pixel."""
    batch, height, width = labels.shape
    if labels.numel() == 0:
        return torch.empty_like(labels, memory_format=torch.contiguous_format), labels.new_zeros(batch)
    label = labels.reshape(-1)
    along_row, along_column, lower_y = _linked_pixels(labels)

    # Components, numbered in raster order of their first pixel, over the whole batch.
    row_links = along_row[:, label[along_row[0]] == label[along_row[1]]]
    equal = label[along_column[0]] == label[along_column[1]]
    root = _roots(len(label), torch.cat([row_links, along_column[:, equal]], 1))
    is_root = (root == torch.arange(len(root), device=root.device)) & (label >= 0)
    component = torch.where(label >= 0, (is_root.cumsum(0) - 1)[root], -1)
    first = is_root.nonzero().squeeze(1)
    count = len(first)
    size = torch.bincount(component[label >= 0], minlength=count)
    image = first // (height * width)

    # The main component of each label of each image: the largest, then the first.
    main = torch.arange(count, device=root.device)
    if largest_only and count > 0:
        key, group = torch.unique(image * 2**31 + label[first], return_inverse=True)
        order = size.argsort(descending=True, stable=True)
        order = order[group[order].argsort(stable=True)]
        starts = torch.bincount(group, minlength=len(key)).cumsum(0) - torch.bincount(group, minlength=len(key))
        main = order[starts][group]
    index = torch.arange(count, device=root.device)
    kept = (main == index) & (size >= min_size)
    leaf = torch.where(kept, index, -1)

    pairs = component[torch.cat([along_row, along_column], 1)]
    pairs = torch.cat([pairs, pairs.flip(0)], 1)
    pairs = pairs[:, (pairs[0] != pairs[1]) & ~kept[pairs[0]]].unique(dim=1)
    means = None
    if features is not None and pairs.shape[1] > 0:
        same_strip = along_column[:, equal & (lower_y % STRIP_ROWS != 0)]
        runs, parts = _roots(len(label), row_links), _roots(len(label), torch.cat([row_links, same_strip], 1))
        means = _means(features, component, size, [runs, parts, root])

    leaf = _run_waves(leaf, pairs, means, size)
    # A piece of the image without a kept component keeps its largest main one, in spite of its size.
    left = (leaf < 0) & (main == index)
    if left.any():
        piece = _roots(count, pairs[:, leaf[pairs[0]] < 0])
        order = index[left][size[left].argsort(descending=True, stable=True)]
        order = order[piece[order].argsort(stable=True)]
        first_of_piece = torch.cat([order.new_ones(1), piece[order].diff()]) != 0
        anchor = order[first_of_piece]
        leaf = leaf.index_put((anchor,), anchor)
        leaf = _run_waves(leaf, pairs, means, size)
    leaf = torch.where(leaf < 0, leaf[main], leaf)
    is_leaf = leaf == index
    counts = torch.bincount(image[is_leaf], minlength=batch)
    number = is_leaf.cumsum(0) - 1 - (counts.cumsum(0) - counts)[image]
    out = torch.where(label >= 0, number[leaf][component], -1) if count > 0 else component
    return out.to(torch.int32).reshape(labels.shape), counts.to(torch.int32)
