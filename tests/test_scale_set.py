import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples_tree import SAMPLES, pixel_graph, random_forest
from test_tree_cut import all_cuts, children_of, dyadic_forest, ints, real_tree

import dhvt_kernels
from dhvt_kernels._schema import ops
from dhvt_kernels.ops.information_criterion import CRITERIA, criterion_terms
from dhvt_kernels.ops.merge_tree import merge_tree
from dhvt_kernels.ops.scale_set import scale_set
from dhvt_kernels.ops.segment_moments import Moments
from dhvt_kernels.reference import tree_cut as reference_cut


def nodes_at(scales, strength, b=0):
    chosen = (scales.lower[b] <= strength) & (strength < scales.upper[b])
    return tuple(chosen.nonzero()[:, 0].tolist())


def cut_at(forest, strength, b=0):
    """By the dynamic program in plain PyTorch, whatever backend runs."""
    _, node, counts, *_ = reference_cut(*(t[b : b + 1] for t in forest), "optimal", strength, 0, 1, 0.0, 1.0)
    return tuple(sorted(node[0, : int(counts)].tolist()))


def costs(forest, strength, b=0):
    likelihood, penalty = (t[b].double() for t in forest[:2])
    return (likelihood + strength * penalty).tolist()


def breakpoints(scales, b=0):
    """The strengths between which the cut is one: all ends of ranges, in order."""
    ends = scales.lower[b][scales.lower[b] < scales.upper[b]]
    return sorted({value for value in ends.tolist() if value < math.inf})


def middles(ends):
    """Strengths well inside the ranges."""
    return [(a + b) / 2 for a, b in itertools.pairwise(ends) if b > a * 1.001] + [ends[-1] * 1.5 + 1]


@pytest.mark.parametrize("seed", range(12))
def test_brute_force(backend, seed):
    """Exact costs: at every end of a range, just before it, and between."""
    torch.manual_seed(seed)
    forest = dyadic_forest(1 + seed % 8, roots=0.6)
    parent, rounds = forest[2][0].tolist(), forest[3][0].tolist()
    cuts = all_cuts(parent, rounds)
    scales = scale_set(*forest)
    ends = breakpoints(scales)
    before = [float(np.nextafter(np.float32(e), np.float32(0))) for e in ends if e > 0]
    for strength in {0.0, 1e30, *ends, *before, *middles(ends)}:
        cost = costs(forest, strength)
        best = min(cuts, key=lambda nodes: (sum(cost[v] for v in nodes), len(nodes)))
        assert nodes_at(scales, strength) == best, strength


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_dynamic_program_at_many_strengths(backend, dtype):
    forest = random_forest(4, 60, dtype, roots=0.3)
    scales = scale_set(*forest)
    for b in range(4):
        ends = breakpoints(scales, b)
        for strength in middles(ends):
            assert nodes_at(scales, strength, b) == cut_at(forest, strength, b)
        for strength in ends:  # either cut is right there
            cost = costs(forest, strength, b)
            least = sum(cost[v] for v in cut_at(forest, strength, b))
            found = sum(cost[v] for v in nodes_at(scales, strength, b))
            assert found == pytest.approx(least, rel=1e-9)


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("leaves", ["cells", "pixels"])
def test_real_trees_of_every_criterion(criterion, leaves):
    if leaves == "cells":
        tree, _, num_pixels = real_tree((2, 3, 40, 48))
    else:
        image = torch.nn.functional.avg_pool2d(torch.randn(2, 3, 20, 24) * 90, 3, 1, 1)
        *moments, edges, lengths = pixel_graph(image)
        tree, num_pixels = merge_tree(Moments(*moments), edges, lengths), torch.full((2,), 480, dtype=torch.int32)
    terms = criterion_terms(tree.moments, criterion=criterion, num_pixels=num_pixels)
    forest = (*terms, tree.parent, tree.round)
    scales = scale_set(*forest)
    for b in range(2):
        ends = breakpoints(scales, b)
        assert len(ends) > 10
        chosen = middles(ends)[:: max(1, len(ends) // 30)]
        for strength in (0.0, 1.0, *chosen):
            cost = costs(forest, np.float32(strength).item(), b)
            least = sum(cost[v] for v in cut_at(forest, strength, b))
            nodes = nodes_at(scales, np.float32(strength).item(), b)
            assert sum(cost[v] for v in nodes) == pytest.approx(least, rel=1e-9, abs=1e-6)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_numbers_of_a_forest(data):
    """The cuts of the ranges cost what the dynamic program's do, with any likelihoods and any number of children."""
    leaves = data.draw(st.integers(1, 12))
    nodes = 2 * leaves - 1
    number = st.floats(-100, 100, width=32) | st.sampled_from([0.0, 1.0, math.nan, math.inf])
    likelihood = torch.tensor([data.draw(st.lists(number, min_size=nodes, max_size=nodes))])
    parent = [data.draw(st.integers(max(v + 1, leaves), nodes) | st.just(-1)) for v in range(nodes)]
    parent = ints([p if p < nodes else -1 for p in parent])
    rounds = ints([0] * leaves + [1] * (nodes - leaves))
    for v in range(leaves, nodes):  # what is not finite is not above, either
        if not likelihood[0, v].isfinite() and parent[0, v] >= 0:
            likelihood[0, parent[0, v]] = math.nan
    penalty = torch.full((1, nodes), data.draw(st.sampled_from([0.0, 1.0, 3.5])))
    forest = likelihood, penalty, parent, rounds
    scales = scale_set(*forest)
    ends = breakpoints(scales) or [0.0]
    finite = torch.zeros(nodes, dtype=torch.float64)  # as the operators repair it
    children = children_of(parent[0].tolist(), rounds[0].tolist())
    for v in range(nodes):
        below = sum(finite[c].item() for c in children[v])
        given = likelihood[0, v].item()
        finite[v] = given if math.isfinite(given) else 0.0 if v < leaves else below + 1e15
    for strength in (0.0, *ends, *middles(ends)):
        found = nodes_at(scales, strength)
        under = set()
        for v in found:
            stack = [v]
            while stack:
                stack.extend(children[u := stack.pop()])
                assert u not in under
                under.add(u)
        assert under >= set(range(leaves))
        if strength < 1e10:
            cost = (finite + strength * penalty[0]).tolist()
            assert sum(cost[v] for v in found) == pytest.approx(
                sum(cost[v] for v in cut_at(forest, strength)), abs=1e-3, rel=1e-6
            )


def test_a_chain(backend):
    leaves = 300
    nodes = 2 * leaves - 1
    parent = ints([leaves, *range(leaves, nodes), *range(leaves + 1, nodes), -1])
    likelihood = torch.cat([torch.rand(leaves), 3.0 * torch.rand(leaves - 1).cumsum(0)]).double()[None]
    forest = likelihood, torch.ones(1, nodes).double(), parent, ints([0] * leaves + [1] * (leaves - 1))
    scales = scale_set(*forest)
    for strength in middles(breakpoints(scales)):
        assert nodes_at(scales, strength) == cut_at(forest, strength)


def test_ranges_are_consistent(backend):
    """`upper` is `lower` of the parent, and at any strength each leaf is below one node."""
    forest = random_forest(5, 40, torch.float32, roots=1.0)
    parent, rounds = forest[2:]
    lower, upper = scale_set(*forest)
    above = torch.where(parent >= 0, lower.gather(1, parent.clamp(min=0).long()), math.inf)
    assert torch.equal(upper, above)
    assert (lower <= upper).all()
    assert (lower[:, :40][rounds[:, :40] >= 0] == 0).all()
    assert lower[rounds < 0].isinf().all()


def test_ties_take_the_coarser_cut(backend):
    scales = scale_set(torch.tensor([[1.0, 1.0, 2.0]]), torch.zeros(1, 3), ints([2, 2, -1]), ints([0, 0, 1]))
    assert nodes_at(scales, 0.0) == (2,)
    assert scales.lower.tolist() == [[0, 0, 0]]


def test_the_scale_is_rounded_up(backend):
    # 1 + s = 2/3 + 2 s at s = 1/3, which no float32 is.
    likelihood = torch.tensor([[1 / 3, 1 / 3, 1.0]], dtype=torch.float64)
    lower, _ = scale_set(likelihood, torch.ones(1, 3).double(), ints([2, 2, -1]), ints([0, 0, 1]))
    assert 0 <= lower[0, 2].item() - 1 / 3 < 3e-8


def test_penalties_that_are_not_subadditive(backend):
    """Documented: in the cut from 0, or never, and consistent all the same."""
    penalty = torch.tensor([[1.0, 1.0, 3.0]])
    for root, expected in ((1.0, 0.0), (2.5, math.inf)):
        scales = scale_set(torch.tensor([[1.0, 1.0, root]]), penalty, ints([2, 2, -1]), ints([0, 0, 1]))
        assert scales.lower[0, 2] == expected
        assert nodes_at(scales, 1e30) == ((2,) if expected == 0 else (0, 1))
    forest = random_forest(4, 30, torch.float64, roots=0.3)
    forest = (forest[0], forest[1] * torch.rand_like(forest[1]) * 3, *forest[2:])
    scales = scale_set(*forest)
    for b in range(4):
        leaves = int((forest[3][b, :30] >= 0).sum())
        counts = [len(nodes_at(scales, s, b)) for s in (0.0, *middles(breakpoints(scales, b)))]
        assert sorted(counts, reverse=True) == counts
        assert counts[0] <= leaves


def test_nan_enters_only_at_great_strength(backend):
    likelihood, penalty, parent, rounds = random_forest(3, 20, torch.float32, roots=0.0)
    likelihood[:, 25] = math.nan
    likelihood[:, 3] = -math.inf
    scales = scale_set(likelihood, penalty, parent, rounds)
    assert (scales.lower[:, 25] >= scales.upper[:, 25].clamp(max=1e14)).all()
    for b in range(3):
        for strength in (0.1, 0.7, 3.0, 1e20):
            assert nodes_at(scales, strength, b) == cut_at((likelihood, penalty, parent, rounds), strength, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_agrees_with_the_reference_bit_for_bit(backend, dtype):
    for arguments in SAMPLES["scale_set"](dtype):
        actual = ops.scale_set(*(a.repeat_interleave(2, dim=1)[:, ::2] for a in arguments))
        with dhvt_kernels.backend("reference"):
            reference = ops.scale_set(*arguments)
        for a, b in zip(actual, reference, strict=True):
            assert torch.equal(a, b)


def test_compiles_without_recompiling():
    compiled = torch.compile(scale_set, fullgraph=True, backend="aot_eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for _ in range(2):
            forest = random_forest(2, 10, torch.float32)
            for a, b in zip(compiled(*forest), scale_set(*forest), strict=True):
                assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"likelihood": [1.0]}, TypeError, "likelihood: expected a tensor"),
        ({"likelihood": torch.zeros(1, 5).half()}, TypeError, r"likelihood: expected \[B,V\] of float32, float64"),
        ({"penalty": torch.zeros(1, 5).double()}, TypeError, r"penalty: expected \[B,V\] of float32"),
        ({"parent": torch.zeros(1, 4).int()}, ValueError, r"parent: expected \[B,V\] = \[1,5\]"),
        ({"round": torch.zeros(1, 5)}, TypeError, r"round: expected \[B,V\] of int32"),
    ],
)
def test_bad_input(change, error, match):
    arguments = {"likelihood": torch.zeros(1, 5), "penalty": torch.zeros(1, 5)}
    arguments |= {"parent": torch.full((1, 5), -1).int(), "round": torch.zeros(1, 5).int()}
    with pytest.raises(error, match=match):
        scale_set(**{**arguments, **change})


def test_an_even_number_of_nodes_is_no_tree():
    even = torch.zeros(1, 4)
    with pytest.raises(ValueError, match=r"V = 2 L - 1; found V = 4"):
        scale_set(even, even, even.int(), even.int())
