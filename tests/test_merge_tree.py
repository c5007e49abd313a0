import math
import time

import pytest
import torch
from grid import assert_close, blocks
from samples_tree import DISTANCES, SAMPLES, pixel_edges, pixel_graph, pixel_moments
from torch._dynamo.testing import CompileCounter

import dhvt_kernels
from dhvt_kernels._schema import ops
from dhvt_kernels.ops.merge_tree import MergeTree, merge_tree
from dhvt_kernels.ops.region_graph import region_graph
from dhvt_kernels.ops.segment_moments import Moments, segment_moments


def line(values, counts=None, dtype=torch.float32):
    """Leaves in a row with these means; merge_tree's first three arguments."""
    mean = torch.tensor(values, dtype=dtype).reshape(1, -1, 1)
    moments = Moments(*pixel_moments(mean.reshape(1, 1, 1, -1)))
    if counts is not None:
        moments = moments._replace(count=torch.tensor([counts], dtype=torch.int32))
    return moments, *pixel_edges(1, 1, len(values))


def pixel_tree(image, **options):
    *moments, edges, lengths = pixel_graph(image)
    return merge_tree(Moments(*moments), edges, lengths, **options)


def same(a: MergeTree, b: MergeTree) -> bool:
    return all(torch.equal(x, y) for x, y in zip((*a[:2], *a.moments), (*b[:2], *b.moments), strict=True))


def leaves_below(parent):
    """For each node the set of its leaves, as a bool matrix [V,L]; parent a list."""
    leaves = (len(parent) + 1) // 2
    below = torch.zeros(len(parent), leaves, dtype=torch.bool)
    below[torch.arange(leaves), torch.arange(leaves)] = True
    for v, p in enumerate(parent):
        if p >= 0:
            below[p] |= below[v]
    return below


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_agrees_with_the_reference_bitwise(backend, dtype):
    """Rounding decides which regions merge, so the definition fixes every bit."""
    for arguments in SAMPLES["merge_tree"](dtype):
        actual = ops.merge_tree(*arguments)
        with dhvt_kernels.backend("reference"):
            reference = ops.merge_tree(*arguments)
        for a, b in zip(actual, reference, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("layout", ["contiguous", "sliced", "expanded"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_against_float64(backend, dtype, layout):
    arguments = list(pixel_graph(torch.rand(2, 3, 6, 7, dtype=dtype)))

    def laid_out(t):
        if layout == "expanded":
            return t[:1].expand(2, *t.shape[1:])
        return t.repeat_interleave(2, dim=1)[:, ::2] if layout == "sliced" else t

    arguments = [laid_out(t) for t in arguments]
    with dhvt_kernels.backend("reference"):
        expected = ops.merge_tree(
            *(t.double() if t.is_floating_point() else t for t in arguments), "ward_length", 0.5, 0
        )
    actual = ops.merge_tree(*arguments, "ward_length", 0.5, 0)
    for a, e in zip(actual, expected, strict=True):
        assert a.is_contiguous()
        if a.is_floating_point():
            assert_close(a, e, dtype)
        else:
            assert torch.equal(a, e)


def test_two_rounds_of_a_line(backend):
    # Picks: 0-1 (1), 2-3 (4), 4 picks 3 (9): 0 and 1 merge first, then 2 and 3, then 4 joins them.
    tree = merge_tree(*line([0.0, 1.0, 7.0, 9.0, 12.0]), distance="feature")
    assert tree.parent[0].tolist() == [5, 5, 6, 6, 7, 8, 7, 8, -1]
    assert tree.round[0].tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 2]
    assert tree.moments.count[0].tolist() == [1, 1, 1, 1, 1, 2, 2, 3, 5]
    assert tree.moments.boundary[0].tolist() == [1, 2, 2, 2, 1, 1, 2, 1, 0]
    assert tree.moments.box[0, 7].tolist() == [0, 2, 0, 4]
    torch.testing.assert_close(tree.moments.mean[0, 5:, 0], torch.tensor([0.5, 8.0, 28 / 3, 5.8]))
    torch.testing.assert_close(tree.moments.m2[0, 5:, 0], torch.tensor([0.5, 2.0, 38 / 3, 106.8]))
    torch.testing.assert_close(tree.moments.centroid[0, 5:, 1], torch.tensor([0.5, 2.5, 3.0, 2.0]))


def test_ties_take_the_lowest_node(backend):
    # All distances are 0: 0 picks 1, and each other its left neighbour, so that one chain grows from the left.
    tree = merge_tree(*line([3.0] * 5))
    assert tree.parent[0].tolist() == [5, 5, 6, 7, 8, 6, 7, 8, -1]
    assert tree.round[0, 5:].tolist() == [1] * 4


def test_distances_count_sizes_lengths_and_boxes(backend):
    def first_pick(values, counts, lengths=(1, 1), **options):
        moments, edges, _ = line(values, counts)
        tree = merge_tree(moments, edges, torch.tensor([lengths], dtype=torch.int32), **options)
        return tree.parent[0, :3].tolist().index(4) if 4 in tree.parent[0, :3].tolist() else tree.parent[0].tolist()

    # The middle (0) lies between -1 with 100 pixels and 1.2 with one: the leaf that is not in node 3 joins node 4.
    assert first_pick([-1.0, 0.0, 1.2], [100, 4, 1], distance="feature") == 2
    assert first_pick([-1.0, 0.0, 1.2], [100, 4, 1], distance="ward") == 0
    assert first_pick([-1.0, 0.0, 1.2], [100, 4, 1], (9, 1), distance="ward_length") == 2
    # Equal means: the box term favours the pair that fills its box; 2 pixels of the left pair's box of 2, but the right
    # leaf claims one pixel in a box of 5 x 5.
    moments, edges, lengths = line([0.0, 0.0, 0.0])
    box = moments.box.clone()
    box[0, 0] = torch.tensor([0, 0, 4, 4])
    for compactness, last in ((0.0, 2), (1.0, 0)):
        tree = merge_tree(moments._replace(box=box), edges, lengths, distance="feature", compactness=compactness)
        assert tree.parent[0, last] == 4


def test_contrast_is_relative_to_the_variance_within(backend):
    def left_over(noise=16.0, count=1000, m2=0.0, length=1, side=100):
        """Which end of a row of three regions has not merged when the middle has."""
        moments, edges, lengths = line([-8.0, 0.0, 9.0], [count, 1000, 1000])
        moments.m2[0, 2, 0] = m2
        lengths[0, 0] = length
        moments.box[:] = torch.tensor([0, 0, 99, 99], dtype=torch.int32)
        moments.box[0, 0, 2:] = side - 1
        parent = merge_tree(moments, edges, lengths, distance="contrast", noise=noise).parent[0, :3].tolist()
        return ("left", "middle", "right")[parent.index(4)]

    assert left_over() == "right"  # the smaller difference merges,
    assert left_over(m2=2e6) == "left"  # unless a variance of 1000 hides the greater one
    assert left_over(m2=2e6, noise=1e6) == "right"  # among noise that hides them all
    assert left_over(count=3000) == "left"  # larger regions are further apart,
    assert left_over(count=3000, length=200) == "right"  # a longer boundary joins them
    assert left_over(noise=160.0) == "right"
    assert left_over(noise=160.0, side=300) == "left"  # what fills less of its box is further apart


@pytest.mark.parametrize("distance", DISTANCES)
def test_every_node_has_the_moments_of_its_pixels(distance):
    features, labels = torch.rand(2, 3, 20, 24, dtype=torch.float64), blocks(2, 20, 24, 4)
    labels[1, 10:] = -1
    leaves = 30
    moments = segment_moments(features, labels, num_segments=leaves)
    graph = region_graph(labels, num_segments=leaves)
    tree = merge_tree(moments, graph.edges, graph.lengths, distance=distance)
    assert tree.round[0].min() == 0
    assert tree.round[1].tolist()[18:30] == [-1] * 12
    for b in range(2):
        for v, inside in enumerate(leaves_below(tree.parent[b].tolist())):
            if tree.round[b, v] < 0:
                assert tree.moments.count[b, v] == 0
                assert tree.moments.box[b, v].tolist() == [0, 0, -1, -1]
                continue
            segment = torch.where(inside[labels[b].clamp(min=0)] & (labels[b] >= 0), 0, 1)
            segment = torch.where(labels[b] < 0, -1, segment).int()
            expected = segment_moments(features[b : b + 1], segment[None], num_segments=2)
            for name, of_tree, of_pixels in zip(Moments._fields, tree.moments, expected, strict=True):
                torch.testing.assert_close(of_tree[b, v], of_pixels[0, 0], rtol=1e-12, atol=1e-12, msg=name)


def test_rounds_follow_from_the_definition():
    """Every vertex of a round is joined to its best neighbour: checked from the tree, without the algorithm."""
    image = torch.rand(1, 2, 7, 8, dtype=torch.float64)
    *moments, edges, lengths = pixel_graph(image)
    tree = merge_tree(Moments(*moments), edges, lengths, distance="ward")
    parent, rounds = tree.parent[0].tolist(), tree.round[0].tolist()
    below = leaves_below(parent)
    for r in range(1, max(rounds) + 1):
        before = [v for v in range(len(parent)) if 0 <= rounds[v] < r and (parent[v] < 0 or rounds[parent[v]] >= r)]
        after = [v for v in range(len(parent)) if 0 <= rounds[v] <= r and (parent[v] < 0 or rounds[parent[v]] > r)]
        owner = {leaf: v for v in before for leaf in below[v].nonzero()[:, 0].tolist()}
        best = {}
        for i, j in edges[0].tolist():
            u, v = owner[i], owner[j]
            if u == v:
                continue
            n, delta = tree.moments.count[0, [u, v]].double(), tree.moments.mean[0, u] - tree.moments.mean[0, v]
            d = (n.prod() / n.sum() * (delta * delta).sum()).item()
            best[u] = min(best.get(u, (math.inf, 0)), (d, v))
            best[v] = min(best.get(v, (math.inf, 0)), (d, u))
        group = {leaf: v for v in after for leaf in below[v].nonzero()[:, 0].tolist()}
        of = {v: group[int(below[v].nonzero()[0])] for v in before}
        assert len(after) <= len(before) / 2
        assert all(of[u] == of[v] for u, (_, v) in best.items())
        assert len(before) - len(after) == len({(d, min(u, v), max(u, v)) for u, (d, v) in best.items()})


def test_depth_keeps_the_first_rounds(backend):
    image = torch.rand(2, 2, 6, 6)
    full = pixel_tree(image)
    for depth in range(1, int(full.round.max()) + 2):
        tree = pixel_tree(image, depth=depth)
        kept = (full.round >= 0) & (full.round < depth)
        assert torch.equal(tree.round, torch.where(kept, full.round, -1))
        assert torch.equal(tree.moments.mean, torch.where(kept.unsqueeze(-1), full.moments.mean, 0))
        assert tree.round.max() == depth - 1
    assert same(tree, full)
    assert (pixel_tree(image, depth=1).parent == -1).all()


def test_order_and_splitting_of_edges_do_not_matter(backend):
    *moments, edges, lengths = pixel_graph(torch.rand(1, 3, 6, 5))
    lengths = torch.randint(2, 5, lengths.shape, dtype=torch.int32)
    expected = merge_tree(Moments(*moments), edges, lengths)
    order = torch.randperm(2 * edges.shape[1])
    doubled = torch.cat((edges, edges.flip(2)), 1)[:, order]
    parts = torch.cat((lengths - 1, torch.ones_like(lengths)), 1)[:, order]
    assert same(merge_tree(Moments(*moments), doubled, parts), expected)


def test_edges_that_are_none_are_ignored(backend):
    *moments, edges, lengths = pixel_graph(torch.rand(1, 3, 4, 5))
    moments[0][0, 7] = 0  # an unused leaf
    touching = (edges == 7).any(2)
    expected = merge_tree(Moments(*moments), edges[~touching][None], lengths[~touching][None])
    limits = torch.iinfo(torch.int32)
    junk = [[-1, -1], [3, 3], [0, 20], [limits.min, 2], [limits.max, limits.max], [0, 19], [1, 18]]
    amounts = torch.tensor([[5, 5, 5, 5, 5, 0, -1]]).int()
    tree = merge_tree(
        Moments(*moments), torch.cat((torch.tensor([junk]).int(), edges), 1), torch.cat((amounts, lengths), 1)
    )
    assert same(tree, expected)
    assert tree.parent[0, 7] == tree.round[0, 7] == -1
    assert tree.moments.mean[0, 7].tolist() == [0.0] * 3


def test_a_graph_in_parts_has_several_roots(backend):
    image = torch.rand(1, 2, 2, 6)
    *moments, edges, lengths = pixel_graph(image)
    crossing = ((edges % 6) == 2).any(2) & ((edges % 6) == 3).any(2)
    tree = merge_tree(Moments(*moments), torch.where(crossing.unsqueeze(-1), -1, edges), lengths)
    roots = (tree.parent[0] == -1) & (tree.round[0] >= 0)
    assert tree.moments.count[0, roots].tolist() == [6, 6]
    assert (tree.round[0] >= 0).sum() == 22


def test_nan_merges_after_the_others_of_its_round(backend):
    tree = merge_tree(*line([0.0, 1.0, float("nan"), 5.0, 9.0]), distance="feature")
    assert tree.parent[0].tolist() == [5, 5, 6, 7, 7, 6, 8, 8, -1]
    assert tree.moments.mean[0, :, 0].isnan().tolist() == [False, False, True, False, False, False, True, False, True]


@pytest.mark.parametrize("shape", ["flat", "row", "comb", "noise"])
def test_time_is_near_linear(shape):
    """65,536 pixels in well under the minutes that a quadratic step would take."""
    image = torch.full((1, 3, 256, 256), 0.3)
    if shape == "row":
        image = image.reshape(1, 3, 1, -1)
    elif shape == "comb":  # every row its own value, rising: long chains of equal and of unequal distances
        image = image + torch.arange(256.0).reshape(1, 1, 256, 1) ** 2
    elif shape == "noise":
        image = torch.rand_like(image)
    *moments, edges, lengths = pixel_graph(image)
    start = time.perf_counter()
    tree = merge_tree(Moments(*moments), edges, lengths)
    assert time.perf_counter() - start < 3.0
    assert tree.moments.count[0, -1] == 65536
    assert tree.moments.boundary[0, -1] == 0
    assert ((tree.parent[0] == -1).nonzero() == 2 * 65536 - 2).all()


def gradient_inputs():
    *moments, edges, lengths = pixel_graph(torch.rand(2, 2, 3, 3, dtype=torch.float64))
    moments[0] = torch.randint(1, 9, moments[0].shape, dtype=torch.int32)
    moments[0][0, 4] = 0
    moments[2] = torch.rand_like(moments[2])
    return Moments(*moments), edges, lengths


def test_gradcheck(backend):
    moments, edges, lengths = gradient_inputs()

    def function(mean, m2):
        # Twice a leaf's own step of 1e-6 never reorders these distances.
        nodes = merge_tree(moments._replace(mean=mean, m2=m2), edges, lengths).moments
        return nodes.mean, nodes.m2

    inputs = [t.clone().requires_grad_() for t in (moments.mean, moments.m2)]
    assert torch.autograd.gradcheck(function, inputs, fast_mode=backend == "triton-interpreted")


def test_gradient_reaches_leaves_as_if_computed_from_pixels():
    """d m2(root) / d mean(leaf) = 2 n (mean(leaf) - mean(root)), d mean(root) / d mean(leaf) = n / N."""
    moments, edges, lengths = gradient_inputs()
    mean = moments.mean.requires_grad_()
    tree = merge_tree(moments._replace(mean=mean), edges, lengths)
    root = tree.parent.shape[1] - 1
    n = moments.count[1].double().unsqueeze(-1)
    (grad,) = torch.autograd.grad(tree.moments.m2[1, root].sum(), mean, retain_graph=True)
    torch.testing.assert_close(grad[1], 2 * n * (mean[1] - tree.moments.mean[1, root]))
    (grad,) = torch.autograd.grad(tree.moments.mean[1, root].sum(), mean)
    torch.testing.assert_close(grad[1], (n / n.sum()).expand(-1, 2))
    assert not grad[0].any()


def test_no_double_backward():
    moments, edges, lengths = gradient_inputs()
    mean = moments.mean.requires_grad_()
    out = merge_tree(moments._replace(mean=mean), edges, lengths).moments.m2.square().sum()
    (grad,) = torch.autograd.grad(out, mean, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_compile_without_recompiling():
    counter = CompileCounter()
    for backend_name in (counter, "aot_eager"):
        compiled = torch.compile(merge_tree, fullgraph=True, backend=backend_name)
        for _ in range(3):
            *moments, edges, lengths = pixel_graph(torch.rand(2, 3, 4, 5))
            moments = Moments(*moments)._replace(mean=moments[1].requires_grad_())
            actual, expected = compiled(moments, edges, lengths), merge_tree(moments, edges, lengths)
            assert same(actual, expected)
            grads = [torch.autograd.grad(t.moments.m2.sum(), moments.mean)[0] for t in (actual, expected)]
            assert torch.equal(*grads)
    assert counter.frame_count == 1


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"moments": (1, 2)}, TypeError, "moments: expected Moments; found tuple"),
        ({"mean": torch.zeros(1, 3, 1).half()}, TypeError, r"mean: expected \[B,L,C\] of float32, float64"),
        ({"m2": torch.zeros(1, 3, 1).double()}, TypeError, r"m2: expected \[B,L,C\] of float32"),
        ({"count": torch.ones(1, 2).int()}, ValueError, r"mean: expected \[B,L,C\] = \[1,2,C\]"),
        ({"edges": torch.zeros(1, 2, 2)}, TypeError, r"edges: expected \[B,E,2\] of int32"),
        ({"edges": torch.zeros(1, 2, 3).int()}, ValueError, r"edges: expected \[B,E,2\]"),
        ({"lengths": torch.zeros(1, 5).int()}, ValueError, r"lengths: expected \[B,E\] = \[1,2\]"),
        ({"distance": "cosine"}, ValueError, "one of ward_length, ward_root, ward, feature, contrast; found 'cosine'"),
        ({"compactness": -1.0}, ValueError, "compactness: expected a finite number >= 0"),
        ({"noise": 0.0}, ValueError, "noise: expected a finite number > 0"),
        ({"depth": 0}, ValueError, "depth: expected an integer >= 1; found 0"),
        ({"depth": 2.5}, TypeError, "depth: expected an integer"),
    ],
)
def test_bad_input(change, error, match):
    moments, edges, lengths = line([0.0, 1.0, 2.0])
    arguments = {"moments": moments, "edges": edges, "lengths": lengths}
    for name, value in change.items():
        if name in Moments._fields:
            arguments["moments"] = moments._replace(**{name: value})
        else:
            arguments[name] = value
    with pytest.raises(error, match=match):
        merge_tree(**arguments)
