"""A retrofitted Vision Transformer is a module like others: states, copies, compiling, dtypes, gradients."""

import copy
import io
import pickle

import pytest
import torch
import vits
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

import dhvt_kernels as dk


@pytest.mark.parametrize(
    "family", ["timm", "timm-siglip", "torchvision", "ViTForImageClassification", "CLIPVisionModel"]
)
def test_state_dicts(family):
    model, images = vits.make(family), vits.photos()
    vit, other = vits.adaptive(model), vits.adaptive(vits.make(family))
    with torch.no_grad():
        expected = vit(images)
    assert set(vit.state_dict()) - {f"model.{name}" for name in model.state_dict()} == {
        "injection.weight",
        "injection.bias",
        "filler",
        "mix",
    }
    other.load_state_dict(model.state_dict())  # the original's, alone
    with torch.no_grad():
        vits.equal(other(images), expected, 0)
    outer = nn.Sequential(vits.adaptive(vits.make(family)))
    for state in (model.state_dict(), vit.state_dict()):
        outer.load_state_dict({f"0.{name}": value for name, value in state.items()})
        with torch.no_grad():
            vits.equal(outer[0](images), expected, 0)
    third = vits.make(family)
    third.load_state_dict(vit.model.state_dict())
    file = io.BytesIO()
    with torch.no_grad():
        vit.injection.weight.normal_()
    torch.save(vit.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    with torch.no_grad():
        vits.equal(other(images), vit(images), 0)
    with pytest.raises(RuntimeError, match="Missing key"):
        other.load_state_dict(dict(list(model.state_dict().items())[1:]))
    with pytest.raises(RuntimeError, match="Unexpected key"):
        other.load_state_dict({**model.state_dict(), "more": torch.zeros(1)})


@torch.no_grad()
@pytest.mark.parametrize("family", vits.FAMILIES)
@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda vit: pickle.loads(pickle.dumps(vit))], ids=["deepcopy", "pickle"]
)
def test_copies(family, copied):
    vit, images = vits.adaptive(vits.make(family)), vits.photos()
    expected = vit(images)
    other = copied(vit)
    assert other.adapter.model is other.model
    for parameter in vit.parameters():
        parameter.zero_()
    vits.equal(other(images), expected, 0)


@torch.no_grad()
@pytest.mark.parametrize("family", ["timm-siglip", "torchvision", "Dinov2ForImageClassification"])
def test_compiles_to_one_graph(family):
    torch._dynamo.reset()
    vit, images = vits.adaptive(vits.make(family)), vits.plain_and_busy()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(vit, backend=counter, fullgraph=True)
    vits.equal(compiled(images), vit(images))
    vits.equal(compiled(images.flip(0)), vit(images.flip(0)))
    assert counter.frame_count == 1


@torch.no_grad()
def test_images_of_different_size_compile():
    """Not to one graph: the host reads the mask."""
    torch._dynamo.reset()
    vit = vits.adaptive(vits.make("timm-dynamic"))
    images, mask = dk.pad_images([vits.photos(1)[0], vits.photos(1, 24, 16)[0]])
    vits.equal(torch.compile(vit, backend="eager")(images, mask=mask), vit(images, mask=mask))


@torch.no_grad()
@pytest.mark.parametrize("family", vits.FAMILIES)
def test_autocast(family):
    model, images = vits.make(family), vits.photos()
    vit = dk.retrofit(model, dk.GridTokenizer(8))
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = vits.tensors(vit(images)), vits.tensors(model(images))
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=0, atol=0.05 * max(1, float(other.abs().max())))


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes(dtype):
    model, images = vits.make("timm").to(dtype), vits.photos().to(dtype)
    vits.equal(
        dk.retrofit(model, dk.GridTokenizer(8))(images), model(images), 1e-13 if dtype == torch.float64 else 0.05
    )
    vit = vits.adaptive(model)
    assert vit(images).dtype == dtype
    assert vit.to(torch.float32)(images.float()).dtype == torch.float32


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float32])
def test_a_learned_encoder_of_another_dtype(dtype):
    """Of its own: the model may have another."""
    encoder = dk.Tokenizer(dk.ConvEncoder().to(dtype), cell=4, noise=0.1, compactness=0.3, temperature=0.05)
    for of_model in (dtype, torch.float32):
        vit = dk.retrofit(vits.make("timm").to(of_model), encoder, mean=(0, 0, 0), std=(1, 1, 1)).eval()
        out = vit(vits.photos().to(of_model))
        assert out.dtype == of_model
        assert out.isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("poison", [torch.nan, 1e30])
def test_a_learned_encoder_does_not_see_what_is_in_the_padding(poison):
    tokenizer = dk.Tokenizer(dk.ConvEncoder(), cell=4, noise=0.1, compactness=0.3, temperature=0.05)
    vit = dk.retrofit(vits.make("timm-dynamic"), tokenizer, mean=(0, 0, 0), std=(1, 1, 1)).eval()
    images, mask = dk.pad_images([vits.photos(1)[0], vits.photos(1, 24, 16)[0]])
    vits.equal(vit(images.masked_fill(~mask[:, None], poison), mask=mask), vit(images, mask=mask), 0)


def gradients(vit, images):
    vit.zero_grad()
    sum(value.float().square().sum() for value in vits.tensors(vit(images))).backward()
    return {name: p.grad.clone() for name, p in vit.named_parameters() if p.grad is not None}


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated")
@pytest.mark.parametrize(
    "family", ["timm", "timm-siglip", "ViTModel", "Dinov2Model", "CLIPVisionModel", "SiglipVisionModel"]
)
def test_gradient_checkpointing(family):
    vit, images = vits.adaptive(vits.make(family)).train(), vits.plain_and_busy()
    expected = gradients(vit, images)
    if family.startswith("timm"):
        vit.model.set_grad_checkpointing()
    else:
        vit.model.gradient_checkpointing_enable()
    calls = []
    first = next(module for module in vit.model.modules() if type(module).__name__.lower().endswith("mlp"))
    first.register_forward_pre_hook(lambda *_: calls.append(1))
    found = gradients(vit, images)
    assert len(calls) == 2, "computed again"
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name)


def test_trains_end_to_end():
    """Model, injection, filler and mix; and the encoder, through the injection and the selection."""
    images = vits.photos(4)
    tokenizer = dk.Tokenizer(dk.ConvEncoder(), cell=4, noise=0.1, compactness=0.3, temperature=0.05)
    vit = dk.retrofit(vits.make("timm-mean"), tokenizer, max_tokens=10, mean=(0, 0, 0), std=(1, 1, 1)).train()
    assert tokenizer.features.color[1].num_batches_tracked == 0, "retrofit looks at the tokenizer in evaluation mode"
    optimizer = torch.optim.SGD(vit.parameters(), lr=1e-3)
    for _ in range(2):
        found = gradients(vit, images)
        optimizer.step()
    for name in (
        "injection.weight",
        "filler",
        "mix",
        "model.patch_embed.proj.weight",
        "tokenizer.features.color.0.weight",
    ):
        assert found[name].isfinite().all(), name
        assert found[name].abs().sum() > 0, name


def test_the_model_is_not_to_be_replaced():
    """The adapter would go on with the old one."""
    vit = vits.adaptive(vits.make("timm"))
    with pytest.raises(AttributeError, match="model: expected the one that was retrofitted"):
        vit.model = vits.make("timm")
    vit.model = vit.model
    assert vit.adapter.model is vit.model


def test_train_and_eval_reach_model_and_tokenizer():
    vit = dk.retrofit(vits.make("timm"), dk.Tokenizer(dk.ConvEncoder(), noise=0.1))
    assert not vit.model.training
    vit.train()
    assert vit.model.training
    assert vit.tokenizer.features.training
    assert not vit.eval().model.training


@torch.no_grad()
def test_tokens_from_features():
    vit = vits.adaptive(vits.make("timm"), tokens="features")
    images = vits.plain_and_busy()
    assert vit(images).shape == (2, 5)
    partition = vit.tokenize(images)
    vits.equal(vit.embed(images, partition), partition.features @ vit.projection.weight.T + vit.projection.bias)
    added = set(vit.state_dict()) - {f"model.{name}" for name in vit.model.state_dict()}
    assert added == {"projection.weight", "projection.bias"}


@torch.no_grad()
def test_the_tokenizer_sees_the_image_before_normalisation():
    vits.library("timm")
    images = vits.photos()
    vit = dk.retrofit(vits.make("timm"), dk.Tokenizer(cell=4), max_tokens=9)
    expected = vit.tokenizer.hierarchy(images).cut(max_tokens=9).labels
    agree = (vit.tokenize((images - 0.5) / 0.5).labels == expected).float().mean()
    assert agree > 0.99
    vit = dk.retrofit(
        vits.make("CLIPVisionModel"), dk.Tokenizer(cell=4), mean=(0.1, 0.2, 0.3), std=(1, 2, 4), max_tokens=9
    )
    normal = (images - torch.tensor([0.1, 0.2, 0.3])[:, None, None]) / torch.tensor([1.0, 2.0, 4.0])[:, None, None]
    assert (vit.tokenize(normal).labels == expected).float().mean() > 0.99
