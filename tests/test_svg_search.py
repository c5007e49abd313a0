"""SVG images of a given size or quality, and how both are measured."""

import io
import math
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import dhvt_kernels as dk

resvg_py = pytest.importorskip("resvg_py")

HEAD = '<svg xmlns="http://www.w3.org/2000/svg" width="4" height="2">'
HALF = f'{HEAD}<path fill="#0a141e" d="M0 0h2v2h-2z"/></svg>'
STYLES = [{}, {"tolerance": 0.5, "curves": True}, {"tolerance": 1.0, "gradients": True}]


@pytest.fixture(params=[3, 4], ids=["RGB", "RGBA"])
def image(request):
    """A picture of soft spots with a little noise, uint8 [C,40,48]."""
    small = torch.rand(1, request.param, 5, 6)
    spots = torch.nn.functional.interpolate(small, (40, 48), mode="bicubic", align_corners=True)[0]
    return (spots * 255 + torch.randn(spots.shape) * 4).round().clamp(0, 255).to(torch.uint8)


def next_larger(hierarchy, partition):
    """The next cut with more segments, or none."""
    for budget in range(int(partition.counts) + 1, hierarchy.num_leaves + 1):
        found = hierarchy.cut(max_tokens=budget)
        if int(found.counts) > int(partition.counts):
            return found
    return None


def next_smaller(hierarchy, partition):
    return hierarchy.cut(max_tokens=int(partition.counts) - 1) if int(partition.counts) > 1 else None


@pytest.mark.parametrize("style", STYLES, ids=["exact", "curves", "gradients"])
def test_size(image, style):
    hierarchy = dk.vector_hierarchy(image, max_leaves=200)
    before = 0
    for size in (400, 1500, 4000, 10**9):
        found = dk.search_svg(image, hierarchy, size=size, **style)
        assert len(found.svg.encode()) <= size
        assert found.svg == dk.to_svg(image, found.partition, **style)
        further = next_larger(hierarchy, found.partition)
        assert further is None or len(dk.to_svg(image, further, **style)) > size
        assert int(found.partition.counts) > before
        before = int(found.partition.counts)
    assert further is None, "all segments there are"


@pytest.mark.parametrize("style", STYLES, ids=["exact", "curves", "gradients"])
def test_psnr(image, style):
    hierarchy = dk.vector_hierarchy(image, max_leaves=200)
    before = 0
    for psnr in (-100, 20, 24.5, 27):
        found = dk.search_svg(image, hierarchy, psnr=psnr, **style)
        assert dk.svg_psnr(found.svg, image) >= psnr
        assert found.svg == dk.to_svg(image, found.partition, **style)
        further = next_smaller(hierarchy, found.partition)
        assert further is None or dk.svg_psnr(dk.to_svg(image, further, **style), image) < psnr
        assert int(found.partition.counts) > before
        before = int(found.partition.counts)
        if psnr < 0:
            assert before == 1


def test_the_best_there_is():
    image = torch.randint(0, 256, (3, 4, 5), dtype=torch.uint8)
    hierarchy = dk.vector_hierarchy(image)
    reached = dk.svg_psnr(dk.to_svg(image, hierarchy.cut(max_tokens=7)), image)
    found = dk.search_svg(image, hierarchy, psnr=reached)
    assert dk.svg_psnr(found.svg, image) >= reached
    assert int(found.partition.counts) <= 7
    assert int(dk.search_svg(image, hierarchy, psnr=60).partition.counts) == 20


def test_one_pixel():
    image = torch.full((3, 1, 1), 17, dtype=torch.uint8)
    hierarchy = dk.vector_hierarchy(image)
    by_size, by_psnr = (dk.search_svg(image, hierarchy, **limit) for limit in ({"size": 500}, {"psnr": 50}))
    assert by_size.svg == by_psnr.svg == dk.to_svg(image, hierarchy.cut(max_tokens=1))


def test_out_of_reach(image):
    hierarchy = dk.vector_hierarchy(image, max_leaves=50)
    least = len(dk.to_svg(image, hierarchy.cut(max_tokens=1)))
    assert int(dk.search_svg(image, hierarchy, size=least).partition.counts) == 1
    message = f"size: expected at least {least} bytes, which one segment takes; found {least - 1}"
    with pytest.raises(ValueError, match=message):
        dk.search_svg(image, hierarchy, size=least - 1)
    most = hierarchy.num_leaves
    reached = dk.svg_psnr(dk.to_svg(image, hierarchy.cut(max_tokens=most)), image)
    message = f"psnr: expected at most {reached:.2f} dB, which {most} segments reach; found 99.5"
    with pytest.raises(ValueError, match=message):
        dk.search_svg(image, hierarchy, psnr=99.5)


@pytest.mark.parametrize(
    ("limits", "error", "message"),
    [
        ({}, TypeError, "size, psnr: expected one of both"),
        ({"size": 1000, "psnr": 30}, TypeError, "size, psnr: expected one of both"),
        ({"size": 0}, ValueError, "size: expected"),
        ({"size": 1000.5}, TypeError, "size: expected"),
        ({"psnr": math.nan}, ValueError, "psnr: expected a finite number; found nan"),
        ({"psnr": math.inf}, ValueError, "psnr: expected a finite number; found inf"),
        ({"psnr": "high"}, TypeError, "psnr: expected a number; found str"),
        ({"size": 1000, "curves": True}, ValueError, "tolerance: expected a number > 0 for curves"),
        ({"size": 1000, "colour": "red"}, TypeError, "colour"),
    ],
)
def test_bad_arguments(limits, error, message):
    image = torch.rand(3, 6, 7)
    with pytest.raises(error, match=message):
        dk.search_svg(image, dk.vector_hierarchy(image), **limits)


def test_psnr_against_numpy(image):
    svg = dk.to_svg(image, dk.vector_hierarchy(image).cut(max_tokens=30), tolerance=0.5, curves=True)
    with Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, background="white")))) as picture:
        seen = np.asarray(picture.convert("RGB"), float)
    original = image.permute(1, 2, 0).numpy().astype(float)
    if original.shape[-1] == 4:
        alpha = original[..., 3:] / 255
        original = original[..., :3] * alpha + 255 * (1 - alpha)
    expected = 10 * np.log10(255**2 / np.mean((seen - original) ** 2))
    assert dk.svg_psnr(svg, image) == pytest.approx(expected)
    assert dk.svg_psnr(svg, image.float() / 255) == pytest.approx(expected)
    assert dk.svg_psnr(svg, (image.float() / 255).requires_grad_()) == pytest.approx(expected)


def test_psnr_of_the_same_picture():
    image = torch.full((3, 2, 4), 255, dtype=torch.uint8)
    image[:, :, :2] = torch.tensor([10, 20, 30], dtype=torch.uint8).view(3, 1, 1)
    assert dk.svg_psnr(HALF, image) == math.inf
    image[0, 0, 0] += 1
    assert dk.svg_psnr(HALF, image) == pytest.approx(10 * math.log10(255**2 * 24))


def test_psnr_is_of_one_size():
    with pytest.raises(ValueError, match=r"image: expected \[3, 2, 4\], the size of the SVG; found \[3, 4, 2\]"):
        dk.svg_psnr(HALF, torch.zeros(3, 4, 2))


def test_rendering_and_its_background():
    for background, color in (("#fff", (255, 255, 255)), ("#f0f", (255, 0, 255)), ("black", (0, 0, 0))):
        seen = dk.render_svg(HALF, background=background)
        assert seen.dtype == torch.uint8
        assert seen.shape == (3, 2, 4)
        assert (seen[:, :, :2] == torch.tensor([10, 20, 30]).view(3, 1, 1)).all()
        assert (seen[:, :, 2:] == torch.tensor(color).view(3, 1, 1)).all()
    assert dk.render_svg(HALF).equal(dk.render_svg(HALF, background="white"))


@pytest.mark.parametrize("text", ["", "no picture", "<svg", '<svg xmlns="http://www.w3.org/2000/svg"><path></svg>'])
def test_no_svg(text):
    with pytest.raises(ValueError, match=r"^svg: cannot be rendered: \S"):
        dk.render_svg(text)


def test_no_colour():
    with pytest.raises(ValueError, match=r"cannot be rendered: .*background"):
        dk.render_svg(HALF, background="no such colour")


def test_pictures_of_any_size_are_rendered(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3)  # of Pillow, whose limit is below ours
    assert dk.render_svg(HALF).shape == (3, 2, 4)
    assert Image.MAX_IMAGE_PIXELS == 3


def test_without_resvg(monkeypatch):
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    image = torch.rand(3, 6, 7)
    hierarchy = dk.vector_hierarchy(image)
    message = r"rendering needs resvg-py: pip install 'dhvt_kernels\[svg\]'"
    for call in (
        lambda: dk.render_svg(HALF),
        lambda: dk.svg_psnr(HALF, torch.zeros(3, 2, 4)),
        lambda: dk.search_svg(image, hierarchy, psnr=10),
    ):
        with pytest.raises(ModuleNotFoundError, match=message):
            call()
    assert dk.search_svg(image, hierarchy, size=900).svg, "sizes need no renderer"
