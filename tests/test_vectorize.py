"""Outlines and SVG: filling them gives back the label map."""

import re
import time
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import torch
from grid import label_maps
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import dhvt_kernels as dk
from dhvt_kernels.imaging import mean_colors
from dhvt_kernels.vectorize import trace_rings


def fill(polygons, shape):
    """Mask [H,W] of closed rectilinear polygons of lattice points (y, x), even-odd rule."""
    crossings = np.zeros((shape[0], shape[1] + 1), int)
    for points in polygons:
        for (y0, x0), (y1, x1) in zip(points, np.roll(points, -1, 0), strict=True):
            assert (y0 == y1) != (x0 == x1), "every side is horizontal or vertical, and none has length 0"
            if x0 == x1:
                crossings[min(y0, y1) : max(y0, y1), x0] += 1
    return np.cumsum(crossings, 1)[:, :-1] % 2 == 1


def polygons_of(rings):
    """Label -> its polygons."""
    found = {}
    for ring, label in enumerate(rings.labels.tolist()):
        found.setdefault(label, []).append(rings.points[rings.offsets[ring] : rings.offsets[ring + 1]])
    return found


def rasterize(polygons, shape):
    labels = np.full(shape, -1)
    for label, rings in polygons.items():
        inside = fill(rings, shape)
        assert (labels[inside] == -1).all(), "segments overlap"
        labels[inside] = label
    return labels


def area(points):
    """Signed area: positive where the ring runs clockwise in the image."""
    y, x = points.T.astype(float)
    return ((x * np.roll(y, -1)) - (np.roll(x, -1) * y)).sum() / 2


def check_rings(labels):
    rings = trace_rings(labels)
    assert rings.offsets[0] == 0
    assert rings.offsets[-1] == len(rings.points)
    assert (np.diff(rings.labels) >= 0).all()
    np.testing.assert_array_equal(rasterize(polygons_of(rings), labels.shape), np.maximum(labels, -1))
    for label, polygons in polygons_of(rings).items():
        assert sum(map(area, polygons)) == (labels == label).sum()  # so holes run against outer rings
        for points in polygons:
            directions = np.sign(np.roll(points, -1, 0) - points)
            turns = np.abs(np.diff(np.concatenate([directions, directions[:1]]), axis=0)).sum(1)
            assert (turns == 2).all(), "collinear points are left out"
            assert directions[0, 0] == 0, "a ring starts with a horizontal side"
    return rings


@given(arrays(np.int32, st.tuples(st.integers(0, 9), st.integers(0, 9)), elements=st.integers(-1, 3)))
@settings(max_examples=300, deadline=None)
def test_filling_the_rings_gives_back_the_labels(labels):
    check_rings(labels)


@pytest.mark.parametrize("name", ["blocks", "one", "none", "pixels", "noise", "hostile", "padded"])
def test_label_maps(name):
    check_rings(label_maps(1, 19, 23, 30)[name][0].numpy())


def test_one_pixel():
    rings = trace_rings(np.zeros((1, 1), int))
    assert rings.points.tolist() == [[0, 0], [0, 1], [1, 1], [1, 0]]


def test_hole():
    labels = np.zeros((5, 5), int)
    labels[2, 2] = 1
    labels[0, 4] = 2
    outer, hole, island, corner = (polygon for rings in polygons_of(check_rings(labels)).values() for polygon in rings)
    assert [area(ring) for ring in (outer, hole, island, corner)] == [24, -1, 1, 1]
    assert len(outer) == 6
    assert hole.tolist() in ([[2, 3], [2, 2], [3, 2], [3, 3]], [[3, 2], [3, 3], [2, 3], [2, 2]])


def test_diagonal_pixels_do_not_connect():
    rings = check_rings(np.array([[0, 1], [1, 0]]))
    assert rings.labels.tolist() == [0, 0, 1, 1]
    # Two diagonal holes: between them the segment does not connect either, so they share one ring that touches itself.
    labels = np.zeros((4, 4), int)
    labels[1, 1] = labels[2, 2] = -1
    assert np.diff(check_rings(labels).offsets).tolist() == [4, 8]


def test_labels_must_be_a_map_of_integers():
    for labels in (np.zeros((2, 2)), np.zeros((1, 2, 2), int)):
        with pytest.raises(ValueError, match=r"labels: expected integers \[H,W\]; found"):
            trace_rings(labels)
    with pytest.raises(ValueError, match="labels: expected at most 2147483647; found 2147483648"):
        trace_rings(np.full((1, 1), 2**31))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint64, np.int64], ids=str)
def test_integers_of_any_kind(dtype):
    labels = np.array([[0, 1, 1], [1, 0, 1]], dtype)
    for ours, theirs in zip(trace_rings(labels), trace_rings(labels.astype(np.int32)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def parse(svg):
    """An SVG of ours -> size, label -> polygons, label -> colour; reads M, h, v and z only."""
    root = ElementTree.fromstring(svg)
    space = "{http://www.w3.org/2000/svg}"
    assert root.tag == space + "svg"
    assert root.get("fill-rule") == "evenodd"
    assert root.get("shape-rendering") == "crispEdges"
    width, height = int(root.get("width")), int(root.get("height"))
    assert root.get("viewBox") == f"0 0 {width} {height}"
    polygons, colors = {}, {}
    for path in root.iter(space + "path"):
        label = int(path.get("id").removeprefix("s"))
        assert label not in polygons
        red, green, blue = bytes.fromhex(path.get("fill").removeprefix("#"))
        colors[label] = red, green, blue
        rings = re.findall(r"M(\d+) (\d+)((?:[hv]-?\d+)+)z", path.get("d"))
        assert "".join(f"M{x} {y}{draw}z" for x, y, draw in rings) == path.get("d")
        polygons[label] = []
        for x, y, draw in rings:
            points = [(int(y), int(x))]
            for axis, length in re.findall(r"([hv])(-?\d+)", draw):
                y, x = points[-1]
                points.append((y, x + int(length)) if axis == "h" else (y + int(length), x))
            polygons[label].append(np.array(points))
    return (height, width), polygons, colors


@pytest.mark.parametrize(("height", "width", "budget"), [(48, 64, 20), (33, 41, None), (1, 1, None), (1, 9, 3)])
def test_svg_shows_the_partition(height, width, budget):
    image = torch.rand(3, height, width)
    partition = dk.Tokenizer(cell=4, max_tokens=budget)(image[None])
    size, polygons, colors = parse(dk.to_svg(image, partition))
    assert size == (height, width)
    labels = rasterize(polygons, size)
    np.testing.assert_array_equal(labels, partition.labels[0].numpy())
    assert len(polygons) == partition.counts[0]
    painted = np.array([colors[label] for label in range(len(colors))], np.uint8)[labels]
    np.testing.assert_array_equal(painted, mean_colors(image, partition).permute(1, 2, 0).numpy())


def test_svg_colours_are_the_mean_of_the_image():
    image = torch.randint(0, 256, (3, 24, 24), dtype=torch.uint8)
    partition = dk.Tokenizer(cell=4, max_tokens=5)(image[None])
    _, _, colors = parse(dk.to_svg(image[None], partition))
    for label, color in colors.items():
        mean = image[:, partition.labels[0] == label].double().mean(1)
        np.testing.assert_allclose(color, mean, atol=0.501)


def test_svg_leaves_out_pixels_without_segment():
    image, mask = torch.rand(3, 16, 16), torch.zeros(1, 16, 16, dtype=torch.bool)
    mask[:, :9, :5] = True
    partition = dk.Tokenizer(cell=4)(image[None], mask)
    size, polygons, _ = parse(dk.to_svg(image, partition))
    np.testing.assert_array_equal(rasterize(polygons, size) >= 0, mask[0].numpy())


def test_real_photograph():
    from skimage import data

    image = torch.from_numpy(data.chelsea()).permute(2, 0, 1)
    partition = dk.Tokenizer(max_tokens=1000)(image[None])
    size, polygons, _ = parse(dk.to_svg(image, partition))
    np.testing.assert_array_equal(rasterize(polygons, size), partition.labels[0].numpy())
    start = time.perf_counter()
    trace_rings(partition.labels[0])
    assert time.perf_counter() - start < 2  # about 0.03 s; a loop over pixels would take minutes
