"""Dense prediction from tokens: against a plain ViT's map of patches, and against means taken pixel by pixel."""

import doctest
import re
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import vits
from torch import nn
from torch.nn import functional as F

import dhvt_kernels as dk
from dhvt_kernels import heads


def partition_of(images, mask=None):
    return dk.Tokenizer(cell=4)(images, mask)


def random_tokens(partition, width=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(partition), partition.num_segments, width, generator=generator)


def upernet(width=6, classes=5, **options):
    vits.library("transformers")
    torch.manual_seed(0)
    head = heads.UperNetHead(width, classes, channels=8, **options).eval()
    for module in head.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    return head


# The linear and the MLP head


@torch.no_grad()
@pytest.mark.parametrize("hidden", [None, 7])
def test_a_pixel_has_the_logits_of_its_token(hidden):
    images, mask = dk.pad_images([vits.photos(1, 20, 33)[0], vits.photos(1, 32, 16)[0]])
    partition = partition_of(images, mask)
    tokens, head = random_tokens(partition), heads.DenseHead(6, 5, hidden)
    logits = head(tokens, partition.labels)
    assert logits.shape == (2, 5, 32, 33)
    assert (logits.movedim(1, -1)[~mask] == 0).all()
    expected = head.classifier(tokens)
    for b, y, x in mask.nonzero()[::37].tolist():
        torch.testing.assert_close(logits[b, :, y, x], expected[b, partition.labels[b, y, x]])
    assert len([m for m in head.modules() if isinstance(m, nn.Linear)]) == (1 if hidden is None else 2)


def test_the_gradient_of_a_token_is_the_sum_over_its_pixels():
    partition = partition_of(vits.photos())
    tokens, head = random_tokens(partition).requires_grad_(), heads.DenseHead(6, 3)
    weights = torch.randn(2, 3, 32, 32)
    (head(tokens, partition.labels) * weights).sum().backward()
    expected = dk.segment_pool(weights, partition.labels, num_segments=partition.num_segments, reduce="sum")
    torch.testing.assert_close(tokens.grad, expected @ head.classifier.weight)


# UperNet


@torch.no_grad()
@pytest.mark.parametrize("stride", heads.STRIDES)
def test_a_map_is_the_mean_over_the_pixels_of_a_cell(stride):
    partition = partition_of(vits.photos(2, 64, 96))
    tokens = random_tokens(partition)
    pixels = dk.segment_gather(tokens, partition.labels)
    torch.testing.assert_close(heads.token_map(tokens, partition.labels, stride), F.avg_pool2d(pixels, stride))


@torch.no_grad()
def test_a_map_takes_the_pixels_of_the_image_only():
    """In a padded batch whose size the stride does not divide: cells of `y gh // H`, and 0 where all is padding."""
    images, mask = dk.pad_images([vits.photos(1, 9, 30)[0], vits.photos(1, 21, 12)[0]])
    partition = partition_of(images, mask)
    tokens, height, width = random_tokens(partition), 6, 8
    found = heads.token_map(tokens, partition.labels, 4)
    assert found.shape == (2, 6, height, width)
    sums, counts = torch.zeros(2, height, width, 6), torch.zeros(2, height, width, 1)
    for b, y, x in mask.nonzero().tolist():
        sums[b, y * height // 21, x * width // 30] += tokens[b, partition.labels[b, y, x]]
        counts[b, y * height // 21, x * width // 30] += 1
    assert (counts == 0).any()
    torch.testing.assert_close(found.movedim(1, -1), sums / counts.clamp(min=1))


@torch.no_grad()
def test_upernet_is_that_of_transformers_on_mean_maps():
    head = upernet()
    partition = partition_of(vits.photos(2, 64, 64))
    tokens = [random_tokens(partition, seed=seed) for seed in range(4)]
    maps = [
        F.avg_pool2d(dk.segment_gather(layer, partition.labels), stride)
        for layer, stride in zip(tokens, (4, 8, 16, 32), strict=True)
    ]
    from transformers.models.upernet.modeling_upernet import UperNetHead

    assert type(head.decoder) is UperNetHead
    expected = F.interpolate(head.decoder(maps), size=(64, 64), mode="bilinear", align_corners=False)
    logits = head(tokens, partition.labels)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    assert logits.std() > 0.01


def test_upernet_sends_gradients_to_every_layer():
    head = upernet().train()
    partition = partition_of(vits.photos())
    tokens = [random_tokens(partition, seed=seed).requires_grad_() for seed in range(4)]
    head(tokens, partition.labels).square().mean().backward()
    used = partition.node >= 0
    for layer in tokens:
        assert (layer.grad[used].abs().sum(-1) > 0).all()
        assert (layer.grad[~used] == 0).all()


@torch.no_grad()
@pytest.mark.parametrize("size", [(1, 1), (5, 37)])
def test_upernet_takes_any_size(size):
    labels = torch.zeros(1, *size, dtype=torch.int32)
    assert upernet()([torch.rand(1, 3, 6)] * 4, labels).shape == (1, 5, *size)


def test_without_transformers_the_error_says_so(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match="UperNetHead: expected transformers, pip install"):
        heads.UperNetHead(6, 5)


def test_heads_say_what_they_expect():
    labels, tokens = torch.zeros(2, 8, 8, dtype=torch.int32), torch.rand(2, 4, 6)
    head = heads.DenseHead(6, 5)
    with pytest.raises(ValueError, match="classes: expected an integer >= 1; found 0"):
        heads.DenseHead(6, 0)
    with pytest.raises(TypeError, match="hidden: expected an integer; found float"):
        heads.DenseHead(6, 5, 2.0)
    with pytest.raises(ValueError, match=r"tokens: expected \[B,N,6\] = \[2,4,6\]; found \[2,4,5\]"):
        head(tokens[..., :5], labels)
    with pytest.raises(ValueError, match=r"labels: expected \[B,H,W\] = \[2,H,W\]; found \[1,8,8\]"):
        head(tokens, labels[:1])
    with pytest.raises(TypeError, match=r"labels: expected \[B,H,W\] of int32"):
        head(tokens, labels.long())
    with pytest.raises(ValueError, match=r"layers: expected 4 indices of blocks; found \(1, 2\)"):
        heads.UperNetHead(6, 5, layers=(1, 2))
    with pytest.raises(ValueError, match=r"layers: expected 4 indices of blocks; found \(True, 1, 2, 3\)"):
        heads.UperNetHead(6, 5, layers=(True, 1, 2, 3))
    decoder = upernet()
    for given, found in ((tokens, "a tensor"), ([tokens] * 3, "3")):
        with pytest.raises(ValueError, match=rf"tokens: expected 4 tensors \[B,N,6\]; found {found}"):
            decoder(given, labels)
    with pytest.raises(TypeError, match="head: expected a module with layers; found Linear"):
        heads.Segmenter(Colours(), nn.Linear(2, 2))
    with pytest.raises(TypeError, match="vit: expected a module with features; found Linear"):
        heads.Segmenter(nn.Linear(2, 2), head)


# A model and a head


class Features(NamedTuple):
    tokens: tuple
    mask: torch.Tensor | None
    partition: dk.Partition


class Colours(nn.Module):
    """In place of a retrofitted model: four times the mean colours, and NaN in the padding of the rows."""

    def features(self, images, partition=None, *, mask=None, layers=None):
        partition = partition_of(images, mask) if partition is None else partition
        real = partition.node >= 0
        tokens = partition.pool(images.nan_to_num()).masked_fill(~real[..., None], torch.nan)
        return Features((tokens,) * (1 if layers is None else len(layers)), real, partition)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["dense", "upernet"])
def test_padding_is_not_seen_and_has_no_logits(kind):
    images, mask = dk.pad_images([vits.photos(1, 20, 33)[0], vits.photos(1, 32, 16)[0]])
    head = heads.DenseHead(3, 5, 8) if kind == "dense" else upernet(3)
    segmenter = heads.Segmenter(Colours(), head)
    logits = segmenter(images, mask=mask)
    assert (logits.movedim(1, -1)[~mask] == 0).all()
    assert logits.isfinite().all()
    assert logits.movedim(1, -1)[mask].std() > 0.01
    poisoned = images.masked_fill(~mask[:, None], torch.nan)
    torch.testing.assert_close(segmenter(poisoned, mask=mask), logits, rtol=0, atol=0)
    if kind == "dense":
        alone = segmenter(images[:1, :, :20])
        torch.testing.assert_close(logits[:1, :, :20], alone)
    target = torch.where(mask, 1, 255)
    assert dk.losses.dice_cross_entropy(logits, target).isfinite()


@torch.no_grad()
def test_a_given_partition_is_used():
    images = vits.photos()
    partition = dk.GridTokenizer(16)(images)
    logits = heads.Segmenter(Colours(), heads.DenseHead(3, 5))(images, partition)
    torch.testing.assert_close(logits, logits[..., ::16, ::16].repeat_interleave(16, 2).repeat_interleave(16, 3))


@torch.no_grad()
@pytest.mark.parametrize("hidden", [None, 7])
@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
def test_on_the_regular_grid_it_is_the_head_on_the_plain_models_patches(size, hidden):
    vits.library("timm")
    from timm.models.vision_transformer import VisionTransformer

    model = VisionTransformer(img_size=size, patch_size=8, embed_dim=32, depth=2, num_heads=2, reg_tokens=2).eval()
    images = torch.randn(2, 3, *size)
    segmenter = heads.Segmenter(dk.retrofit(model, dk.GridTokenizer(8)), heads.DenseHead(32, 5, hidden))
    patches = model.forward_features(images)[:, model.num_prefix_tokens :]
    logits = segmenter.head.classifier(patches).transpose(1, 2).unflatten(2, (size[0] // 8, size[1] // 8))
    expected = F.interpolate(logits, scale_factor=8, mode="nearest")
    torch.testing.assert_close(segmenter(images), expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_on_the_regular_grid_the_map_of_the_patch_is_the_plain_models():
    model = vits.make("timm")
    images = torch.randn(2, 3, 32, 32)
    features = dk.retrofit(model, dk.GridTokenizer(8)).features(images)
    patches = model.forward_features(images)[:, 1:].transpose(1, 2).unflatten(2, (4, 4))
    found = heads.token_map(features.tokens[0], features.partition.labels, 8)
    torch.testing.assert_close(found, patches, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["dense", "upernet"])
def test_a_segmenter_is_trained_end_to_end(kind):
    """A photograph and an image of two colours, padded: model, head, new parameters and encoder have a gradient."""
    torch.manual_seed(0)
    tokenizer = dk.Tokenizer(dk.ConvEncoder(4), cell=4, noise=0.1, compactness=0.5, temperature=0.05)
    vit = dk.retrofit(vits.make("timm"), tokenizer, max_tokens=14, mean=(0, 0, 0), std=(1, 1, 1))
    with torch.no_grad():
        vit.injection.weight.normal_()
    head = heads.DenseHead(32, 3) if kind == "dense" else upernet(32, 3, layers=(0, 1, -2, -1)).train()
    segmenter = heads.Segmenter(vit, head)
    plain = torch.full((3, 24, 32), 0.2)
    plain[:, :, 16:] = 0.9
    images, mask = dk.pad_images([vits.photos(1)[0], plain])
    target = torch.where(mask, (images.mean(1) * 2.99).long(), 255)
    optimizer = torch.optim.AdamW(segmenter.parameters(), 3e-3)
    history = []
    for _ in range(8):
        partition = vit.tokenize(images, mask)
        loss = dk.losses.dice_cross_entropy(segmenter(images, partition, mask=mask), target)
        optimizer.zero_grad()
        (loss + 0.1 * dk.losses.token_regularizer(partition, 10, labels=target)).backward()
        for name in (
            "vit.tokenizer.features.color.0.weight",
            "vit.injection.weight",
            "vit.model.blocks.0.mlp.fc1.bias",
        ):
            gradient = segmenter.get_parameter(name).grad
            assert gradient.isfinite().all()
            assert gradient.abs().max() > 0, name
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < 0.9 * history[0]


@torch.no_grad()
def test_a_segmenter_is_saved_and_runs_under_bfloat16(tmp_path):
    vit = vits.adaptive(vits.make("timm"))
    segmenter = heads.Segmenter(vit, heads.DenseHead(32, 3))
    images = vits.plain_and_busy()
    expected = segmenter(images)
    torch.save(segmenter.state_dict(), tmp_path / "segmenter.pt")
    other = heads.Segmenter(vits.adaptive(vits.make("timm")), heads.DenseHead(32, 3))
    other.load_state_dict(torch.load(tmp_path / "segmenter.pt", weights_only=True))
    torch.testing.assert_close(other(images), expected)
    with torch.autocast("cpu", torch.bfloat16):
        found = segmenter(images)
    assert found.dtype == torch.bfloat16
    assert (found.float() - expected).abs().max() < 0.1 * expected.abs().max()


@torch.no_grad()
def test_an_image_of_a_padded_batch_has_the_logits_that_it_has_alone():
    segmenter = heads.Segmenter(vits.adaptive(vits.make("timm")), heads.DenseHead(32, 3, 16))
    one, other = vits.photos(1, 32, 40)[0], vits.photos(1, 48, 24)[0]
    images, mask = dk.pad_images([one, other])
    logits = segmenter(images.masked_fill(~mask[:, None], torch.nan), mask=mask)
    assert (logits.movedim(1, -1)[~mask] == 0).all()
    for b, image in enumerate((one, other)):
        alone = segmenter(image[None])
        assert alone.std() > 0.01
        torch.testing.assert_close(logits[b : b + 1, :, : image.shape[1], : image.shape[2]], alone)


@torch.no_grad()
def test_pixels_of_dropped_tokens_have_logits_of_zero():
    images = vits.photos()
    vit = vits.adaptive(vits.make("timm"), align="truncate", max_tokens=5)
    logits = heads.Segmenter(vit, heads.DenseHead(32, 3))(images)
    dropped = vit.tokenize(images).labels < 0
    assert dropped.any()
    assert (logits.movedim(1, -1)[dropped] == 0).all()
    assert (logits.movedim(1, -1)[~dropped] != 0).all()


def test_the_guide_runs(tmp_path, monkeypatch):
    vits.library("timm")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[1] / "docs/heads.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "heads.md", "exec"), {})


@pytest.mark.parametrize("name", ["UperNetHead", "Segmenter"])
def test_the_examples_that_need_a_library_run(name):
    """They are skipped in `test_docs.py`."""
    vits.library("timm")
    vits.library("transformers")
    text = getattr(heads, name).__doc__.replace("  # doctest: +SKIP", "")
    runner = doctest.DocTestRunner(verbose=False)
    runner.run(doctest.DocTestParser().get_doctest(text, {}, name, None, None))
    assert runner.summarize(verbose=False).attempted > 2
    assert runner.summarize(verbose=False).failed == 0


@pytest.mark.slow  # the tokenizer is traced, too
def test_a_training_step_is_one_graph():
    vit = vits.adaptive(vits.make("timm"))
    segmenter = heads.Segmenter(vit, heads.DenseHead(32, 3))

    def step(images, target):
        partition = vit.tokenize(images)
        loss = dk.losses.dice_cross_entropy(segmenter(images, partition), target)
        return loss + dk.losses.token_regularizer(partition, 10, labels=target)

    images = vits.plain_and_busy()
    target = (images.mean(1) * 2.99).long()
    compiled = torch.compile(step, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(images, target), step(images, target))
