import math

import pytest
import torch
from samples_tree import SAMPLES, random_forest

import dhvt_kernels
from dhvt_kernels._schema import ops
from dhvt_kernels.ops.scale_cut import scale_cut
from dhvt_kernels.ops.scale_set import scale_set
from dhvt_kernels.ops.tree_cut import tree_cut

LARGEST = torch.finfo(torch.float32).max


def cuts(forest, strengths, budgets, num_segments):
    lower, _ = scale_set(*forest)
    numbers = {"strength": torch.tensor(strengths), "max_tokens": torch.tensor(budgets, dtype=torch.int32)}
    return scale_cut(lower, *forest[2:], num_segments=num_segments, **numbers)


@pytest.mark.parametrize("roots", [0.0, 2.0])
@pytest.mark.parametrize("least", [0.0, 0.5])
def test_budgets_are_those_of_tree_cut(backend, roots, least):
    forest = random_forest(4, 30, torch.float32, roots)
    budgets = list(range(1, 31))
    many = cuts(forest, [least] * 30, budgets, 30)
    compared = slice(None, None, 5 if backend == "triton-interpreted" else 1)  # a search takes it half a second
    for n, budget in list(enumerate(budgets))[compared]:
        one = tree_cut(*forest, strength=least, max_tokens=budget)
        for name in ("segment", "counts", "node", "strength"):
            assert torch.equal(getattr(many, name)[n], getattr(one, name)), (name, budget)


def test_strengths_are_those_of_tree_cut(backend):
    forest = random_forest(3, 40, torch.float64, roots=0.5)
    strengths = [0.0, 0.05, 0.3, 0.9, 2.1, 1e4, 1e30]
    many = cuts(forest, strengths, [0] * len(strengths), 40)
    for n, strength in enumerate(strengths):
        one = tree_cut(*forest, strength=strength)
        for name in ("segment", "counts", "node", "strength"):
            assert torch.equal(getattr(many, name)[n], getattr(one, name)), (name, strength)


def test_cuts_are_nested_partitions(backend):
    """Even at the very strengths where the cut changes, and just before."""
    forest = random_forest(2, 30, torch.float32, roots=0.3)
    lower, _ = scale_set(*forest)
    ends = lower[lower < math.inf].unique()
    strengths = torch.cat([ends, torch.nextafter(ends, torch.zeros(()))]).sort().values
    none = torch.zeros(len(strengths), dtype=torch.int32)
    many = scale_cut(lower, *forest[2:], strength=strengths, max_tokens=none, num_segments=30)
    assert torch.equal(many.segment >= 0, (forest[3][:, :30] >= 0).expand(len(strengths), -1, -1))
    for b in range(2):
        for finer, coarser in zip(many.segment[:-1, b].tolist(), many.segment[1:, b].tolist(), strict=True):
            assert len(set(zip(finer, coarser, strict=True))) == len(set(finer))


def test_more_roots_than_the_budget(backend):
    forest = random_forest(2, 12, torch.float32, roots=40.0)
    many = cuts(forest, [0.0], [1], 12)
    assert (many.strength == LARGEST).all()
    assert torch.equal(many.counts[0], ((forest[2] < 0) & (forest[3] >= 0)).sum(1).int())


def test_nodes_beyond_the_capacity_are_left_out(backend):
    forest = random_forest(1, 10, torch.float32)
    full, short = (cuts(forest, [0.0], [0], size) for size in (10, 3))
    assert torch.equal(short.node, full.node[..., :3])
    assert torch.equal(short.segment, full.segment)


def test_agrees_with_the_reference_on_any_numbers(backend):
    for arguments in SAMPLES["scale_cut"](torch.float32):
        actual = ops.scale_cut(*arguments)
        with dhvt_kernels.backend("reference"):
            reference = ops.scale_cut(*arguments)
        for a, b in zip(actual, reference, strict=True):
            assert torch.equal(a, b)


def test_compiles_without_recompiling():
    compiled = torch.compile(scale_cut, fullgraph=True, backend="aot_eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for _ in range(2):
            forest = random_forest(2, 10, torch.float32)
            lower, _ = scale_set(*forest)
            numbers = {"strength": torch.rand(4), "max_tokens": torch.arange(4).int(), "num_segments": 6}
            expected = scale_cut(lower, *forest[2:], **numbers)
            for a, b in zip(compiled(lower, *forest[2:], **numbers), expected, strict=True):
                assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"lower": torch.zeros(1, 5).double()}, TypeError, r"lower: expected \[B,V\] of float32"),
        ({"parent": torch.zeros(1, 4).int()}, ValueError, r"parent: expected \[B,V\] = \[1,5\]"),
        ({"strength": torch.zeros(2).double()}, TypeError, r"strength: expected \[N\] of float32"),
        ({"max_tokens": torch.zeros(3).int()}, ValueError, r"max_tokens: expected \[N\] = \[2\]"),
        ({"num_segments": -1}, ValueError, "num_segments: expected an integer >= 0"),
        ({name: torch.zeros(1, 4) for name in ("lower", "parent", "round")}, ValueError, r"V = 2 L - 1; found V = 4"),
    ],
)
def test_bad_input(change, error, match):
    arguments = {"lower": torch.zeros(1, 5), "parent": torch.full((1, 5), -1).int(), "round": torch.zeros(1, 5).int()}
    arguments |= {"strength": torch.zeros(2), "max_tokens": torch.zeros(2).int(), "num_segments": 3}
    if "round" in change:
        change = {name: value.int() if name != "lower" else value for name, value in change.items()}
    with pytest.raises(error, match=match):
        scale_cut(**{**arguments, **change})
