"""The released tokenizer of the published method: its encoder against NumPy, and the way from weights to tokens.

Synthetic weights of the same shapes always; the released ones too where DHVT_DHT_WEIGHTS is the path of `r2v.pth`
(github.com/dsb-ifi/dHT, assets/r2v).
"""

import copy
import os
import pickle

import numpy as np
import pytest
import skimage.data
import torch
from torch.nn import functional as F

import dhvt_kernels as dk

RELEASED = os.environ.get("DHVT_DHT_WEIGHTS")
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def synthetic(channels=8):
    generator = torch.Generator().manual_seed(7)

    def normal(*shape, scale=1.0):
        return scale * torch.randn(shape, generator=generator)

    state = {}
    for conv, norm, inputs, outputs, side in (
        ("conv.ds.0", "conv.ds.1", 3, channels, 1),
        ("conv.cv.0", "conv.cv.1", 3, 4 * channels, 2),
        ("conv.cv.3", "conv.cv.4", 4 * channels, channels, 2),
    ):
        state[f"{conv}.weight"] = normal(outputs, inputs, side, side, scale=0.3)
        state[f"{conv}.bias"] = normal(outputs, scale=0.1)
        state[f"{norm}.weight"] = 0.5 + torch.rand(outputs, generator=generator)
        state[f"{norm}.bias"] = normal(outputs, scale=0.2)
        state[f"{norm}.running_mean"] = normal(outputs, scale=0.2)
        state[f"{norm}.running_var"] = 0.1 + torch.rand(outputs, generator=generator)
        state[f"{norm}.num_batches_tracked"] = torch.tensor(1000)
    state["linear.weight"], state["linear.bias"] = normal(3, channels, scale=0.3), normal(3, scale=0.1)
    state["gradact.lmbda"], state["gradient.kernel"] = torch.zeros(2, 1, 1), torch.zeros(1, 1, 3, 3)
    state["varproj.weight"], state["varproj.bias"] = torch.zeros(1, channels), torch.zeros(1)
    return state


@pytest.fixture(params=["synthetic", "released"])
def weights(request):
    if request.param == "synthetic":
        return synthetic()
    if RELEASED is None:
        pytest.skip("DHVT_DHT_WEIGHTS is not set")
    return torch.load(RELEASED, map_location="cpu", weights_only=True)


def photo(name="astronaut", height=48, width=64):
    image = torch.from_numpy(getattr(skimage.data, name)().copy()).permute(2, 0, 1)[None] / 255
    return F.interpolate(image, (height, width), mode="bilinear", antialias=True)


def silu(x):
    return x / (1 + np.exp(-x))


def encode(state, image):
    """The released encoder in float64, from its definition; image [H,W,3] in [0, 1] -> [H,W,C]."""
    state = {name: value.double().numpy() for name, value in state.items()}

    def norm(x, name):
        deviation = np.sqrt(state[f"{name}.running_var"] + 1e-5)
        return (x - state[f"{name}.running_mean"]) / deviation * state[f"{name}.weight"] + state[f"{name}.bias"]

    def halve(x, name):
        height, width, channels = x.shape
        blocks = x.reshape(height // 2, 2, width // 2, 2, channels)
        return np.einsum("yixjc,ocij->yxo", blocks, state[f"{name}.weight"]) + state[f"{name}.bias"]

    def upsampling(size):  # matrix [4 size, size]: corners on corners, hat functions between
        at = np.linspace(0, size - 1, 4 * size)
        return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(size)))

    height, width, _ = image.shape
    image = (image - MEAN) / STD
    color = norm(image @ state["conv.ds.0.weight"][:, :, 0, 0].T + state["conv.ds.0.bias"], "conv.ds.1")
    padded = np.pad(image, ((0, -height % 4), (0, -width % 4), (0, 0)), mode="edge")
    context = norm(halve(silu(norm(halve(padded, "conv.cv.0"), "conv.cv.1")), "conv.cv.3"), "conv.cv.4")
    rows, columns = upsampling(context.shape[0]), upsampling(context.shape[1])
    context = np.einsum("yi,xj,ijc->yxc", rows, columns, context)
    return silu(color + context[:height, :width])


@pytest.mark.parametrize("size", [(48, 64), (37, 50), (4, 4), (1, 3)], ids=str)
def test_encoder_equals_its_definition(weights, size):
    image = photo(height=size[0], width=size[1])
    expected = torch.from_numpy(encode(weights, image[0].permute(1, 2, 0).double().numpy())).permute(2, 0, 1)[None]
    encoder = dk.Tokenizer.from_dht(weights).features
    torch.testing.assert_close(encoder(image), expected.float(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(encoder.double()(image.double()), expected, rtol=1e-5, atol=1e-6)


def test_mean_injection_equals_its_definition(weights):
    """In normalised colours, as the weights were trained: x + (W f + b - mean of x) for the pixels of a segment."""
    image = photo(height=40, width=44).double()
    tokenizer = dk.Tokenizer.from_dht(weights).double()
    partition = tokenizer(image)
    tokens = partition.features[0] @ weights["linear.weight"].double().T + weights["linear.bias"].double()
    normalised = (image[0].permute(1, 2, 0).numpy() - MEAN) / STD
    expected = normalised.copy()
    for segment, token in enumerate(tokens[: partition.counts[0]].detach().numpy()):
        inside = partition.labels[0].numpy() == segment
        expected[inside] += token - normalised[inside].mean(0)
    injected = tokenizer.mean_inject(image, partition)[0].permute(1, 2, 0).detach().numpy()
    np.testing.assert_allclose(injected, expected * STD + MEAN, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["astronaut", "cat", "coffee", "rocket"])
def test_from_weights_to_tokens(weights, name):
    images = photo(name, 62, 81)
    tokenizer = dk.Tokenizer.from_dht(weights, max_tokens=40)
    assert tokenizer.weights == "similarity"
    partition = tokenizer(images)
    assert 1 <= int(partition.counts[0]) <= 40
    assert torch.equal(partition.labels.unique(), torch.arange(int(partition.counts[0]), dtype=torch.int32))
    features = tokenizer.features(images)
    plain = dk.Tokenizer.from_dht(weights, max_tokens=40, weights="mean")(images)
    assert torch.equal(plain.labels, partition.labels)
    torch.testing.assert_close(plain.features, plain.pool(features), rtol=1e-4, atol=1e-4)
    low, high = (dk.segment_pool(sign * features, plain.labels, num_segments=40, reduce="max") for sign in (-1, 1))
    assert bool(((partition.features >= -low - 1e-5) & (partition.features <= high + 1e-5)).all())
    patches, masks = partition.token_patches(tokenizer.mean_inject(images, partition), size=4)
    assert patches.shape == (1, 40, 3, 4, 4)
    assert masks.shape == (1, 40, 1, 4, 4)
    used = torch.arange(40) < partition.counts[:, None]
    assert bool((masks.flatten(2).sum(2) > 0)[used].all())
    assert bool((patches[~used] == 0).all())
    assert torch.equal(tokenizer((images * 255).round().byte()).labels, tokenizer((images * 255).round() / 255).labels)


def test_gradients_reach_encoder_and_injection(weights):
    images = photo()
    tokenizer = dk.Tokenizer.from_dht(weights, max_tokens=40)
    partition = tokenizer(images)
    reconstruction = (tokenizer.mean_inject(images, partition) - images).square().mean()
    (reconstruction + 1e-3 * partition.expected_tokens.mean()).backward()
    for name, parameter in tokenizer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def test_a_path_and_a_mapping_give_the_same(weights, tmp_path):
    torch.save(weights, tmp_path / "weights.pth")
    image = photo()
    expected = dk.Tokenizer.from_dht(weights)
    for source in (tmp_path / "weights.pth", str(tmp_path / "weights.pth")):
        assert torch.equal(dk.Tokenizer.from_dht(source)(image).labels, expected(image).labels)
    for other in (copy.deepcopy(expected), pickle.loads(pickle.dumps(expected))):
        assert torch.equal(other(image).labels, expected(image).labels)
        assert other.mean_inject.linear.weight.equal(expected.mean_inject.linear.weight)


def test_options_and_other_widths():
    tokenizer = dk.Tokenizer.from_dht(synthetic(5), leaves="soft", criterion="bic", max_tokens=12)
    assert not tokenizer.training
    assert (tokenizer.leaves, tokenizer.selection.criterion) == ("soft", "bic")
    partition = tokenizer(photo())
    assert int(partition.counts[0]) <= 12
    assert partition.features.shape == (1, 12, 5)
    without = {
        name: value for name, value in synthetic(5).items() if not name.startswith(("gradact", "gradient", "var"))
    }
    assert torch.equal(
        dk.Tokenizer.from_dht(without)(photo()).labels, dk.Tokenizer.from_dht(synthetic(5))(photo()).labels
    )


def test_bad_weights(tmp_path):
    state = synthetic()
    del state["linear.bias"]
    state["linear.scale"] = torch.ones(3)
    with pytest.raises(ValueError, match=r"missing: linear\.bias; unexpected: linear\.scale$"):
        dk.Tokenizer.from_dht(state)
    with pytest.raises(ValueError, match=r"missing: .*conv\.ds\.0\.weight.*; unexpected: none"):
        dk.Tokenizer.from_dht({})
    with pytest.raises(ValueError, match=r"conv\.cv\.0\.bias: expected \[32\]; found \[31\]"):
        dk.Tokenizer.from_dht({**synthetic(), "conv.cv.0.bias": torch.zeros(31)})
    with pytest.raises(ValueError, match=r"linear\.weight: expected \[3,1\]; found \[\]"):
        dk.Tokenizer.from_dht({**synthetic(), "linear.weight": torch.tensor(1.0)})
    with pytest.raises(TypeError, match=r"found int at 'linear\.bias'"):
        dk.Tokenizer.from_dht({**synthetic(), "linear.bias": 3})
    with pytest.raises(TypeError, match=r"expected a mapping .* or a path; found list"):
        dk.Tokenizer.from_dht([torch.zeros(3)])
    with pytest.raises(FileNotFoundError):
        dk.Tokenizer.from_dht(tmp_path / "nothing.pth")
    with pytest.raises(TypeError, match="colour"):
        dk.Tokenizer.from_dht(synthetic(), colour=True)
    with pytest.raises(TypeError, match="features"):
        dk.Tokenizer.from_dht(synthetic(), features=None)


def test_half_precision_keeps_the_tokens(weights):
    """The released code keeps a sixth of them in float16, because its similarities underflow and tie."""
    images = photo(height=96, width=96)
    tokenizer = dk.Tokenizer.from_dht(weights)
    with torch.no_grad():
        expected = int(tokenizer(images).counts)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = [int(tokenizer(images).counts)]
        for dtype in (torch.float16, torch.bfloat16):
            found.append(int(copy.deepcopy(tokenizer).to(dtype)(images.to(dtype)).counts))
    assert found == pytest.approx([expected] * 3, rel=0.25)


def test_compiles_with_gradients():
    torch._dynamo.reset()
    tokenizer, images = dk.Tokenizer.from_dht(synthetic(), max_tokens=12), photo()

    def loss(images):
        partition = tokenizer(images)
        return tokenizer.mean_inject(images, partition).square().mean() + partition.expected_tokens.sum()

    expected = torch.autograd.grad(loss(images), list(tokenizer.parameters()))
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    actual = torch.autograd.grad(compiled(images), list(tokenizer.parameters()))
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3)
