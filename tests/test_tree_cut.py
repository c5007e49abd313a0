import itertools
import math

import numpy as np
import pytest
import torch
from grid import blocks
from samples_tree import SAMPLES, pixel_graph, random_forest
from scipy import ndimage
from torch._dynamo.testing import CompileCounter

import dhvt_kernels
from dhvt_kernels._schema import ops
from dhvt_kernels.ops.information_criterion import CRITERIA, criterion_terms
from dhvt_kernels.ops.merge_tree import merge_tree
from dhvt_kernels.ops.region_graph import region_graph
from dhvt_kernels.ops.segment_moments import Moments, segment_moments
from dhvt_kernels.ops.tree_cut import TreeCut, tree_cut

LARGEST = torch.finfo(torch.float32).max


def ints(*rows):
    return torch.tensor(rows, dtype=torch.int32)


def children_of(parent, rounds):
    children = {v: [] for v, r in enumerate(rounds) if r >= 0}
    for v in children:
        if parent[v] >= 0:
            children[parent[v]].append(v)
    return children


def all_cuts(parent, rounds):
    """Every cut of a forest, as sorted tuples of nodes."""
    children = children_of(parent, rounds)

    def cuts(v):
        split = [sum(parts, ()) for parts in itertools.product(*(cuts(c) for c in children[v]))] if children[v] else []
        return [(v,), *split]

    roots = [v for v in children if parent[v] < 0]
    return [tuple(sorted(sum(parts, ()))) for parts in itertools.product(*(cuts(v) for v in roots))]


def dyadic_forest(leaves, roots=0.3):
    """Costs that are multiples of 1/4, so that every sum in float64 is exact and ties happen. Subadditive penalties."""
    likelihood, penalty, parent, rounds = random_forest(1, leaves, torch.float64, roots)
    likelihood = (likelihood * 4).round() / 4
    penalty = penalty * torch.randint(1, 4, (1, 1))
    return likelihood, penalty, parent, rounds


def cut_nodes(cut: TreeCut, b: int = 0):
    return tuple(sorted(cut.node[b, : int(cut.counts[b])].tolist()))


def float_below(x):
    return float(np.nextafter(np.float32(x), np.float32(-np.inf)))


def real_tree(size=(1, 3, 24, 32), cell=4, smooth=2, spread=120.0):
    """A merge tree of cells of random pictures, and the label map of its leaves."""
    image = torch.nn.functional.avg_pool2d(torch.randn(size, dtype=torch.float64), 2 * smooth + 1, 1, smooth) * spread
    labels = blocks(size[0], size[2], size[3], cell)
    leaves = int(labels.max()) + 1
    moments = segment_moments(image, labels, num_segments=leaves)
    graph = region_graph(labels, num_segments=leaves)
    num_pixels = torch.full((size[0],), size[2] * size[3], dtype=torch.int32)
    return merge_tree(moments, graph.edges, graph.lengths), labels, num_pixels


@pytest.mark.parametrize("seed", range(12))
def test_optimal_is_the_best_of_all_cuts(backend, seed):
    torch.manual_seed(seed)
    likelihood, penalty, parent, rounds = random_forest(1, 1 + seed % 8, torch.float64, roots=0.6)
    penalty = penalty * torch.rand_like(penalty)
    cuts = all_cuts(parent[0].tolist(), rounds[0].tolist())
    for strength in (0.0, 0.25, 1.0, 3.0, 50.0):
        cost = (likelihood + strength * penalty)[0].tolist()
        best = min(cuts, key=lambda nodes: sum(cost[v] for v in nodes))
        cut = tree_cut(likelihood, penalty, parent, rounds, strength=strength)
        assert cut_nodes(cut) == best
        assert cut.strength.tolist() == [strength]


@pytest.mark.parametrize("seed", range(16))
def test_every_budget_takes_the_least_strength(backend, seed):
    torch.manual_seed(seed)
    leaves = 2 + seed % 7
    likelihood, penalty, parent, rounds = dyadic_forest(leaves)
    children = children_of(parent[0].tolist(), rounds[0].tolist())
    cuts = all_cuts(parent[0].tolist(), rounds[0].tolist())
    roots = [v for v in children if parent[0, v] < 0]

    def best(strength):
        """The optimal cut; of equal ones the coarsest."""
        cost = (likelihood + strength * penalty)[0].tolist()
        return min(cuts, key=lambda nodes: (sum(cost[v] for v in nodes), len(nodes)))

    for strength in (0.0, 0.5, 1.0):
        for budget in range(1, leaves + 1):
            cut = tree_cut(likelihood, penalty, parent, rounds, strength=strength, max_tokens=budget)
            used = cut.strength.item()
            if len(roots) > budget:
                assert cut_nodes(cut) == tuple(roots)
                assert used == pytest.approx(LARGEST)
                continue
            assert cut.counts.item() <= budget
            assert cut_nodes(cut) == best(used)
            assert used >= strength
            if used > strength:
                assert len(best(float_below(used))) > budget


@pytest.mark.parametrize("criterion", CRITERIA)
def test_all_cuts_of_real_trees(criterion):
    """Eight leaves of random pictures, with every criterion, strength and budget."""
    for _ in range(3):
        tree, _, num_pixels = real_tree((1, 2, 8, 16))
        parent, rounds = tree.parent[0].tolist(), tree.round[0].tolist()
        cuts = all_cuts(parent, rounds)
        likelihood, penalty = criterion_terms(tree.moments, criterion=criterion, num_pixels=num_pixels)
        sizes = set()
        for strength in (0.0, 1.0, 4.0, 20.0):
            cost = (likelihood + strength * penalty)[0].tolist()
            least = min(sum(cost[v] for v in nodes) for nodes in cuts)
            for budget in (None, *range(1, 9)):
                cut = tree_cut(likelihood, penalty, tree.parent, tree.round, strength=strength, max_tokens=budget)
                used, nodes = cut.strength.item(), cut_nodes(cut)
                assert nodes in cuts
                cost_used = (likelihood + used * penalty)[0].tolist()
                least_used = min(sum(cost_used[v] for v in other) for other in cuts)
                assert sum(cost_used[v] for v in nodes) == pytest.approx(least_used, rel=1e-12)
                sizes.add(len(nodes))
                if budget is None:
                    assert sum(cost[v] for v in nodes) == pytest.approx(least, rel=1e-12)
                elif used > strength:
                    lower = tree_cut(likelihood, penalty, tree.parent, tree.round, strength=float_below(used))
                    assert len(nodes) <= budget < lower.counts.item()
        assert len(sizes) > 3


@pytest.mark.parametrize("criterion", CRITERIA)
def test_cuts_at_rising_budgets_are_nested_and_connected(criterion):
    tree, labels, num_pixels = real_tree((2, 3, 40, 48))
    likelihood, penalty = criterion_terms(tree.moments, criterion=criterion, num_pixels=num_pixels)
    for b in range(2):
        finer, counts = None, []
        for budget in (100, 64, 33, 20, 9, 4, 1):
            cut = tree_cut(likelihood, penalty, tree.parent, tree.round, strength=0.0, max_tokens=budget)
            assert cut.counts[b] <= budget
            counts.append(cut.counts[b].item())
            if finer is not None:
                pairs = set(zip(finer, cut.segment[b].tolist(), strict=True))
                assert len(pairs) == len(set(finer))  # no finer segment lies in two coarser ones
            finer = cut.segment[b].tolist()
            pixels = cut.segment[b][labels[b].long()]
            for k in range(int(cut.counts[b])):
                assert ndimage.label((pixels == k).numpy())[1] == 1
        assert counts[0] > 50
        assert counts[-1] == 1


@pytest.mark.parametrize("select", ["optimal", "greedy"])
def test_segments_of_pixel_trees_are_connected(select):
    image = (torch.rand(1, 1, 12, 12) * 4).floor() * 60
    *moments, edges, lengths = pixel_graph(image)
    tree = merge_tree(Moments(*moments), edges, lengths)
    likelihood, penalty = criterion_terms(tree.moments, num_pixels=torch.tensor([144], dtype=torch.int32))
    for budget in (144, 50, 20, 5):
        cut = tree_cut(
            likelihood, penalty, tree.parent, tree.round, select=select, strength=0.01, max_tokens=budget, lookahead=2
        )
        pixels = cut.segment[0].reshape(12, 12).numpy()
        assert sorted(set(pixels.flatten().tolist())) == list(range(int(cut.counts)))
        assert all(ndimage.label(pixels == k)[1] == 1 for k in range(int(cut.counts)))


def test_segments_are_numbered_by_their_lowest_leaf(backend):
    likelihood, penalty, parent, rounds = random_forest(5, 30, torch.float32, roots=2.0)
    cut = tree_cut(likelihood, penalty, parent, rounds, strength=0.7)
    for b in range(5):
        segment, count = cut.segment[b].tolist(), int(cut.counts[b])
        seen = list(dict.fromkeys(k for k in segment if k >= 0))
        assert seen == list(range(count))
        assert [k < 0 for k in segment] == (rounds[b, :30] < 0).tolist()
        assert (cut.node[b, :count] >= 0).all()
        assert (cut.node[b, count:] == -1).all()
        for leaf, k in enumerate(segment):
            above = leaf
            while k >= 0 and above != cut.node[b, k]:
                above = int(parent[b, above])
                assert above >= 0


def test_ties_keep_the_parent(backend):
    cut = tree_cut(torch.tensor([[1.0, 1.0, 2.0]]), torch.zeros(1, 3), ints([2, 2, -1]), ints([0, 0, 1]))
    assert cut.node.tolist() == [[2, -1]]
    assert cut.segment.tolist() == [[0, 0]]


def test_many_children(backend):
    likelihood = torch.tensor([[1.0, 1.0, 1.0, 1.0, 3.5, 0.0, 0.0]])
    parent, rounds = ints([4, 4, 4, 4, -1, -1, -1]), ints([0, 0, 0, 0, 1, -1, -1])
    assert tree_cut(likelihood, torch.ones(1, 7), parent, rounds, strength=0.0).counts.tolist() == [1]
    likelihood[0, 4] = 4.5
    assert tree_cut(likelihood, torch.ones(1, 7), parent, rounds, strength=0.0).counts.tolist() == [4]
    cut = tree_cut(likelihood, torch.ones(1, 7), parent, rounds, strength=0.0, max_tokens=3)
    assert cut.counts.tolist() == [1]
    # 4.5 + s <= 4 + 4 s at the first float32 not below 1/6
    assert 0 <= cut.strength.item() - 1 / 6 < 2e-8


def test_greedy_stops_where_one_generation_gains_nothing(backend):
    # Splitting the root gains nothing by itself; two generations down it gains 6.
    likelihood = torch.tensor([[1.0, 1.0, 1.0, 1.0, 5.0, 5.0, 10.0]])
    parent, rounds = ints([4, 4, 5, 5, 6, 6, -1]), ints([0, 0, 0, 0, 1, 1, 2])

    def count(**options):
        return tree_cut(likelihood, torch.zeros(1, 7), parent, rounds, select="greedy", **options).counts.item()

    assert [count(lookahead=n) for n in (1, 2, 9)] == [1, 4, 4]
    assert count(lookahead=2, min_gain=5.9) == 2  # then 5 - 2 is not above it
    assert count(lookahead=2, min_gain=6.0) == 1
    assert count(lookahead=1, min_gain=-0.5) == 4


@pytest.mark.parametrize("max_tokens", [None, 1, 4, 9])
def test_greedy_that_sees_the_leaves_is_optimal(backend, max_tokens):
    forest = random_forest(8, 14, torch.float64, roots=0.3)
    optimal = tree_cut(*forest, strength=0.5, max_tokens=max_tokens)
    greedy = tree_cut(*forest, strength=0.5, max_tokens=max_tokens, select="greedy", lookahead=1000)
    for a, b in zip(optimal, greedy, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("lookahead", [1, 2])
def test_greedy_holds_budgets(backend, lookahead):
    likelihood, penalty, parent, rounds = random_forest(8, 20, torch.float64, roots=0.0)
    for budget in (1, 3, 7, 12):
        options = {"select": "greedy", "lookahead": lookahead, "min_gain": 0.05}
        cut = tree_cut(likelihood, penalty, parent, rounds, strength=0.01, max_tokens=budget, **options)
        assert (cut.counts <= budget).all()
        for b in range(8):
            one = (t[b : b + 1] for t in (likelihood, penalty, parent, rounds))
            again = tree_cut(*one, strength=cut.strength[b].item(), **options)
            assert torch.equal(again.segment[0], cut.segment[b])


def test_strength_is_rounded_to_float32_and_reproduces_the_cut():
    forest = random_forest(4, 30, torch.float32)
    cut = tree_cut(*forest, strength=0.1, max_tokens=6)
    plain = tree_cut(*forest, strength=0.1)
    assert (plain.strength == torch.tensor(0.1)).all()
    for b in range(4):
        again = tree_cut(*forest, strength=cut.strength[b].item())
        assert torch.equal(again.segment[b], cut.segment[b])
        assert torch.equal(again.probability[b], cut.probability[b])


def test_probability_follows_its_definition(backend):
    likelihood, penalty, parent, rounds = random_forest(1, 9, torch.float64, roots=0.5)
    strength, temperature = 0.5, 0.7
    cut = tree_cut(likelihood, penalty, parent, rounds, strength=strength, selection_temperature=temperature)
    cost = (likelihood + strength * penalty)[0].tolist()
    children = children_of(parent[0].tolist(), rounds[0].tolist())

    def best(v):
        return min(cost[v], sum(best(c) for c in children[v])) if children[v] else cost[v]

    def whole(v):
        gap = sum(best(c) for c in children[v]) - cost[v]
        return 1 / (1 + math.exp(-gap / temperature)) if children[v] else 1.0

    expected = [0.0] * 17
    for v in children:
        expected[v], above = whole(v), int(parent[0, v])
        while above >= 0:
            expected[v] *= 1 - whole(above)
            above = int(parent[0, above])
    torch.testing.assert_close(cut.probability[0], torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(cut.expected_tokens, cut.probability.sum(1))


def test_cold_relaxed_cut_is_the_cut(backend):
    forest = random_forest(3, 20, torch.float32)
    cut = tree_cut(*forest, strength=0.8, selection_temperature=1e-6)
    torch.testing.assert_close(cut.expected_tokens, cut.counts.float())
    hard = torch.zeros_like(cut.probability)
    for b in range(3):
        hard[b, cut.node[b, : int(cut.counts[b])].long()] = 1
    torch.testing.assert_close(cut.probability, hard)


@pytest.mark.parametrize("max_tokens", [None, 4])
def test_gradcheck(backend, max_tokens):
    likelihood, penalty, parent, rounds = random_forest(2, 7, torch.float64, roots=0.3)
    likelihood = torch.where(rounds >= 0, likelihood, 0)  # gradcheck shifts every input
    penalty = penalty * (1 + 0.1 * torch.rand_like(penalty))
    used = tree_cut(likelihood, penalty, parent, rounds, strength=0.5, max_tokens=max_tokens).strength

    def function(likelihood, penalty):
        cuts = [
            tree_cut(
                likelihood[b : b + 1],
                penalty[b : b + 1],
                parent[b : b + 1],
                rounds[b : b + 1],
                # Just above the strength that the budget chose: there two cuts cost the same, and best(v) has a kink.
                strength=used[b].item() * 1.001,
                selection_temperature=0.8,
            )
            for b in range(2)
        ]
        return torch.cat([c.probability for c in cuts]), torch.cat([c.expected_tokens for c in cuts])

    # Element by element it is 200 cuts, half a minute in the interpreter, whose gradients are compared with the
    # reference's, too; there, along random directions.
    fast = backend == "triton-interpreted"
    assert torch.autograd.gradcheck(function, (likelihood.requires_grad_(), penalty.requires_grad_()), fast_mode=fast)


def test_no_double_backward():
    likelihood, *rest = random_forest(1, 6, torch.float64)
    likelihood.requires_grad_()
    out = tree_cut(likelihood, *rest).expected_tokens.square().sum()
    (grad,) = torch.autograd.grad(out, likelihood, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_nan_stays_in_its_segment_unless_a_budget_forces_it(backend, bad):
    features = torch.rand(1, 2, 16, 16) * 10
    features[:, :, 8:] += 200
    features[0, 1, 2, 5] = bad
    labels = blocks(1, 16, 16, 4)
    moments = segment_moments(features, labels, num_segments=16)
    graph = region_graph(labels, num_segments=16)
    tree = merge_tree(moments, graph.edges, graph.lengths)
    likelihood, penalty = criterion_terms(tree.moments, num_pixels=torch.tensor([256], dtype=torch.int32))
    likelihood.requires_grad_()
    cut = tree_cut(likelihood, penalty, tree.parent, tree.round)
    segment = cut.segment[0].tolist()
    assert segment.count(segment[1]) == 1  # leaf 1 holds it
    assert len(set(segment[8:])) == 1  # the calm lower half is still one segment
    assert cut.counts.item() < 16
    assert cut.probability.isfinite().all()
    (grad,) = torch.autograd.grad(cut.expected_tokens.sum(), likelihood)
    assert grad.isfinite().all()
    for budget in range(1, 17):
        forced = tree_cut(likelihood, penalty, tree.parent, tree.round, max_tokens=budget)
        assert forced.counts.item() <= budget
        assert forced.probability.isfinite().all()


def test_everything_nan(backend):
    _, penalty, parent, rounds = random_forest(2, 12, torch.float32, roots=0.0)
    likelihood = torch.full_like(penalty, float("nan"))
    assert torch.equal(tree_cut(likelihood, penalty, parent, rounds).counts, (rounds == 0).sum(1).int())
    assert tree_cut(likelihood, penalty, parent, rounds, max_tokens=1).counts.tolist() == [1, 1]


def test_hostile_parents_make_a_forest(backend):
    """Any numbers give a partition of the used leaves; the kernels agree with the reference in test_operators."""
    for arguments in SAMPLES["tree_cut"](torch.float32):
        segment, node, counts, _, probability = ops.tree_cut(*arguments)
        rounds = arguments[3]
        leaves = segment.shape[1]
        assert torch.equal(segment >= 0, rounds[:, :leaves] >= 0)
        assert torch.equal((node >= 0).sum(1), counts)
        assert torch.equal(segment.amax(1) + 1 if leaves else counts, counts)
        assert ((probability >= 0) & (probability <= 1 + 1e-6)).all()
        assert not probability[rounds < 0].any()


def test_parents_that_are_none(backend):
    # Leaf 0 names a leaf, leaf 1 a number out of range, leaf 2 node 4 and node 4 itself: only 2 has a parent.
    parent, rounds = ints([1, 99, 4, -8, 4]), ints([0, 0, 0, -1, 1])
    likelihood = torch.tensor([[1.0, 1.0, 1.0, 1.0, 0.5]])
    cut = tree_cut(likelihood, torch.ones(1, 5), parent, rounds, max_tokens=1)
    assert cut.node.tolist() == [[0, 1, 4]]
    assert cut.strength.item() == LARGEST
    # Node 4 without children is not used.
    cut = tree_cut(likelihood, torch.ones(1, 5), ints([-1] * 5), rounds)
    assert cut.node.tolist() == [[0, 1, 2]]
    assert cut.expected_tokens.tolist() == [3.0]


@pytest.mark.parametrize("name", ["tree_cut", "tree_cut_backward"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_agrees_with_the_reference(backend, name, dtype):
    for arguments in SAMPLES[name](dtype):
        laid_out = [
            a.repeat_interleave(2, dim=1)[:, ::2] if isinstance(a, torch.Tensor) and a.dim() == 2 else a
            for a in arguments
        ]
        actual = getattr(ops, name)(*laid_out)
        with dhvt_kernels.backend("reference"):
            reference = getattr(ops, name)(*arguments)
        for a, b in zip(actual, reference, strict=True):
            tolerance = 1e-12 if dtype == torch.float64 else 1e-6
            if name == "tree_cut" and not (a.dim() == 2 and a.is_floating_point()):
                tolerance = 0.0
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_compile_without_recompiling():
    counter = CompileCounter()
    for backend_name in (counter, "aot_eager"):
        compiled = torch.compile(tree_cut, fullgraph=True, backend=backend_name)
        for _ in range(3):
            likelihood, *rest = random_forest(2, 10, torch.float32)
            likelihood.requires_grad_()
            actual, expected = compiled(likelihood, *rest, max_tokens=5), tree_cut(likelihood, *rest, max_tokens=5)
            for a, e in zip(actual, expected, strict=True):
                assert torch.equal(a, e)
            grads = [torch.autograd.grad(c.expected_tokens.sum(), likelihood)[0] for c in (actual, expected)]
            assert torch.equal(*grads)
    assert counter.frame_count == 1


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"likelihood": [1.0]}, TypeError, "likelihood: expected a tensor"),
        ({"likelihood": torch.zeros(1, 5).half()}, TypeError, r"likelihood: expected \[B,V\] of float32, float64"),
        ({"penalty": torch.zeros(1, 5).double()}, TypeError, r"penalty: expected \[B,V\] of float32"),
        ({"parent": torch.zeros(1, 4).int()}, ValueError, r"parent: expected \[B,V\] = \[1,5\]"),
        ({"round": torch.zeros(1, 5)}, TypeError, r"round: expected \[B,V\] of int32"),
        ({"select": "random"}, ValueError, "select: expected one of optimal, greedy; found 'random'"),
        ({"strength": -1.0}, ValueError, "strength: expected a finite number >= 0"),
        ({"strength": 1e39}, ValueError, "strength: expected a float32 number"),
        ({"max_tokens": 0}, ValueError, "max_tokens: expected an integer >= 1"),
        ({"lookahead": 0}, ValueError, "lookahead: expected an integer >= 1"),
        ({"min_gain": math.nan}, ValueError, "min_gain: expected a finite number"),
        ({"selection_temperature": 0.0}, ValueError, "selection_temperature: expected a finite number > 0"),
    ],
)
def test_bad_input(change, error, match):
    arguments = {"likelihood": torch.zeros(1, 5), "penalty": torch.zeros(1, 5)}
    arguments |= {"parent": torch.full((1, 5), -1).int(), "round": torch.zeros(1, 5).int()}
    with pytest.raises(error, match=match):
        tree_cut(**{**arguments, **change})


def test_an_even_number_of_nodes_is_no_tree():
    even = torch.zeros(1, 4)
    with pytest.raises(ValueError, match=r"V = 2 L - 1; found V = 4"):
        tree_cut(even, even, even.int(), even.int())
