import pytest
import torch
from grid import DTYPES, LAYOUTS, assert_close, label_maps

from dhvt_kernels._schema import ops
from dhvt_kernels.ops.token_patches import token_patches

B, C, H, W, K = 2, 3, 15, 18, 9
SIZES = (1, 2, 5, 16)


def random_boxes(batch=B, number=K, height=H, width=W):
    corner = torch.stack([torch.randint(0, s, (batch, number)) for s in (height, width)], -1)
    extent = torch.stack([torch.randint(-1, s, (batch, number)) for s in (height, width)], -1)
    high = torch.minimum(corner + extent, torch.tensor([height - 1, width - 1]))
    boxes = torch.cat([corner, high], -1).int()
    if batch and number > 2:
        boxes[0, 0] = torch.tensor([0, 0, height - 1, width - 1])
        boxes[0, 1] = torch.tensor([3, 2, 3, 2])  # one pixel
        boxes[0, 2] = torch.tensor([4, 2, 1, 5])  # empty
    return boxes


def oracle(image, labels, boxes, size):
    """grid_sample, box by box, in float64."""
    planes = torch.cat([image.double(), torch.zeros(len(image), 1, *image.shape[2:], dtype=torch.float64)], 1)
    out = torch.zeros(*boxes.shape[:2], planes.shape[1], size, size, dtype=torch.float64)
    for b, k in torch.cartesian_prod(*map(torch.arange, boxes.shape[:2])).tolist():
        ymin, xmin, ymax, xmax = boxes[b, k].tolist()
        if ymax < ymin or xmax < xmin:
            continue
        planes[b, -1] = labels[b] == k
        share = (
            torch.linspace(0, 1, size, dtype=torch.float64) if size > 1 else torch.tensor([0.5], dtype=torch.float64)
        )
        y, x = ymin + share * (ymax - ymin), xmin + share * (xmax - xmin)
        height, width = image.shape[2:]
        grid = torch.stack(
            torch.meshgrid(2 * y / max(height - 1, 1) - 1, 2 * x / max(width - 1, 1) - 1, indexing="ij"), -1
        )
        out[b, k] = torch.nn.functional.grid_sample(
            planes[b : b + 1], grid.flip(-1)[None], align_corners=True, padding_mode="border"
        )[0]
    return out[:, :, :-1], out[:, :, -1:]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values(backend, dtype, layout, size):
    image, labels, boxes = torch.randn(B, C, H, W).to(dtype), label_maps(B, H, W, K)["hostile"], random_boxes()
    expected = oracle(image, labels, boxes, size)
    actual = token_patches(LAYOUTS[layout](image), labels, boxes, size=size)
    for a, b in zip(actual, expected, strict=True):
        assert a.dtype == dtype
        assert a.is_contiguous()
        assert_close(a, b, dtype)


@pytest.mark.parametrize("name", tuple(label_maps(1, 8, 8, 4)))
def test_masks_of_every_label_map(backend, name):
    image, labels, boxes = torch.randn(B, C, H, W), label_maps(B, H, W, K)[name], random_boxes()
    assert_close(token_patches(image, labels, boxes, size=7)[1], oracle(image, labels, boxes, 7)[1], torch.float32)


def test_a_box_of_the_patch_size_is_copied_bit_for_bit(backend):
    image = torch.randn(1, 3, 64, 64)
    image[0, 0, 20, 20], image[0, 1, 21, 21] = torch.inf, torch.nan
    corner = torch.tensor([[0, 0], [17, 9], [48, 48]])
    boxes = torch.cat([corner, corner + 15], 1).int()[None]
    labels = torch.ones(1, 64, 64, dtype=torch.int32)
    patches, masks = token_patches(image, labels, boxes, size=16)
    for k, (y, x) in enumerate(corner.tolist()):
        torch.testing.assert_close(patches[0, k], image[0, :, y : y + 16, x : x + 16], rtol=0, atol=0, equal_nan=True)
    assert masks.amax((2, 3, 4)).tolist() == [[0.0, 1.0, 0.0]]
    assert masks[0, 1].min() == 1


def test_boxes_outside_the_image_take_the_nearest_pixel(backend):
    image, labels = torch.arange(12.0).reshape(1, 1, 3, 4), torch.zeros(1, 3, 4, dtype=torch.int32)
    limits = torch.iinfo(torch.int32)
    boxes = torch.tensor(
        [[[-2, -2, 0, 0], [2, 3, 9, 9], [limits.min, limits.min, limits.max, limits.max], [7, 8, 8, 9]]]
    )
    patches, masks = token_patches(image, labels, boxes.int(), size=3)
    assert patches[0, 0].eq(0).all()
    assert patches[0, 1].eq(11).all()
    assert patches[0, 3].eq(11).all()
    assert patches[0, 2].flatten().tolist() == [0, 0, 3, 0, 0, 3, 8, 8, 11]
    assert masks[0, 0].eq(1).all()
    grad = ops.token_patches_backward(torch.ones(1, 4, 1, 3, 3), boxes.int(), 3, 4)
    assert grad.sum() == 36


def test_empty_boxes_give_zeros_and_no_gradient(backend):
    image = torch.randn(1, 2, 4, 4, requires_grad=True)
    boxes = torch.tensor([[[3, 0, 2, 3], [0, 3, 3, 2], [4, 4, -1, -1]]], dtype=torch.int32)
    patches, masks = token_patches(image, torch.zeros(1, 4, 4, dtype=torch.int32), boxes, size=3)
    assert patches.eq(0).all()
    assert masks.eq(0).all()
    patches.sum().backward()
    assert image.grad.eq(0).all()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_backward_is_the_transpose(backend, dtype, size):
    height, width = 90, 31  # several bands of rows
    image, boxes = torch.randn(B, C, height, width).double(), random_boxes(height=height, width=width)
    grad = torch.randn(B, K, C, size, size).to(dtype)
    patches = oracle(image, torch.zeros(B, height, width), boxes, size)[0]
    actual = ops.token_patches_backward(grad, boxes, height, width)
    assert actual.dtype == dtype
    assert_close((actual.double() * image).sum(), (grad.double() * patches).sum(), dtype, scale=20)
    one = torch.autograd.grad(
        token_patches(image.requires_grad_(), boxes.new_zeros(B, height, width), boxes, size=size)[0],
        image,
        grad.double(),
    )[0]
    assert_close(actual, one, dtype, scale=4)


@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5), (2, 3, 4, 0), (1, 1, 1, 1)])
@pytest.mark.parametrize("number", [0, 2])
def test_degenerate(backend, shape, number):
    image, labels = torch.ones(shape, requires_grad=True), torch.zeros(shape[0], *shape[2:], dtype=torch.int32)
    boxes = torch.tensor([0, 0, 2, 2], dtype=torch.int32).expand(shape[0], number, 4)
    patches, masks = token_patches(image, labels, boxes, size=4)
    assert patches.shape == (shape[0], number, shape[1], 4, 4)
    assert masks.shape == (shape[0], number, 1, 4, 4)
    assert patches.eq(1 if labels.numel() else 0).all()
    patches.sum().backward()
    assert image.grad.sum().item() == pytest.approx(patches.numel() if labels.numel() else 0, rel=1e-5)


@pytest.mark.parametrize("size", [1, 3])
def test_gradients(size):
    labels = torch.tensor([[[0, 0, 1], [2, 0, -1], [1, 1, 1]]], dtype=torch.int32)
    boxes = torch.tensor([[[0, 0, 2, 2], [-1, 0, 1, 1], [2, 2, 1, 1]]], dtype=torch.int32)
    image = torch.randn(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    for power in (1, 3):
        function = lambda i: token_patches(i, labels, boxes, size=size)[0].pow(power)  # noqa: B023, E731
        assert torch.autograd.gradcheck(function, (image,))
        assert torch.autograd.gradgradcheck(function, (image,))


def test_compile():
    def function(image, labels, boxes):
        patches, masks = token_patches(image, labels, boxes, size=4)
        return (patches * masks).square().sum()

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    labels, boxes = label_maps(B, H, W, K)["blocks"], random_boxes()
    for call in range(2):
        with torch._dynamo.config.patch(error_on_recompile=call == 1):
            image = torch.randn(B, C, H, W, requires_grad=True)
            actual = torch.autograd.grad(compiled(image, labels, boxes), image)[0]
            torch.testing.assert_close(actual, torch.autograd.grad(function(image, labels, boxes), image)[0])


def test_bad_input():
    image, labels, boxes = torch.ones(1, 3, 4, 5), torch.zeros(1, 4, 5, dtype=torch.int32), random_boxes(1)
    with pytest.raises(ValueError, match=r"boxes: expected \[B,K,4\] = \[1,9,4\]; found \[1,9,3\]"):
        token_patches(image, labels, boxes[:, :, :3], size=4)
    with pytest.raises(TypeError, match=r"boxes: .*int64"):
        token_patches(image, labels, boxes.long(), size=4)
    with pytest.raises(ValueError, match="size: expected an integer >= 1; found 0"):
        token_patches(image, labels, boxes, size=0)
    with pytest.raises(ValueError, match="labels"):
        token_patches(image, labels[:, 1:], boxes, size=4)
