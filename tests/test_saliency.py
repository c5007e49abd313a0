import math

import pytest
import torch
from grid import blocks
from samples_tree import SAMPLES, random_forest
from test_tree_cut import ints, real_tree

import dhvt_kernels
from dhvt_kernels._schema import ops
from dhvt_kernels.ops.information_criterion import criterion_terms
from dhvt_kernels.ops.relabel import relabel
from dhvt_kernels.ops.saliency import saliency
from dhvt_kernels.ops.scale_cut import scale_cut
from dhvt_kernels.ops.scale_set import scale_set

LARGEST = torch.finfo(torch.float32).max


def boundaries(labels):
    out = torch.zeros_like(labels, dtype=torch.bool)
    out[:, :, :-1] |= labels[:, :, :-1] != labels[:, :, 1:]
    out[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    return out


def test_the_pixels_above_a_strength_are_the_boundaries_of_its_cut(backend):
    tree, labels, num_pixels = real_tree((2, 3, 24, 32))
    lower, _ = scale_set(*criterion_terms(tree.moments, num_pixels=num_pixels), tree.parent, tree.round)
    out = saliency(labels, lower, tree.parent, tree.round)
    strengths = torch.cat([lower[lower < math.inf].unique()[::3], torch.tensor([0.0, 1.0])])
    none = torch.zeros(len(strengths), dtype=torch.int32)
    cuts = scale_cut(lower, tree.parent, tree.round, strength=strengths, max_tokens=none, num_segments=1)
    for strength, segments in zip(strengths.tolist(), cuts.segment, strict=True):
        assert torch.equal(out > strength, boundaries(relabel(labels, segments)))


def test_pairs_that_never_meet_and_pixels_without_a_leaf(backend):
    labels = ints([0, 0, 1, -1, 2, 3, 99, 2])[None]
    lower = torch.tensor([[0.0, 0.0, 0.0, 0.0, 0.5, math.inf, math.inf]])
    parent, rounds = ints([4, 4, -1, -1, -1, -1, -1]), ints([0, 0, 0, 0, 1, -1, -1])
    out = saliency(labels, lower, parent, rounds)
    assert out.tolist() == [[[0, 0.5, 0, 0, LARGEST, 0, 0, 0]]]


def test_the_greater_of_right_and_below(backend):
    labels = ints([0, 1], [2, 0])[None]
    lower = torch.tensor([[0.0, 0.0, 0.0, 0.5, 2.0]])
    out = saliency(labels, lower, ints([3, 3, 4, 4, -1]), ints([0, 0, 0, 1, 2]))
    assert out.tolist() == [[[2.0, 0.5], [2.0, 0.0]]]


def test_a_chain_that_joins_nothing_is_skipped():
    """A constant picture's tree may be a chain as long as it has pixels."""
    leaves = 20000
    parent = ints([leaves, *range(leaves, 2 * leaves - 1), *range(leaves + 1, 2 * leaves - 1), -1])
    rounds = ints([0] * leaves + [1] * (leaves - 1))
    lower = torch.zeros(1, 2 * leaves - 1)
    labels = torch.arange(leaves, dtype=torch.int32).reshape(1, 100, 200)
    assert not saliency(labels, lower, parent, rounds).any()


def test_agrees_with_the_reference_on_any_numbers(backend):
    for labels, *rest in SAMPLES["saliency"](torch.float32):
        actual = saliency(labels.transpose(1, 2).contiguous().transpose(1, 2), *rest)
        with dhvt_kernels.backend("reference"):
            assert torch.equal(actual, ops.saliency(labels, *rest))


def test_compiles_without_recompiling():
    compiled = torch.compile(saliency, fullgraph=True, backend="aot_eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for _ in range(2):
            _, _, parent, rounds = forest = random_forest(1, 6, torch.float32)
            lower, _ = scale_set(*forest)
            labels = blocks(1, 6, 8, 3)
            assert torch.equal(compiled(labels, lower, parent, rounds), saliency(labels, lower, parent, rounds))


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"labels": torch.zeros(1, 2, 2)}, TypeError, r"labels: expected \[B,H,W\] of int32"),
        ({"lower": torch.zeros(1, 5).double()}, TypeError, r"lower: expected \[B,V\] of float32"),
        ({"parent": torch.zeros(1, 4).int()}, ValueError, r"parent: expected \[B,V\] = \[1,5\]"),
        ({"round": torch.zeros(2, 5).int()}, ValueError, r"round: expected \[B,V\] = \[1,5\]"),
    ],
)
def test_bad_input(change, error, match):
    arguments = {"labels": torch.zeros(1, 2, 2).int(), "lower": torch.zeros(1, 5)}
    arguments |= {"parent": torch.full((1, 5), -1).int(), "round": torch.zeros(1, 5).int()}
    with pytest.raises(error, match=match):
        saliency(**{**arguments, **change})
