"""Hidden boundaries run elsewhere: what is seen stays, few edges are painted twice, and text is saved."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from arc_tools import MAPS, inside, photographs
from grid import label_maps
from hypothesis import given, settings
from hypothesis import strategies as st
from test_svg_paths import check_compact, commands, paths_of

import dhvt_kernels as dk
from dhvt_kernels.vectorize import _keep_frame

SCALE = 10
FINE = 3  # samples along a pixel, where more than the centres are looked at


def paint(labels, opaque, *, hide, curves=False):
    """`Paths` of the outlines on the lattice, or of curves."""
    arcs = dk.trace(labels)
    points, offsets = arcs.points.double(), arcs.offsets
    if curves:
        points, offsets = _keep_frame(
            arcs, dk.fit_curves(dk.Chains(points, offsets, arcs.closed), tolerance=0.3), labels
        )
    size = tuple(labels.shape) if hide and labels.numel() else None
    return dk.svg_paths(points, offsets, arcs, opaque=opaque, curves=curves, scale=SCALE, size=size)


def polygons(text):
    """Subpaths as closed lists of points (y, x) in pixels, with lines for curves."""
    subpaths, here = [], (0, 0)
    for letter, numbers in commands(text):
        pairs = {"h": lambda n: [n[0], 0], "v": lambda n: [0, n[0]]}.get(letter, lambda n: n)(numbers)
        by = (0, 0) if letter.isupper() else here
        points = [(by[0] + pairs[i], by[1] + pairs[i + 1]) for i in range(0, len(pairs), 2)]
        if letter in "Mm":
            subpaths.append(points)
        elif letter == "z":
            points = [subpaths[-1][0]]
            subpaths[-1] += points
        elif letter == "c":
            t = np.linspace(0, 1, 33)[1:, None]
            a, (b, c, d) = np.array(here), np.array(points)
            curve = (1 - t) ** 3 * a + 3 * (1 - t) ** 2 * t * b + 3 * (1 - t) * t**2 * c + t**3 * d
            subpaths[-1] += map(tuple, curve.tolist())
        else:
            subpaths[-1] += points
        here = points[-1]
    return [[(y / SCALE, x / SCALE) for x, y in subpath] for subpath in subpaths]


def seen(paths, labels, fine=1):
    """What is on top at each sample, -1 where nothing is; and how many segments lie there."""
    height, width = (fine * size for size in labels.shape)
    points = (np.indices((height, width)).reshape(2, -1).T + 0.5) / fine
    top, count = np.full((height, width), -1), np.zeros((height, width), int)
    for segment, text in paths_of(paths):
        check_compact(text)
        mask = inside(polygons(text), points).reshape(height, width)
        top[mask] = segment
        count += mask
    return top, count


def known(labels, segments):
    return torch.where((labels >= 0) & (labels < segments), labels, -1)


def near_boundary(labels, reach):
    """Whether another label is within so many pixels, in x and in y, or the end of the picture."""
    if labels.numel() == 0:
        return np.zeros(labels.shape, bool)
    padded = torch.nn.functional.pad(labels[None].double(), (reach,) * 4, value=-9)
    most, least = (torch.nn.functional.max_pool2d(sign * padded, 2 * reach + 1, 1)[0] for sign in (1, -1))
    return (most != -least).numpy()


def check(labels, opaque):
    """All centres of pixels show their segment, finer samples but for some next to an edge; nothing is under glass."""
    truth = known(labels, len(opaque))
    paths = paint(labels, opaque, hide=True)
    top, count = seen(paths, labels)
    np.testing.assert_array_equal(top, truth.numpy())
    for segment in range(len(opaque)):
        if not opaque[segment]:
            assert (count[truth.numpy() == segment] == 1).all(), "nothing below what is not opaque"
    assert (count[truth.numpy() < 0] == 0).all(), "nothing where no segment is"
    large = truth.repeat_interleave(FINE, 0).repeat_interleave(FINE, 1)
    wrong = seen(paths, labels, FINE)[0] != large.numpy()
    assert not (wrong & ~near_boundary(large, FINE)).any()
    return paths


OPAQUE = st.lists(st.booleans(), min_size=0, max_size=5).map(lambda values: torch.tensor(values, dtype=torch.bool))


@given(MAPS, OPAQUE)
@settings(max_examples=300, deadline=None)
def test_pixels_show_their_segments(labels, opaque):
    check(torch.from_numpy(labels), opaque)


@given(MAPS, st.integers(2, 9), st.integers(2, 9), st.booleans())
@settings(max_examples=150, deadline=None)
def test_larger_segments_show(labels, rows, columns, all_opaque):
    """With room beneath them, so that most of what is hidden runs elsewhere."""
    large = torch.from_numpy(labels).repeat_interleave(rows, 0).repeat_interleave(columns, 1)
    check(large, torch.tensor([True, True, all_opaque, True]))


@pytest.mark.parametrize("name", ["blocks", "one", "none", "pixels", "noise", "padded"])
def test_label_maps(name):
    check(label_maps(1, 19, 23, 30)[name][0], torch.ones(19 * 23, dtype=torch.bool))


@pytest.mark.parametrize("curves", [False, True])
def test_photographs(curves):
    """Every centre shows its segment, with less text; little but short runs is written twice."""
    for _, labels in photographs():
        opaque = torch.ones(int(labels.max()) + 1, dtype=torch.bool)
        plain, hidden, apart = (
            paint(labels, value, hide=hide, curves=curves)
            for value, hide in ((opaque, False), (opaque, True), (~opaque, False))
        )
        truth, count = seen(apart, labels)
        assert (count == 1).all()
        np.testing.assert_array_equal(seen(hidden, labels)[0], truth)
        assert len(hidden.text) < (0.9 if curves else 0.95) * len(plain.text)
        twice = [Counter(edge for _, text in paths_of(paths) for edge in pieces(text)) for paths in (plain, hidden)]
        often = [sum(times - 1 for times in found.values()) for found in twice]
        assert often[1] < (0.24 if curves else 0.17) * often[0]


@pytest.mark.parametrize("curves", [False, True])
def test_short_boundaries_stay(curves):
    """A way is free at its ends, so of segments of few pixels nothing would have to be covered: all of them is seen."""
    y, x = np.mgrid[:24, :32]
    noise = np.random.default_rng(0).integers(-2, 3, (24, 32, 3))
    image = (np.stack([2 * x, 3 * y, 100 + 0 * x], -1) + noise).clip(0, 255).astype(np.uint8)
    image = torch.from_numpy(image).permute(2, 0, 1)
    partition = dk.vector_hierarchy(image).cut(max_tokens=700)
    assert dk.svg_psnr(dk.to_svg(image, partition, tolerance=1, curves=curves), image) > 52


def pieces(text):
    """The sides of the polygons, in either direction."""
    return (frozenset(side) for polygon in polygons(text) for side in pairwise(polygon))


def test_known_paths(backend):
    """A square on two halves, or beside the boundary between them."""
    for left, below, square in (
        (20, "M300 400v200h-300v-600h300z", "M300 200h100v200h-200v-200z"),  # straight on beneath the square
        (10, "M300 400v200h-300v-600h300v200l-15 100z", "M300 200v200h-200v-200z"),  # not along its side again
    ):
        labels = torch.zeros(60, 60, dtype=torch.int32)
        labels[:, 30:] = 1
        labels[20:40, left : left + 20] = 2
        found = paths_of(paint(labels, torch.ones(3, dtype=torch.bool), hide=True))
        assert found == [(1, "M300 0h300v600h-600v-600z"), (0, below), (2, square)]


def test_boundaries_beside_no_segment_stay():
    labels = torch.full((40, 40), -1, dtype=torch.int32)
    labels[8:32, 8:20] = 0
    labels[8:32, 20:32] = 1
    paths = paint(labels, torch.ones(2, dtype=torch.bool), hide=True)
    assert paths_of(paths)[0][1].count("z") == 1
    below = {edge for polygon in polygons(paths_of(paths)[0][1]) for edge in pairwise(polygon)}
    corners = {corner for edge in below for corner in edge}
    assert {(8.0, 8.0), (8.0, 32.0), (32.0, 8.0), (32.0, 32.0)} <= corners


def test_what_lies_beneath_glass_is_not_covered():
    """Beside a segment that is not opaque, painted later or not, nothing goes underneath."""
    labels = torch.arange(90)[None].div(30, rounding_mode="floor").int().repeat(50, 1)
    for glass in range(3):
        opaque = torch.ones(3, dtype=torch.bool)
        opaque[glass] = False
        check(labels, opaque)
