"""`Retrofit.features`: the tokens after some of the blocks, for dense prediction."""

import pytest
import torch
import vits
from torch import nn

import dhvt_kernels as dk


def final_norm(model):
    """Written down here by family, from their sources."""
    for path in ("encoder.ln", "vit.layernorm", "dinov2.layernorm", "layernorm", "vision_model.post_layernorm"):
        try:
            return model.get_submodule(path)
        except AttributeError:
            continue
    if hasattr(model, "post_layernorm"):
        return model.post_layernorm
    return model.fc_norm if isinstance(model.norm, nn.Identity) else model.norm


def blocks(model):
    names = ("Block", "EncoderBlock", "ViTLayer", "Dinov2Layer", "CLIPEncoderLayer", "SiglipEncoderLayer")
    return [module for module in model.modules() if type(module).__name__ in names]


@torch.no_grad()
@pytest.mark.parametrize("family", vits.FAMILIES)
def test_on_its_own_grid_they_are_the_originals(family):
    model, images, seen = vits.make(family), torch.randn(2, 3, 32, 32), []
    for block in blocks(model):
        block.register_forward_hook(lambda *call: seen.append(call[-1]))
    vit = dk.retrofit(model, dk.GridTokenizer(8))
    model(images)
    assert len(seen) == 2
    expected = [final_norm(model)(tokens[:, -16:]) for tokens in seen]
    features = vit.features(images, layers=(1, -2, -1))
    assert features.mask is None
    assert features.partition.num_segments == 16
    for found, value in zip(features.tokens, [expected[1], expected[0], expected[1]], strict=True):
        vits.equal(found, value)
    seen.clear()
    vits.equal(vit.features(images, layers=[0]).tokens[0], expected[0])
    assert len(seen) == 1, "the second block has nothing to do"
    vits.equal(vit.features(images).tokens[0], expected[1])


@torch.no_grad()
@pytest.mark.parametrize("family", ["timm-registers", "timm-siglip", "torchvision", "ViTModel", "CLIPVisionModel"])
def test_of_each_image_they_are_what_it_gives_alone(family):
    vit, images = vits.adaptive(vits.make(family)), vits.plain_and_busy()
    features = vit.features(images, layers=(0, 1))
    assert features.mask.sum(1).tolist() == features.partition.counts.tolist()
    for b in range(2):
        number = int(features.partition.counts[b])
        alone = vit.features(images[b : b + 1], features.partition[b], layers=(0, 1))
        for together, value in zip(features.tokens, alone.tokens, strict=True):
            assert together.isfinite().all()
            vits.equal(together[b, :number], value[0, :number])
        assert torch.equal(alone.partition.labels, features.partition.labels[b : b + 1])


def test_gradients_reach_model_and_tokens():
    vit, images = vits.adaptive(vits.make("timm")), vits.plain_and_busy()
    features = vit.features(images)
    features.tokens[0][features.mask].square().sum().backward()
    for parameter in (vit.injection.weight, vit.filler, vit.model.patch_embed.proj.weight, vit.model.norm.weight):
        assert parameter.grad.abs().sum() > 0


class Plain(dk.Adapter):
    patch_size, channels, width, mean, std = 4, 3, 5, (0, 0, 0), (1, 1, 1)

    def embed(self, patches):
        return self.model(patches.flatten(2))

    def positions(self, height, width):
        return None

    def forward(self, tokens, mask):
        return tokens.sum(1)


def test_tokens_that_are_dropped_are_refused():
    """On full rows, too: those that are left are no longer those of the partition."""
    model, images = vits._timm(patch_drop_rate=0.5)(32), vits.photos()
    vit = dk.retrofit(model, dk.GridTokenizer(8)).train()
    assert vit(images).shape == (2, 5), "the whole model has no need of the partition"
    with pytest.raises(ValueError, match="patch_drop_rate: expected 0, or evaluation mode: in training it drops"):
        vit.features(images)
    assert vit.eval().features(images).tokens[0].shape == (2, 16, 32)


def test_bad_layers():
    vit, images = vits.adaptive(vits.make("timm")), vits.photos()
    with pytest.raises(ValueError, match="layers: expected indices of 2 blocks, -2 to 1; found 2"):
        vit.features(images, layers=(0, 2))
    with pytest.raises(TypeError, match="layers: expected integers; found float"):
        vit.features(images, layers=(0.0,))
    with pytest.raises(TypeError, match="layers: expected a sequence of integers, or None; found int"):
        vit.features(images, layers=-1)
    with pytest.raises(NotImplementedError, match=r"Plain: expected a method features\(tokens, mask, layers\)"):
        dk.retrofit(nn.Linear(48, 5), dk.Tokenizer(), adapter=Plain).features(images)
