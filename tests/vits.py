"""For the tests of `retrofit`: small Vision Transformers of every supported family, with random weights, and images."""

import pytest
import skimage.data
import torch

import dhvt_kernels as dk
from benchmarks import libraries


def library(name):
    """The library, or the test is skipped."""
    try:
        return libraries.library(name)
    except ImportError as error:
        pytest.skip(str(error))


def _timm(**options):
    def make(size):
        library("timm")
        from timm.models.vision_transformer import VisionTransformer

        small = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 5}
        return VisionTransformer(img_size=size, **{**small, **options})

    return make


def _distilled(size):
    library("timm")
    from timm.models.deit import VisionTransformerDistilled

    return VisionTransformerDistilled(img_size=size, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=5)


def _transformers(config, model, **options):
    def make(size):
        transformers = library("transformers")
        small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        settings = getattr(transformers, config)(image_size=size, patch_size=8, **small, **options)
        if model in ("CLIPForImageClassification", "SiglipForImageClassification"):
            whole = getattr(transformers, config.replace("Vision", ""))
            settings = whole(vision_config=settings.to_dict(), num_labels=5)
        return getattr(transformers, model)(settings)

    return make


def _torchvision_vit(size):
    library("torchvision")
    from torchvision.models import VisionTransformer

    return VisionTransformer(
        image_size=size, patch_size=8, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64, num_classes=5
    )


#: Families whose models take one size of images only.
FIXED = {
    "timm": _timm(),
    "timm-mean": _timm(class_token=False, global_pool="avg"),
    "timm-max": _timm(global_pool="max"),
    "timm-avgmax-prefix": _timm(global_pool="avgmax", pool_include_prefix=True),
    "timm-registers": _timm(reg_tokens=3, no_embed_class=True),
    "timm-deit3": _timm(no_embed_class=True, init_values=1e-2),
    "timm-deit-distilled": _distilled,
    "timm-clip": _timm(pre_norm=True),
    "timm-siglip": _timm(class_token=False, global_pool="map"),
    "timm-no-positions": _timm(pos_embed="none", class_token=False, global_pool="avg"),
    "timm-no-pool": _timm(global_pool=""),
    "torchvision": _torchvision_vit,
}
#: Families that interpolate their positions for other sizes; how the original is told to.
DYNAMIC = {
    "timm-dynamic": (_timm(dynamic_img_size=True), {}),
    "timm-dinov2": (_timm(dynamic_img_size=True, init_values=1e-2, reg_tokens=4), {}),
    "ViTModel": (_transformers("ViTConfig", "ViTModel"), {"interpolate_pos_encoding": True}),
    "ViTForImageClassification": (
        _transformers("ViTConfig", "ViTForImageClassification", num_labels=5),
        {"interpolate_pos_encoding": True},
    ),
    "Dinov2Model": (_transformers("Dinov2Config", "Dinov2Model"), {}),
    "Dinov2ForImageClassification": (
        _transformers("Dinov2Config", "Dinov2ForImageClassification", num_labels=5),
        {},
    ),
    "CLIPVisionModel": (_transformers("CLIPVisionConfig", "CLIPVisionModel"), {"interpolate_pos_encoding": True}),
    "CLIPVisionModelWithProjection": (
        _transformers("CLIPVisionConfig", "CLIPVisionModelWithProjection"),
        {"interpolate_pos_encoding": True},
    ),
    "CLIPForImageClassification": (
        _transformers("CLIPVisionConfig", "CLIPForImageClassification"),
        {"interpolate_pos_encoding": True},
    ),
    "SiglipVisionModel": (_transformers("SiglipVisionConfig", "SiglipVisionModel"), {"interpolate_pos_encoding": True}),
    "SiglipVisionModel-no-head": (
        _transformers("SiglipVisionConfig", "SiglipVisionModel", vision_use_head=False),
        {"interpolate_pos_encoding": True},
    ),
    "SiglipForImageClassification": (
        _transformers("SiglipVisionConfig", "SiglipForImageClassification"),
        {"interpolate_pos_encoding": True},
    ),
}
FAMILIES = [*FIXED, *DYNAMIC]


def make(family, size=32):
    """A model in evaluation mode, every parameter random: some are 0 or constant as they come."""
    model = FIXED[family](size) if family in FIXED else DYNAMIC[family][0](size)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    return model.eval()


def tensors(output):
    """The tensors of what a model returns, whatever it is."""
    if isinstance(output, torch.Tensor):
        return [output]
    return [value for value in output.values() if value is not None]


def equal(found, expected, tolerance=1e-5):
    found, expected = tensors(found), tensors(expected)
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert other.abs().max() > 1e-3, "says nothing"
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance * max(1, float(other.abs().max())))


def photos(batch=2, height=32, width=32):
    """Crops of a photograph, in [0, 1]."""
    photo = torch.from_numpy(skimage.data.astronaut()).permute(2, 0, 1).float() / 255
    return torch.stack([photo[:, 40 * b : 40 * b + height, 200 : 200 + width] for b in range(batch)])


def adaptive(model, **options):
    """A retrofit for photographs in [0, 1] whose images get different numbers of tokens."""
    options = {"max_tokens": 14, **options}
    return dk.retrofit(model, dk.Tokenizer(cell=4), mean=(0, 0, 0), std=(1, 1, 1), **options)


def plain_and_busy(size=32):
    """One image with few tokens, one with many."""
    images = photos(2, size, size)
    images[0] = 0.3
    images[0, :, :, size // 2 :] = 0.8
    return images
