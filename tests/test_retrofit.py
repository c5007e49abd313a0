"""A retrofitted Vision Transformer is the original on the original's grid, and its padding is not seen."""

import math
import os
from dataclasses import replace

import pytest
import torch
import vits

import dhvt_kernels as dk
from dhvt_kernels.retrofit import tokens as alignment
from dhvt_kernels.retrofit.patches import masked_mean

#: Path of a real ViT-S/16, a state dict in timm's names.
WEIGHTS = os.environ.get("DHVT_VIT_WEIGHTS")

# Exactness


@torch.no_grad()
@pytest.mark.parametrize("size", [32, 48])
@pytest.mark.parametrize("family", vits.FAMILIES)
def test_on_its_own_grid_it_is_the_original(family, size):
    model = vits.make(family, size)
    images = torch.randn(2, 3, size, size)
    vits.equal(dk.retrofit(model, dk.GridTokenizer(8))(images), model(images))


@torch.no_grad()
@pytest.mark.parametrize("family", ["timm", "timm-siglip", "timm-deit-distilled", "ViTModel"])
def test_a_model_of_oblong_images_is_the_original(family):
    model, images = vits.make(family, (24, 40)), torch.randn(2, 3, 24, 40)
    vits.equal(dk.retrofit(model, dk.GridTokenizer(8))(images), model(images))


@torch.no_grad()
@pytest.mark.parametrize("size", [(32, 48), (56, 24), (64, 64)])
@pytest.mark.parametrize("family", vits.DYNAMIC)
def test_at_other_resolutions_it_is_the_original(family, size):
    model, images = vits.make(family), torch.randn(2, 3, *size)
    expected = model(images, **vits.DYNAMIC[family][1])
    vits.equal(dk.retrofit(model, dk.GridTokenizer(8))(images), expected)


@torch.no_grad()
def test_a_given_partition_is_taken():
    model, images = vits.make("timm"), torch.randn(2, 3, 32, 32)
    vit = vits.adaptive(model)
    partition = dk.GridTokenizer(8)(images)
    vits.equal(vit(images, partition), model(images))


@torch.no_grad()
@pytest.mark.skipif(not WEIGHTS, reason="DHVT_VIT_WEIGHTS is not the path of a ViT-S/16")
@pytest.mark.parametrize("size", [224, 256])
def test_a_real_vit_on_its_own_grid_is_the_original(size):
    vits.library("timm")
    from timm.models.vision_transformer import VisionTransformer

    small = {"embed_dim": 384, "depth": 12, "num_heads": 6, "num_classes": 0, "init_values": 1e-5}
    model = VisionTransformer(img_size=224, patch_size=16, dynamic_img_size=size != 224, **small).eval()
    model.load_state_dict(torch.load(WEIGHTS, weights_only=True))
    images = (vits.photos(2, size, size) - 0.45) / 0.225
    vits.equal(dk.retrofit(model, dk.GridTokenizer(16))(images), model(images))


@torch.no_grad()
@pytest.mark.parametrize("size", [4, 9])  # below and above the sides of most segments
def test_windows_are_squares_around_the_centroids_inside_of_their_image(size):
    images, mask = dk.pad_images([vits.photos(1, 40, 56)[0], vits.photos(1, 33, 24)[0]])
    partition = dk.Tokenizer(cell=8, max_tokens=12)(images, mask)
    moments = partition.moments(images)
    found = alignment.windows(moments, size, torch.tensor([[40, 56], [33, 24]], dtype=torch.int32))
    for b, (height, width) in enumerate([(40, 56), (33, 24)]):
        for k, box in enumerate(found[b].tolist()):
            if k >= partition.counts[b]:
                assert box == [0, 0, -1, -1]
                continue
            pixels = (partition.labels[b] == k).nonzero().double()
            side = max(size, round(math.sqrt(len(pixels))))
            expected = [
                max(0, min(math.floor(center - side / 2 + 1), length - side))
                for center, length in zip(pixels.mean(0).tolist(), (height, width), strict=True)
            ]
            assert box == [*expected, *(start + side - 1 for start in expected)]
    assert partition.counts[1] < partition.num_segments or partition.counts[0] < partition.num_segments


def test_windows_of_long_images_end_at_the_image():
    images, mask = dk.pad_images([torch.rand(3, 8, 90), torch.rand(3, 40, 40)])
    moments = dk.GridTokenizer(100)(images, mask).moments(images)
    assert alignment.windows(moments, 8, torch.tensor([[8, 90], [40, 40]], dtype=torch.int32))[:, 0].tolist() == [
        [0, 41, 7, 48],
        [0, 0, 39, 39],
    ]


@pytest.mark.parametrize("size", [1, 2, 7, 8])
def test_windows_on_the_grid_are_its_squares(size):
    images = torch.rand(1, 3, 5 * size, 3 * size)
    moments = dk.GridTokenizer(size)(images).moments(images)
    ends = torch.tensor([images.shape[2:]], dtype=torch.int32)
    assert torch.equal(alignment.windows(moments, size, ends), moments.box)


@torch.no_grad()
@pytest.mark.parametrize("tokens", ["windows", "boxes"])
def test_at_first_the_injection_changes_nothing(tokens):
    vit = vits.adaptive(vits.make("timm"), tokens=tokens)
    images = vits.plain_and_busy()
    partition = vit.tokenize(images)
    moments = partition.moments(images)
    boxes = (
        moments.box if tokens == "boxes" else alignment.windows(moments, 8, torch.tensor([[32, 32]], dtype=torch.int32))
    )
    patches, masks = dk.token_patches(images, partition.labels, boxes, size=8)
    before = vit.embed(images, partition)
    share = vit.mix.sigmoid()
    assert share > 0.95
    vits.equal(before, vit.adapter.embed(patches * (masks + share * (1 - masks))))
    vit.injection.weight.normal_()
    assert not torch.allclose(vit.embed(images, partition), before)


@torch.no_grad()
def test_positions_are_means_of_the_table_over_the_segments():
    model = vits.make("timm")
    vit = vits.adaptive(model)
    partition = vit.tokenize(vits.photos())
    table = model.pos_embed[0, 1:].reshape(4, 4, -1).repeat_interleave(8, 0).repeat_interleave(8, 1)
    expected = partition.pool(table.permute(2, 0, 1).repeat(2, 1, 1, 1))
    torch.testing.assert_close(vit.positions(partition), expected)


@torch.no_grad()
def test_the_grid_tokenizer():
    images, mask = dk.pad_images([torch.rand(3, 20, 9), torch.rand(3, 8, 30)])
    partition = dk.GridTokenizer(8)(images, mask)
    assert partition.counts.tolist() == [6, 4]
    assert partition.num_segments == 12
    for b, columns in ((0, 2), (1, 4)):
        y, x = mask[b].nonzero().T
        assert torch.equal(partition.labels[b, y, x], (y // 8 * columns + x // 8).int())
    assert (partition.labels[~mask] == -1).all()
    torch.testing.assert_close(partition.features, partition.pool(images))
    assert partition.node[1].tolist() == [0, 1, 2, 3] + 8 * [-1]
    assert dk.GridTokenizer(40)(images).counts.tolist() == [1, 1]
    with pytest.raises(ValueError, match="size: expected an integer >= 1; found 0"):
        dk.GridTokenizer(0)
    with pytest.raises(TypeError, match=r"images: expected \[B,C,H,W\]"):
        dk.GridTokenizer(8)(images.byte())


@torch.no_grad()
@pytest.mark.parametrize(
    ("family", "grid"),
    [("timm", (4, 4)), ("torchvision", (4, 4)), ("timm-dynamic", (4, 5)), ("ViTModel", (4, 5))],
)
def test_a_patch_that_does_not_divide_the_image(family, grid):
    """The whole patches (or the model's one grid), stretched over the image; its segments average over the pixels."""
    vit, images = vits.adaptive(vits.make(family)), vits.photos(2, 35, 46)
    table = vit.adapter.positions(35, 46)
    assert table.shape == (*grid, 32)
    y, x = torch.arange(35) * grid[0] // 35, torch.arange(46) * grid[1] // 46
    partition = vit.tokenize(images)
    expected = partition.pool(table[y][:, x].permute(2, 0, 1).repeat(2, 1, 1, 1))
    torch.testing.assert_close(vit.positions(partition), expected)
    assert torch.equal(table, vit.adapter.positions(grid[0] * 8, grid[1] * 8))


# Padding


@torch.no_grad()
@pytest.mark.parametrize("family", vits.FAMILIES)
def test_a_padded_row_gives_what_its_image_gives_alone(family):
    """test_attention has huge values in the padding."""
    vit = vits.adaptive(vits.make(family))
    images = vits.plain_and_busy()
    few, many = vit.tokenize(images).counts.tolist()
    assert few < many
    for found, value in zip(vits.tensors(vit(images[:1])), vits.tensors(vit(images)), strict=True):
        value = value[:1, : found.shape[1]]
        torch.testing.assert_close(found, value, rtol=0, atol=1e-5 * max(1, float(value.abs().max())))


def test_a_mean_over_real_tokens_does_not_overflow():
    """Sums in float32, and the padding may hold anything."""
    tokens = torch.full((2, 300, 3), 1000.0, dtype=torch.float16)
    mask = torch.arange(300) < torch.tensor([[300], [200]])
    tokens[~mask] = torch.inf
    found = masked_mean(tokens, mask)
    assert found.dtype == torch.float16
    assert torch.equal(found, torch.full((2, 3), 1000.0, dtype=torch.float16))


@torch.no_grad()
@pytest.mark.parametrize("family", ["timm-mean", "timm-avgmax-prefix", "CLIPForImageClassification"])
def test_pooling_in_float16_does_not_overflow(family):
    """Tokens of 20000, of which four are more than float16 holds."""
    vit, images = vits.adaptive(vits.make(family).half()), vits.plain_and_busy().half()
    blocks = vit.adapter.run

    def huge(*args):
        return tuple(torch.full_like(tokens, 20000) for tokens in blocks(*args))

    vit.adapter.run = huge
    assert vits.tensors(vit(images))[0].isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("family", ["timm", "timm-siglip", "ViTModel", "CLIPVisionModel"])
def test_padding_without_fused_attention(family):
    vit, images = vits.adaptive(vits.make(family)), vits.plain_and_busy()
    expected = vit(images)
    for module in vit.model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    if hasattr(vit.model, "set_attn_implementation"):
        vit.model.set_attn_implementation("eager")
    vits.equal(vit(images), expected)


@torch.no_grad()
@pytest.mark.parametrize("tokenizer", [dk.GridTokenizer(8), dk.Tokenizer(cell=4)], ids=["grid", "adaptive"])
@pytest.mark.parametrize("family", ["timm-siglip", "timm-dynamic", "Dinov2ForImageClassification", "CLIPVisionModel"])
def test_images_of_different_size_give_what_they_give_alone(family, tokenizer):
    vit = dk.retrofit(vits.make(family), tokenizer, max_tokens=24, mean=(0, 0, 0), std=(1, 1, 1))
    single = [vits.photos(1, *size)[0] for size in ((32, 32), (40, 24), (16, 48))]
    images, mask = dk.pad_images(single)
    images = images.masked_fill(~mask[:, None], torch.nan)
    together = vits.tensors(vit(images, mask=mask))
    for b, image in enumerate(single):
        for found, value in zip(together, vits.tensors(vit(image[None])), strict=True):
            row = found[b : b + 1]
            if value.dim() == 3:
                number = 1 + int(vit.tokenize(image[None]).counts)
                row, value = row[:, :number], value[:, :number]
            torch.testing.assert_close(row, value, rtol=0, atol=2e-5 * max(1, float(value.abs().max())))


@torch.no_grad()
def test_positions_are_made_once_for_images_of_one_size(monkeypatch):
    vit, asked = vits.adaptive(vits.make("timm-dynamic")), []
    sizes = [(32, 32), (40, 24), (32, 32), (16, 48), (40, 24)]
    images, mask = dk.pad_images([vits.photos(1, *size)[0] for size in sizes])
    partition = vit.tokenize(images, mask)
    positions = vit.adapter.positions
    expected = [vit.positions(partition[b], [size]) for b, size in enumerate(sizes)]
    monkeypatch.setattr(vit.adapter, "positions", lambda *size: asked.append(size) or positions(*size))
    vits.equal(vit.positions(partition, sizes), torch.cat(expected))
    assert asked == [(32, 32), (40, 24), (16, 48)]


# Numbers of tokens


@torch.no_grad()
@pytest.mark.parametrize("budget", [1, 2, 5, 100])
@pytest.mark.parametrize("align", ["budget", "truncate"])
def test_there_are_at_most_as_many_tokens_as_asked_for_and_at_least_one(align, budget):
    vit = vits.adaptive(vits.make("timm-mean"), align=align, max_tokens=budget)
    images = vits.plain_and_busy()
    partition = vit.tokenize(images)
    assert (partition.counts >= 1).all()
    assert partition.counts.max() <= budget
    assert partition.num_segments <= budget
    for b, count in enumerate(partition.counts.tolist()):
        assert partition.labels[b].unique().tolist()[-count:] == list(range(count))
    assert vit(images).isfinite().all()


@torch.no_grad()
def test_budget_merges_as_the_tokenizer_does():
    vit = vits.adaptive(vits.make("timm"), max_tokens=9)
    images = vits.photos()
    expected = vit.tokenizer.hierarchy(images).cut(max_tokens=9)
    assert torch.equal(vit.tokenize(images).labels, expected.labels)


@torch.no_grad()
def test_without_a_budget_it_is_the_tokenizers_or_the_number_of_patches():
    model, images = vits.make("timm-dynamic"), vits.photos(1, 40, 64)
    assert vits.adaptive(model, max_tokens=None).tokenize(images).num_segments == 40
    vit = dk.retrofit(model, dk.Tokenizer(cell=4, max_tokens=11), mean=(0, 0, 0), std=(1, 1, 1))
    assert vit.tokenize(images).num_segments == 11


@torch.no_grad()
def test_pad_keeps_every_segment():
    vit = vits.adaptive(vits.make("timm"), align="pad", max_tokens=None)
    images = vits.plain_and_busy()
    partition, expected = vit.tokenize(images), vit.tokenizer(images)
    assert torch.equal(partition.labels, expected.labels)
    vits.equal(vit(images, expected), vit(images))
    assert alignment.compact(partition)[0].num_segments == expected.counts.max()


@torch.no_grad()
def test_truncation_drops_the_segments_of_least_information():
    vit = vits.adaptive(vits.make("timm"), align="truncate", max_tokens=6)
    images = vits.photos(3)
    whole, partition = vit.tokenizer(images), vit.tokenize(images)
    for b, count in enumerate(whole.counts.tolist()):
        deviation = (images[b] - images[b].mean((1, 2), keepdim=True)).square().sum(0)
        information = torch.stack([deviation[whole.labels[b] == k].sum() for k in range(count)])
        torch.testing.assert_close(alignment.information(whole, images)[b, :count], information, rtol=1e-4, atol=1e-4)
        kept = information.argsort(descending=True)[:6].sort().values
        for new, old in enumerate(kept.tolist()):
            assert torch.equal(partition.labels[b] == new, whole.labels[b] == old)
            torch.testing.assert_close(partition.features[b, new], whole.features[b, old])
        assert (partition.labels[b] == -1).sum() == sum(
            (whole.labels[b] == k).sum() for k in range(count) if k not in kept
        )


@torch.no_grad()
@pytest.mark.parametrize("tokens", ["windows", "boxes"])
def test_a_token_does_not_change_when_another_is_dropped(tokens):
    """Also where what is left does not reach the end of the image."""
    vit, images = vits.adaptive(vits.make("timm"), tokens=tokens), vits.photos(1)
    images[:, :, 8:] = images[:, :, 8:].mean((2, 3), keepdim=True)
    rows = (torch.arange(32, dtype=torch.int32) // 8)[None, :, None].expand(1, 32, 32)
    whole = replace(dk.GridTokenizer(16)(images), labels=rows.contiguous())  # each 8 x 32, whose window is 16 x 16
    kept = alignment.truncate(whole, images, 1)
    assert (kept.labels == 0).sum() == (kept.labels[:, :8] == 0).sum() == 256
    vits.equal(vit.embed(images, kept)[:, 0], vit.embed(images, whole)[:, 0])


@torch.no_grad()
def test_a_cut_of_many_is_truncated_too():
    vit = vits.adaptive(vits.make("timm"), align="truncate", max_tokens=6)
    images = vits.photos()
    many = vit.tokenizer.hierarchy(images).cut(max_tokens=[4, 12])
    assert vit(images, many[1]).isfinite().all()
    vits.equal(vit(images, many[0]), vits.adaptive(vit.model)(images, many[0]))
