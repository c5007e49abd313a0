"""Which models can be retrofitted, adapters of one's own, and bad input."""

import subprocess
import sys

import pytest
import torch
import vits
from torch import nn

import dhvt_kernels as dk

# Models


def test_importing_the_package_imports_none_of_the_libraries():
    code = "import sys, dhvt_kernels; print([n for n in ('timm', 'transformers', 'torchvision') if n in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_an_unsupported_model_is_named_with_what_is_supported():
    with pytest.raises(TypeError, match=r"found torch\.nn\.modules\.linear\.Linear; expected one of timm: ") as error:
        dk.retrofit(nn.Linear(2, 2), dk.Tokenizer())
    for part in ("torchvision: VisionTransformer", "Dinov2Model", "SiglipVisionModel", "embed, positions and forward"):
        assert part in str(error.value)


def test_a_subclass_that_computes_something_else_is_refused():
    vits.library("timm")
    from timm.models.vision_transformer import VisionTransformer

    class Other(VisionTransformer):
        def forward_features(self, images, *more):
            return super().forward_features(-images)

    class Same(VisionTransformer):
        def extra_repr(self):
            return "mine"

    small = {"img_size": 16, "patch_size": 8, "embed_dim": 8, "depth": 1, "num_heads": 1}
    with pytest.raises(TypeError, match="Other overrides forward_features of VisionTransformer"):
        dk.retrofit(Other(**small), dk.Tokenizer())
    dk.retrofit(Same(**small), dk.Tokenizer())


def test_patch_embeddings_that_are_no_patches_are_refused():
    vits.library("timm")
    from timm.models.vision_transformer import VisionTransformer

    with pytest.raises(TypeError, match="patches of 8 x 16 pixels, not square"):
        dk.retrofit(
            VisionTransformer(img_size=32, patch_size=(8, 16), embed_dim=8, depth=1, num_heads=1), dk.Tokenizer()
        )

    class Stem(nn.Conv2d):
        grid_size, num_patches = (4, 4), 16

        def __init__(self, embed_dim, **options):
            super().__init__(3, embed_dim, 8, 8)

    with pytest.raises(TypeError, match="VisionTransformer with Stem instead of PatchEmbed"):
        dk.retrofit(VisionTransformer(img_size=32, embed_dim=8, depth=1, num_heads=1, embed_layer=Stem), dk.Tokenizer())


def test_blocks_without_a_mask_are_refused():
    vits.library("timm")
    from timm.models.vision_transformer import Block, VisionTransformer

    class Old(Block):
        def forward(self, tokens):
            return super().forward(tokens)

    with pytest.raises(TypeError, match="VisionTransformer with Old, which takes no attn_mask"):
        dk.retrofit(VisionTransformer(img_size=32, embed_dim=8, depth=1, num_heads=1, block_fn=Old), dk.Tokenizer())


def test_old_transformers_are_refused(monkeypatch):
    model = vits.make("ViTModel")
    monkeypatch.setattr(sys.modules["transformers"], "__version__", "4.57.1")
    with pytest.raises(TypeError, match=r"found ViTModel of transformers 4\.57\.1, older than 5; expected one of"):
        dk.retrofit(model, dk.Tokenizer())


@torch.no_grad()
def test_what_takes_no_padding_says_so():
    """And works where there is none."""
    vits.library("timm")
    from timm.models.vision_transformer import VisionTransformer

    small = {"img_size": 32, "patch_size": 8, "embed_dim": 8, "depth": 1, "num_heads": 1}
    images = vits.plain_and_busy()
    dropping = vits.adaptive(VisionTransformer(**small, patch_drop_rate=0.5))
    assert dropping.eval()(images).isfinite().all()
    assert dropping.train()(images[1:]).isfinite().all()
    with pytest.raises(ValueError, match="patch_drop_rate: expected 0"):
        dropping(images)
    refining = vits.adaptive(VisionTransformer(**small, global_pool="prr"))
    assert refining(images[1:]).isfinite().all()
    with pytest.raises(ValueError, match="global_pool: 'prr' takes no rows with different numbers of tokens"):
        refining(images)


def test_a_convolutional_stem_of_torchvision_is_refused():
    vits.library("torchvision")
    from torchvision.models.vision_transformer import ConvStemConfig, VisionTransformer

    stem = [ConvStemConfig(8, 3, 8)]
    with pytest.raises(TypeError, match="convolutional stem"):
        dk.retrofit(VisionTransformer(32, 8, 1, 1, 8, 8, conv_stem_configs=stem), dk.Tokenizer())


class Toy(nn.Module):
    """A model of one's own: patches, positions, one layer, mean."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Linear(3 * 16, 16)
        self.table = nn.Parameter(torch.randn(8, 8, 16))
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0)

    def forward(self, images):
        patches = images.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).flatten(1, 2).flatten(2)
        return self.layer(self.embedding(patches) + self.table.flatten(0, 1)).mean(1)


class ToyAdapter(dk.Adapter):
    patch_size, channels, width = 4, 3, 16
    mean, std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)

    def embed(self, patches):
        return self.model.embedding(patches.flatten(2))

    def positions(self, height, width):
        return self.model.table

    def forward(self, tokens, mask):
        if mask is None:
            return self.model.layer(tokens).mean(1)
        tokens = self.model.layer(tokens, src_key_padding_mask=~mask)
        return (tokens * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)


@torch.no_grad()
def test_an_adapter_of_ones_own():
    model, images = Toy().eval(), torch.randn(2, 3, 32, 32)
    vits.equal(dk.retrofit(model, dk.GridTokenizer(4), adapter=ToyAdapter)(images), model(images))
    vit = dk.retrofit(model, dk.Tokenizer(cell=4), max_tokens=9, adapter=ToyAdapter)
    assert vit(vits.plain_and_busy()).isfinite().all()
    with pytest.raises(TypeError, match="adapter: expected a subclass of Adapter; found Linear"):
        dk.retrofit(model, dk.Tokenizer(), adapter=lambda model: nn.Linear(1, 1))


# Bad input


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"max_tokens": 0}, ValueError, "max_tokens: expected an integer >= 1; found 0"),
        ({"max_tokens": 2.5}, TypeError, "max_tokens: expected an integer; found float"),
        ({"max_tokens": 4, "align": "pad"}, ValueError, 'max_tokens: expected None with align="pad"'),
        ({"align": "merge"}, ValueError, "align: expected one of budget, truncate, pad; found 'merge'"),
        ({"tokens": "pixels"}, ValueError, "tokens: expected one of windows, boxes, features; found 'pixels'"),
        ({"mean": (0.5,)}, ValueError, r"mean: expected 3 numbers, one per channel; found \[0.5\]"),
        ({"std": (1, 0, 1)}, ValueError, r"std: expected numbers > 0; found \[1.0, 0.0, 1.0\]"),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        dk.retrofit(Toy(), dk.Tokenizer(), adapter=ToyAdapter, **options)


def test_bad_modules():
    with pytest.raises(TypeError, match=r"tokenizer: expected an nn\.Module; found NoneType"):
        dk.retrofit(Toy(), None, adapter=ToyAdapter)
    with pytest.raises(TypeError, match="tokenizer: expected a module that returns a Partition; found Tensor"):
        dk.retrofit(Toy(), Nothing(), adapter=ToyAdapter)


class Nothing(nn.Module):
    def forward(self, images, mask):
        return images


def test_bad_images():
    vit = dk.retrofit(Toy(), dk.Tokenizer(), adapter=ToyAdapter)
    for size in ((3, 32), (32, 3)):
        with pytest.raises(ValueError, match=f"at least one patch of 4 x 4 pixels; found {size[0]} x {size[1]}"):
            vit(torch.rand(1, 3, *size))
    images, mask = dk.pad_images([torch.rand(3, 32, 32), torch.rand(3, 3, 8)])
    with pytest.raises(ValueError, match="at least one patch of 4 x 4 pixels; found 3 x 8"):
        vit(images, mask=mask)
    with pytest.raises(ValueError, match="at least one patch of 4 x 4 pixels; found 0 x 0"):
        vit(images, mask=mask & False)
    with pytest.raises(ValueError, match=r"images: expected \[B,3,H,W\]; found \[1, 4, 32, 32\]"):
        vit(torch.rand(1, 4, 32, 32))
    with pytest.raises(TypeError, match=r"images: expected \[B,C,H,W\] of float32"):
        vit(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    with pytest.raises(ValueError, match="mask"):
        vit(torch.rand(1, 3, 32, 32), mask=torch.ones(1, 32, 31, dtype=torch.bool))


@pytest.mark.parametrize("rows", [slice(0, 8), slice(8, 16), slice(24, 32)])
def test_a_mask_is_the_rectangle_of_an_image(rows):
    vit, images = dk.retrofit(Toy(), dk.Tokenizer(), adapter=ToyAdapter), torch.rand(2, 3, 32, 32)
    mask = torch.ones(2, 32, 32, dtype=torch.bool)
    mask[1, rows, 4 if rows.stop == 32 else 0 :] = False
    with pytest.raises(ValueError, match="mask: expected each image's pixels as a rectangle in the upper left corner"):
        vit(images, mask=mask)


def test_bad_partitions():
    vit = dk.retrofit(Toy(), dk.Tokenizer(), adapter=ToyAdapter)
    images = torch.rand(2, 3, 32, 32)
    with pytest.raises(TypeError, match="partition: expected a Partition; found Tensor"):
        vit(images, images)
    with pytest.raises(ValueError, match=r"partition: expected labels \[2, 32, 32\]; found \[2, 16, 16\]"):
        vit(images, vit.tokenizer(torch.rand(2, 3, 16, 16)))
    empty = vit.tokenizer(images)
    empty.counts[1] = 0
    with pytest.raises(ValueError, match=r"at least one segment in every image; found counts \[\d+, 0\]"):
        vit(images, empty)
    other = dk.Tokenizer(dk.ConvEncoder(), noise=0.1)
    with pytest.raises(ValueError, match="partition: expected 3 features, as the tokenizer gives; found 8"):
        vit(images, other(images))


def test_a_budget_that_cannot_be_met():
    images = torch.rand(1, 3, 32, 32)
    vit = dk.retrofit(Toy(), dk.GridTokenizer(4), adapter=ToyAdapter, max_tokens=63)
    with pytest.raises(ValueError, match="gives 64 segments, and cannot merge them to 63"):
        vit(images)
    vit = dk.retrofit(Toy(), dk.Tokenizer(depth=1, cell=4), adapter=ToyAdapter, max_tokens=3)
    with pytest.raises(ValueError, match="cannot merge them to 3"):
        vit(images)


@torch.no_grad()
@pytest.mark.parametrize("size", [(33, 47), (8, 8), (9, 100)])
@pytest.mark.parametrize("family", ["timm", "timm-dynamic", "torchvision", "ViTModel", "SiglipVisionModel"])
def test_sizes_that_the_patch_does_not_divide(family, size):
    vit = vits.adaptive(vits.make(family))
    for value in vits.tensors(vit(vits.photos(2, *size))):
        assert value.isfinite().all()


@torch.no_grad()
def test_no_images():
    vit = vits.adaptive(vits.make("timm"))
    assert vit(torch.rand(0, 3, 32, 32)).shape == (0, 5)
    assert vit(torch.rand(0, 3, 32, 32), mask=torch.ones(0, 32, 32, dtype=torch.bool)).shape == (0, 5)
