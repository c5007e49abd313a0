"""SVG images, rendered: exact ones show every pixel in its segment's colour, and no background shows through any."""

import io
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest
import torch
from arc_tools import photographs
from grid import label_maps
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from test_svg_paths import check_compact

import dhvt_kernels as dk
from benchmarks.models.slic import from_labels
from dhvt_kernels.imaging import mean_colors

resvg_py = pytest.importorskip("resvg_py")

SPACE = "{http://www.w3.org/2000/svg}"
MAGENTA = torch.tensor([255, 0, 255], dtype=torch.uint8).view(3, 1, 1)
STYLES = {
    "exact": {},
    "polygons": {"tolerance": 1.0},
    "curves": {"tolerance": 0.5, "curves": True},
    "gradients": {"tolerance": 0.5, "curves": True, "gradients": True},
}
#: With holes, with segments of several parts, and with parts that meet in a corner only.
MAPS = st.one_of(
    arrays(np.int32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(least, top))
    for least in (-1, 0)
    for top in (0, 1, 3)
)


def partition_of(labels):
    """The partition of one label map [H,W]; labels that do not occur are segments without pixels."""
    labels = torch.as_tensor(labels, dtype=torch.int32)
    count = max(int(labels.max()) + 1, 1)
    return from_labels(torch.zeros(1, 1, *labels.shape), labels[None], torch.tensor([count], dtype=torch.int32), count)


def noise(height, width, channels=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (channels, height, width), dtype=torch.uint8, generator=generator)


def smooth(height, width, channels=3, seed=0):
    """A picture of soft spots, uint8 [C,H,W], whose segments have long round outlines."""
    small = torch.rand(1, channels, 5, 6, generator=torch.Generator().manual_seed(seed))
    picture = torch.nn.functional.interpolate(small, (height, width), mode="bicubic", align_corners=True)[0]
    return (picture.clamp(0, 1) * 255).round().to(torch.uint8)


def render(svg, zoom=1.0, background=None):
    """uint8 [4,H,W], not premultiplied."""
    data = bytes(resvg_py.svg_to_bytes(svg_string=svg, background=background, zoom=zoom))
    with Image.open(io.BytesIO(data)) as picture:
        return torch.from_numpy(np.array(picture.convert("RGBA"))).permute(2, 0, 1)


class Read(NamedTuple):
    """What an SVG file of ours says."""

    width: int
    height: int
    scale: int
    paths: dict[int, dict[str, str]]
    gradients: dict[int, ElementTree.Element]


def read(svg):
    """Parse the file; whatever has to hold for every file is checked."""
    root = ElementTree.fromstring(svg)
    assert root.tag == SPACE + "svg"
    assert set(root.attrib) == {"width", "height", "viewBox"}
    assert svg.isascii()
    assert svg.endswith("</svg>\n")
    width, height = int(root.get("width")), int(root.get("height"))
    left, top, *box = map(int, root.get("viewBox").split())
    scale = box[0] // width
    assert (left, top, *box) == (0, 0, scale * width, scale * height)
    definitions = root.findall(f"{SPACE}defs/")
    gradients = {int(found.get("id").removeprefix("g")): found for found in definitions}
    assert len(gradients) == len(definitions)
    assert all(found.tag == SPACE + "linearGradient" for found in definitions)
    found = root.findall(f"{SPACE}path")
    assert len(found) + bool(definitions) == len(root)
    paths = {int(path.get("id").removeprefix("s")): path.attrib for path in found}
    assert len(paths) == len(found), "one path for each segment"
    for segment, path in paths.items():
        assert set(path) - {"fill-opacity"} == {"id", "fill", "d"}
        assert re.fullmatch(rf"#[0-9a-f]{{6}}|#[0-9a-f]{{3}}|url\(#g{segment}\)", path["fill"])
        assert not re.fullmatch(r"#(.)\1(.)\2(.)\3", path["fill"]), "three digits would do"
        assert re.fullmatch(r"0\.0*[1-9]\d{0,2}", path.get("fill-opacity", "0.1"))
        assert not path.get("fill-opacity", "").endswith("0")
        check_compact(path["d"])
    references = Counter(re.findall(r"url\(#g(\d+)\)", svg))
    assert references == {str(segment): 1 for segment in gradients}
    return Read(width, height, scale, paths, gradients)


def check_exact(image, partition):
    """Rendered over magenta every pixel has the mean colour of its segment, or shows the magenta."""
    svg = dk.to_svg(image, partition)
    labels = partition.labels[0]
    found = read(svg)
    assert (found.height, found.width, found.scale) == (*labels.shape, 1)
    assert sorted(found.paths) == labels[labels >= 0].unique().tolist()
    wanted = torch.where(labels < 0, MAGENTA, mean_colors(image, partition))
    torch.testing.assert_close(dk.render_svg(svg, background="#f0f"), wanted, rtol=0, atol=0)


def check_no_seams(svg):
    """At any zoom a pixel that lies in the picture is the same over black and over magenta."""
    for zoom in (1, 1.7, 3):
        black, magenta = (render(svg, zoom, background) for background in ("#000", "#f0f"))
        height, width = (int(size * zoom) for size in (read(svg).height, read(svg).width))
        torch.testing.assert_close(black[:, :height, :width], magenta[:, :height, :width], rtol=0, atol=0)


@given(MAPS, st.integers(0, 9))
@example(np.array([[0, 1], [1, 0]], np.int32), 0)
@example(np.array([[0, -1, 0], [-1, 0, -1], [1, -1, 1]], np.int32), 0)
@example(np.array([[0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]], np.int32), 0)
@settings(max_examples=200, deadline=None)
def test_every_pixel_has_the_colour_of_its_segment(labels, seed):
    check_exact(noise(*labels.shape, seed=seed), partition_of(labels))


@pytest.mark.parametrize("name", ["blocks", "one", "none", "pixels", "noise", "padded"])
def test_label_maps(name):
    check_exact(noise(19, 23), partition_of(label_maps(1, 19, 23, 30)[name][0]))


def test_partitions_of_photographs():
    for image, labels in photographs():
        check_exact(image, partition_of(labels))
        check_exact(image.float() / 255, partition_of(labels))


def test_a_mask_leaves_pixels_without_segment():
    image, mask = torch.rand(3, 16, 16), torch.zeros(1, 16, 16, dtype=torch.bool)
    mask[:, :9, :5] = True
    partition = dk.Tokenizer(cell=4)(image[None], mask)
    check_exact(image, partition)
    torch.testing.assert_close(render(dk.to_svg(image, partition))[3] == 255, mask[0])


@given(MAPS.filter(lambda labels: labels.min() >= 0), st.sampled_from(list(STYLES)))
@settings(max_examples=60, deadline=None)
def test_no_seams(labels, style):
    check_no_seams(dk.to_svg(noise(*labels.shape), partition_of(labels), **STYLES[style]))


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("budget", [4, 150])
def test_no_seams_in_smooth_pictures(style, budget):
    image = smooth(70, 90)
    check_no_seams(dk.to_svg(image, dk.vector_hierarchy(image).cut(max_tokens=budget), **STYLES[style]))


@pytest.mark.parametrize("style", ["polygons", "curves", "gradients"])
def test_no_seams_in_photographs(style):
    for image, labels in photographs():
        check_no_seams(dk.to_svg(image, partition_of(labels), **STYLES[style]))


@pytest.mark.parametrize("style", STYLES)
def test_float_and_bytes_are_the_same_picture(style):
    image = smooth(24, 30, 4)
    partition = partition_of(label_maps(1, 24, 30, 9)["blocks"][0])
    svg = dk.to_svg(image, partition, **STYLES[style])
    for same in (image[None], image.float() / 255, image.double()[None] / 255, (image.float() / 255).requires_grad_()):
        assert dk.to_svg(same, partition, **STYLES[style]) == svg


def premultiplied(rgba):
    return torch.cat([rgba[:3].double() * rgba[3:] / 255, rgba[3:].double()])


@pytest.mark.parametrize("style", ["exact", "curves"])
def test_alpha_is_kept(style):
    image = torch.empty(4, 24, 30, dtype=torch.uint8)
    labels = torch.zeros(24, 30, dtype=torch.int32)
    for segment, color in enumerate([(200, 50, 120, 255), (10, 20, 30, 0), (90, 160, 240, 128), (250, 8, 77, 3)]):
        rows = slice(6 * segment, 6 * segment + 6)
        image[:, rows] = torch.tensor(color, dtype=torch.uint8).view(4, 1, 1)
        labels[rows] = segment
    svg = dk.to_svg(image, partition_of(labels), **STYLES[style])
    assert sorted(read(svg).paths) == [0, 2, 3], "nothing is drawn where nothing is seen"
    assert "fill-opacity" not in read(svg).paths[0]
    rendered = render(svg)
    if style == "exact":
        torch.testing.assert_close(rendered[3], image[3])
        assert rendered[:3, :6].equal(image[:3, :6])
        torch.testing.assert_close(premultiplied(rendered), premultiplied(image), rtol=0, atol=1.5)
    else:  # within segments
        rows = torch.tensor([2, 3, 8, 9, 14, 15, 20, 21])
        torch.testing.assert_close(rendered[3, rows], image[3, rows])
        torch.testing.assert_close(premultiplied(rendered)[:, rows], premultiplied(image)[:, rows], rtol=0, atol=1.5)


def test_nothing_shines_through_drawings_on_a_transparent_ground():
    """Their rims are anti-aliased: that makes no glass of the segments that they belong to. And where the boundaries of
    these are hidden, not even the ground, a segment without colour, lies below."""
    for seed in range(8):
        generator = np.random.default_rng(seed)
        y, x = np.mgrid[:64, :64] - 31.5
        radius = torch.from_numpy(np.hypot(y, x))
        seeds = generator.uniform(-32, 32, (2, 24, 1, 1))
        parts = torch.from_numpy(((y - seeds[0]) ** 2 + (x - seeds[1]) ** 2 * 2).argmin(0))
        labels = torch.where(radius < 29, parts, 24)
        alpha = (29 - radius).clamp(0, 1) * 255
        colors = torch.from_numpy(generator.integers(0, 256, (3, 25)))
        image = torch.cat([colors[:, labels], alpha.round().long()[None]]).byte()
        for style in STYLES.values():
            svg = dk.to_svg(image, partition_of(labels), **style)
            for zoom in (1, 4):
                first, second = (render(svg, zoom, background)[:3].int() for background in ("#f0f", "#0c0"))
                inside = radius.repeat_interleave(zoom, 0).repeat_interleave(zoom, 1) < 26
                assert (first - second).abs().amax(0)[inside].max() == 0


def test_colours_count_as_much_as_they_are_seen():
    image = torch.tensor([[200, 100], [0, 240], [80, 16], [255, 85]], dtype=torch.uint8).view(4, 1, 2)
    (path,) = read(dk.to_svg(image, partition_of(torch.zeros(1, 2)))).paths.values()
    assert path["fill"] == "#af3c40"  # (200 + 100 / 3) / (4 / 3), ...
    assert float(path["fill-opacity"]) == pytest.approx(2 / 3, abs=5e-4)


@given(MAPS, st.integers(0, 9))
@settings(max_examples=100, deadline=None)
def test_random_alpha(labels, seed):
    image, partition = noise(*labels.shape, 4, seed), partition_of(labels)
    rendered = premultiplied(render(dk.to_svg(image, partition)))
    wanted = torch.zeros_like(rendered)
    for segment in range(int(partition.counts)):
        mask = torch.as_tensor(labels) == segment
        if mask.any():
            wanted[:, mask] = premultiplied(image)[:, mask].mean(1, keepdim=True)
    torch.testing.assert_close(rendered, wanted, rtol=0, atol=2)


def psnr(svg, image):
    return dk.svg_psnr(svg, image)


def ramp(height, width, first, last):
    """Linear from left to right, uint8 [3,H,W]."""
    first, last = (torch.tensor(color, dtype=torch.float64).view(3, 1, 1) for color in (first, last))
    at = torch.linspace(0, 1, width, dtype=torch.float64).expand(1, height, width)
    return (first + at * (last - first)).round().clamp(0, 255).to(torch.uint8)


def test_gradients_follow_ramps():
    image = torch.cat([ramp(20, 64, (250, 120, 0), (10, 120, 90)), ramp(20, 64, (0, 30, 60), (90, 200, 10))], 1)
    partition = partition_of(torch.arange(40)[:, None].div(20).floor().repeat(1, 64))
    for at in (image, image.transpose(1, 2)):
        turned = partition if at is image else partition_of(partition.labels[0].T)
        flat, better = (dk.to_svg(at, turned, gradients=gradients) for gradients in (False, True))
        assert not read(flat).gradients
        assert set(read(better).gradients) == {0, 1}
        assert psnr(better, at) > max(psnr(flat, at) + 15, 38), "but for the ends, which are rounded to whole pixels"
        finer = dk.to_svg(at, turned, tolerance=0.25, curves=True, gradients=True, precision=2)
        assert psnr(finer, at) > 48


def test_gradients_make_nothing_worse():
    for seed in range(40):
        height, width, budget = np.random.default_rng(seed).integers((2, 2, 1), (24, 24, 9)).tolist()
        image = smooth(height, width, seed=seed) if seed % 2 else noise(height, width, seed=seed)
        partition = dk.vector_hierarchy(image).cut(max_tokens=budget)
        for style in ({}, {"tolerance": 0.5, "curves": True}):
            flat, better = (dk.to_svg(image, partition, gradients=wanted, **style) for wanted in (False, True))
            read(better)
            assert psnr(better, image) >= psnr(flat, image) - 0.05


@pytest.mark.parametrize(
    ("first", "last"),
    [
        ((0, 100, 140), (255, 110, 120)),  # three standard deviations would reach beyond both ends of one channel
        ((253, 60, 40), (257, 200, 210)),  # one comes to its end in the middle; the others go on
        ((40, 60, -2), (200, 160, 4)),
        ((255, 60, 40), (255, 200, 210)),
    ],
)
def test_gradients_stay_in_the_gamut_channel_by_channel(first, last):
    image = ramp(16, 64, first, last)
    svg = dk.to_svg(image, partition_of(torch.zeros(16, 64)), gradients=True)
    (gradient,) = read(svg).gradients.values()
    places = [float(stop.get("offset", 0)) for stop in gradient]
    assert (places[0], places[-1]) == (0, 1)
    assert places == sorted(set(places))
    assert psnr(svg, image) > 42


def test_gradients_are_given_where_they_are_worth_it():
    image = torch.cat([ramp(30, 60, (0, 0, 0), (200, 180, 90)), torch.full((3, 30, 60), 77, dtype=torch.uint8)], 1)
    image[0, 35, 3] = 80
    svg = dk.to_svg(image, partition_of(torch.arange(60)[:, None].div(30).floor().repeat(1, 60)), gradients=True)
    assert list(read(svg).gradients) == [0]
    flat = torch.full((3, 9, 9), 50, dtype=torch.uint8)
    assert "defs" not in dk.to_svg(flat, partition_of(torch.zeros(9, 9)), gradients=True)


def test_gradients_improve_photographs():
    for image, labels in photographs():
        flat, better = (dk.to_svg(image, partition_of(labels), gradients=gradients) for gradients in (False, True))
        read(better)
        assert psnr(better, image) >= psnr(flat, image)


@pytest.mark.parametrize("precision", [0, 1, 2])
def test_precision(precision):
    image = smooth(60, 80)
    partition = dk.vector_hierarchy(image).cut(max_tokens=12)
    styles = [{"tolerance": 0.3, "curves": True, "precision": p} for p in (precision, 4)]
    coarse, fine = (dk.to_svg(image, partition, **style) for style in styles)
    assert read(coarse).scale == 10**precision
    assert len(coarse) < len(fine)
    change = (dk.render_svg(coarse).int() - dk.render_svg(fine).int()).abs().float().mean()
    assert change < (2.5 if precision == 0 else 0.6)
    check_no_seams(coarse)
    lines = {"tolerance": 0.3, "precision": precision}
    assert read(dk.to_svg(image, partition, **lines)).scale == 1, "corners of polygons are whole numbers anyway"


@pytest.mark.parametrize("curves", [False, True])
@pytest.mark.parametrize("tolerance", [1e-9, 1e9])
def test_extreme_tolerances(tolerance, curves):
    image = smooth(300, 300)
    partition = dk.vector_hierarchy(image).cut(max_tokens=15)
    svg = dk.to_svg(image, partition, tolerance=tolerance, curves=curves)
    assert len(read(svg).paths) == int(partition.counts), "no segment vanishes"
    check_no_seams(svg)
    if not curves and tolerance < 1:
        assert svg == dk.to_svg(image, partition)
    if tolerance > 1:
        assert len(svg) < len(dk.to_svg(image, partition)) * (0.6 if curves else 0.2)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 2)])
def test_small_pictures(size, style):
    image = noise(*size)
    for budget in (1, 3, 100):
        partition = dk.vector_hierarchy(image).cut(max_tokens=budget)
        svg = dk.to_svg(image, partition, **STYLES[style])
        assert len(read(svg).paths) == int(partition.counts)
        check_no_seams(svg)
        check_exact(image, partition)
    assert psnr(dk.to_svg(image, partition), image) == np.inf


@pytest.mark.parametrize("style", STYLES)
def test_as_many_segments_as_pixels(style):
    image = noise(12, 17)
    svg = dk.to_svg(image, partition_of(torch.arange(12 * 17).view(12, 17)), **STYLES[style])
    assert len(read(svg).paths) == 12 * 17
    check_no_seams(svg)


def test_one_segment():
    svg = dk.to_svg(torch.full((3, 5, 7), 0x55, dtype=torch.uint8), partition_of(torch.zeros(5, 7)))
    (path,) = read(svg).paths.values()
    assert path == {"id": "s0", "fill": "#555", "d": path["d"]}
    assert len(path["d"]) == len("M0 0h7v5h-7z")


def test_segments_without_pixels_and_no_segments():
    assert list(read(dk.to_svg(noise(2, 3), partition_of([[0, 0, 3], [0, 0, 3]]), gradients=True)).paths) in (
        [0, 3],
        [3, 0],
    )
    for channels in (3, 4):
        assert not read(dk.to_svg(noise(2, 3, channels), partition_of(torch.full((2, 3), -1)), gradients=True)).paths


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"image": torch.zeros(3, 4, 4)}, ValueError, r"image: expected \[3 or 4,H,W\] = .*4,5\]; found \[3, 4, 4\]"),
        ({"image": torch.zeros(2, 3, 4, 5)}, ValueError, r"image: expected .*; found \[2, 3, 4, 5\]"),
        ({"image": torch.zeros(1, 4, 5)}, ValueError, r"image: expected .*; found \[1, 4, 5\]"),
        ({"image": torch.zeros(4, 5)}, ValueError, r"image: expected .*; found \[4, 5\]"),
        ({"image": torch.zeros(3, 4, 5, dtype=torch.int64)}, TypeError, "floating point or uint8; found torch.int64"),
        ({"image": torch.zeros(3, 4, 5, dtype=torch.bool)}, TypeError, "floating point or uint8; found torch.bool"),
        ({"tolerance": -1.0}, ValueError, "tolerance: expected a finite number >= 0; found -1"),
        ({"tolerance": float("nan")}, ValueError, "tolerance: expected a finite number >= 0; found nan"),
        ({"tolerance": float("inf")}, ValueError, "tolerance: expected a finite number >= 0; found inf"),
        ({"tolerance": "1"}, TypeError, "tolerance: expected a number; found str"),
        ({"curves": True}, ValueError, "tolerance: expected a number > 0 for curves; found 0"),
        ({"precision": -1}, ValueError, "precision: expected"),
        ({"precision": 1.5}, TypeError, "precision: expected"),
        ({"precision": 400, "curves": True, "tolerance": 1.0}, ValueError, "precision: expected at most 7 for 5 x 4"),
    ],
)
def test_bad_arguments(change, error, message):
    given = {"image": torch.zeros(3, 4, 5), "partition": partition_of(torch.zeros(4, 5))}
    with pytest.raises(error, match=message):
        dk.to_svg(**{**given, **change})


def test_a_batch_is_refused():
    partition = dk.Tokenizer(cell=2)(torch.rand(2, 3, 4, 5))
    with pytest.raises(ValueError, match=r"partition: expected one image \(partition\[i\]\); found 2"):
        dk.to_svg(torch.rand(3, 4, 5), partition)
    dk.to_svg(torch.rand(3, 4, 5), partition[1])


def test_hierarchy_of_transparent_pictures():
    image = noise(12, 16, 4)
    image[3, :, 8:] = 0
    image[3, :, :8] = 255
    image[:3, :, :8] = 90
    labels = dk.vector_hierarchy(image).cut(max_tokens=2).labels[0]
    assert labels[:, :8].unique().numel() == labels[:, 8:].unique().numel() == 1, "what is transparent has no colour"
    assert labels.unique().numel() == 2


def test_hierarchy_of_float_and_bytes():
    image = smooth(20, 30)
    for same in (image.float() / 255, (image.float() / 255).requires_grad_()):
        ours, theirs = (dk.vector_hierarchy(picture).cut(max_tokens=9) for picture in (image, same))
        assert ours.labels.equal(theirs.labels)
        assert not theirs.features.requires_grad


@pytest.mark.parametrize("size", [(20, 30), (300, 310)])
@pytest.mark.parametrize("alpha", [None, 255, 77])
def test_flat_regions_are_not_split(size, alpha):
    height, width = size
    colors = torch.tensor([(200, 40, 90), (17, 201, 33), (255, 254, 3)], dtype=torch.uint8)
    image = colors[torch.arange(width) * 3 // width].T[:, None].repeat(1, height, 1)
    if alpha is not None:
        image = torch.cat([image, torch.full_like(image[:1], alpha)])
    for same in (image, image.float() / 255):
        hierarchy = dk.vector_hierarchy(same)
        assert int(hierarchy.cut(max_tokens=512).counts) == 3
    features = hierarchy.cut(max_tokens=3).features[0, :, :3] * 255 / (alpha or 255)
    torch.testing.assert_close(features.sort(0).values, colors.float().sort(0).values)


def test_cuts_are_by_squared_error():
    # One level of one pixel in a picture is worth a segment of its own.
    image = torch.full((3, 60, 70), 128, dtype=torch.uint8)
    image[1, 30, 30] += 1
    assert int(dk.vector_hierarchy(image).cut(max_tokens=9).counts) == 2
    # Of two gains the larger comes first, also where they differ by little and the segments are large.
    image = torch.full((3, 400, 400), 128, dtype=torch.uint8)
    image[:, :, 200:] = 140
    for larger, smaller in (((10, 10), (50, 300)), ((50, 300), (10, 10))):
        picture = image.clone()
        picture[(0, *larger)] += 31
        picture[(0, *smaller)] += 30
        labels = dk.vector_hierarchy(picture).cut(max_tokens=3).labels[0]
        assert labels.unique().numel() == 3
        assert (labels == labels[larger]).sum() == 1


def test_large_pictures_are_merged_strip_by_strip(monkeypatch):
    """As well as at once, and what one strip cuts off from the next is one segment again."""
    image = smooth(120, 160)
    image[:, :, 60:80] = torch.tensor([255, 0, 90], dtype=torch.uint8).view(3, 1, 1)
    whole = dk.vector_hierarchy(image, max_leaves=500)
    monkeypatch.setattr("dhvt_kernels.vectorize._STRIP_PIXELS", 160 * 25)
    strips = dk.vector_hierarchy(image, max_leaves=500)
    assert strips.num_leaves <= 500
    for budget in (8, 40, 200):
        one, other = (psnr(dk.to_svg(image, of.cut(max_tokens=budget)), image) for of in (whole, strips))
        assert other > one - 0.3
    labels = strips.cut(max_tokens=40).labels[0]
    assert (labels[:, 60:80] == labels[0, 60]).all()


def test_hierarchy_keeps_to_its_leaves():
    hierarchy = dk.vector_hierarchy(noise(12, 16), max_leaves=10)
    assert 5 <= hierarchy.num_leaves <= 10
    assert int(hierarchy.cut(max_tokens=100).counts) == hierarchy.num_leaves
    assert int(hierarchy.cut(max_tokens=1).counts) == 1


@pytest.mark.parametrize(
    ("image", "leaves", "error", "message"),
    [
        (
            torch.zeros(3, 4, 5, dtype=torch.int32),
            9,
            TypeError,
            "image: expected floating point or uint8; found torch.int32",
        ),
        (torch.zeros(1, 3, 4, 5), 9, ValueError, r"image: expected \[3,H,W\] or \[4,H,W\].*; found \[1, 3, 4, 5\]"),
        (torch.zeros(2, 4, 5), 9, ValueError, r"image: expected .*; found \[2, 4, 5\]"),
        (torch.zeros(3, 0, 5), 9, ValueError, r"image: expected .*; found \[3, 0, 5\]"),
        (torch.zeros(3, 4, 5), 0, ValueError, "max_leaves: expected"),
    ],
)
def test_hierarchy_of_bad_arguments(image, leaves, error, message):
    with pytest.raises(error, match=message):
        dk.vector_hierarchy(image, max_leaves=leaves)


EIGHTY_MEGAPIXELS = """
import os, resource, sys, torch, dhvt_kernels as dk
height, width, side = 8000, 10000, 285
image = torch.full((int(sys.argv[1]), height, width), 255, dtype=torch.uint8)
labels = torch.empty(1, height, width, dtype=torch.int32)
columns = torch.arange(width)
across = -(-width // side)
for y in range(height):  # wavy blocks, and no second copy of anything
    wave = ((columns + 20 * (y * 0.02).__trunc__() % 40).clamp(max=width - 1) // side).int()
    labels[0, y] = y // side * across + wave
    for channel in range(3):
        image[channel, y] = (columns * (channel + 1) + y) >> 4 & 255
count = int(labels.max()) + 1
none = torch.zeros(1, 1)
partition = dk.Partition(labels, torch.tensor([count]), count, none, none[0], none[0], none, none[0], none)
dk.to_svg(image[:, :9, :9].contiguous(), dk.vector_hierarchy(image[:, :9, :9]).cut(max_tokens=3))  # loads everything
with open("/proc/self/statm") as file:
    before = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
svg = dk.to_svg(image, partition)
svg_peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
dk.vector_hierarchy(image)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(count, svg.count("<path"), svg_peak - before, (peak - before - 260 * 2**20) // (height * width))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("channels", [3, 4])
def test_eighty_megapixels_in_less_than_a_gibibyte(channels):
    """And their hierarchy in as many bytes per pixel as its documents say."""
    command = [sys.executable, "-c", EIGHTY_MEGAPIXELS, str(channels)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    count, paths, memory, of_hierarchy = map(int, done.stdout.split())
    assert count == paths >= 1000
    assert memory < 2**30
    assert of_hierarchy < 50


def test_few_segments_are_the_stripes_of_a_flag():
    """Mixed rows between them, as edges are drawn: a row that joins both its sides would leave no cut with five."""
    stripes = torch.tensor([[200, 30, 40], [240, 240, 240], [40, 40, 120], [240, 240, 240], [200, 30, 40]])
    rows = [stripes[0].expand(9, 3)]
    for above, below in pairwise(stripes):
        rows += [(above + below)[None] // 2, below.expand(9, 3)]
    image = torch.cat(rows).T[:, :, None].expand(-1, -1, 60).to(torch.uint8)
    labels = dk.vector_hierarchy(image).cut(max_tokens=5).labels[0]
    inner = [labels[10 * stripe : 10 * stripe + 9].unique().tolist() for stripe in range(5)]
    assert sorted(inner) == [[0], [1], [2], [3], [4]]
