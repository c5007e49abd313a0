"""Pretrained Vision Transformers on adaptive tokens: equal to the original on its own grid, and robust beside it."""

import pytest
import torch
import vits

import dhvt_kernels as dk


def equal(found, expected, tolerance=1e-5):
    found, expected = vits.tensors(found), vits.tensors(expected)
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert other.abs().max() > 1e-3, "says nothing"
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance * max(1, float(other.abs().max())))


@torch.no_grad()
@pytest.mark.parametrize("size", [32, 48])
@pytest.mark.parametrize("family", vits.FAMILIES)
def test_on_its_own_grid_it_is_the_original(family, size):
    model = vits.make(family, size)
    images = torch.randn(2, 3, size, size)
    expected = model(images)
    for tokenizer in (dk.GridTokenizer(8),):
        equal(dk.retrofit(model, tokenizer)(images), expected)


@torch.no_grad()
@pytest.mark.parametrize("size", [(32, 48), (56, 24), (64, 64)])
@pytest.mark.parametrize("family", vits.DYNAMIC)
def test_at_other_resolutions_it_is_the_original(family, size):
    model, images = vits.make(family), torch.randn(2, 3, *size)
    expected = model(images, **vits.DYNAMIC[family][1])
    equal(dk.retrofit(model, dk.GridTokenizer(8))(images), expected)
