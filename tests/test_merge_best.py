"""The order "best" of merge_tree."""

import pytest
import torch
from samples_tree import DISTANCES, SAMPLES, pixel_graph
from test_merge_tree import line, pixel_tree, same

import dhvt_kernels
from dhvt_kernels._schema import ops
from dhvt_kernels.ops.merge_tree import merge_tree
from dhvt_kernels.ops.segment_moments import Moments


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_agrees_with_the_reference_bitwise(backend, dtype):
    for arguments in SAMPLES["merge_best"](dtype):
        actual = ops.merge_best(*arguments)
        with dhvt_kernels.backend("reference"):
            reference = ops.merge_best(*arguments)
        for a, b in zip(actual, reference, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def test_the_nearest_pair_of_all_first(backend):
    # 0-1 (1), then 2-3 (4), then 4 joins them (16, as 8 is their mean), though it had picked 3 in the first round.
    tree = merge_tree(*line([0.0, 1.0, 7.0, 9.0, 12.0]), distance="feature", order="best")
    assert tree.parent[0].tolist() == [5, 5, 6, 6, 7, 8, 7, 8, -1]
    assert tree.round[0].tolist() == [0, 0, 0, 0, 0, 1, 2, 3, 4]
    assert tree.moments.count[0].tolist() == [1, 1, 1, 1, 1, 2, 2, 3, 5]
    assert tree.moments.boundary[0].tolist() == [1, 2, 2, 2, 1, 1, 2, 1, 0]
    torch.testing.assert_close(tree.moments.mean[0, 5:, 0], torch.tensor([0.5, 8.0, 28 / 3, 5.8]))


def test_a_mixed_region_does_not_join_what_lies_beside_it(backend):
    """Two shades of dark, a mixed pixel, and light: a round joins all four, and the dark ones come last."""
    halves = {}
    for order in ("rounds", "best"):
        tree = merge_tree(*line([3.0, 0.0, 51.0, 100.0], [1000, 1000, 1, 1000]), distance="ward", order=order)
        halves[order] = sorted(tree.moments.count[0, tree.parent[0] == 6].tolist())
    assert halves == {"rounds": [1000, 2001], "best": [1001, 2000]}


def test_a_pair_waits_where_its_distance_has_grown(backend):
    # 1 takes in 0 and has 40 pixels by then: 2 (6.4 away before, 9.8 now) is overtaken by 3-4 (8).
    tree = merge_tree(*line([0.0, 0.0, 3.2, 90.0, 94.0], [20, 20, 1, 1, 1]), distance="ward", order="best")
    assert tree.parent[0, :2].tolist() == [5, 5]
    assert tree.parent[0, 3:5].tolist() == [6, 6]


@pytest.mark.parametrize("distance", DISTANCES)
def test_ties_and_edges_in_any_order(backend, distance):
    values = torch.randint(0, 2, (1, 3, 6, 5)).float()
    *moments, edges, lengths = pixel_graph(values)
    lengths = torch.randint(2, 5, lengths.shape, dtype=torch.int32)
    expected = merge_tree(Moments(*moments), edges, lengths, distance=distance, order="best")
    order = torch.randperm(2 * edges.shape[1])
    doubled = torch.cat((edges, edges.flip(2)), 1)[:, order]
    parts = torch.cat((lengths - 1, torch.ones_like(lengths)), 1)[:, order]
    assert same(merge_tree(Moments(*moments), doubled, parts, distance=distance, order="best"), expected)


def test_depth_keeps_the_first_merges(backend):
    image = torch.rand(2, 2, 4, 5)
    full = pixel_tree(image, order="best")
    assert full.round[0, 20:].tolist() == list(range(1, 20))
    tree = pixel_tree(image, order="best", depth=8)
    kept = (full.round >= 0) & (full.round < 8)
    assert torch.equal(tree.round, torch.where(kept, full.round, -1))
    assert torch.equal(tree.moments.m2, torch.where(kept.unsqueeze(-1), full.moments.m2, 0))


def test_gradients():
    *moments, edges, lengths = pixel_graph(torch.rand(1, 2, 3, 4, dtype=torch.float64))
    mean, m2 = moments[1].requires_grad_(), moments[2].requires_grad_()

    def nodes(mean, m2):
        of = Moments(moments[0], mean, m2, *moments[3:])
        return merge_tree(of, edges, lengths, order="best").moments[1:3]

    assert torch.autograd.gradcheck(nodes, (mean, m2))


def test_a_background_takes_in_many_islands(backend):
    """Looking at all that are left each time would take a minute."""
    if backend == "reference":
        pytest.skip("only the kernel promises it")
    islands = 60_000
    values = torch.rand(islands + 1)
    values[0] = 0.5
    moments, _, _ = line(values.tolist(), [1 << 30, *[1] * islands])
    edges = torch.stack((torch.zeros(islands), torch.arange(1, islands + 1)), 1)[None].int()
    tree = merge_tree(moments, edges, torch.ones(1, islands, dtype=torch.int32), order="best")
    assert int(tree.round.max()) == islands


def test_bad_input():
    arguments = line([0.0, 1.0])
    with pytest.raises(ValueError, match="order: expected one of rounds, best; found 'worst'"):
        merge_tree(*arguments, order="worst")
    on_meta = Moments(*(part.to("meta") for part in arguments[0]))
    with pytest.raises(ValueError, match=r'order: expected tensors on the CPU for "best"; found meta'):
        merge_tree(on_meta, *(part.to("meta") for part in arguments[1:]), order="best")
