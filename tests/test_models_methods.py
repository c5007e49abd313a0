"""ToMe, DynamicViT and superpixels: what their papers promise."""

import math
import os

import pytest
import torch
import vits
from systems import classifier, photos, scramble

from benchmarks import models
from benchmarks.models import dynamicvit, system, tome
from benchmarks.models.slic import SlicTokenizer

WEIGHTS = os.environ.get("DHVT_VIT_WEIGHTS")
needs_weights = pytest.mark.skipif(not WEIGHTS, reason="DHVT_VIT_WEIGHTS is not the path of a ViT-S/16")


# The methods without what they change are the plain ViT.


@torch.no_grad()
@pytest.mark.parametrize(("name", "options"), [("tome", {"reduction": 0}), ("dynamicvit", {"ratio": 1.0})])
def test_a_method_that_removes_nothing_is_the_plain_vit(name, options):
    model, images = classifier(name, **options), photos()
    vits.equal(model(images), model.backbone(images))
    assert model.tokens == [16] * 4


@torch.no_grad()
@needs_weights
@pytest.mark.parametrize("size", [128, 224])
@pytest.mark.parametrize(("name", "options"), [("tome", {"reduction": 0}), ("dynamicvit", {"ratio": 1.0})])
def test_also_with_the_weights_of_a_real_vit(name, options, size):
    vits.library("timm")
    model = models.classifier(name, classes=5, size=size, weights=WEIGHTS, **options).eval()
    images = photos(1, size)
    assert len(model.backbone.blocks) == 12
    assert float(model.backbone.blocks[0].ls1.gamma.std()) > 0  # not as it is initialised
    vits.equal(model(images), model.backbone(images))


# ToMe


def test_tome_merges_as_the_schedule_says_and_conserves_the_patches():
    model = classifier("tome", reduction=[5, 0, 3, 4])
    model(photos())
    assert model.tokens == [11, 11, 8, 4]
    assert model.sizes.shape == (2, 5)
    assert model.sizes.sum(1).tolist() == [17, 17]
    assert model.sizes[:, 0].tolist() == [1, 1], "the class token stays as it is"


@pytest.mark.parametrize(("patches", "depth", "tokens"), [(196, 12, 150), (196, 12, 98), (196, 12, 64), (64, 4, 33)])
def test_the_schedule_gives_at_most_the_tokens_asked_for_and_nearly_so_many(patches, depth, tokens):
    reduction = tome.schedule(patches, depth, tokens)
    left = [patches - sum(reduction[: block + 1]) for block in range(depth)]
    assert tokens - 1.5 < sum(left) / depth <= tokens
    unlimited = [r for r, before in zip(reduction, [patches, *left], strict=False) if r < before // 2]
    assert max(unlimited) - min(unlimited) <= 1
    assert all(r <= before // 2 for r, before in zip(reduction, [patches, *left], strict=False))


def test_a_schedule_for_the_last_block():
    assert tome.schedule(196, 12, 64, "last") == [11] * 12
    model = classifier("tome", tokens=8, target="last")
    model(photos())
    assert model.tokens == [14, 12, 10, 8]
    ratio = dynamicvit.keep_ratio(196, 12, 67, "last")
    assert dynamicvit.counts(ratio, 196, 12)[-1] == 67


def test_the_mean_of_merged_tokens_is_weighted_by_size():
    tokens, size = torch.randn(3, 11, 7), torch.randint(1, 9, (3, 11)).float()
    matching = tome.match(torch.randn(3, 11, 4), 4)
    merged, sizes = tome.merge(tokens, size, matching)
    assert merged.shape == (3, 7, 7)
    torch.testing.assert_close(sizes.sum(1), size.sum(1))
    torch.testing.assert_close((merged * sizes[..., None]).sum(1), (tokens * size[..., None]).sum(1))
    b, source, target = 1, int(matching.source[1, 0]), int(matching.target[1, 0])
    both = [2 * s for s, t in zip(matching.source[b].tolist(), matching.target[b].tolist(), strict=True) if t == target]
    both = [*both, 2 * target + 1]
    assert 2 * source in both
    expected = (tokens[b, both] * size[b, both, None]).sum(0) / size[b, both].sum()
    torch.testing.assert_close(merged[b, matching.kept.shape[1] + target], expected)


def test_the_most_similar_tokens_match_and_the_class_token_never():
    keys = torch.eye(8).repeat(1, 1, 1)
    keys[0, 4] = 3 * keys[0, 7]  # alike by cosine, not by distance
    keys[0, 6] = keys[0, 3] + 0.5 * keys[0, 1]
    keys[0, 0] = keys[0, 1]  # the class token, which would match best
    matching = tome.match(keys, 2)
    assert matching.source.tolist() == [[2, 3]]
    assert matching.target.tolist() == [[3, 1]]
    assert matching.kept.tolist() == [[0, 1]]


@torch.no_grad()
def test_attention_to_a_token_of_size_n_is_that_to_n_tokens():
    attention = classifier("vit").backbone.blocks[0].attn
    tokens, size = torch.randn(1, 4, 48), torch.tensor([[1, 3, 2, 1]])
    found, _ = system.attend(attention, tokens, size.float().log())
    expected = attention(tokens.repeat_interleave(size[0], 1))
    torch.testing.assert_close(found, expected[:, [0, 1, 4, 6]])


@torch.no_grad()
def test_merging_tokens_that_are_alike_changes_nothing():
    model = classifier("tome", reduction=[5, 0, 3, 4])
    model.backbone.pos_embed.zero_()
    images = torch.randn(2, 3, 16, 16).repeat(1, 1, 4, 4)
    vits.equal(model(images), model.backbone(images))


# DynamicViT


@torch.no_grad()
def test_dynamicvit_keeps_the_shares_of_the_schedule():
    model = classifier("dynamicvit", ratio=0.7)
    model(photos())
    assert model.tokens == [16, math.floor(0.7 * 16), math.floor(0.49 * 16), math.floor(0.343 * 16)]
    assert [mask.sum(1).tolist() for mask in model.kept] == [[11, 11], [7, 7], [5, 5]]
    for before, after in zip(model.kept, model.kept[1:], strict=False):
        assert (after <= before).all()


def test_blocks_and_ratio_of_dynamicvit():
    assert dynamicvit.stages(12) == [3, 6, 9]
    for tokens in (150, 98, 64):
        ratio = dynamicvit.keep_ratio(196, 12, tokens)
        assert tokens - 2 < sum(dynamicvit.counts(ratio, 196, 12)) / 12 <= tokens
    with pytest.raises(ValueError, match=r"tokens: expected at least 49\.8 \(mean\)"):
        dynamicvit.keep_ratio(196, 12, 40)


@torch.no_grad()
def test_kept_tokens_alone_give_what_all_of_them_masked_give():
    model, images = classifier("dynamicvit", ratio=0.6), photos()
    scramble(model.predictors)
    expected = model.gathered(images)
    decisions = model.kept
    vits.equal(model.masked(images, decisions), expected)
    others = [mask.flip(1) for mask in decisions]
    assert (model.masked(images, others) - expected).abs().max() > 1e-3


def test_gradients_reach_the_predictors_from_the_task_alone():
    model = classifier("dynamicvit", ratio=0.7).train()
    model(photos()).square().sum().backward()
    for name, parameter in model.predictors.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name
    assert all(((mask == 0) | (mask == 1)).all() for mask in model.kept)
    assert all((after <= before).all() for before, after in zip(model.kept, model.kept[1:], strict=False))


@torch.no_grad()
def test_attention_under_a_mask_is_that_of_the_paper():
    attention, tokens = classifier("vit").backbone.blocks[0].attn, torch.randn(2, 5, 48)
    kept = torch.tensor([[1, 0, 1, 1, 0], [1, 1, 0, 0, 0]]).float()
    share = torch.maximum(kept[:, None].expand(2, 5, 5), torch.eye(5))
    expected = attention(tokens, attn_mask=share.log()[:, None])
    torch.testing.assert_close(dynamicvit.masked_attention(attention, tokens, kept), expected)


def test_losses_of_dynamicvit():
    model = classifier("dynamicvit", ratio=0.5).train()
    logits = model(photos())
    expected = sum(((mask.mean(1) - 0.5**s) ** 2).mean() for s, mask in enumerate(model.kept, 1)) / 3
    torch.testing.assert_close(model.auxiliary_loss(), 2 * expected)
    tokens, kept = model.features, model.kept[-1]
    same = dynamicvit.distillation_loss(logits, tokens, kept, (logits, tokens + (1 - kept.detach())[..., None]))
    torch.testing.assert_close(same, torch.zeros(()), atol=1e-6, rtol=0)
    off = dynamicvit.distillation_loss(logits, tokens, kept, (logits, tokens + 2))
    torch.testing.assert_close(off, torch.tensor(0.5 * 4 * 48))
    other = logits.detach().flip(1)
    found = dynamicvit.distillation_loss(logits, tokens, kept, (other, tokens))
    p, q = other.softmax(1), logits.softmax(1)
    torch.testing.assert_close(found, 0.5 * (p * (p / q).log()).sum() / 2)


def test_the_ratio_loss_brings_the_share_of_kept_tokens_to_the_ratio():
    model = classifier("dynamicvit", ratio=0.5).train()
    with torch.no_grad():
        for predictor in model.predictors:
            predictor.decide[-1].bias.copy_(torch.tensor([2.0, -2.0]))
    images, optimizer = photos(8), torch.optim.Adam(model.predictors.parameters(), lr=3e-3)
    shares = []
    for _ in range(60):
        optimizer.zero_grad()
        model(images)
        shares.append([float(mask.detach().mean()) for mask in model.kept])
        model.auxiliary_loss().backward()
        optimizer.step()
    first, last = torch.tensor(shares[:5]).mean(0), torch.tensor(shares[-5:]).mean(0)
    wished = torch.tensor(model.ratios)
    assert ((first - wished).abs() > 0.2).all()
    assert ((last - wished).abs() < 0.1).all()


# SLIC


def test_superpixels_are_a_partition():
    images = vits.photos(3, 96, 96)
    partition = SlicTokenizer(36)(images)
    for b in range(3):
        count = int(partition.counts[b])
        assert partition.labels[b].unique().tolist() == list(range(count))
        assert (partition.node[b] >= 0).sum() == count
    assert 28 <= partition.counts.float().mean() <= 44
    assert partition.labels.dtype == partition.counts.dtype == torch.int32
    assert partition.num_segments == partition.counts.max()
    inside = partition.labels[0] == 5
    torch.testing.assert_close(partition.features[0, 5], images[0, :, inside].mean(1))
    gray = images[:, :1].expand(-1, 3, -1, -1)
    assert (SlicTokenizer(36)(gray).labels != partition.labels).any()


def test_superpixels_of_padded_images_are_refused():
    with pytest.raises(ValueError, match="mask: expected None"):
        SlicTokenizer(4)(torch.rand(1, 3, 16, 16), torch.ones(1, 16, 16, dtype=torch.bool))
