"""Which segments touch, by unique keys of neighbouring pixels."""

import torch
from torch import Tensor


def region_graph(labels: Tensor, num_segments: int, capacity: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sorted pairs of touching segments u < v, their numbers of 4-neighbour pixel pairs, and the number of edges."""
    batch = labels.shape[0]
    edges, lengths = labels.new_full((batch, capacity, 2), -1), labels.new_zeros(batch, capacity)
    counts = labels.new_zeros(batch)
    for image in range(batch):
        label = labels[image].long()
        pairs = (label[1:], label[:-1]), (label[:, 1:], label[:, :-1])
        a, b = (torch.cat([pair[side].flatten() for pair in pairs]) for side in (0, 1))
        u, v = torch.minimum(a, b), torch.maximum(a, b)
        keys = (u * num_segments + v)[(u != v) & (u >= 0) & (v < num_segments)]
        keys, length = keys.unique(return_counts=True)
        counts[image] = len(keys)
        kept = min(len(keys), capacity)
        if kept > 0:
            keys = keys[:kept]
            edges[image, :kept] = torch.stack((keys // num_segments, keys % num_segments), -1).int()
            lengths[image, :kept] = length[:kept].int()
    return edges, lengths, counts
