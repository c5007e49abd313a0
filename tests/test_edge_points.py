"""Edges between pixels: where an anti-aliased picture has them, and where it shows nothing, on the lattice."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from arc_tools import MAPS, parts, photographs
from hypothesis import given, settings
from hypothesis import strategies as st

import dhvt_kernels as dk
from dhvt_kernels import reference
from dhvt_kernels._schema import ops

DARK, BRIGHT = 40.0, 200.0
SIZE = 40


def flat(*colors):
    """Planes of one channel without slope, and no noise."""
    planes = torch.zeros(len(colors), 1, 3, dtype=torch.float64)
    planes[:, 0, 0] = torch.tensor(colors)
    return {"planes": planes, "noise": torch.zeros(len(colors), dtype=torch.float64)}


def drawn(distance):
    """The picture whose part with distance(y, x) > 0, in lattice coordinates, is bright; and its two segments."""
    fine = (np.arange(16 * SIZE) + 0.5) / 16
    cover = (distance(fine[:, None], fine) > 0).reshape(SIZE, 16, SIZE, 16).mean((1, 3))
    image = np.rint(DARK + (BRIGHT - DARK) * cover).astype(np.uint8)
    return torch.from_numpy(image)[None], torch.from_numpy((cover > 0.5).astype(np.int32))


def between(chains, arcs):
    """The points of the arcs between two segments, but for their ends."""
    chosen = (arcs.left >= 0) & (arcs.right >= 0)
    lines = zip(parts(chains.points, chains.offsets), chains.closed.tolist(), chosen.tolist(), strict=True)
    return torch.cat([line[:-1] if closed else line[1:-1] for line, closed, inner in lines if inner]).numpy()


@pytest.mark.parametrize("angle", range(0, 180, 15))
def test_half_planes(angle, backend):
    sine, cosine = np.sin(np.radians(angle)), np.cos(np.radians(angle))
    for offset in (0, 0.2, 0.5, 0.9):

        def distance(y, x, offset=offset):
            return (x - SIZE / 2) * cosine + (y - SIZE / 2) * sine - offset

        image, labels = drawn(distance)
        arcs = dk.trace(labels)
        found = between(dk.edge_points(arcs, image, labels, **flat(DARK, BRIGHT)), arcs)
        error = abs(distance(*found.T))
        assert error.mean() < 0.1
        assert np.quantile(error, 0.9) < 0.2
        lattice = between(dk.edge_points(arcs, image, labels, **flat(DARK, DARK)), arcs)
        assert error.mean() < 0.5 * abs(distance(*lattice.T)).mean() + 0.02


@pytest.mark.parametrize("radius", [3.3, 6.1, 12.5, 17.8])
def test_discs(radius, backend):
    def distance(y, x):
        return radius - np.hypot(y - 20.2, x - 19.6)

    image, labels = drawn(distance)
    arcs = dk.trace(labels)
    found = between(dk.edge_points(arcs, image, labels, **flat(DARK, BRIGHT)), arcs)
    assert len(found) > 4 * radius
    assert abs(distance(*found.T)).mean() < 0.1
    assert abs(distance(*found.T).mean()) < 0.05


def test_a_known_edge(backend):
    """Four pixels in a row beside the edge, of a picture that changes from segment to segment by 100."""
    labels = torch.tensor([[0, 0, 0, 1, 1, 1]], dtype=torch.int32)
    arcs = dk.trace(labels)

    def moved(row, noise=0.0, **others):
        given = {**flat(0.0, 100.0), **others}
        given["noise"] = torch.tensor([noise, 0], dtype=torch.float64)
        image = torch.tensor([[row]], dtype=torch.uint8)
        return between(dk.edge_points(arcs, image, labels, **given), arcs)[0].tolist()

    assert moved([0, 0, 0, 100, 100, 100]) == [0.5, 3]
    assert moved([0, 0, 0, 60, 100, 100]) == [0.5, 3.4]
    assert moved([0, 0, 10, 80, 90, 100]) == pytest.approx([0.5, 3.2])
    assert moved([0, 30, 0, 100, 100, 100]) == [0.5, 2.7]
    assert moved([90, 0, 0, 100, 100, 0]) == [0.5, 3], "two pixels on either side"
    assert moved([0, 0, 0, 0, 0, 100]) == [0.5, 3.75], "three quarters of a pixel at most"
    assert moved([0, 0, 0, 60, 100, 100], noise=10_000.0) == [0.5, 3.2]
    # A gradient of 10 per pixel under both segments: pixels at -2, -1, 0 and 1 from the middle.
    planes = torch.tensor([[[0.0, 0, 10]], [[100.0, 0, 10]]], dtype=torch.float64)
    assert moved([0, 10, 20, 130, 140, 150], planes=planes) == [0.5, 3]
    assert moved([0, 10, 20, 80, 140, 150], planes=planes) == [0.5, 3.5]


def test_channels_count_by_their_contrast(backend):
    labels = torch.tensor([[0, 0, 1, 1]], dtype=torch.int32)
    planes = torch.zeros(2, 2, 3, dtype=torch.float64)
    planes[1, :, 0] = torch.tensor([100.0, 50])
    image = torch.tensor([[[0, 0, 50, 100]], [[0, 0, 50, 50]]], dtype=torch.uint8)  # half in the first channel only
    arcs = dk.trace(labels)
    chains = dk.edge_points(arcs, image, labels, planes=planes, noise=torch.zeros(2).double())
    assert between(chains, arcs)[0].tolist() == pytest.approx([0.5, 2 + 5000 / 12500])


@given(MAPS)
@settings(max_examples=100, deadline=None)
def test_points_move_across_their_edges_only(labels):
    labels = torch.from_numpy(labels)
    image = torch.randint(0, 256, (1, *labels.shape), dtype=torch.uint8)
    arcs = dk.trace(labels)
    still = dk.edge_points(arcs, image, labels, **flat(9.0, 9.0, 9.0, 9.0))
    moved = dk.edge_points(arcs, image, labels, **flat(0.0, 50.0, 100.0, 200.0))
    assert torch.equal(still.offsets, moved.offsets)
    assert still.offsets[-1] == len(still.points)
    assert ((moved.points - still.points) == 0).any(1).all()
    assert (moved.points - still.points).abs().le(0.75).all()
    by_arc = zip(*(parts(c.points, c.offsets) for c in (arcs, still, moved)), *arcs[2:5], strict=True)
    for corners, lattice, line, left, right, closed in by_arc:
        edges = []  # midpoints, without contrast
        for a, b in pairwise(corners.double()):
            count = int((b - a).abs().sum())
            edges += [a + (b - a) * (i + 0.5) / count for i in range(count)]
        ends = (edges[0],) if closed else (corners[0], corners[-1])
        expected = torch.stack([*edges, ends[0]] if closed else [ends[0], *edges, ends[1]])
        torch.testing.assert_close(lattice, expected.double())
        if min(left, right) < 0:
            assert torch.equal(line, lattice), "edges at the frame, or beside no segment, do not move"
        if not closed:
            assert torch.equal(line[[0, -1]], lattice[[0, -1]]), "junctions stay"


@given(MAPS, st.integers(0, 3), st.integers(0, 2**20))
@settings(max_examples=100, deadline=None)
def test_equals_the_reference(labels, channels, seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.from_numpy(labels)
    points, offsets, _, _, closed = dk.trace(labels)[:5]
    image = torch.randint(0, 256, (channels, *labels.shape), dtype=torch.uint8, generator=generator)
    planes = torch.rand(3, channels, 3, dtype=torch.float64, generator=generator)
    planes[..., 0] *= 255
    noise = 900 * torch.rand(3, dtype=torch.float64, generator=generator)
    given = points, offsets, closed, image, labels, planes, noise
    for ours, plain in zip(ops.edge_points(*given), reference.edge_points(*given), strict=True):
        torch.testing.assert_close(ours, plain, rtol=0, atol=0)


def test_photographs_equal_the_reference():
    image, labels = next(photographs())
    arcs = dk.trace(labels)
    planes = torch.zeros(int(labels.max()) + 1, 3, 3, dtype=torch.float64)
    planes[..., 0] = dk.segment_pool(image[None].float(), labels[None], num_segments=len(planes))[0].double()
    given = arcs.points, arcs.offsets, arcs.closed, image, labels, planes, planes[:, 0, 0]
    for ours, plain in zip(ops.edge_points(*given), reference.edge_points(*given), strict=True):
        torch.testing.assert_close(ours, plain, rtol=0, atol=0)


def test_numbers_that_are_none_stay_where_they_are():
    labels = torch.tensor([[0, 0, 1, 1, 2, 2]], dtype=torch.int32)
    arcs = dk.trace(labels)
    given = flat(float("nan"), 100.0, 0.0)
    chains = dk.edge_points(arcs, torch.zeros(1, 1, 6, dtype=torch.uint8), labels, **given)
    found = chains.points[:, 1]
    assert found.isnan().sum() == 1
    assert found[~found.isnan()].isfinite().all()


def test_bad_arguments():
    labels = torch.zeros(2, 3, dtype=torch.int32)
    arcs, image = dk.trace(labels), torch.zeros(1, 2, 3, dtype=torch.uint8)
    with pytest.raises(TypeError, match="arcs: expected Arcs; found Tensor"):
        dk.edge_points(arcs.points, image, labels, **flat(1.0))
    with pytest.raises(TypeError, match=r"image: expected \[C,H,W\] of uint8; found \[1,2,3\] of float32"):
        dk.edge_points(arcs, image.float(), labels, **flat(1.0))
    with pytest.raises(ValueError, match=r"noise: expected \[K\] = \[2\]; found \[1\]"):
        dk.edge_points(arcs, image, labels, planes=flat(1.0, 2.0)["planes"], noise=flat(1.0)["noise"])
    with pytest.raises(ValueError, match=r"on the lattice of labels, \[2, 2\]; found others"):
        dk.edge_points(arcs, image[..., :2], labels[:, :2], **flat(1.0))
    oblique = arcs._replace(points=arcs.points[[0, 2, 3, 0]], offsets=torch.tensor([0, 4]))
    with pytest.raises(ValueError, match="along rows and columns; found oblique lines"):
        dk.edge_points(oblique, image, labels, **flat(1.0))


@pytest.mark.skipif(dk._native.native_error is not None, reason="checks of the library")
def test_hostile_arcs_are_an_error():
    labels, image = torch.zeros(2, 3, dtype=torch.int32), torch.zeros(1, 2, 3, dtype=torch.uint8)
    points, most = torch.tensor([[0, 0], [0, 3], [2, 3], [2, 0]], dtype=torch.int32), 2**63 - 1
    closed = torch.tensor([False, False])
    for offsets in ([0, most, 4], [most, 2, 4], [-1, 2, 4], [0, 2, 5], [0, 3, 4], [0, 0, 2]):
        with pytest.raises(RuntimeError, match="expected"):
            ops.edge_points(points, torch.tensor(offsets), closed, image, labels, *flat(1.0).values())
    for bad in ([-1, 0], [3, 0], [0, 4], [-(2**31), 0], [1, 1]):
        points[1] = torch.tensor(bad)
        with pytest.raises(RuntimeError, match="expected"):
            ops.edge_points(points, torch.tensor([0, 2, 4]), closed, image, labels, *flat(1.0).values())


def test_compiles_with_a_graph_break():
    labels = torch.randint(0, 3, (6, 7), dtype=torch.int32)
    arcs, image = dk.trace(labels), torch.randint(0, 256, (1, 6, 7), dtype=torch.uint8)
    compiled = torch.compile(
        lambda image: dk.edge_points(arcs, image, labels, **flat(0.0, 100.0, 200.0)).points.sum() + 1, backend="eager"
    )
    assert compiled(image) == dk.edge_points(arcs, image, labels, **flat(0.0, 100.0, 200.0)).points.sum() + 1
