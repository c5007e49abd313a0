"""The systems that give every pixel a class."""

import pytest
import torch
import vits
from systems import MINI, photos, segmenter
from torch.nn import functional as F

from benchmarks import models


@pytest.mark.parametrize("name", models.SEGMENTERS)
def test_a_segmenter_learns_which_half_of_an_image_is_bright(name):
    vits.library("timm")
    model = models.segmenter(name, tokens=9, channels=8, **MINI).train()
    images = vits.plain_and_busy(64).repeat(2, 1, 1, 1)
    images[1::2] = images[:1].flip(3)
    target = (images[:, 0] > 0.5).long()
    images, optimizer = (images - 0.45) / 0.225, torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(12):
        logits = model(images)
        assert logits.shape == (4, 5, 64, 64)
        loss = F.cross_entropy(logits, target) + model.auxiliary_loss()
        optimizer.zero_grad()
        loss.backward()
        assert all(value.grad.isfinite().all() for value in model.parameters() if value.grad is not None)
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.6 * losses[0]
    right = (model(images).argmax(1) == target).float().mean()
    assert right > 0.9


@pytest.mark.parametrize("name", models.SEGMENTERS)
def test_a_frozen_segmenter_trains_its_head_and_what_the_method_adds(name):
    model = segmenter(name)
    model.freeze()
    trained = {key for key, value in model.named_parameters() if value.requires_grad}
    if name == "segformer":  # without a checkpoint nothing is pretrained, and all of it is new
        assert trained == {key for key, _ in model.named_parameters()}
    else:
        assert not any("blocks." in key or "patch_embed" in key for key in trained)
    F.cross_entropy(model.train()(photos(4)), torch.randint(5, (4, 64, 64))).backward()
    assert {key for key, value in model.named_parameters() if value.grad is not None} == trained


@torch.no_grad()
@pytest.mark.parametrize("name", models.SEGMENTERS)
def test_tokenizer_and_segmenter_can_run_apart(name):
    model, images = segmenter(name), photos(3)
    partition = model.tokenize(images)
    assert (partition is None) == (not name.startswith(("slic", "dhvt")))
    vits.equal(model(images, partition), model(images))
    if partition is not None:
        assert model.tokens == [float(partition.counts.double().mean())] * 4


@torch.no_grad()
def test_a_linear_head_on_patches_is_one_on_the_tokens_of_timm():
    model, images = segmenter("vit-linear", size=(48, 64)), photos(2)[..., :48, :]
    tokens = model.backbone.forward_features(images)[:, 1:]
    weight = model.head.classifier.weight.flatten(1)
    logits = (tokens @ weight.T + model.head.classifier.bias).transpose(1, 2).unflatten(2, (3, 4))
    vits.equal(model(images), F.interpolate(logits, size=(48, 64), mode="bilinear"))


@torch.no_grad()
def test_upernet_sees_four_blocks_at_four_strides():
    model = segmenter("vit-upernet")
    seen = []
    model.head.decoder.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs[0]))
    model(photos())
    assert [tuple(level.shape) for level in seen] == [(2, 48, 64 // stride, 64 // stride) for stride in (4, 8, 16, 32)]
    assert models.segmentation.upernet_layers(12) == (2, 5, 8, 11)


@torch.no_grad()
def test_segformer_is_that_of_transformers(tmp_path):
    model, images = segmenter("segformer"), photos()
    model(images)
    assert model.tokens == [256, 64, 16, 4]
    model.model.save_pretrained(tmp_path)
    again = models.segmenter("segformer", weights=tmp_path, **MINI).eval()
    vits.equal(again(images), model(images))
    other = models.segmenter("segformer", weights=tmp_path, **{**MINI, "classes": 3}).eval()
    assert other(images).shape == (2, 3, 64, 64)
    vits.equal(other.model.segformer(images).last_hidden_state, model.model.segformer(images).last_hidden_state)
    with torch.device("meta"):
        b2 = models.SegFormer("b2", 150)
    assert sum(value.numel() for value in b2.parameters()) == pytest.approx(27.5e6, rel=0.01), "the paper's"
