"""The systems that are compared: what their papers promise, and one interface for all."""

import math
import os

import pytest
import torch
import vits
from torch.nn import functional as F

import dhvt_kernels as dk
from benchmarks import models
from benchmarks.models import backbone, dynamicvit, system, tome
from benchmarks.models.slic import SlicTokenizer

WEIGHTS = os.environ.get("DHVT_VIT_WEIGHTS")
needs_weights = pytest.mark.skipif(not WEIGHTS, reason="DHVT_VIT_WEIGHTS is not the path of a ViT-S/16")
#: Heads on adaptive tokens.
needs_heads = pytest.mark.skipif(not hasattr(dk, "heads"), reason="dhvt_kernels.heads is not there")
MINI = {"classes": 5, "size": 64, "backbone": "vit_mini"}  # 16 patches, 4 blocks


@pytest.fixture(autouse=True)
def _timm():
    vits.library("timm")


def build(name, **options):
    """A system in evaluation mode, every parameter of its backbone random: some are 0 or 1 as they come."""
    model = models.classifier(name, **{**MINI, **options}).eval()
    scramble(vit_of(model))
    return model


def vit_of(model):
    return model.vit.model if isinstance(model, models.Adaptive) else model.backbone


def scramble(module):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.2)


def photos(batch=2, size=64):
    return (vits.photos(batch, size, size) - 0.45) / 0.225


# The methods without what they change are the plain ViT.


@torch.no_grad()
@pytest.mark.parametrize(("name", "options"), [("tome", {"reduction": 0}), ("dynamicvit", {"ratio": 1.0})])
def test_a_method_that_removes_nothing_is_the_plain_vit(name, options):
    model, images = build(name, **options), photos()
    vits.equal(model(images), model.backbone(images))
    assert model.tokens == [16] * 4


@torch.no_grad()
@needs_weights
@pytest.mark.parametrize("size", [128, 224])
@pytest.mark.parametrize(("name", "options"), [("tome", {"reduction": 0}), ("dynamicvit", {"ratio": 1.0})])
def test_also_with_the_weights_of_a_real_vit(name, options, size):
    model = models.classifier(name, classes=5, size=size, weights=WEIGHTS, **options).eval()
    images = photos(1, size)
    assert len(model.backbone.blocks) == 12
    assert float(model.backbone.blocks[0].ls1.gamma.std()) > 0  # not as it is initialised
    vits.equal(model(images), model.backbone(images))


# ToMe


def test_tome_merges_as_the_schedule_says_and_conserves_the_patches():
    model = build("tome", reduction=[5, 0, 3, 4])
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
    attention = build("vit").backbone.blocks[0].attn
    tokens, size = torch.randn(1, 4, 48), torch.tensor([[1, 3, 2, 1]])
    found, _ = system.attend(attention, tokens, size.float().log())
    expected = attention(tokens.repeat_interleave(size[0], 1))
    torch.testing.assert_close(found, expected[:, [0, 1, 4, 6]])


# DynamicViT


@torch.no_grad()
def test_dynamicvit_keeps_the_shares_of_the_schedule():
    model = build("dynamicvit", ratio=0.7)
    model(photos())
    assert model.tokens == [16, math.floor(0.7 * 16), math.floor(0.49 * 16), math.floor(0.343 * 16)]
    assert [mask.sum(1).tolist() for mask in model.kept] == [[11, 11], [7, 7], [5, 5]]
    for before, after in zip(model.kept, model.kept[1:], strict=False):
        assert (after <= before).all()


def test_blocks_and_ratio_of_dynamicvit():
    assert dynamicvit.stages(12) == [3, 6, 9]
    for tokens in (150, 98, 64):
        ratio = dynamicvit.keep_ratio(tokens, 196, 12)
        assert tokens - 2 < sum(dynamicvit.counts(ratio, 196, 12)) / 12 <= tokens
    with pytest.raises(ValueError, match=r"tokens: expected at least 49\.8 on average"):
        dynamicvit.keep_ratio(40, 196, 12)


@torch.no_grad()
def test_kept_tokens_alone_give_what_all_of_them_masked_give():
    model, images = build("dynamicvit", ratio=0.6), photos()
    scramble(model.predictors)
    expected = model.gathered(images)
    decisions = model.kept
    vits.equal(model.masked(images, decisions), expected)
    others = [mask.flip(1) for mask in decisions]
    assert (model.masked(images, others) - expected).abs().max() > 1e-3


def test_gradients_reach_the_predictors_from_the_task_alone():
    model = build("dynamicvit", ratio=0.7).train()
    model(photos()).square().sum().backward()
    for name, parameter in model.predictors.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name
    assert all(((mask == 0) | (mask == 1)).all() for mask in model.kept)


def test_losses_of_dynamicvit():
    model = build("dynamicvit", ratio=0.5).train()
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
    model = build("dynamicvit", ratio=0.5).train()
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


# All of them


@pytest.mark.parametrize("name", models.CLASSIFIERS)
def test_a_system_takes_a_step_of_training(name):
    model, images = build(name, tokens=9).train(), photos(4)
    before = {key: value.clone() for key, value in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    loss = F.cross_entropy(model(images), torch.tensor([0, 1, 2, 3])) + model.auxiliary_loss()
    loss.backward()
    assert loss.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)
    optimizer.step()
    still = {key for key, value in model.named_parameters() if torch.equal(value, before[key])}
    assert not still, "all parameters learn"


@pytest.mark.parametrize("name", models.CLASSIFIERS)
def test_a_frozen_system_trains_its_head_and_what_the_method_adds(name):
    model = build(name, tokens=9)
    model.freeze()
    trained = {key for key, value in model.named_parameters() if value.requires_grad}
    assert "head.weight" in {key.split(".", key.count(".") - 1)[-1] for key in trained}
    of_backbone = {key for key in trained if ".blocks." in key or "patch_embed" in key or key.endswith("pos_embed")}
    assert not of_backbone
    extra = len(trained) - 2
    assert (extra > 0) == (name in ("dynamicvit", "slic", "dhvt"))
    F.cross_entropy(model.train()(photos()), torch.tensor([0, 1])).backward()
    assert all(value.grad is not None for key, value in model.named_parameters() if key in trained)


@torch.no_grad()
@pytest.mark.parametrize("name", models.CLASSIFIERS)
def test_tokenizer_and_backbone_can_run_apart(name):
    model, images = build(name, tokens=9), photos(3)
    expected = model(images)
    partition = model.tokenize(images)
    assert (partition is None) == (name not in ("slic", "dhvt"))
    vits.equal(model(images, partition), expected)
    assert len(model.tokens) == 4
    if partition is not None:
        assert model.tokens == [float(partition.counts.double().mean())] * 4
    limit = {"vit": 16, "slic": 12}.get(name, 9)
    assert 4 < sum(model.tokens) / 4 <= limit
    assert float(model.auxiliary_loss()) == 0


SEGMENTERS = [
    pytest.param(name, marks=needs_heads if name.startswith(("slic", "dhvt")) else ()) for name in models.SEGMENTERS
]


def build_segmenter(name, **options):
    model = models.segmenter(name, tokens=9, channels=8, **{**MINI, **options})
    scramble(model)
    return model


@pytest.mark.parametrize("name", SEGMENTERS)
def test_a_segmenter_learns_which_half_of_an_image_is_bright(name):
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


@pytest.mark.parametrize("name", SEGMENTERS)
def test_a_frozen_segmenter_trains_its_head_and_what_the_method_adds(name):
    model = build_segmenter(name)
    model.freeze()
    trained = {key for key, value in model.named_parameters() if value.requires_grad}
    assert not any("blocks." in key or "patch_embed" in key or "encoder" in key for key in trained)
    F.cross_entropy(model.train()(photos(4)), torch.randint(5, (4, 64, 64))).backward()
    assert {key for key, value in model.named_parameters() if value.grad is not None} == trained


@torch.no_grad()
@pytest.mark.parametrize("name", SEGMENTERS)
def test_tokenizer_and_segmenter_can_run_apart(name):
    model, images = build_segmenter(name).eval(), photos(3)
    partition = model.tokenize(images)
    assert (partition is None) == (not name.startswith(("slic", "dhvt")))
    vits.equal(model(images, partition), model(images))
    if partition is not None:
        assert model.tokens == [float(partition.counts.double().mean())] * 4


@torch.no_grad()
def test_a_linear_head_on_patches_is_one_on_the_tokens_of_timm():
    model, images = build_segmenter("vit-linear", size=(48, 64)).eval(), photos(2)[..., :48, :]
    tokens = model.backbone.forward_features(images)[:, 1:]
    weight = model.head.classifier.weight.flatten(1)
    logits = (tokens @ weight.T + model.head.classifier.bias).transpose(1, 2).unflatten(2, (3, 4))
    vits.equal(model(images), F.interpolate(logits, size=(48, 64), mode="bilinear"))


@torch.no_grad()
def test_upernet_sees_four_blocks_at_four_strides():
    model = build_segmenter("vit-upernet").eval()
    seen = []
    model.head.decoder.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs[0]))
    model(photos())
    assert [tuple(level.shape) for level in seen] == [(2, 48, 64 // stride, 64 // stride) for stride in (4, 8, 16, 32)]
    assert models.segmentation.upernet_layers(12) == (2, 5, 8, 11)


@torch.no_grad()
def test_segformer_is_that_of_transformers(tmp_path):
    model, images = build_segmenter("segformer").eval(), photos()
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


@torch.no_grad()
def test_all_systems_start_from_the_weights_of_one_backbone():
    state = {key: value.half() for key, value in build("vit", size=96).backbone.state_dict().items()}
    for name in models.CLASSIFIERS:
        vit = vit_of(models.classifier(name, tokens=9, weights=state, **MINI))
        assert vit.pos_embed.shape == (1, 17, 48), "6 x 6 patches to 4 x 4"
        own = vit.state_dict()
        for key in state.keys() - {"pos_embed", "head.weight", "head.bias"}:
            torch.testing.assert_close(own[key], state[key].float(), rtol=0, atol=0)
        torch.testing.assert_close(own["pos_embed"][:, 0], state["pos_embed"][:, 0].float())
        assert not torch.equal(own["head.weight"], state["head.weight"].float())


@torch.no_grad()
def test_the_hierarchy_has_the_levels_asked_for():
    images = photos(2, 96)
    leaves = [build("dhvt", size=96, depth=depth, cell=16, strength=4.0).tokenize(images).counts for depth in (1, 2, 3)]
    assert (leaves[0] > leaves[1]).all()
    assert (leaves[1] >= leaves[2]).all()
    pixels = build("dhvt", size=96, leaves="pixels", criterion="fixed", tokens=20).tokenize(images)
    assert (pixels.counts > 12).all()
    assert (pixels.counts <= 20).all()
    assert pixels.soft is None


def test_bad_input():
    with pytest.raises(ValueError, match="name: expected one of vit, tome, "):
        models.classifier("vits", classes=2)
    with pytest.raises(ValueError, match="name: expected one of vit-linear, "):
        models.segmenter("vit", classes=2)
    with pytest.raises(ValueError, match="size: expected multiples of 16 pixels; found 60 x 64"):
        models.classifier("vit", **{**MINI, "size": (60, 64)})
    with pytest.raises(ValueError, match="name: expected one of vit_mini, "):
        backbone.plain_vit("vit_huge", classes=2, size=32)
    with pytest.raises(ValueError, match="ratio: expected a number in"):
        build("dynamicvit", ratio=1.5)
    with pytest.raises(ValueError, match="reduction: expected 4 numbers >= 0"):
        build("tome", reduction=[1, 2])
    with pytest.raises(ValueError, match="reduction: expected at most half of 7 tokens in a block; found 4"):
        build("tome", reduction=[5, 4, 4, 0])
    state = build("vit").backbone.state_dict()
    with pytest.raises(ValueError, match=r"weights: expected those of vit_small, with blocks\.0\.attn\.proj\.bias"):
        models.classifier("vit", classes=5, weights=state)
    with pytest.raises(ValueError, match=r"blocks\.2\.norm1\.bias \(48,\); found absent"):
        models.classifier("vit", weights={k: v for k, v in state.items() if k != "blocks.2.norm1.bias"}, **MINI)
    with pytest.raises(ValueError, match="tokens: expected at least"):
        tome.schedule(196, 12, 5)


@needs_weights
@pytest.mark.slow
@pytest.mark.parametrize("name", models.CLASSIFIERS)
def test_real_weights_fit_every_system(name):
    model = models.classifier(name, classes=101, size=224, tokens=98, weights=WEIGHTS)
    with torch.no_grad():
        logits = model.eval()(photos(1, 224))
    assert logits.isfinite().all()
    assert isinstance(model.tokenize(photos(1, 224)), dk.Partition) == (name in ("slic", "dhvt"))
