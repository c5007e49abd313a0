"""Trees in CUDA: what is of their tables, and not of the operators."""

import backends
import pytest
import torch
from samples_tree import pixel_graph, random_forest

from dhvt_kernels._schema import ops

pytestmark = pytest.mark.parametrize("cuda", backends.CUDA_OPERATORS)


def check_against_native(cuda, name, *arguments):
    """Bitwise equal to the CPU kernel, but for what a GPU makes of probabilities and weights; returns the outputs."""
    with backends.use(cuda):
        actual = getattr(ops, name)(*arguments)
    with backends.use("native"):
        expected = getattr(ops, name)(*arguments)
    for index, (a, e) in enumerate(zip(actual, expected, strict=True)):
        tolerance = 1e-12 if (cuda, name, index) == ("cuda", "tree_cut", 4) else 0
        if cuda == "cuda" and name.startswith("similarity_pool"):
            tolerance = 1e-4  # its multiply-adds are fused, too
        torch.testing.assert_close(a, e, rtol=tolerance, atol=tolerance, equal_nan=True)
    return expected


def test_trees_beyond_shared_memory(cuda):
    """Tables of this size lie in the workspace, those of later rounds in shared memory."""
    graph = pixel_graph(torch.rand(1, 2, 44, 48))
    graph[1][0, :20] = 0.5  # some distances are equal
    parent, rounds, count, mean, m2, *_ = check_against_native(cuda, "merge_tree", *graph, "ward_length", 0.0, 0)
    check_against_native(cuda, "merge_tree_backward", torch.randn_like(mean), torch.randn_like(m2), parent, count, mean)
    pooled = check_against_native(cuda, "similarity_pool", graph[1], count, parent, rounds)
    check_against_native(cuda, "similarity_pool_backward", torch.randn_like(mean), *pooled, count, parent, rounds)
    tree = m2.sum(2), torch.ones_like(m2[..., 0]), parent, rounds
    for select, max_tokens in (("optimal", 500), ("greedy", 30)):
        cut = check_against_native(cuda, "tree_cut", *tree, select, 0.0, max_tokens, 2, 0.0, 1.0)
        assert (cut[2] <= max_tokens).all()
    check_against_native(cuda, "tree_cut_backward", torch.randn_like(tree[0]), *tree, cut[3], 1.0)
    lower, _ = check_against_native(cuda, "scale_set", *tree)
    budgets = torch.tensor([500, 30, 0], dtype=torch.int32)
    strength = torch.tensor([0.0, 0.0, 0.001])
    check_against_native(cuda, "scale_cut", lower, parent, rounds, strength, budgets, 500)


def islands(height, width):
    """Pairs of equal pixels in a constant sea, which is one component with many neighbours, and many parallel edges."""
    image = torch.zeros(1, 1, height, width)
    image[..., 1::3, 1::4] = image[..., 1::3, 2::4] = 1 + torch.rand(height, width)[1::3, 1::4]
    return image


def line(width):
    """A constant row between others, of pairs: few members with many neighbours."""
    image = torch.zeros(1, 2, 3, width)
    image[..., ::2, :] = 1 + torch.rand(1, 2, 2, width // 2).repeat_interleave(2, 3)
    return image


CHECKERBOARD = (torch.arange(97)[:, None] + torch.arange(101)).remainder(2).float()
MANY_BLOCKS = {
    "constant": lambda: torch.zeros(1, 2, 96, 104),
    "checkerboard": lambda: CHECKERBOARD.expand(1, 3, -1, -1),
    "ramp": lambda: torch.arange(96 * 98.0).reshape(1, 1, 96, 98),
    "noise": lambda: torch.randn(1, 9, 120, 96),
    "levels": lambda: torch.randint(0, 3, (2, 2, 60, 70)).float(),
    "islands": lambda: islands(96, 100),
    "small islands": lambda: islands(13, 16),
    "line": lambda: line(24),
    "one row": lambda: torch.randn(2, 1, 1, 2000).round(),
    "one column": lambda: torch.zeros(1, 1, 2000, 1),
}


@pytest.mark.parametrize("name", MANY_BLOCKS)
def test_pixels_by_many_blocks(cuda, name):
    """Several rounds before a block takes an image, and chains of any length in them."""
    image = MANY_BLOCKS[name]()
    check_against_native(cuda, "merge_pixels", image, None, "ward_length", 0.0, 0)
    check_against_native(cuda, "merge_pixels", image[..., :40, :44].double(), None, "feature", 0.3, 0)


@pytest.mark.parametrize("depth", [0, 1, 2, 4])
def test_two_sizes_by_many_blocks(cuda, depth):
    image, mask = torch.randn(3, 2, 50, 70), torch.zeros(3, 50, 70, dtype=torch.bool)
    mask[0], mask[1, :20, :30] = True, True  # one image has far fewer pixels, one none at all
    image[0, 0, 7, 9] = float("nan")
    tree = check_against_native(cuda, "merge_pixels", image, mask, "ward_length", 0.0, depth)
    assert (tree[1][2] == -1).all()


@pytest.mark.parametrize("leaves", [40, 400, 900, 1300, 1700])
def test_searches_of_trees_with_wide_levels(cuda, leaves):
    """All inner nodes but one lie side by side: from 32 strengths at a time down to what fits the workspace."""
    nodes = 2 * leaves - 1
    parent = torch.full((1, nodes), nodes - 1, dtype=torch.int32)
    parent[0, :leaves] = torch.arange(leaves, nodes + 1).clamp(max=nodes - 1)
    parent[0, -1] = -1
    likelihood = torch.rand(1, nodes, dtype=torch.float64)
    likelihood[0, leaves:] += 0.7
    tree = likelihood, torch.rand(1, nodes, dtype=torch.float64), parent, (parent != nodes - 1).int()
    for strength, max_tokens in ((0.0, 1), (0.5, leaves - 2)):
        check_against_native(cuda, "tree_cut", *tree, "optimal", strength, max_tokens, 1, 0.0, 1.0)


@pytest.mark.parametrize("name", ["tree_cut", "scale_set", "scale_cut", "merge_tree"])
def test_blocks_take_their_own_images(cuda, name):
    if name == "scale_set":
        check_against_native(cuda, name, *random_forest(37, 9, torch.float32))
    elif name == "scale_cut":
        _, _, parent, rounds = forest = random_forest(37, 9, torch.float32)
        budgets = torch.arange(9, dtype=torch.int32)
        check_against_native(cuda, name, ops.scale_set(*forest)[0], parent, rounds, torch.zeros(9), budgets, 9)
    elif name == "tree_cut":
        check_against_native(cuda, name, *random_forest(37, 9, torch.float32), "optimal", 0.1, 3, 1, 0.0, 1.0)
    else:
        check_against_native(cuda, name, *pixel_graph(torch.rand(37, 3, 2, 5)), "ward", 0.0, 0)
