"""Arguments for the operators from arcs to paths: simplify, edge_points, fit_curves, svg_paths."""

import torch
from grid import blocks

from dhvt_kernels._schema import ops

MANY = 170  # more than all segments of the maps


def _maps():
    """Ragged segments with holes, more than 64 arcs for several threads; islands; one pixel; nothing."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(48, 40, generator=generator)
    ragged = blocks(1, 48, 40, 5)[0]
    ragged[noise < 0.05] = 3
    ragged[noise > 0.95] = -2
    island = torch.zeros(12, 13, dtype=torch.int32)
    island[2:9, 2:11] = 1
    island[4:6, 5:8] = 2
    return ragged, island, island[:1, :1], island[:0], torch.full((2, 3), -1, dtype=torch.int32)


def _random(*size):
    return torch.rand(size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def simplify(dtype):
    arcs = [ops.trace(labels)[:5] for labels in _maps()]
    return [
        (points, offsets, closed, tolerance, method)
        for points, offsets, _, _, closed in arcs
        for tolerance, method in ((1.0, "visvalingam"), (0.7, "douglas-peucker"), (1e300, "visvalingam"))
    ]


def _edge_points():
    for labels in _maps():
        points, offsets, _, _, closed = ops.trace(labels)[:5]
        planes = _random(MANY, 3, 3) * torch.tensor([255.0, 2, 2], dtype=torch.float64)
        image = (255 * _random(3, *labels.shape)).to(torch.uint8)
        yield points, offsets, closed, image, labels, planes, 500 * _random(MANY)


def edge_points(dtype):
    first, *others = _edge_points()
    points, offsets, closed, image, labels, planes, noise = first
    few = (points, offsets, closed, image[:1], labels, planes[:20, :1], noise[:20])
    return [first, few, (points, offsets, closed, image[:0], labels, planes[:, :0], noise), *others]


def fit_curves(dtype):
    chains = [(*ops.edge_points(*arguments), arguments[2]) for arguments in _edge_points()]
    return [(*chain, tolerance) for chain in chains for tolerance in (0.5, 0.0, 2.0)]


def svg_paths(dtype):
    samples = []
    for labels, (points, offsets, closed, tolerance) in zip(_maps(), fit_curves(dtype)[::3], strict=True):
        corners, ends, left, right, _, *rings = ops.trace(labels)
        opaque = _random(MANY) < 0.9
        rest = (left, right, *rings[:2])
        samples += [
            (*ops.fit_curves(points, offsets, closed, tolerance), *rest, opaque, True, 10.0, *labels.shape),
            (corners.double(), ends, *rest, opaque | True, False, 1.0, 0, 0),
            (corners.double(), ends, *rest, opaque[:3], False, 0.3, 20, 20),
        ]
    return samples


SAMPLES = {
    "simplify": simplify,
    "edge_points": edge_points,
    "fit_curves": fit_curves,
    "svg_paths": svg_paths,
}
