"""The page with a slider through every budget: what is in it, and in headless Chromium how it shows that."""

import base64
import io
import json
import os
import re
import xml.etree.ElementTree as ElementTree
import zlib

import numpy as np
import pytest
import torch
from browser import Viewer, browser  # noqa: F401
from PIL import Image

import dhvt_kernels as dk
from dhvt_kernels import cli, viewer
from dhvt_kernels.files import write_text
from dhvt_kernels.imaging import mean_colors

TITLE = 'A "<b>" & </script><script>document.title = 1</script>'


def photo(height=96, width=136, seed=0):
    """uint8 [3,H,W]: smooth colours with a few sharp discs, and a little noise."""
    random = np.random.default_rng(seed)
    small = Image.fromarray(random.integers(0, 256, (4, 5, 3), np.uint8))
    pixels = np.array(small.resize((width, height), Image.Resampling.BICUBIC)).astype(float)
    y, x = np.mgrid[:height, :width]
    for _ in range(6):
        center = random.uniform(0, 1, 2) * (height, width)
        disc = np.hypot(y - center[0], x - center[1]) < random.uniform(0.05, 0.25) * height
        pixels[disc] = pixels[disc] * 0.3 + random.uniform(0, 180, 3)
    pixels += random.normal(0, 4, pixels.shape)
    return torch.from_numpy(pixels.round().clip(0, 255).astype(np.uint8)).permute(2, 0, 1).contiguous()


def hierarchy_of(image, **options):
    return dk.Tokenizer(**{"cell": 4, **options}).hierarchy(image[None])


def contents(page):
    """The facts and the arrays of a page."""
    facts, data = (re.search(rf'<script [^>]*id="{name}">(.*?)</script>', page)[1] for name in ("facts", "data"))
    facts = json.loads(facts)
    packed, arrays = zlib.decompress(base64.b64decode(data)), {}
    offset = 0
    for name, kind, size in facts["arrays"]:
        arrays[name] = np.frombuffer(packed, f"<{kind}4", size, offset)
        offset += 4 * size
    assert offset == len(packed)
    arrays["labels"] = np.cumsum(arrays["labels"].reshape(facts["height"], facts["width"]), 0)
    arrays["fills"] = arrays["fills"].reshape(-1, 10)
    return facts, arrays


def nodes(arrays, place):
    """The node that holds each pixel in a cut, int [H,W]; -1 where there is none."""
    parent, active = arrays["parent"], arrays["active"][place]
    node = np.arange(active)
    for v in range(active - 1, -1, -1):
        if 0 <= parent[v] < active:
            node[v] = node[parent[v]]
    return np.where(arrays["labels"] >= 0, node[arrays["labels"]], -1)


def gradients(arrays, node):
    """The pixels [H,W,3] of linear gradients, without rounding."""
    mean, slope, direction, centroid = np.split(arrays["fills"][node].astype(float), [3, 6, 8], axis=2)
    place = np.stack(np.indices(node.shape), -1) - centroid
    return mean + (place * direction).sum(2, keepdims=True) * slope


def psnr(shown, image):
    with np.errstate(divide="ignore"):
        return 10 * np.log10(255**2 / np.mean((shown - image.permute(1, 2, 0).numpy().astype(float)) ** 2))


def same_segments(a, b):
    """Whether two label maps have the same segments, whatever their numbers."""
    pairs = len(np.unique(np.stack([a.ravel(), b.ravel()]), axis=1).T)
    return pairs == len(np.unique(a)) == len(np.unique(b))


@pytest.mark.parametrize("options", [{}, {"criterion": "mdl", "strength": 3.0}, {"leaves": "pixels"}])
def test_cuts_are_those_of_the_hierarchy(options):
    image = photo(48, 60)
    hierarchy = hierarchy_of(image, **options)
    facts, arrays = contents(dk.to_html(image, hierarchy))
    tokens = arrays["tokens"]
    assert (np.diff(tokens) < 0).all()
    assert (np.diff(arrays["strength"]) > 0).all()
    assert tokens[-1] == 1
    likelihood, penalty = (term[0].double().numpy() for term in hierarchy.terms())
    cost = likelihood + options.get("strength", 1.0) * penalty
    for budget in (1, 2, 5, 17, 60, 4096):
        cut = hierarchy.cut(max_tokens=budget, strength=0.0)[0]
        place = np.flatnonzero(tokens <= budget)[0]
        count = int(cut.counts[0])
        assert tokens[place] == count
        node = nodes(arrays, place)
        assert same_segments(node, cut.labels[0].numpy())
        assert arrays["strength"][place] == float(cut.strength[0])
        np.testing.assert_allclose(arrays["criterion"][place], cost[cut.node[0, :count]].sum(), rtol=1e-6)
        means = mean_colors(image, cut).permute(1, 2, 0).numpy()
        np.testing.assert_allclose(arrays["meanPsnr"][place], psnr(means, image), atol=1e-3)
        np.testing.assert_allclose(arrays["gradientPsnr"][place], psnr(gradients(arrays, node), image), atol=1e-2)
    assert facts["chosen"] == int(hierarchy.cut().counts[0]) == tokens[arrays["criterion"].argmin()]


def test_the_finest_cut_is_limited(monkeypatch):
    image = photo()
    hierarchy = hierarchy_of(image)
    monkeypatch.setattr(viewer, "MAX_SEGMENTS", 50)
    facts, arrays = contents(dk.to_html(image, hierarchy))
    assert arrays["tokens"][0] == int(hierarchy.cut(max_tokens=50, strength=0.0).counts[0]) <= 50
    assert facts["finest"] == int(hierarchy.cut(strength=0.0).counts[0]) > 50
    assert facts["chosen"] == arrays["tokens"][0]
    with pytest.raises(ValueError, match=r"cuts of 1 to 50 segments; found 801"):
        dk.to_html(image, hierarchy_of(image, depth=1))


def test_gradients_are_never_worse():
    _, arrays = contents(dk.to_html(photo(), hierarchy_of(photo())))
    assert (arrays["gradientPsnr"] > arrays["meanPsnr"] - 0.02).all(), "but for the rounding of the mean colours"
    assert arrays["gradientPsnr"][-1] > arrays["meanPsnr"][-1] + 0.5


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (33, 7)])
def test_small_pictures(size):
    image = photo(*size)
    facts, arrays = contents(dk.to_html(image, hierarchy_of(image)))
    assert (facts["height"], facts["width"]) == size
    assert arrays["tokens"][-1] == 1


def test_one_colour_is_exact():
    image = torch.full((3, 8, 8), 200, dtype=torch.uint8)
    _, arrays = contents(dk.to_html(image, hierarchy_of(image)))
    assert np.isposinf(arrays["meanPsnr"]).all()
    assert np.isposinf(arrays["gradientPsnr"]).all()


def test_pixels_of_no_image():
    image = photo(40, 40)
    mask = torch.ones(1, 40, 40, dtype=torch.bool)
    mask[:, 10:20] = False  # two parts, which never merge
    hierarchy = dk.Tokenizer(leaves="pixels").hierarchy(image[None], mask)
    _, arrays = contents(dk.to_html(image, hierarchy))
    np.testing.assert_array_equal(arrays["labels"] < 0, ~mask[0].numpy())
    assert arrays["tokens"][-1] == 2


def test_bad_input():
    image = photo(16, 16)
    hierarchy = hierarchy_of(image)
    with pytest.raises(ValueError, match=r"image: expected \[3,H,W\] = \[3,16,16\]; found \[3, 8, 16\]"):
        dk.to_html(image[:, :8], hierarchy)
    with pytest.raises(TypeError, match="image: expected floating point or uint8"):
        dk.to_html(image.int(), hierarchy)
    with pytest.raises(ValueError, match="hierarchy: expected that of one image; found 2 images"):
        dk.to_html(image, dk.Tokenizer().hierarchy(torch.stack([image, image])))
    with pytest.raises(ValueError, match="select: expected"):
        dk.to_html(image, hierarchy_of(image, select="greedy"))
    with pytest.raises(ValueError, match="expected cuts of 1 to 4,096 segments; found 0"):
        dk.to_html(image, dk.Tokenizer().hierarchy(image[None], torch.zeros(1, 16, 16, dtype=torch.bool)))
    large = torch.zeros(3, 1024, 2049, dtype=torch.uint8)
    with pytest.raises(ValueError, match="at most 2,097,152 pixels, scale it down; found 2049 x 1024"):
        dk.to_html(large, hierarchy_of(large, cell=64, iterations=1))


def test_the_page_loads_nothing():
    page = dk.to_html(photo(), hierarchy_of(photo()), title=TITLE)
    assert set(re.findall(r"https?://[^\s\"'`]+", page)) == {"http://www.w3.org/2000/svg"}, "the name of SVG"
    assert "{{" not in page
    assert "default-src 'none'" in page
    assert TITLE not in page


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "page.html"
    write_text(path, "old")
    link = tmp_path / "link.html"
    link.symlink_to(path)
    write_text(link, "größer")
    assert path.read_text("utf-8") == "größer"
    assert link.is_symlink()
    path.chmod(0o600)
    write_text(path, "größer")
    assert path.stat().st_mode & 0o777 == 0o600
    read, write = os.pipe()
    write_text(f"/dev/fd/{write}", "into a pipe")
    assert os.read(read, 100) == b"into a pipe"
    os.close(read), os.close(write)
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "half \udcff")
    with pytest.raises(OSError, match="Is a directory") as error:
        write_text(tmp_path, "text")
    assert error.value.filename == str(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left on device") as error:
        write_text(path, "new")
    assert error.value.filename == str(path)
    assert path.read_text("utf-8") == "größer"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["link.html", "page.html"]


def dhvt(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        cli.main([str(argument) for argument in arguments])
    return stopped.value.code or 0, capsys.readouterr().err.splitlines()


def test_command(tmp_path, capsys):
    source, page = tmp_path / "holiday photo.png", tmp_path / "view.html"
    image = photo()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(source)
    assert dhvt(capsys, "view", source, "-o", page, "--cell", "4", "--max-tokens", "9") == (0, [])
    assert page.read_text("utf-8") == dk.to_html(image, hierarchy_of(image, max_tokens=9), title="holiday photo")
    assert contents(page.read_text("utf-8"))[0]["chosen"] <= 9
    before = page.read_bytes()
    broken = tmp_path / "broken.png"
    broken.write_bytes(source.read_bytes()[:500])
    for arguments, message in [
        ((tmp_path / "none.png", "-o", page), "none.png: No such file or directory"),
        ((broken, "-o", page), "broken.png: "),
        ((page, "-o", page), "view.html: not a picture that Pillow can read"),
        ((source, "-o", tmp_path), f"holiday photo.png: Is a directory: {tmp_path}"),
        ((source, "-o", tmp_path / "no" / "x.html"), f"No such file or directory: {tmp_path}/no/x.html"),
        ((source, "-o", page, "--select", "greedy"), "select: expected"),
    ]:
        code, errors = dhvt(capsys, "view", *arguments)
        assert (code, len(errors)) == (1, 1)
        assert message in errors[0]
    assert page.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 3


def test_command_scales_large_pictures_down(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cli, "MAX_PIXELS", 2000)
    source, page = tmp_path / "photo.jpg", tmp_path / "view.html"
    Image.fromarray(photo().permute(1, 2, 0).numpy()).save(source)
    assert dhvt(capsys, "view", source, "-o", page) == (0, [])
    facts, _ = contents(page.read_text("utf-8"))
    assert (facts["width"], facts["height"]) == (53, 37)


# In the browser.


@pytest.fixture(scope="module")
def image():
    return photo()


@pytest.fixture(scope="module")
def hierarchy(image):
    return hierarchy_of(image)


@pytest.fixture(scope="module")
def page_file(image, hierarchy, tmp_path_factory):
    path = tmp_path_factory.mktemp("viewer") / "page.html"
    write_text(path, dk.to_html(image, hierarchy, title=TITLE))
    return path


@pytest.fixture
def desktop(browser, page_file):  # noqa: F811
    shown = Viewer(browser, page_file, "desktop")
    yield shown
    shown.close()


@pytest.fixture
def phone(browser, page_file):  # noqa: F811
    shown = Viewer(browser, page_file, "phone")
    yield shown
    shown.close()


@pytest.fixture(params=["desktop", "phone"])
def shown(request):
    return request.getfixturevalue(request.param)


def expected_means(image, hierarchy, tokens):
    """The mean colours [H,W,3] of the cut with so many tokens."""
    cut = hierarchy.cut(max_tokens=tokens, strength=0.0)
    assert int(cut.counts[0]) == tokens
    return mean_colors(image, cut[0]).permute(1, 2, 0).numpy()


def expected_gradients(page_file, tokens):
    _, arrays = contents(page_file.read_text("utf-8"))
    return gradients(arrays, nodes(arrays, list(arrays["tokens"]).index(tokens))).clip(0, 255)


def screenshot(shown):
    return np.array(Image.open(io.BytesIO(shown.page.screenshot())).convert("RGB"))


def rendered(svg, **options):
    resvg_py = pytest.importorskip("resvg_py")
    return np.array(Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, **options)))))


def test_opens_at_the_chosen_cut(shown, image, hierarchy, page_file):
    facts, arrays = contents(page_file.read_text("utf-8"))
    place = list(arrays["tokens"]).index(facts["chosen"])
    assert shown.page.title() == TITLE == shown.page.locator("h1").text_content()
    assert shown.tokens == facts["chosen"] == int(hierarchy.cut().counts[0])
    assert shown.text("psnr") == f"{arrays['meanPsnr'][place]:.1f} dB"
    assert shown.text("criterion") == f"{arrays['criterion'][place]:,.0f}"
    assert float(shown.text("strength").replace(",", "")) == pytest.approx(arrays["strength"][place], rel=0.01)
    pixels = shown.pixels()
    assert (pixels[..., 3] == 255).all()
    np.testing.assert_array_equal(pixels[..., :3], expected_means(image, hierarchy, shown.tokens))


def test_slider_moves_through_the_cuts(shown, image, hierarchy, page_file):
    _, arrays = contents(page_file.read_text("utf-8"))
    slider = shown.page.get_by_label("Budget of tokens")
    seen = []
    for value in (0, 130, 310, 500, 720, 1000):
        slider.evaluate("(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input')); }", value)
        np.testing.assert_array_equal(shown.pixels()[..., :3], expected_means(image, hierarchy, shown.tokens))
        assert slider.get_attribute("aria-valuetext") == f"{shown.text('tokens')} tokens, {shown.text('psnr')}"
        seen.append(shown.tokens)
    assert seen == sorted(seen)
    assert len(set(seen)) == len(seen)
    assert (seen[0], seen[-1]) == (arrays["tokens"][-1], arrays["tokens"][0])
    # Logarithmic: half way is about the root of all.
    assert 0.5 < seen[3] / np.sqrt(seen[-1]) < 2


def test_every_cut_can_be_reached_step_by_step(desktop, page_file):
    _, arrays = contents(page_file.read_text("utf-8"))
    desktop.budget(20)
    below = [int(tokens) for tokens in arrays["tokens"] if tokens <= 20]
    seen = [desktop.tokens]
    fewer = desktop.page.get_by_role("button", name="Fewer tokens")
    while fewer.is_enabled():
        fewer.click()
        seen.append(desktop.tokens)
    assert seen == below
    desktop.page.get_by_role("button", name="More tokens").click()
    assert desktop.tokens == below[-2]
    desktop.page.locator("#chosen").click()
    assert desktop.tokens == contents(page_file.read_text("utf-8"))[0]["chosen"]


def test_slider_by_mouse_and_touch(shown):
    box = shown.page.get_by_label("Budget of tokens").bounding_box()
    y = box["y"] + box["height"] / 2
    seen = []
    for part in (0.05, 0.5, 0.95):
        x = box["x"] + box["width"] * part
        if shown.context.pages[0].evaluate("navigator.maxTouchPoints") > 0:
            shown.page.touchscreen.tap(x, y)
        else:
            shown.page.mouse.click(x, y)
        seen.append(shown.tokens)
    assert seen[0] < seen[1] < seen[2]


def test_keyboard_on_the_slider(desktop, image, hierarchy, page_file):
    _, arrays = contents(page_file.read_text("utf-8"))
    tokens = [int(number) for number in arrays["tokens"]]
    press = desktop.page.keyboard.press
    start = tokens.index(desktop.tokens)
    for keys, place in [
        (["ArrowLeft"], start + 1),
        (["ArrowDown", "ArrowDown"], start + 3),
        (["ArrowRight"], start + 2),
        (["["], start + 3),
        (["]", "]"], start + 1),
        (["Home"], len(tokens) - 1),
        (["ArrowLeft"], len(tokens) - 1),
        (["End"], 0),
        (["ArrowUp"], 0),
    ]:
        for key in keys:
            press(key)  # the slider has the focus when the page opens
        assert desktop.tokens == tokens[place], keys
        np.testing.assert_array_equal(desktop.pixels()[..., :3], expected_means(image, hierarchy, tokens[place]))
    press("PageDown")
    assert desktop.tokens == pytest.approx(tokens[0] / 2, rel=0.1)
    press("Home")
    for _ in range(4):
        ratio = arrays["tokens"] / (2 * desktop.tokens)
        press("PageUp")
        assert desktop.tokens == tokens[np.abs(np.log(ratio)).argmin()]


def test_everything_has_a_name_and_visible_focus(desktop):
    names = []
    for _ in range(30):
        desktop.page.keyboard.press("Tab")
        found = desktop.page.evaluate("""
        () => {
          const element = document.activeElement;
          if (element === document.body) return null;
          const label = element.getAttribute("aria-label") || element.labels?.[0]?.textContent || element.textContent;
          return [element.id || element.value || element.tagName, label.trim()];
        }
        """)
        if found is None:
            continue  # around the page
        if found[0] in names:
            break
        names.append(found[0])
        assert found[1], found
        focused = screenshot(desktop).astype(int)
        desktop.page.evaluate("document.activeElement.blur()")  # Tab goes on from there
        assert (np.abs(focused - screenshot(desktop)).sum(2) > 100).sum() > 30, found
    wanted = {"SUMMARY", "stage", "in", "out", "fit", "fewer", "chosen", "slider", "more", "number", "borders", "save"}
    assert wanted <= set(names)
    snapshot = desktop.page.locator("body").aria_snapshot()
    for line in (
        r'- slider "Budget of tokens"',
        r'- radio "Gradient"',
        r'- checkbox "Borders"',
        r'- button "Save SVG"',
        r'- spinbutton "At most this many tokens"',
        r'- application "Picture in \d+ segments"',
        r'- group "Fill segments with"',
    ):
        assert re.search(line, snapshot), f"{line} in\n{snapshot}"


def test_fills_and_borders_by_keys(desktop, image, page_file):
    page = desktop.page
    page.locator("#stage").focus()
    desktop.budget(12)
    page.locator("#stage").focus()
    assert desktop.border_pixels() == 0
    page.keyboard.press("b")
    assert desktop.border_pixels() > 100
    page.keyboard.press("G")
    np.testing.assert_allclose(desktop.pixels()[..., :3], expected_gradients(page_file, desktop.tokens), atol=0.51)
    page.keyboard.press("o")
    desktop.painted()
    assert page.locator("#original").is_visible()
    assert not page.locator("#picture").is_visible()
    page.keyboard.press("m")
    desktop.painted()
    assert page.locator("#picture").is_visible()
    page.locator("#number").focus()
    page.keyboard.type("b")
    assert page.locator("#borders").is_checked(), "letters in a field of numbers are no commands"


def test_toggles(shown, image, page_file):
    shown.budget(30)
    psnr_of_means = shown.text("psnr")
    shown.fill("Gradient")
    _, arrays = contents(page_file.read_text("utf-8"))
    np.testing.assert_allclose(shown.pixels()[..., :3], expected_gradients(page_file, shown.tokens), atol=0.51)
    place = list(arrays["tokens"]).index(shown.tokens)
    assert shown.text("psnr") == f"{arrays['gradientPsnr'][place]:.1f} dB" != psnr_of_means
    shown.fill("Original")
    shown.painted()
    scale, left, top = shown.transform()
    ratio = shown.page.evaluate("devicePixelRatio")
    seen = screenshot(shown)
    errors = []
    for y, x in np.random.default_rng(1).integers(20, 90, (40, 2)):
        row, column = (round(ratio * (start + scale * (i + 0.5))) for start, i in ((top, y), (left, x)))
        errors.append(np.abs(seen[row, column].astype(float) - image[:, y, x].numpy()).max())
    assert np.median(errors) < 12, "the picture, up to the loss of its JPEG"
    shown.fill("Mean")
    assert shown.border_pixels() == 0
    shown.fill("Borders")
    assert shown.border_pixels() > 100
    few = shown.border_pixels()
    shown.budget(300)
    assert shown.border_pixels() > 2 * few
    shown.budget(1)
    assert shown.border_pixels() == 0, "the frame is no border"


def test_borders_lie_between_segments(desktop, hierarchy):
    """On the screen the ink is where the labels differ, at any zoom."""
    desktop.budget(12)
    desktop.fill("Borders")
    box = desktop.page.locator("#stage").bounding_box()
    for zoom in (1, 3):
        scale, left, top = desktop.transform()
        desktop.painted()
        seen = screenshot(desktop).astype(int)
        cut = hierarchy.cut(max_tokens=desktop.tokens, strength=0.0)
        labels = cut.labels[0].numpy()
        checked = 0
        for y, x in zip(*np.nonzero(labels[:, :-1] != labels[:, 1:]), strict=True):
            row, column = (round(start + scale * i) for start, i in ((top, y + 0.5), (left, x + 1)))
            if box["y"] < row < box["y"] + box["height"] - 160 and 2 < column < box["width"] - 80:
                ink = np.abs(seen[row, column - 1 : column + 1] - [255, 214, 0]).sum(1).min()
                assert ink < 200, (zoom, y, x, seen[row, column - 1 : column + 1])
                checked += 1
        assert checked > 20
        desktop.page.mouse.move(*desktop.center())
        desktop.page.mouse.wheel(0, -732)  # exp(0.45), twice at most 300 each
        desktop.page.mouse.wheel(0, -300)


def test_colours_reach_the_screen(shown, image, hierarchy):
    """A screenshot shows the mean colours at their place, and the light or the dark scheme."""
    shown.budget(9)
    scale, left, top = shown.transform()
    ratio = shown.page.evaluate("devicePixelRatio")
    means = expected_means(image, hierarchy, shown.tokens)
    labels = hierarchy.cut(max_tokens=shown.tokens, strength=0.0).labels[0].numpy()
    seen = screenshot(shown)
    checked = 0
    for y in range(4, 92, 8):
        for x in range(4, 132, 8):
            if (labels[y - 2 : y + 3, x - 2 : x + 3] == labels[y, x]).all():
                row, column = (int(ratio * (start + scale * (i + 0.5))) for start, i in ((top, y), (left, x)))
                np.testing.assert_allclose(seen[row, column], means[y, x], atol=1)
                checked += 1
    assert checked > 60
    dark = shown.page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    assert (seen[4, 4].mean() < 60) == dark
    assert (seen[-8, 4].mean() > 200) != dark


WINDOWS = [
    (1920, 1080), (1280, 800), (1240, 700), (844, 390), (780, 600), (768, 1024), (667, 375), (390, 844), (320, 568),
]  # fmt: skip


@pytest.mark.parametrize("size", WINDOWS)
def test_everything_is_in_the_window(desktop, size):
    page = desktop.page
    page.set_viewport_size({"width": size[0], "height": size[1]})
    desktop.painted()
    assert page.evaluate("document.scrollingElement.scrollWidth") <= size[0]
    boxes = {}
    for name in ("tokens", "psnr", "fewer", "slider", "more", "number", "fill", "save", "in", "out", "fit", "stage"):
        box = page.locator(f"#{name}").bounding_box()
        assert box["x"] >= 0, name
        assert box["y"] >= 0, name
        assert box["x"] + box["width"] <= size[0], name
        assert box["y"] + box["height"] <= size[1], name
        boxes[name] = box
    controls = [
        boxes[name] for name in ("tokens", "psnr", "fewer", "slider", "more", "number", "fill", "save", "stage")
    ]
    for i, a in enumerate(controls):
        for b in controls[:i]:
            apart = (
                a["x"] + a["width"] <= b["x"] + 1
                or b["x"] + b["width"] <= a["x"] + 1
                or a["y"] + a["height"] <= b["y"] + 1
                or b["y"] + b["height"] <= a["y"] + 1
            )
            assert apart, (a, b)
    scale, left, top = desktop.transform()
    assert left >= boxes["stage"]["x"]
    assert left + 136 * scale <= boxes["stage"]["x"] + boxes["stage"]["width"]
    assert top >= boxes["stage"]["y"]
    assert top + 96 * scale <= boxes["stage"]["y"] + boxes["stage"]["height"]
    assert boxes["stage"]["height"] > 0.4 * size[1]


def test_wheel_and_drag(desktop):
    mouse = desktop.page.mouse
    scale, left, top = desktop.transform()
    x, y = left + 40 * scale, top + 30 * scale
    mouse.move(x, y)
    mouse.wheel(0, -240)
    desktop.painted()
    after, new_left, new_top = desktop.transform()
    assert after == pytest.approx(scale * np.exp(0.36), rel=1e-3)
    assert ((x - new_left) / after, (y - new_top) / after) == pytest.approx((40, 30), abs=0.05), (
        "what is under it stays"
    )
    mouse.down()
    mouse.move(x + 50, y - 30, steps=4)
    mouse.up()
    mouse.move(x + 500, y)
    assert desktop.transform() == pytest.approx((after, new_left + 50, new_top - 30), abs=0.01)
    mouse.dblclick(x, y)
    assert desktop.transform()[0] == pytest.approx(2 * after, rel=1e-3)
    for _ in range(6):
        mouse.wheel(0, -1000)
    assert desktop.transform()[0] == 64
    for _ in range(12):
        mouse.wheel(0, 1000)
    desktop.painted()
    assert 0 < desktop.transform()[0] < scale
    desktop.page.get_by_role("button", name="Fit the picture to the window").click()
    assert desktop.transform() == pytest.approx((scale, left, top))


def test_zoom_and_pan_by_keys(desktop):
    scale, left, top = desktop.transform()
    press = desktop.page.keyboard.press
    desktop.page.locator("#stage").focus()
    press("ArrowRight")
    press("ArrowDown")
    assert desktop.transform() == pytest.approx((scale, left - 48, top - 48))
    press("ArrowLeft")
    press("ArrowUp")
    assert desktop.transform() == pytest.approx((scale, left, top))
    press("+")
    assert desktop.transform()[0] == pytest.approx(1.25 * scale)
    press("-")
    assert desktop.transform() == pytest.approx((scale, left, top))
    for _ in range(100):
        press("ArrowLeft")
    assert desktop.transform()[1] < 1280, "part of the picture stays"
    press("0")
    assert desktop.transform() == pytest.approx((scale, left, top))
    desktop.page.set_viewport_size({"width": 900, "height": 700})
    desktop.painted()
    assert desktop.transform()[0] < scale, "what fits goes on to fit"


def test_pinch_and_drag_by_touch(phone):
    session = phone.context.new_cdp_session(phone.page)

    def touch(kind, *points):
        points = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(points)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    scale, left, top = phone.transform()
    x, y = phone.center()
    place = ((x - left) / scale, (y - top) / scale)
    touch("touchStart", (x - 40, y))
    touch("touchStart", (x - 40, y), (x + 40, y))
    for spread in (50, 60, 70, 80):
        touch("touchMove", (x - spread, y), (x + spread, y))
    touch("touchEnd")
    phone.painted()
    after, left, top = phone.transform()
    assert after == pytest.approx(2 * scale, rel=0.02)
    assert ((x - left) / after, (y - top) / after) == pytest.approx(place, abs=1)
    touch("touchStart", (x, y))
    for step in (10, 20, 30):
        touch("touchMove", (x + step, y - 2 * step))
    touch("touchEnd")
    phone.painted()
    assert phone.transform() == pytest.approx((after, left + 30, top - 60), abs=1)
    assert phone.page.evaluate("visualViewport.scale") == 1, "the page itself does not zoom"


@pytest.mark.parametrize("tokens", [1, 7, 60, 5000])
def test_export_of_mean_colours(shown, tokens, hierarchy):
    shown.budget(tokens)
    name, svg = shown.save()
    assert name.endswith(f"-{shown.tokens}.svg")
    root = ElementTree.fromstring(svg)
    paths = root.findall(".//{http://www.w3.org/2000/svg}path")
    assert [path.get("id") for path in paths] == [f"s{i}" for i in range(shown.tokens)]
    np.testing.assert_array_equal(rendered(svg), shown.pixels())
    # The paths have the numbers of the partition.
    ids = {path.get("id"): i for i, path in enumerate(paths)}
    for path in paths:
        value = ids[path.get("id")] + 1
        path.set("fill", f"#{value >> 8:02x}{value & 255:02x}00")
    numbered = rendered(ElementTree.tostring(root, "unicode")).astype(int)
    labels = hierarchy.cut(max_tokens=shown.tokens, strength=0.0).labels[0].numpy()
    np.testing.assert_array_equal(numbered[..., 0] * 256 + numbered[..., 1] - 1, labels)


@pytest.mark.parametrize("tokens", [1, 7, 60, 400])
def test_export_of_gradients(desktop, tokens):
    desktop.budget(tokens)
    desktop.fill("Gradient")
    _, svg = desktop.save()
    assert svg.count("<linearGradient") > 0
    difference = np.abs(rendered(svg).astype(int) - desktop.pixels())
    assert difference.max() <= 3
    assert difference.mean() < 0.6


def test_export_of_borders_and_of_the_original(desktop, image):
    desktop.budget(20)
    desktop.fill("Borders")
    plain = desktop.pixels()[..., :3].astype(int)
    _, svg = desktop.save()
    changed = np.abs(rendered(svg)[..., :3] - plain).sum(2) > 0
    labels = np.unique(plain.reshape(-1, 3), axis=0, return_inverse=True)[1].reshape(plain.shape[:2])
    near = np.zeros_like(changed)
    for axis in (0, 1):
        for shift in (-1, 1):
            near |= np.roll(labels, shift, axis) != labels
    assert changed.sum() > 100
    assert (changed & ~near).sum() < 0.02 * changed.sum(), "the ink lies along the borders"
    desktop.budget(1)
    np.testing.assert_array_equal(rendered(desktop.save()[1]), desktop.pixels())
    desktop.budget(20)
    desktop.fill("Original")
    desktop.fill("Borders")
    _, svg = desktop.save()
    assert svg.count("<path") == desktop.tokens
    error = np.abs(rendered(svg)[..., :3].astype(int) - image.permute(1, 2, 0).numpy())
    assert error.mean() < 4, "up to the loss of its JPEG"


def test_pixels_of_no_image_are_clear(browser, tmp_path):  # noqa: F811
    image = photo(40, 40)
    mask = torch.ones(1, 40, 40, dtype=torch.bool)
    mask[:, 10:20] = False
    hierarchy = dk.Tokenizer(leaves="pixels").hierarchy(image[None], mask)
    write_text(tmp_path / "page.html", dk.to_html(image, hierarchy))
    shown = Viewer(browser, tmp_path / "page.html", "desktop")
    for fill in ("Mean", "Gradient"):
        shown.fill(fill)
        np.testing.assert_array_equal(shown.pixels()[..., 3] == 255, mask[0].numpy())
        np.testing.assert_allclose(rendered(shown.save()[1])[..., 3], mask[0].numpy() * 255)
    shown.close()


@pytest.mark.parametrize("size", [(1, 1), (1, 300)])
def test_pictures_with_few_cuts(browser, tmp_path, size):  # noqa: F811
    image = torch.full((3, *size), 90, dtype=torch.uint8)
    write_text(tmp_path / "page.html", dk.to_html(image, hierarchy_of(image, leaves="pixels")))
    shown = Viewer(browser, tmp_path / "page.html", "phone")
    shown.page.get_by_label("Budget of tokens").evaluate("(slider) => slider.dispatchEvent(new Event('input'))")
    assert shown.text("psnr") == "exact"
    assert (shown.pixels() == [90, 90, 90, 255]).all()
    assert rendered(shown.save()[1]).shape == (*size, 4)
    shown.close()


def test_help_opens_and_closes(desktop):
    desktop.page.get_by_text("Help", exact=True).click()
    assert desktop.page.get_by_text("half, twice the tokens").is_visible()
    desktop.page.keyboard.press("Escape")
    assert not desktop.page.get_by_text("half, twice the tokens").is_visible()
    desktop.page.get_by_text("Help", exact=True).click()
    desktop.page.mouse.click(*desktop.center())
    assert not desktop.page.get_by_text("half, twice the tokens").is_visible()
