"""Sample arguments of the statistics operators and the region graph."""

import torch
from grid import blocks


def _accumulation(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


def _maps():
    """(batch, channels, labels, K): several strips of ragged segments with padding; then degenerate ones, some of
    them one pixel wide."""
    generator = torch.Generator().manual_seed(0)
    labels = blocks(2, 150, 130, 11)
    jitter = torch.rand(labels.shape, generator=generator) < 0.1
    labels = torch.where(jitter, torch.randint(-2, 170, labels.shape, generator=generator, dtype=torch.int32), labels)
    labels[1, 100:] = -1
    yield 2, 5, labels, 168
    yield 0, 3, torch.zeros(0, 4, 4, dtype=torch.int32), 4
    yield 1, 1, torch.zeros(1, 1, 1, dtype=torch.int32), 1
    yield 2, 3, blocks(2, 17, 1, 4), 6
    yield 1, 2, torch.zeros(1, 0, 3, dtype=torch.int32), 2
    yield 1, 2, torch.zeros(1, 2, 3, dtype=torch.int32), 0


def _features(dtype, batch, channels, labels):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, channels, *labels.shape[1:], generator=generator, dtype=torch.float64).to(dtype)


def _moments(dtype):
    return [(_features(dtype, b, c, labels), labels, k) for b, c, labels, k in _maps()]


def _moments_backward(dtype):
    arguments = []
    for b, c, labels, k in _maps():
        features = _features(dtype, b, c, labels)
        generator = torch.Generator().manual_seed(2)
        table = torch.randn(3, b, k, c, generator=generator, dtype=torch.float64).to(_accumulation(dtype))
        inside = torch.where((labels >= 0) & (labels < k), labels, k).long().flatten(1)
        count = torch.zeros(b, k + 1, dtype=torch.int32).scatter_add_(1, inside, torch.ones_like(inside).int())[:, :k]
        arguments.append((table[0], table[1], features, labels, count, table[2]))
    features = arguments[0][2].contiguous(memory_format=torch.channels_last)
    return [*arguments, (*arguments[0][:2], features, *arguments[0][3:])]


def _nodes(dtype):
    """count [B,V], m2 [B,V,C], boundary [B,V], num_pixels [B]; some nodes are empty."""
    for b, v, c in ((2, 1500, 3), (0, 4, 3), (1, 1, 1), (2, 0, 3)):
        generator = torch.Generator().manual_seed(3)
        count = torch.randint(0, 400, (b, v), generator=generator, dtype=torch.int32)
        m2 = 100 * torch.rand(b, v, c, generator=generator, dtype=torch.float64) * count.unsqueeze(-1)
        boundary = torch.randint(0, 80, (b, v), generator=generator, dtype=torch.int32)
        yield count, m2.to(_accumulation(dtype)), boundary, count.sum(1, dtype=torch.int32)


def _criterion(dtype):
    names = ("bic", "aic", "aicc", "hqc", "cic", "mdl")
    nodes = list(_nodes(dtype))
    return [(*nodes[0], name, 16.0, 4.0) for name in names] + [(*other, "mdl", 2.0, 1.0) for other in nodes[1:]]


def _criterion_backward(dtype):
    return [
        (torch.linspace(-1, 1, count.numel(), dtype=m2.dtype).reshape(count.shape), count, m2, 16.0, 4.0)
        for count, m2, _, _ in _nodes(dtype)
    ]


def _graph(dtype):
    arguments = [(labels, k, 3 * k + 1) for _, _, labels, k in _maps()]
    labels, k = arguments[0][:2]
    return [*arguments, (labels, k, 5), (labels, 50_000, 9)]  # the last: keys of 64 bits


SAMPLES = {
    "segment_moments": _moments,
    "segment_moments_backward": _moments_backward,
    "information_criterion": _criterion,
    "information_criterion_backward": _criterion_backward,
    "region_graph": _graph,
}
