"""Several cuts of a hierarchy at once, its scale set and its saliency."""

import copy

import pytest
import torch

import dhvt_kernels as dk

FIELDS = ("labels", "counts", "node", "strength", "cost", "probability", "expected_tokens")


def pictures(batch=2, height=40, width=48):
    image = torch.nn.functional.interpolate(torch.rand(batch, 3, 6, 7), (height, width), mode="bilinear")
    return (image + 0.05 * torch.rand(batch, 3, height, width)).clamp(0, 1)


def assert_same(many, one):
    assert many.num_segments == one.num_segments
    for name in FIELDS:
        torch.testing.assert_close(getattr(many, name), getattr(one, name), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("options", [{}, {"leaves": "pixels"}, {"depth": 3}, {"criterion": "mdl"}], ids=str)
def test_budgets_are_those_of_one_cut_each(options):
    hierarchy = dk.Tokenizer(cell=4, **options).hierarchy(pictures())
    budgets = [1, 2, 3, 5, 8, 13, 21, 34, 55, 100, 5000]
    for budget, partition in zip(budgets, hierarchy.cut(max_tokens=budgets), strict=True):
        assert isinstance(partition, dk.Partition)
        assert_same(partition, hierarchy.cut(max_tokens=budget))


def test_strengths_and_both():
    hierarchy = dk.Tokenizer(cell=4).hierarchy(pictures())
    strengths = [0.0, 0.33, 1.0, 7.7, 1e30]
    for strength, partition in zip(strengths, hierarchy.cut(strength=strengths), strict=True):
        assert_same(partition, hierarchy.cut(strength=strength))
    for partition, (strength, budget) in zip(
        hierarchy.cut(strength=(0.1, 3.0), max_tokens=(40, 30)), ((0.1, 40), (3.0, 30)), strict=True
    ):
        assert_same(partition, hierarchy.cut(strength=strength, max_tokens=budget))
    assert_same(hierarchy.cut(strength=[2.0], max_tokens=9)[0], hierarchy.cut(strength=2.0, max_tokens=9))
    assert_same(hierarchy.cut(strength=2.0, max_tokens=[9])[0], hierarchy.cut(strength=2.0, max_tokens=9))


def test_fixed_starts_at_strength_zero():
    hierarchy = dk.Tokenizer(cell=4, criterion="fixed", max_tokens=7).hierarchy(pictures())
    assert_same(hierarchy.cut(max_tokens=[70])[0], hierarchy.cut(max_tokens=70))
    assert_same(hierarchy.cut(strength=[5.0])[0], hierarchy.cut(strength=5.0))


def test_masks_and_nan():
    images, mask = dk.pad_images([torch.rand(3, 20, 30), torch.rand(3, 33, 10)])
    images[0, 1, 4, 5] = torch.nan
    for leaves in ("soft", "pixels"):
        hierarchy = dk.Tokenizer(cell=4, leaves=leaves).hierarchy(images, mask)
        for budget, partition in zip([1, 7, 30], hierarchy.cut(max_tokens=[1, 7, 30]), strict=True):
            assert_same(partition, hierarchy.cut(max_tokens=budget))
            assert torch.equal(partition.labels >= 0, mask)
        out = hierarchy.saliency()
        assert out.isfinite().all()
        assert not out[~mask].any()


def test_no_images_and_no_budgets():
    hierarchy = dk.Tokenizer(cell=4).hierarchy(pictures(0))
    assert [len(p) for p in hierarchy.cut(max_tokens=[3, 9])] == [0, 0]
    assert hierarchy.saliency().shape == (0, 40, 48)
    assert hierarchy.cut(max_tokens=[]) == []
    one = dk.Tokenizer().hierarchy(torch.rand(1, 3, 1, 1))
    assert [p.labels.tolist() for p in one.cut(max_tokens=[1, 2])] == [[[[0]]]] * 2
    assert one.saliency().tolist() == [[[0.0]]]


def test_gradients_are_those_of_one_cut():
    images = pictures().requires_grad_()
    hierarchy = dk.Tokenizer(cell=4).hierarchy(images)
    values = torch.rand(2, 4, 40, 48)
    many = hierarchy.cut(max_tokens=[6, 20])
    assert many[0].selection_gradient
    for partition, budget in zip(many, (6, 20), strict=True):
        grads = []
        for part in (partition, hierarchy.cut(max_tokens=budget)):
            loss = part.pool(values).square().sum() + part.expected_tokens.square().sum()
            grads.append(torch.autograd.grad(loss, images, retain_graph=True)[0])
        assert grads[0].any()
        torch.testing.assert_close(*grads)


def test_what_is_computed_later_keeps_the_mode_of_the_cut():
    images = pictures().requires_grad_()
    hierarchy = dk.Tokenizer(cell=4).hierarchy(images)
    (with_gradient,) = hierarchy.cut(max_tokens=[6])
    with torch.no_grad():
        (without,) = hierarchy.cut(max_tokens=[6])
        assert with_gradient.expected_tokens.requires_grad
    assert not without.expected_tokens.requires_grad
    assert not without.selection_gradient


def test_they_are_partitions():
    (partition,) = dk.Tokenizer(cell=4).hierarchy(pictures()).cut(max_tokens=[9])
    again = copy.copy(partition)
    second = partition[1]
    assert torch.equal(second.probability, partition.probability[1:])
    assert torch.equal(again.cost, partition.cost)
    assert "labels" in repr(partition)
    with pytest.raises(AttributeError, match="has no attribute 'label'"):
        partition.label  # noqa: B018


@pytest.mark.parametrize("leaves", ["soft", "pixels"])
def test_saliency_holds_every_cut(leaves):
    hierarchy = dk.Tokenizer(cell=4, leaves=leaves).hierarchy(pictures())
    out = hierarchy.saliency()
    assert out.dtype == torch.float32
    strengths = [0.0, *out.unique()[::40].tolist(), 0.7, 4.0]
    for strength, partition in zip(strengths, hierarchy.cut(strength=strengths), strict=True):
        assert torch.equal(out > strength, partition.boundaries())
    assert not torch.equal(out, hierarchy.saliency(criterion="mdl"))


@pytest.mark.parametrize("name", ["constant", "checkerboard", "noise", "serpentine", "row"])
def test_unusual_pictures(name):
    """Trees may be chains as long as there are pixels."""
    values = torch.linspace(0, 1, 60 * 60).square().reshape(60, 60)
    values[1::2] = values[1::2].flip(1)
    index = torch.arange(60)
    image = {
        "constant": torch.full((60, 60), 0.5),
        "checkerboard": (index[:, None] + index).remainder(2).float(),
        "noise": torch.rand(60, 60),
        "serpentine": values,
        "row": torch.linspace(0, 1, 3600).square()[None],
    }[name]
    hierarchy = dk.Tokenizer(leaves="pixels").hierarchy(image.expand(1, 3, -1, -1).contiguous())
    out = hierarchy.saliency()
    for budget, partition in zip((1, 10, 100), hierarchy.cut(max_tokens=[1, 10, 100], strength=[0] * 3), strict=True):
        assert torch.equal(out > partition.strength, partition.boundaries())
        one = hierarchy.cut(max_tokens=budget, strength=0)
        assert partition.counts <= budget
        torch.testing.assert_close(partition.cost, one.cost, rtol=1e-5, atol=1e-3)


def test_compiles_without_a_graph_break():
    tokenizer = dk.Tokenizer(cell=4)

    def labels(images):
        hierarchy = tokenizer.hierarchy(images)
        return [hierarchy.saliency(), *(partition.labels for partition in hierarchy.cut(max_tokens=[3, 9]))]

    compiled = torch.compile(labels, fullgraph=True, backend="eager")
    for _ in range(2):
        images = pictures()
        for a, b in zip(compiled(images), labels(images), strict=True):
            assert torch.equal(a, b)


def test_bad_input():
    hierarchy = dk.Tokenizer(cell=4).hierarchy(pictures(1, 8, 8))
    with pytest.raises(ValueError, match="max_tokens: expected an integer >= 1; found 0"):
        hierarchy.cut(max_tokens=[3, 0])
    with pytest.raises(TypeError, match="max_tokens: expected an integer; found float"):
        hierarchy.cut(max_tokens=[3, 1.5])
    with pytest.raises(ValueError, match="strength: expected a finite number >= 0"):
        hierarchy.cut(strength=[1.0, -1.0])
    with pytest.raises(ValueError, match="strength: expected float32 numbers"):
        hierarchy.cut(strength=[1.0, 1e39])
    with pytest.raises(ValueError, match="sequences of one length"):
        hierarchy.cut(strength=[1.0, 2.0], max_tokens=[3])
    with pytest.raises(ValueError, match='select: expected "optimal" for several cuts'):
        hierarchy.cut(select="greedy", max_tokens=[3])
    with pytest.raises(TypeError, match="budget"):
        hierarchy.cut(budget=3, max_tokens=[3])


def test_trimming_computes_nothing_and_changes_nothing():
    """Of a cut among many, which computes its fields when it is asked for them, and of one on its own."""
    hierarchy = dk.Tokenizer(cell=4).hierarchy(pictures())
    one, many = hierarchy.cut(max_tokens=9), hierarchy.cut(max_tokens=[9, 30])[0]
    assert many.num_segments == 9
    kept = many.trim(12).trim(9)
    lazy = ("labels", "cost", "probability", "expected_tokens")
    assert not any(name in vars(partition) for name in lazy for partition in (many, kept))
    assert_same(kept, one.trim(9))
    longest = int(one.counts.max())
    assert_same(many.trim(longest), one.trim(longest))
    assert_same(kept.trim(longest), one.trim(longest))
    assert one.trim(longest).probability.shape == one.trim(longest).node.shape == (2, longest)
    with pytest.raises(ValueError, match="length: expected an integer >= 1; found 0"):
        many.trim(0)
