"""Arcs and rings: every boundary once, its two sides right; filling the rings gives back the labels."""

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from arc_tools import MAPS, arcs_of, rings_of
from grid import label_maps
from hypothesis import given, settings

import dhvt_kernels as dk
from dhvt_kernels import _native, reference

# Step (dy, dx) -> the pixels on its left and on its right, seen from the point where it starts.
BESIDE = {
    (0, 1): ((-1, 0), (0, 0)),
    (1, 0): ((0, 0), (0, -1)),
    (0, -1): ((0, -1), (-1, -1)),
    (-1, 0): ((-1, -1), (-1, 0)),
}


def edges(points):
    """The lattice edges along a polyline: each its start, and one step."""
    for (y0, x0), (y1, x1) in pairwise(points):
        assert (y0 == y1) != (x0 == x1), "every side is horizontal or vertical, and none has length 0"
        dy, dx = np.sign(y1 - y0), np.sign(x1 - x0)
        for i in range(abs(y1 - y0) + abs(x1 - x0)):
            yield (y0 + i * dy, x0 + i * dx), (dy, dx)


def winding(polygon, shape):
    """How often the polygon runs around each pixel, clockwise."""
    change = np.zeros((shape[0], shape[1] + 1), int)
    for (y, x), (dy, _) in edges(polygon):
        if dy != 0:
            change[min(y, y + dy), x] -= dy
    return np.cumsum(change, 1)[:, :-1]


def check_arcs(labels, arcs):
    """Every boundary edge is on one arc, with the labels beside it on the right sides; corners and junctions only."""
    labels = np.maximum(labels, -1)
    around = np.pad(labels, 1, constant_values=-1)
    lines, degree, seen = arcs_of(arcs), {}, set()
    for line, left, right, closed in zip(lines, *(column.tolist() for column in arcs[2:5]), strict=True):
        assert left != right
        for (y, x), step in edges(line):
            assert [around[y + dy + 1, x + dx + 1] for dy, dx in BESIDE[step]] == [left, right]
            ends = (y, x), (y + step[0], x + step[1])
            assert frozenset(ends) not in seen
            seen.add(frozenset(ends))
            for end in ends:
                degree[end] = degree.get(end, 0) + 1
        level = [a[0] == b[0] for a, b in pairwise([*line, line[1]] if closed else line)]
        assert all(a != b for a, b in pairwise(level)), "corners only"
    boundaries = (around[1:] != around[:-1]).sum() + (around[:, 1:] != around[:, :-1]).sum()
    assert len(seen) == boundaries, "every edge of a boundary is there"
    for line, closed in zip(lines, arcs.closed.tolist(), strict=True):
        assert not closed or line[0] == line[-1]
        for end in (line[0], line[-1]):
            assert (degree[tuple(end)] == 2) == closed, "arcs end at junctions"
        assert all(degree[tuple(point)] == 2 for point in line[1:-1]), "and pass none"


def check_rings(labels, arcs):
    labels = np.maximum(labels, -1)
    used = arcs.ring_arcs.tolist()
    assert len(set(used)) == len(used), "each side of an arc is in one ring at most"
    for arc, (left, right) in enumerate(zip(arcs.left.tolist(), arcs.right.tolist(), strict=True)):
        assert (arc in used) == (right >= 0)
        assert (~arc in used) == (left >= 0)
    keys = list(zip(arcs.ring_labels.tolist(), arcs.holes.tolist(), strict=True))
    assert keys == sorted(keys)
    total, filled = {}, np.full(labels.shape, -1)
    for (label, hole), polygon in zip(keys, rings_of(arcs), strict=True):
        around = winding(polygon, labels.shape)
        assert around.sum() != 0
        assert (around.sum() < 0) == hole
        total[label] = total.get(label, 0) + around
    for label, around in total.items():
        np.testing.assert_array_equal(around, labels == label)  # so even-odd is the same
        filled[around == 1] = label
    np.testing.assert_array_equal(filled, labels)


def check(labels):
    arcs = dk.trace(torch.from_numpy(labels))
    check_arcs(labels, arcs)
    check_rings(labels, arcs)
    return arcs


@given(MAPS)
@settings(max_examples=300, deadline=None)
def test_boundaries_are_covered_once_and_rings_fill_the_labels(labels):
    check(labels)


@given(MAPS)
@settings(max_examples=200, deadline=None)
def test_equals_the_reference(labels):
    tensor = torch.from_numpy(labels)
    for ours, plain in zip(dk.trace(tensor), reference.trace(tensor), strict=True):
        torch.testing.assert_close(ours, plain, rtol=0, atol=0)


@pytest.mark.parametrize("size", [(19, 23), (1, 30), (30, 1), (1, 1), (5, 200)], ids=str)
@pytest.mark.parametrize("name", ["blocks", "one", "none", "pixels", "noise", "hostile", "padded"])
def test_label_maps(name, size, backend):
    check(label_maps(1, *size, 30)[name][0].numpy())


def test_one_pixel(backend):
    arcs = dk.trace(torch.zeros(1, 1, dtype=torch.int32))
    assert arcs_of(arcs) == [[[0, 0], [0, 1], [1, 1], [1, 0], [0, 0]]]
    assert [column.tolist() for column in arcs[2:]] == [[-1], [0], [True], [0], [0, 1], [0], [False]]


def test_an_island_in_a_hole(backend):
    labels = np.zeros((7, 7), np.int32)
    labels[1:6, 1:6] = -1
    labels[3, 3] = 0
    arcs = check(labels)
    assert arcs.closed.tolist() == [True, True, True]
    assert arcs.left.tolist() == [-1, 0, -1]
    assert arcs.right.tolist() == [0, -1, 0]
    # Both outer rings of the segment, then its hole, which is the second arc backwards.
    assert arcs.ring_arcs.tolist() == [0, 2, ~1]
    assert arcs.holes.tolist() == [False, False, True]


def test_two_segments_in_a_hole_share_an_arc(backend):
    labels = np.zeros((4, 6), np.int32)
    labels[1:3, 1:3], labels[1:3, 3:5] = 1, 2
    arcs = check(labels)
    assert len(arcs.left) == 4
    assert sorted(zip(arcs.left.tolist(), arcs.right.tolist(), strict=True)) == [(-1, 0), (0, 2), (1, 0), (2, 1)]
    assert arcs.closed.tolist() == [False, False, False, True]
    assert arcs.holes.tolist() == [False, True, False, False]


def test_diagonal_pixels_do_not_connect(backend):
    arcs = check(np.array([[0, 1], [1, 0]], np.int32))
    assert arcs.ring_labels.tolist() == [0, 0, 1, 1]
    assert len(arcs.left) == 8
    # Two diagonal holes: between them the segment does not connect either, so they share one ring that touches itself.
    labels = np.zeros((4, 4), np.int32)
    labels[1, 1] = labels[2, 2] = -1
    arcs = check(labels)
    assert arcs.holes.tolist() == [False, True]
    assert arcs.closed.tolist() == [False, False, True]


@pytest.mark.parametrize("side", [2, 5, 8])
def test_checkerboard(side, backend):
    arcs = check((np.indices((side, side)).sum(0) % 2).astype(np.int32))
    assert len(arcs.ring_labels) == side**2
    assert len(arcs.left) == 2 * side * (side + 1) - 4, "a corner of the board is no junction"


def test_a_spiral(backend):
    """One long boundary, through many blocks of 64 lattice points."""
    labels, y, x, dy, dx = np.zeros((41, 41), np.int32), 0, 0, 0, 1
    for length in [40, *(n for k in range(40, 1, -2) for n in (k, k))]:
        for _ in range(length):
            labels[y, x] = 1
            y, x = y + dy, x + dx
        dy, dx = dx, -dy
    arcs = check(labels)
    assert len(arcs.points) > 70


def test_real_partition():
    from skimage import data

    image = torch.from_numpy(data.chelsea()).permute(2, 0, 1)[:, 60:220, 100:300]
    partition = dk.Tokenizer(max_tokens=200)(image[None].contiguous())
    arcs = check(partition.labels[0].numpy())
    outer = arcs.ring_labels[~arcs.holes].tolist()
    assert outer == list(range(partition.counts[0])), "segments of the tokenizer are connected"


MEMORY = """
import re, torch, dhvt_kernels as dk
peak = lambda: 1024 * int(re.search("VmHWM:\\s*([0-9]+) kB", open("/proc/self/status").read())[1])
blocks = torch.arange(50, dtype=torch.int32).repeat_interleave(100)
labels = 50 * blocks[:4000, None] + blocks
dk.trace(labels[:1])
before = peak()
dk.trace(labels)
print((peak() - before) / labels.numel())
"""


@pytest.mark.skipif(sys.platform != "linux" or _native.native_error is not None, reason="reads /proc")
def test_memory():
    """A process of its own: the peak of this one may lie far back."""
    found = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True)
    assert 0.9 < float(found.stdout) < 1.4, found.stderr  # bytes per pixel


def test_a_view_and_any_labels():
    labels = torch.randint(-3, 3, (20, 30), dtype=torch.int32)
    labels[0, 0], labels[5, 5] = torch.iinfo(torch.int32).max, torch.iinfo(torch.int32).min
    view = labels[::2, 3:].t()
    for ours, theirs in zip(dk.trace(view), dk.trace(view.contiguous()), strict=True):
        assert torch.equal(ours, theirs)
    check(view.contiguous().numpy())


def test_compiles_with_a_graph_break():
    labels = torch.randint(0, 3, (6, 7), dtype=torch.int32)
    compiled = torch.compile(lambda labels: dk.trace(labels).left.sum() + 1, backend="eager")
    assert compiled(labels) == dk.trace(labels).left.sum() + 1


def test_bad_arguments():
    with pytest.raises(TypeError, match=r"labels: expected \[H,W\] of int32; found \[2,2\] of int64"):
        dk.trace(torch.zeros(2, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"labels: expected \[H,W\]; found \[1,2,2\]"):
        dk.trace(torch.zeros(1, 2, 2, dtype=torch.int32))
    with pytest.raises(ValueError, match="labels: expected a tensor on the CPU; found meta"):
        dk.trace(torch.zeros(2, 2, dtype=torch.int32, device="meta"))


@pytest.mark.skipif(_native.native_error is not None, reason="a limit of the library")
def test_too_many_points_are_an_error_before_any_work():
    labels = torch.zeros(1, 1, dtype=torch.int32).expand(1, 2**29)
    with pytest.raises(RuntimeError, match=r"expected at most 2\^29 lattice points"):
        dk.trace(labels)
