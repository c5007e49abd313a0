"""What the tests of arcs, and of what is made of them, share."""

from itertools import pairwise

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

MAPS = st.one_of(
    arrays(np.int32, st.tuples(st.integers(0, 9), st.integers(0, 9)), elements=st.integers(-2, top))
    for top in (0, 1, 3)
)


def photographs():
    """Label maps of real pictures, from coarse to fine."""
    import torch
    from skimage import data

    import dhvt_kernels as dk

    pictures = [data.chelsea()[60:220, 100:300], data.astronaut()[:180, 150:300], data.coffee()[100:228, 150:310]]
    for picture in pictures:
        image = torch.from_numpy(picture).permute(2, 0, 1)[None].contiguous()
        hierarchy = dk.Tokenizer(max_tokens=400).hierarchy(image)
        for partition in hierarchy.cut(max_tokens=[400, 60, 8]):
            yield image[0], partition.labels[0]


def parts(points, offsets):
    """The rows of `points` by chain."""
    return [points[a:b] for a, b in pairwise(offsets.tolist())]


def arcs_of(arcs):
    return [line.tolist() for line in parts(arcs.points, arcs.offsets)]


def rings_of(arcs):
    """The polygon of every ring, from its signed arcs."""
    lines = arcs_of(arcs)
    for begin, end in pairwise(arcs.ring_offsets):
        polygon = []
        for signed in arcs.ring_arcs[begin:end].tolist():
            line = lines[signed] if signed >= 0 else lines[~signed][::-1]
            assert not polygon or polygon[-1] == line[0], "each arc starts where the one before ends"
            polygon += line[len(polygon) > 0 :]
        assert polygon[0] == polygon[-1], "a ring is closed"
        yield polygon


def area(polygon):
    """Positive where it runs clockwise in the picture."""
    return sum(x0 * y1 - x1 * y0 for (y0, x0), (y1, x1) in pairwise(polygon)) / 2


def inside(polygons, points):
    """Of points [N,2], none of them on a line: whether each is in the polygons, by the even-odd rule."""
    y, x = np.asarray(points, float).reshape(-1, 2).T
    odd = np.zeros(len(y), bool)
    for polygon in polygons:
        for (y0, x0), (y1, x1) in pairwise(polygon):
            passed = (y0 <= y) != (y1 <= y)
            if passed.any():
                odd ^= passed & (x0 + (y - y0) * (x1 - x0) / (y1 - y0) > x)
    return odd


def centers(height, width):
    """The pixel centres [H W, 2] in lattice coordinates."""
    return np.indices((height, width)).reshape(2, -1).T + 0.5
