"""Fuzzed arguments of the operators from arcs to paths: those of real arcs, and with indices that lead anywhere."""

import torch
from fuzz_values import FINITE, Case

from dhvt_kernels._schema import ops

TOLERANCES = (0.0, 0.3, 1.0, 3.0, 1e6, float("inf"))


def _traced(draw):
    """A label map, a number of segments, and the nine columns of its arcs."""
    size, segments = draw.image_size(), draw.segments()
    labels = draw.labels(1, *size[1:], segments)[0]
    return labels, segments, ops.trace(labels)


def _view(draw, tensor):
    """The same values, dense or with gaps."""
    if draw.chance(2):
        return tensor
    wide = tensor.new_zeros(2 * len(tensor) + 1, *tensor.shape[1:])
    return wide[1::2].copy_(tensor)


def simplify(draw):
    points, offsets, _, _, closed = _traced(draw)[2][:5]
    columns = (_view(draw, column) for column in (points, offsets, closed))
    return Case((*columns, draw.pick(*TOLERANCES), draw.pick("visvalingam", "douglas-peucker")))


def edge_points(draw):
    labels, segments, (points, offsets, _, _, closed, *_) = _traced(draw)
    channels = draw.pick(1, 3, 0, 4)
    image = torch.randint(0, 256, (channels, *labels.shape), dtype=torch.uint8, generator=draw.generator)
    planes = 100 * draw.values(draw.kind(), torch.float64, segments, channels, 3)
    noise = draw.values(draw.kind(), torch.float64, segments).abs()
    return Case(
        (*(_view(draw, column) for column in (points, offsets, closed)), draw.layout(image), labels, planes, noise)
    )


def fit_curves(draw):
    """Chains along arcs with some noise, or of any finite numbers."""
    points, offsets, _, _, closed = _traced(draw)[2][:5]
    noise = draw.values(draw.pick(*FINITE, "tiny"), torch.float64, *points.shape)
    points = points * draw.pick(1.0, 3.0, 0.0) + draw.pick(0.0, 0.2, 1.0) * noise
    last = offsets[1:][closed] - 1
    points[last] = points[offsets[:-1][closed]]
    columns = (_view(draw, column) for column in (points, offsets, closed))
    return Case((*columns, draw.pick(*TOLERANCES)))


def svg_paths(draw):
    labels, segments, (points, offsets, left, right, closed, ring_arcs, ring_offsets, _, _) = _traced(draw)
    points, curves = points.double(), draw.pick(False, True)
    if curves:
        points, offsets = ops.fit_curves(points, offsets, closed, draw.pick(*TOLERANCES))
    if draw.chance(4):
        points = points + draw.values(draw.pick(*FINITE), torch.float64, *points.shape)
    opaque = draw.integers(0, 3, segments) > draw.pick(-1, 0, 3)
    columns = (points, offsets, left, right, ring_arcs, ring_offsets, opaque)
    size = draw.pick(tuple(labels.shape), (0, 0), (7, 5))
    return Case((*(_view(draw, column) for column in columns), curves, draw.pick(1.0, 10.0, 0.3, 1e-9), *size))


def hostile(draw, tensor):
    """Here and there another value: one nearby, or from the ends of what the dtype holds."""
    near = draw.integers(-2, 20, *tensor.shape)
    if tensor.dtype == torch.bool:
        other = near > 9
    elif tensor.is_floating_point():
        worst = torch.tensor([float("nan"), float("inf"), -float("inf"), 1e308, -1e308, 1e-320], dtype=tensor.dtype)
        other = worst[draw.integers(0, 5, *tensor.shape)]
    else:
        limits = torch.iinfo(tensor.dtype)
        worst = torch.tensor([limits.min, limits.max, limits.max - 1, limits.min + 1, -1, 0], dtype=tensor.dtype)
        worst = worst[draw.integers(0, 5, *tensor.shape)]
        other = torch.where(draw.integers(0, 1, *tensor.shape) == 0, worst, near.to(tensor.dtype))
    return torch.where(draw.integers(0, draw.pick(1, 9, 50), *tensor.shape) == 0, other, tensor)


CASES = {case.__name__: case for case in (simplify, edge_points, fit_curves, svg_paths)}
