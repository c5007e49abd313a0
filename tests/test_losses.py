"""Losses: against loops that write the equations out, and gradients against finite differences."""

import math

import pytest
import skimage.data
import torch
from soft_oracle import cluster, dense
from torch import nn
from torch.nn import functional as F

import dhvt_kernels as dk
from dhvt_kernels import losses

UNIT = {"noise": 0.1, "compactness": 0.5, "temperature": 0.05}  # of the tokenizer, for features of unit scale


class Encoder(nn.Module):
    """Smooth everywhere, so that finite differences hold."""

    def __init__(self, channels=2):
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3, padding=1, padding_mode="replicate", dtype=torch.float64)

    def forward(self, images):
        return torch.tanh(3 * self.conv(images))


def photo(height, width, dtype=torch.float64):
    """A crop of a photograph, [1,3,H,W] in [0, 1]."""
    image = torch.from_numpy(skimage.data.astronaut()[60 : 60 + 4 * height : 4, 180 : 180 + 4 * width : 4].copy())
    return (image.permute(2, 0, 1)[None] / 255).to(dtype)


def central(function, parameter, step=1e-5):
    """The gradient by central differences."""
    out = torch.zeros_like(parameter)
    with torch.no_grad():
        for index in range(parameter.numel()):
            flat = parameter.view(-1)
            value = flat[index].item()
            flat[index] = value + step
            above = function()
            flat[index] = value - step
            out.view(-1)[index] = (above - function()) / (2 * step)
            flat[index] = value
    return out


# Dice and cross-entropy


def dice_loop(logits, target, ignore=255, weight=1.0):
    """The equation, pixel by pixel."""
    batch, classes, height, width = logits.shape
    entropies, dices = [], []
    for b in range(batch):
        overlap, mass, size = [0] * classes, [0] * classes, [0] * classes
        for y in range(height):
            for x in range(width):
                wanted = int(target[b, y, x])
                if wanted == ignore:
                    continue
                exponents = [math.exp(value) for value in logits[b, :, y, x].tolist()]
                shares = [value / sum(exponents) for value in exponents]
                entropies.append(-math.log(shares[wanted]))
                overlap[wanted] += shares[wanted]
                size[wanted] += 1
                mass = [one + other for one, other in zip(mass, shares, strict=True)]
        dices += [
            1 - (2 * both + 1) / (one + other + 1)
            for both, one, other in zip(overlap, mass, size, strict=True)
            if other
        ]
    return sum(entropies) / max(1, len(entropies)) + weight * sum(dices) / max(1, len(dices))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_dice_cross_entropy_is_its_equation(dtype):
    logits = torch.randn(3, 5, 4, 6, dtype=torch.float64)
    target = torch.randint(0, 4, (3, 4, 6)).to(dtype)  # class 4 has no pixel
    target[0, 1:3, 2:] = 255
    target[2] = 255
    found = losses.dice_cross_entropy(logits, target, dice_weight=0.7)
    assert found.item() == pytest.approx(dice_loop(logits, target, weight=0.7), rel=1e-12)
    alone = losses.dice_cross_entropy(logits, target, dice_weight=0)
    torch.testing.assert_close(alone, F.cross_entropy(logits, target.long(), ignore_index=255))


def test_dice_cross_entropy_has_its_gradient():
    logits = torch.randn(2, 3, 2, 4, dtype=torch.float64, requires_grad=True)
    target = torch.randint(0, 3, (2, 2, 4))
    target[0, 0] = 255
    assert torch.autograd.gradcheck(lambda z: losses.dice_cross_entropy(z, target), (logits,))


def test_dice_cross_entropy_of_nothing_is_zero():
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    for one in (logits, logits[:0], logits[:, :, :0]):
        loss = losses.dice_cross_entropy(one, torch.full((len(one), *one.shape[2:]), 255))
        loss.backward()
        assert loss == 0
    assert (logits.grad == 0).all()


def test_dice_cross_entropy_of_ignored_pixels_has_no_gradient():
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    target = torch.zeros(1, 4, 4, dtype=torch.int64)
    target[:, :, 2:] = 7
    losses.dice_cross_entropy(logits, target, ignore_index=7).backward()
    assert (logits.grad[..., 2:] == 0).all()
    assert (logits.grad[..., :2] != 0).all()


def test_an_ignored_pixel_may_have_any_logits():
    torch.manual_seed(0)
    logits, target = torch.randn(1, 3, 2, 4), torch.randint(3, (1, 2, 4))
    target[0, 0, 0] = target[0, 0, 1] = 255
    expected = losses.dice_cross_entropy(logits, target)
    logits[0, 1, 0, 0], logits[0, :, 0, 1] = -torch.inf, torch.nan
    found = losses.dice_cross_entropy(logits.requires_grad_(), target)
    assert torch.equal(found, expected)
    found.backward()
    assert logits.grad.isfinite().all()


def test_a_negative_index_is_no_class_of_uint8():
    """-1 as uint8 is 255."""
    logits, target = torch.randn(1, 256, 2, 2), torch.tensor([[[255, 0], [1, 2]]], dtype=torch.uint8)
    found, expected = (losses.dice_cross_entropy(logits, t, ignore_index=-1) for t in (target, target.long()))
    assert torch.equal(found, expected)
    image = photo(4, 4)
    partition = dk.Tokenizer(cell=2)(image)
    labels = torch.full((1, 4, 4), 255, dtype=torch.uint8)
    labels[..., 2:] = 0
    found, expected = (losses.alignment_loss(partition, labels=t, ignore_index=-1) for t in (labels, labels.long()))
    assert torch.equal(found, expected)
    for call in (
        lambda: losses.dice_cross_entropy(logits, target, ignore_index=None),
        lambda: losses.alignment_loss(partition, labels=labels, ignore_index=None),
    ):
        with pytest.raises(TypeError, match="ignore_index: expected an integer; found NoneType"):
            call()


def test_dice_cross_entropy_sums_halves_in_float32():
    logits = torch.randn(1, 4, 128, 128).half()
    target = torch.randint(0, 4, (1, 128, 128))
    found = losses.dice_cross_entropy(logits, target)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, losses.dice_cross_entropy(logits.double(), target).float())
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(losses.dice_cross_entropy(logits, target), found)


def test_dice_outweighs_cross_entropy_where_a_class_is_rare():
    """One pixel of 256: ignoring it costs next to nothing in cross-entropy, and half of Dice."""
    target = torch.zeros(1, 16, 16, dtype=torch.int64)
    target[0, 3, 3] = 1
    logits = torch.stack([torch.full((1, 16, 16), 4.0), torch.zeros(1, 16, 16)], 1)
    assert losses.dice_cross_entropy(logits, target, dice_weight=0) < 0.05
    assert losses.dice_cross_entropy(logits, target) > 0.2


@pytest.mark.parametrize(
    ("logits", "target", "error", "message"),
    [
        (torch.rand(2, 3, 4), torch.zeros(2, 4, 4).long(), ValueError, r"logits: expected \[B,C,H,W\]"),
        (torch.rand(2, 3, 4, 4), torch.zeros(2, 4, 5).long(), ValueError, r"target: expected \[B,H,W\] = \[2,4,4\]"),
        (torch.rand(2, 3, 4, 4), torch.zeros(2, 4, 4), TypeError, r"target: expected \[B,H,W\] of int64, int32, uint8"),
        (torch.rand(2, 3, 4, 4), torch.full((2, 4, 4), 3), ValueError, "classes 0 to 2, or 255; found 3"),
        (torch.rand(2, 3, 4, 4), torch.full((2, 4, 4), -1), ValueError, "classes 0 to 2, or 255; found -1"),
        (torch.rand(2, 3, 4, 4).long(), torch.zeros(2, 4, 4).long(), TypeError, "logits: expected"),
    ],
)
def test_dice_cross_entropy_says_what_it_expects(logits, target, error, message):
    with pytest.raises(error, match=message):
        losses.dice_cross_entropy(logits, target)


# Number of tokens


def test_token_count_loss_is_its_equation():
    images = torch.cat([photo(32, 32), torch.full((1, 3, 32, 32), 0.5, dtype=torch.float64)])
    partition = dk.Tokenizer(cell=4)(images)
    busy, plain = partition.expected_tokens.tolist()
    assert busy > 2 * plain
    found = losses.token_count_loss(partition, 10)
    assert found.item() == pytest.approx(((busy / 10 - 1) ** 2 + (plain / 10 - 1) ** 2) / 2)


def test_token_count_loss_of_no_images_is_zero():
    partition = dk.GridTokenizer(4)(torch.zeros(0, 3, 8, 8))
    assert losses.token_count_loss(partition, 3) == 0


@pytest.mark.parametrize("budget", [None, 6])
def test_token_count_loss_reaches_the_encoder(budget):
    torch.manual_seed(1)
    images, encoder = photo(16, 16), Encoder()
    tokenizer = dk.Tokenizer(encoder, cell=4, max_tokens=budget, selection_temperature=4, **UNIT)

    def loss():
        return losses.token_count_loss(tokenizer(images), 5)

    if budget is not None:  # the strength that meets a budget is a constant: at another one there is no difference
        strength = tokenizer(images).strength.item()
        tokenizer = dk.Tokenizer(encoder, cell=4, strength=strength, selection_temperature=4, **UNIT)
    loss().backward()
    gradient = encoder.conv.bias.grad.clone()
    assert gradient.abs().max() > 1e-4
    torch.testing.assert_close(gradient, central(loss, encoder.conv.bias), rtol=1e-3, atol=1e-6)


def test_token_count_loss_moves_the_number_of_tokens():
    """A few steps from either side."""
    images = photo(32, 32, torch.float32)
    for target, more in ((2, False), (60, True)):
        torch.manual_seed(0)
        encoder = dk.ConvEncoder(4)
        tokenizer = dk.Tokenizer(encoder, cell=4, selection_temperature=4, **UNIT)
        optimizer = torch.optim.AdamW(encoder.parameters(), lr=0.03)
        counts = []
        for _ in range(15):
            partition = tokenizer(images)
            counts.append(partition.expected_tokens.item())
            optimizer.zero_grad()
            losses.token_count_loss(partition, target).backward()
            optimizer.step()
        assert (counts[-1] > counts[0] + 1) if more else (counts[-1] < counts[0] - 1), counts


# Alignment


def pairs(height, width):
    """Horizontal and vertical neighbours."""
    for y in range(height):
        for x in range(width):
            if x + 1 < width:
                yield (y, x), (y, x + 1)
            if y + 1 < height:
                yield (y, x), (y + 1, x)


def dense_shares(features, mask, cell, iterations, numbers):
    """[H,W,L] of one image [C,H,W], by the oracle: no code of the package."""
    clusters = cluster(features, mask, cell, *numbers, iterations)
    return dense(features, *clusters, mask, cell, *numbers).unflatten(0, features.shape[1:])


def alignment_loop(shares, target, counts, balanced):
    """The equation, pair by pair and centre by centre."""
    misses, alarms, boundaries, rest = 0, 0, 0, 0
    for one, other in pairs(*shares.shape[:2]):
        if counts(one, other):
            same = sum(shares[one][j] * shares[other][j] for j in range(shares.shape[2]))
            inner = 1e-6 + (1 - 2e-6) * (1 - same)
            wanted = target(one, other)
            misses, alarms = misses - wanted * torch.log(inner), alarms - (1 - wanted) * torch.log(1 - inner)
            boundaries, rest = boundaries + wanted, rest + 1 - wanted
    return (misses / boundaries + alarms / rest) / 2 if balanced else (misses + alarms) / (boundaries + rest)


@pytest.mark.parametrize(("cell", "balanced"), [(1, True), (3, True), (3, False), (4, False), (20, True)])
@pytest.mark.parametrize("source", ["labels", "images"])
def test_alignment_is_its_equation_with_its_gradient(source, cell, balanced):
    """On an image whose size the cell does not divide, with padding; by a double loop with autograd of its own."""
    height, width = 7, 9
    images = photo(height, width)
    mask = torch.ones(1, height, width, dtype=torch.bool)
    mask[:, 6:] = False
    classes = (images.mean(1) * 3.99).long()
    classes[0, 2, 3:5] = 255
    torch.manual_seed(0)
    encoder = Encoder()
    tokenizer = dk.Tokenizer(encoder, cell=cell, iterations=2, **UNIT)
    given = {"labels": classes} if source == "labels" else {"images": images}
    loss = losses.alignment_loss(tokenizer(images, mask), **given, balanced=balanced)
    loss.backward()
    found = [parameter.grad.clone() for parameter in encoder.parameters()]

    encoder.zero_grad()
    shares = dense_shares(encoder(images)[0], mask[0], cell, 2, (UNIT["compactness"], UNIT["temperature"]))
    inside = {one: bool(mask[0][one]) for one in ((y, x) for y in range(height) for x in range(width))}
    pixel = images[0].permute(1, 2, 0)
    step = {(one, other): (pixel[one] - pixel[other]).norm() for one, other in pairs(height, width)}
    largest = max(value for (one, other), value in step.items() if inside[one] and inside[other])

    def counts(one, other):
        known = source == "images" or (classes[0][one] != 255 and classes[0][other] != 255)
        return inside[one] and inside[other] and known

    def target(one, other):
        return float(classes[0][one] != classes[0][other]) if source == "labels" else step[one, other] / largest

    expected = alignment_loop(shares, target, counts, balanced)
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=0)
    for one, parameter in zip(found, encoder.parameters(), strict=True):
        assert parameter.grad.abs().max() > 1e-4 or cell == 20  # one centre only: no boundary
        torch.testing.assert_close(one, parameter.grad, rtol=1e-6, atol=1e-9)


def test_alignment_reaches_the_encoder_by_finite_differences():
    torch.manual_seed(0)
    images, encoder = photo(8, 9), Encoder()
    tokenizer = dk.Tokenizer(encoder, cell=3, **UNIT)

    def loss():
        return losses.alignment_loss(tokenizer(images), images=images)

    loss().backward()
    for parameter in encoder.parameters():
        torch.testing.assert_close(parameter.grad, central(loss, parameter), rtol=1e-4, atol=1e-8)


def test_boundary_probability_has_its_gradient():
    features = torch.randn(1, 2, 5, 6, dtype=torch.float64, requires_grad=True)

    def function(features):
        right, below, _ = losses.boundary_probability(dk.Tokenizer(nn.Identity(), cell=2, **UNIT)(features))
        return right, below

    assert torch.autograd.gradcheck(function, (features,), fast_mode=True)


def test_boundary_probability_of_two_halves():
    """Certain between the halves; inside them high only from one cell's superpixel to that of the next."""
    features = torch.zeros(1, 1, 16, 16)
    features[..., 8:] = 3
    partition = dk.Tokenizer(nn.Identity(), cell=8, noise=0.1, compactness=2.0, temperature=0.1)(features)
    right, below, valid = losses.boundary_probability(partition)
    assert (right[..., 7] > 0.999).all()
    assert (right[..., :7] < 0.02).all()
    assert (below[:, 0] < 0.01).all()
    assert (below[:, 7] > 0.4).all()
    assert valid[0].all()
    assert valid[1].all()


def test_alignment_prefers_superpixels_on_the_boundaries():
    """Of a photograph, a tokenizer that sees its colours, against one that sees a mirror image."""
    images = photo(64, 64, torch.float32)
    right = losses.alignment_loss(dk.Tokenizer()(images), images=images)
    wrong = losses.alignment_loss(dk.Tokenizer()(images.flip(3)), images=images)
    assert right < 0.9 * wrong


def test_training_aligns_the_superpixels_with_the_classes():
    """Two classes apart in colour, under noise as large: boundaries of a random encoder are everywhere.

    Without the balance, at this point, the border has no more of them than the rest.
    """
    torch.manual_seed(0)
    classes = torch.zeros(1, 32, 32, dtype=torch.int64)
    classes[:, :, 13:] = 1
    colours = torch.tensor([[0.5, 0.4, 0.5], [0.5, 0.5, 0.4]])
    images = colours[classes].movedim(-1, 1) + 0.1 * torch.randn(1, 3, 32, 32)
    encoder = dk.ConvEncoder(4)
    tokenizer = dk.Tokenizer(encoder, cell=8, **UNIT)

    def boundaries():
        """Shares of the neighbours in a row between which superpixels change: on the border, and elsewhere."""
        labels = tokenizer(images).soft.clusters.labels
        share = (labels[..., 1:] != labels[..., :-1]).float().mean((0, 1))
        return share[12].item(), ((share.sum() - share[12]) / 30).item()

    assert boundaries()[1] > 0.4
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=0.03)
    history = []
    for _ in range(120):
        optimizer.zero_grad()
        loss = losses.alignment_loss(tokenizer(images), labels=classes)
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < 0.2 * history[0]
    border, elsewhere = boundaries()
    assert border > 0.85
    assert elsewhere < 0.2


def test_alignment_of_a_padded_batch_is_that_of_its_pixels():
    """The pairs of each image alone; the padding may hold anything."""
    one, other = photo(20, 31, torch.float32)[0], photo(32, 16, torch.float32)[0]
    images, mask = dk.pad_images([one, other])
    images = images.masked_fill(~mask[:, None], math.nan)
    classes = torch.full((2, 32, 31), 255)
    classes[0, :20, :31], classes[1, :32, :16] = (one.mean(0) * 4).long(), (other.mean(0) * 4).long()
    partition = dk.Tokenizer(cell=4)(images, mask)
    weights = [20 * 30 + 19 * 31, 32 * 15 + 31 * 16]
    for given, alone in (
        ({"images": images}, [{"images": one[None]}, {"images": other[None]}]),
        ({"labels": classes}, [{"labels": classes[:1, :20]}, {"labels": classes[1:, :, :16]}]),
    ):
        parts = [
            losses.alignment_loss(dk.Tokenizer(cell=4)(image[None]), **source, balanced=False)
            for image, source in zip((one, other), alone, strict=True)
        ]
        expected = sum(n * part for n, part in zip(weights, parts, strict=True)) / sum(weights)
        found = losses.alignment_loss(partition, **given, balanced=False)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 1), (3, 3)])
def test_alignment_of_a_small_or_flat_image_is_finite(size):
    features = torch.full((1, 3, *size), 0.5, requires_grad=True)
    partition = dk.Tokenizer(nn.Identity(), cell=4, **UNIT)(features)
    loss = losses.alignment_loss(partition, images=features)
    loss.backward()
    assert loss.isfinite()
    assert features.grad.isfinite().all()
    if size == (1, 1):
        assert loss == 0


def test_alignment_with_all_ignored_is_zero():
    images = photo(12, 12, torch.float32).requires_grad_()
    partition = dk.Tokenizer(nn.Identity(), cell=4, **UNIT)(images)
    loss = losses.alignment_loss(partition, labels=torch.full((1, 12, 12), 255))
    loss.backward()
    assert loss == 0
    assert (images.grad == 0).all()


def test_alignment_of_features_with_nan_is_finite():
    features = photo(12, 12, torch.float32)
    features[0, 1, 4, 5] = math.nan
    features.requires_grad_()
    partition = dk.Tokenizer(nn.Identity(), cell=4, **UNIT)(features)
    loss = losses.alignment_loss(partition, images=features)
    loss.backward()
    assert loss.isfinite()
    assert features.grad.isfinite().all()


def test_alignment_leaves_out_pixels_of_the_image_that_are_not_finite():
    """As if they were ignored."""
    image = photo(8, 8)
    partition, holed = dk.Tokenizer(cell=4)(image), image.clone()
    holed[0, 1, 2, 3], holed[0, 0, 5, 5] = torch.nan, torch.inf
    right, below, _ = losses.boundary_probability(partition)
    shares = torch.cat([right.flatten(), below.flatten()])
    whole = holed.isfinite().all(1)
    both = ((whole[..., 1:] & whole[..., :-1]), (whole[:, 1:] & whole[:, :-1]))
    size = (image.diff(dim=3).square().sum(1).sqrt(), image.diff(dim=2).square().sum(1).sqrt())
    used = torch.cat([part.flatten() for part in both])
    target = torch.cat([part.flatten() for part in size])[used]
    p = 1e-6 + (1 - 2e-6) * shares[used]
    target = target / target.max()
    expected = F.binary_cross_entropy(p, target)
    torch.testing.assert_close(losses.alignment_loss(partition, images=holed, balanced=False), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_alignment_of_half_features_is_near(dtype):
    """The shares are computed in float32: with those of bfloat16, 1 - sum would be off by a hundredth."""
    images = photo(32, 32, torch.float32).to(dtype).float()
    tokenizer = dk.Tokenizer(nn.Identity(), cell=4, **UNIT)
    expected = losses.alignment_loss(tokenizer(images), images=images)
    torch.testing.assert_close(losses.alignment_loss(tokenizer(images.to(dtype)), images=images), expected)


def test_the_regularizer_is_the_sum():
    images = photo(16, 16)
    encoder = Encoder()
    partition = dk.Tokenizer(encoder, cell=4, **UNIT)(images)
    found = losses.token_regularizer(partition, 6, images=images)
    expected = losses.token_count_loss(partition, 6) + losses.alignment_loss(partition, images=images)
    torch.testing.assert_close(found, expected)
    found.backward()
    assert encoder.conv.weight.grad.isfinite().all()


def test_alignment_says_what_it_expects():
    images = torch.rand(1, 3, 8, 8)
    partition = dk.Tokenizer(cell=4)(images)
    with pytest.raises(TypeError, match="partition: expected a Partition; found Tensor"):
        losses.alignment_loss(images, images=images)
    with pytest.raises(ValueError, match="labels, images: expected one of the two"):
        losses.alignment_loss(partition)
    with pytest.raises(ValueError, match="labels, images: expected one of the two"):
        losses.alignment_loss(partition, images=images, labels=partition.labels)
    with pytest.raises(ValueError, match=r"labels: expected \[1,8,8\]"):
        losses.alignment_loss(partition, labels=torch.zeros(1, 8, 9).long())
    with pytest.raises(ValueError, match=r"images: expected \[1,C,8,8\]"):
        losses.alignment_loss(partition, images=images[..., :7])
    for other in (dk.Tokenizer(leaves="pixels"), dk.GridTokenizer(4)):
        with pytest.raises(ValueError, match='partition: expected one of a Tokenizer with leaves="soft"'):
            losses.alignment_loss(other(images), images=images)
        assert losses.token_count_loss(other(images), 4).isfinite()
    for target in (0, -1, math.nan):
        with pytest.raises(ValueError, match="target: expected a finite number > 0"):
            losses.token_count_loss(partition, target)


# Reconstruction


def test_reconstruction_is_its_equation():
    images, mask = dk.pad_images([photo(12, 9)[0], photo(8, 16)[0]])
    partition = dk.Tokenizer(Encoder(), cell=4, **UNIT)(images, mask)
    injection = dk.MeanInjection(2).double()
    features, weight, bias = partition.features, injection.linear.weight, injection.linear.bias
    total = 0.0
    for b, y, x in mask.nonzero().tolist():
        colour = weight @ features[b, partition.labels[b, y, x]] + bias
        total += (images[b, :, y, x] - colour).square().sum().item()
    found = losses.reconstruction_loss(images.masked_fill(~mask[:, None], math.nan), partition, injection)
    assert found.item() == pytest.approx(total / mask.sum().item(), rel=1e-12)
    torch.testing.assert_close(losses.reconstruction_loss(images, partition, injection.linear), found)


def test_reconstruction_reaches_encoder_and_injection():
    torch.manual_seed(0)
    images, encoder, injection = photo(9, 8), Encoder(), dk.MeanInjection(2).double()
    tokenizer = dk.Tokenizer(encoder, cell=4, selection_temperature=1e-3, **UNIT)  # so hard that it has no gradient

    def loss():
        return losses.reconstruction_loss(images, tokenizer(images), injection)

    loss().backward()
    for parameter in (*encoder.parameters(), *injection.parameters()):
        assert parameter.grad.abs().max() > 1e-5
        torch.testing.assert_close(parameter.grad, central(loss, parameter), rtol=1e-4, atol=1e-7)


def test_reconstruction_is_least_at_the_means():
    images = photo(16, 16, torch.float32)
    tokenizer = dk.Tokenizer(nn.Identity(), cell=4, **UNIT)
    partition, linear = tokenizer(images), nn.Linear(3, 3)
    with torch.no_grad():
        linear.weight.copy_(torch.eye(3))
        linear.bias.zero_()
        least = losses.reconstruction_loss(images, partition, linear)
        means = dk.segment_gather(partition.pool(images), partition.labels)
        torch.testing.assert_close(least, (images - means).square().sum(1).mean())
        linear.bias.add_(0.1)
        torch.testing.assert_close(losses.reconstruction_loss(images, partition, linear), least + 0.03)


def test_reconstruction_says_what_it_expects():
    images = torch.rand(1, 3, 8, 8)
    partition = dk.GridTokenizer(4)(images)
    with pytest.raises(ValueError, match="injection: expected a linear map of 3 features to 3 channels; found of 8"):
        losses.reconstruction_loss(images, partition, dk.MeanInjection(8))
    with pytest.raises(TypeError, match=r"injection: expected MeanInjection or nn.Linear; found Conv2d"):
        losses.reconstruction_loss(images, partition, nn.Conv2d(3, 3, 1))
    with pytest.raises(ValueError, match=r"images: expected \[B,C,H,W\] = \[1,3,8,8\]"):
        losses.reconstruction_loss(images[..., :7], partition, nn.Linear(3, 3))
    with pytest.raises(TypeError, match="partition: expected a Partition"):
        losses.reconstruction_loss(images, images, nn.Linear(3, 3))
