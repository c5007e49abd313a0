"""Arguments for connected_components, relabel, trace and color_sums."""

import torch
from grid import blocks


def _connected_components(dtype):
    labels = blocks(2, 100, 48, 5)
    noise = torch.rand(2, 100, 48)
    labels[noise < 0.2] = 3
    labels[noise > 0.9] = -1
    features = torch.randint(0, 4, (2, 3, 100, 48)).to(dtype) / 10
    empty = torch.empty(0, 4, 5, dtype=torch.int32)
    return [
        (labels, features, 6, True),
        (labels, features.contiguous(memory_format=torch.channels_last), 6, False),
        (labels, None, 0, False),
        (empty, torch.empty(0, 3, 4, 5, dtype=dtype), 2, True),
        (torch.zeros(1, 1, 1, dtype=torch.int32), torch.ones(1, 2, 1, 1, dtype=dtype), 4, True),
        (torch.empty(2, 0, 3, dtype=torch.int32), None, 0, False),
    ]


def _relabel(dtype):
    labels = torch.randint(-2, 12, (2, 100, 480), dtype=torch.int32)
    table = torch.randint(-1, 9, (2, 10), dtype=torch.int32)
    return [(labels, table), (labels[:0], table[:0]), (labels, table[:, :0]), (labels[:, :1, :1], table)]


def _color_sums(dtype):
    labels = torch.randint(-2, 12, (70, 48), dtype=torch.int32)
    image = torch.randint(0, 256, (3, 70, 48), dtype=torch.uint8)
    wide = (image[:, :, ::3], labels[:, ::3], 10)
    return [(image, labels, 10), wide, (image[:1], labels, 0), (image[:, :0], labels[:0], 2), (image[:0], labels, 3)]


def _trace(dtype):
    labels = blocks(1, 70, 48, 5)[0]
    noise = torch.rand(70, 48)
    labels[noise < 0.05] = 3
    labels[noise > 0.95] = -2
    ring = torch.zeros(5, 6, dtype=torch.int32)
    ring[1:4, 1:5] = 2
    return [(labels,), (labels[::3, 2::2].t(),), (ring,), (labels[:0],), (labels[:, :0],), (labels[:1, :1],)]


SAMPLES = {
    "color_sums": _color_sums,
    "connected_components": _connected_components,
    "relabel": _relabel,
    "trace": _trace,
}
