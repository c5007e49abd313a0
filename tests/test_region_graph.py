"""The graph of touching segments, against unique keys and by hand."""

import pytest
import torch
from grid import blocks, label_maps
from torch._dynamo.testing import CompileCounter

from dhvt_kernels.ops.region_graph import region_graph
from dhvt_kernels.ops.segment_moments import segment_moments
from dhvt_kernels.reference.region_graph import region_graph as reference

MAPS = ("blocks", "one", "none", "pixels", "noise", "hostile", "padded")


def brute_force(label, num_segments):
    """{(u, v): length} of one image, one pixel pair after the other."""
    found = {}
    height, width = label.shape
    grid = label.tolist()
    for y in range(height):
        for x in range(width):
            for v, u in ((y + 1, x), (y, x + 1)):
                if v < height and u < width:
                    a, b = sorted((grid[y][x], grid[v][u]))
                    if a != b and a >= 0 and b < num_segments:
                        found[a, b] = found.get((a, b), 0) + 1
    return found


@pytest.mark.parametrize("name", MAPS)
def test_grid(backend, name):
    labels = label_maps(2, 11, 14, 20)[name]
    num_segments = 11 * 14 if name == "pixels" else 20
    graph = region_graph(labels, num_segments=num_segments, capacity=400)
    for b in range(2):
        expected = brute_force(labels[b], num_segments)
        n = graph.counts[b]
        assert n == len(expected)
        edges = [tuple(edge) for edge in graph.edges[b, :n].tolist()]
        assert edges == sorted(expected)
        assert graph.lengths[b, :n].tolist() == [expected[edge] for edge in edges]
        assert (graph.edges[b, n:] == -1).all()
        assert (graph.lengths[b, n:] == 0).all()


@pytest.mark.parametrize("side", [1, 7, 40, 500])
def test_several_strips(backend, side):
    """Large enough for several tasks, with segments across them."""
    labels = blocks(2, 230, 310, side)
    labels[1, 200:] = -1
    num_segments = int(labels.max()) + 1
    actual = region_graph(labels, num_segments=num_segments)
    for a, e in zip(actual, reference(labels, num_segments, 3 * num_segments), strict=True):
        assert a.dtype == torch.int32
        assert torch.equal(a, e)


@pytest.mark.parametrize("width", [1, 2, 15, 16, 17, 63, 64, 65, 127, 128, 130])
def test_widths_around_whole_vectors_and_words(backend, width):
    labels = torch.randint(-1, 9, (1, 6, width), dtype=torch.int32).repeat_interleave(3, 2)[..., :width].contiguous()
    graph = region_graph(labels, num_segments=8, capacity=28)  # label 8 is outside
    expected = brute_force(labels[0], 8)
    edges = [tuple(edge) for edge in graph.edges[0, : graph.counts[0]].tolist()]
    assert dict(zip(edges, graph.lengths[0].tolist(), strict=False)) == expected


@pytest.mark.parametrize("shape", [(1, 1, 66_001), (3, 40, 1)])
def test_long_and_narrow_images(backend, shape):
    """Wider than 2^16 pixels, and one pixel wide."""
    labels = torch.randint(-1, 7, shape, dtype=torch.int32)
    for a, e in zip(region_graph(labels, num_segments=6), reference(labels, 6, 18), strict=True):
        assert torch.equal(a, e)


def test_known_answer(backend):
    labels = torch.tensor([[[0, 0, 1], [0, 2, 1], [-1, 2, 2]]], dtype=torch.int32)
    graph = region_graph(labels, num_segments=3)
    assert graph.edges.shape == (1, 9, 2)
    assert graph.edges[0, :4].tolist() == [[0, 1], [0, 2], [1, 2], [-1, -1]]
    assert graph.lengths[0, :4].tolist() == [1, 2, 2, 0]
    assert graph.counts.tolist() == [3]


def test_many_neighbours(backend):
    """One background that touches every other segment, and has the largest, or the least, label."""
    for background in (0, 400):
        labels = torch.full((1, 41, 41), background, dtype=torch.int32)
        labels[:, 1::2, 1::2] = torch.randperm(400).int().reshape(20, 20) + (background == 0)
        graph = region_graph(labels, num_segments=401)
        assert graph.counts.tolist() == [400]
        assert (graph.lengths[0, :400] == 4).all()
        other = graph.edges[0, :400, 1 if background == 0 else 0]
        assert torch.equal(other, torch.arange(400, dtype=torch.int32) + (background == 0))


def test_capacity_too_small_keeps_the_first_edges_and_the_true_count(backend):
    labels = label_maps(2, 11, 14, 20)["noise"]
    full = region_graph(labels, num_segments=20, capacity=400)
    for capacity in (1, 7, 50):
        graph = region_graph(labels, num_segments=20, capacity=capacity)
        assert torch.equal(graph.edges, full.edges[:, :capacity])
        assert torch.equal(graph.lengths, full.lengths[:, :capacity])
        assert torch.equal(graph.counts, full.counts)
        assert (graph.counts > capacity).all()


def test_default_capacity_holds_connected_segments(backend):
    """A planar graph has at most 3 K - 6 edges; pixels have 2 H W - H - W."""
    labels = blocks(1, 30, 40, 1)
    graph = region_graph(labels, num_segments=1200)
    assert graph.edges.shape[1] == 3600
    assert graph.counts.tolist() == [2 * 1200 - 30 - 40]


def test_lengths_add_up_to_boundaries(backend):
    """A segment's boundary in the moments is the sum of its edges' lengths."""
    labels = label_maps(1, 11, 14, 20)["hostile"]
    graph = region_graph(labels, num_segments=20, capacity=400)
    total = torch.zeros(20, dtype=torch.int64)
    for side in (0, 1):
        total.index_add_(0, graph.edges[0, : graph.counts[0], side].long(), graph.lengths[0, : graph.counts[0]].long())
    boundary = segment_moments(torch.zeros(1, 1, 11, 14), labels, num_segments=20).boundary[0]
    assert torch.equal(total, boundary.long())


def test_degenerate_sizes(backend):
    for shape, num_segments in (((0, 4, 5), 3), ((2, 0, 5), 3), ((2, 4, 0), 3), ((2, 4, 5), 0), ((1, 1, 1), 1)):
        graph = region_graph(torch.zeros(shape, dtype=torch.int32), num_segments=num_segments)
        capacity = max(3 * num_segments, 1)
        assert graph.edges.shape == (shape[0], capacity, 2)
        assert (graph.edges == -1).all()
        assert (graph.lengths == 0).all()
        assert (graph.counts == 0).all()


def test_strided_labels(backend):
    labels = label_maps(1, 22, 28, 20)["noise"][:, ::2, ::2]
    for a, e in zip(region_graph(labels, num_segments=20), reference(labels, 20, 60), strict=True):
        assert torch.equal(a, e)


def test_compile_without_recompiling():
    counter = CompileCounter()
    for backend_name in (counter, "aot_eager"):
        compiled = torch.compile(lambda t: region_graph(t, num_segments=20), fullgraph=True, backend=backend_name)
        for _ in range(3):
            labels = label_maps(2, 11, 14, 20)["noise"]
            for a, e in zip(compiled(labels), region_graph(labels, num_segments=20), strict=True):
                assert torch.equal(a, e)
    assert counter.frame_count == 1


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"labels": [[[0]]]}, TypeError, "labels: expected a tensor"),
        ({"labels": torch.zeros(1, 2, 2)}, TypeError, r"labels: expected \[B,H,W\] of int32"),
        ({"labels": torch.zeros(2, 2).int()}, ValueError, r"labels: expected \[B,H,W\]"),
        ({"num_segments": -1}, ValueError, "num_segments: expected an integer >= 0"),
        ({"capacity": 0}, ValueError, "capacity: expected an integer >= 1; found 0"),
        ({"capacity": 1.5}, TypeError, "capacity: expected an integer; found float"),
    ],
)
def test_bad_input(arguments, error, match):
    with pytest.raises(error, match=match):
        region_graph(**{"labels": torch.zeros(1, 2, 2, dtype=torch.int32), "num_segments": 2, **arguments})
