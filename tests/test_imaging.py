"""Reading pictures of every kind, and drawing partitions."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

import dhvt_kernels as dk
from dhvt_kernels import imaging
from dhvt_kernels.imaging import find_images, load_image, mean_colors, overlay, saliency_picture, save_image

RED, WHITE = (255, 0, 0), (255, 255, 255)


@pytest.fixture
def saved(tmp_path):
    """Save a Pillow image, read it back as a NumPy array [H,W,3]."""

    def save_and_load(image, name="picture.png", **options):
        image.save(tmp_path / name, **options)
        loaded = load_image(tmp_path / name)
        assert loaded.dtype == torch.uint8
        assert loaded.is_contiguous()
        return loaded.permute(1, 2, 0).numpy()

    return save_and_load


def png_16_bits(samples: np.ndarray) -> bytes:
    """A PNG file of 16-bit samples [H,W,channels]; Pillow itself cannot write RGB ones."""
    height, width, channels = samples.shape
    color = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 16, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_rgb(saved):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    np.testing.assert_array_equal(saved(Image.fromarray(pixels)), pixels)


def test_one_bit_and_grey(saved):
    grey = np.array([[0, 255, 100]], np.uint8)
    np.testing.assert_array_equal(saved(Image.fromarray(grey))[..., 1], grey)
    np.testing.assert_array_equal(saved(Image.fromarray(grey).convert("1", dither=0))[..., 2], [[0, 255, 0]])


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
def test_sixteen_bit_grey_is_scaled_not_clipped(saved, mode):
    values = np.array([[0, 128, 257, 32896, 65279, 65535]])
    image = Image.fromarray(values.astype(">u2" if mode == "I;16B" else "<u2" if mode == "I;16" else "<i4"))
    assert image.mode == mode
    out = saved(image, "grey.tif")
    np.testing.assert_array_equal(out[0, :, 0], [0, 0, 1, 128, 254, 255])


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bit_png(tmp_path, channels):
    samples = np.full((2, 3, channels), 65535)
    samples[..., 0] = [0, 257 * 100, 257 * 200]
    path = tmp_path / "deep.png"
    path.write_bytes(png_16_bits(samples))
    out = load_image(path)
    assert out.shape == (3, 2, 3)
    assert out[0, 0].tolist() == [0, 100, 200]
    assert out[1, 0].tolist() == ([255] * 3 if channels > 2 else [0, 100, 200])


def test_wide_pixels_without_known_range_are_refused(saved):
    with pytest.raises(ValueError, match=r"picture\.tif: pixels of 32 bits"):
        saved(Image.fromarray(np.array([[70000]], np.int32)), "picture.tif")
    with pytest.raises(ValueError, match=r"picture\.tif: floating-point pixels"):
        saved(Image.fromarray(np.array([[0.5]], np.float32)), "picture.tif")


def test_transparency_on_white(saved):
    rgba = Image.new("RGBA", (3, 1), (255, 0, 0, 255))
    rgba.putpixel((1, 0), (255, 0, 0, 0))
    rgba.putpixel((2, 0), (0, 0, 0, 128))
    expected = [[RED, WHITE, (127, 127, 127)]]
    np.testing.assert_array_equal(saved(rgba), expected)

    grey = Image.new("LA", (2, 1), (10, 255))
    grey.putpixel((1, 0), (10, 0))
    np.testing.assert_array_equal(saved(grey), [[(10, 10, 10), WHITE]])

    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((1, 0), 1)
    np.testing.assert_array_equal(saved(palette), [[RED, (0, 0, 255)]])
    np.testing.assert_array_equal(saved(palette, "clear.png", transparency=1), [[RED, WHITE]])
    np.testing.assert_array_equal(saved(palette, "picture.gif"), [[RED, (0, 0, 255)]])


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_transparency_is_kept_where_it_is_asked_for(tmp_path, mode):
    path = tmp_path / "clear.png"
    samples = np.zeros((2, 3, 4), np.uint8)
    samples[..., :3] = 90
    samples[..., 3] = [[0, 255, 255], [255, 255, 0]]
    image = Image.fromarray(samples)
    if mode.startswith("P"):
        image = Image.fromarray(np.array([[1, 0, 0], [0, 0, 1]], np.uint8), "P")
        image.putpalette([90, 90, 90, 90, 90, 90])
        image.save(path, transparency=1)
    else:
        image.convert(mode).save(path)
    loaded = load_image(path, alpha=True)
    np.testing.assert_array_equal(loaded.permute(1, 2, 0).numpy(), samples)
    white = load_image(path)
    assert white.shape == (3, 2, 3)
    assert (white[:, samples[..., 3] == 0] == 255).all()
    assert load_image(path, alpha=True, max_pixels=2).shape[0] == 4


def test_opaque_pictures_have_no_alpha(tmp_path):
    Image.new("RGB", (3, 2), "red").save(tmp_path / "red.png")
    assert load_image(tmp_path / "red.png", alpha=True).shape == (3, 2, 3)


def test_cmyk(saved):
    cmyk = Image.new("CMYK", (2, 1), (0, 255, 255, 0))
    cmyk.putpixel((1, 0), (0, 0, 0, 0))
    np.testing.assert_array_equal(saved(cmyk, "picture.tif"), [[RED, WHITE]])
    np.testing.assert_allclose(saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "picture.jpg")[0, 0], RED, atol=3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(saved, orientation):
    upright = np.zeros((32, 48, 3), np.uint8)
    upright[:16, :16] = RED
    # What a camera held that way would store: the inverse of the transposition that the tag asks for.
    inverse = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = Image.fromarray(upright)
    if orientation > 1:
        stored = stored.transpose(inverse[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(saved(stored, exif=exif), upright)
    np.testing.assert_allclose(saved(stored, "photo.jpg", exif=exif, quality=95, subsampling=0), upright, atol=60)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "gif", "webp", "bmp"])
def test_broken_files_give_one_line(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, {"jpg": "jpeg", "tif": "tiff"}.get(suffix, suffix))
    data = buffer.getvalue()
    for name, content in [("cut", data[: len(data) // 2]), ("head", data[:20]), ("text", b"hello"), ("empty", b"")]:
        path = tmp_path / f"{name}.{suffix}"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name}\.{suffix}: ") as caught:
            load_image(path)
        assert "\n" not in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        load_image(tmp_path / "absent.png")


def test_limit_of_pixels(tmp_path, monkeypatch, recwarn):
    limit = Image.MAX_IMAGE_PIXELS
    monkeypatch.setattr(imaging, "MAX_PIXELS", 100)
    Image.new("L", (10, 10)).save(tmp_path / "fits.png")
    Image.new("L", (101, 1)).save(tmp_path / "large.png")
    assert load_image(tmp_path / "fits.png").shape == (3, 10, 10)
    with pytest.raises(ValueError, match=r"large\.png: .*limit of 100 pixels"):
        load_image(tmp_path / "large.png")
    assert limit == Image.MAX_IMAGE_PIXELS
    assert not recwarn


def test_find_images(tmp_path):
    for name in ("b.PNG", "a.jpg", "deep/er/c.webp", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path)]
    assert found == ["a.jpg", "b.PNG", "deep/er/c.webp"]
    assert find_images(tmp_path / "notes.txt") == [tmp_path / "notes.txt"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: no images"):
        find_images(tmp_path / "empty")


def halves(height=6, width=8):
    """A picture of a red and a blue half, and its partition at two tokens."""
    image = torch.zeros(3, height, width)
    image[0, :, : width // 2] = 1
    image[2, :, width // 2 :] = 1
    return image, dk.Tokenizer(cell=2, smoothing=0.0, max_tokens=2)(image[None])


@pytest.mark.parametrize("as_bytes", [False, True])
def test_mean_colors_of_flat_halves_is_the_picture(as_bytes):
    image, partition = halves()
    assert partition.counts.tolist() == [2]
    expected = image.mul(255).to(torch.uint8)
    picture = expected if as_bytes else image
    torch.testing.assert_close(mean_colors(picture, partition), expected)
    torch.testing.assert_close(mean_colors(picture[None], partition), expected)


def test_mean_colors_without_a_segment_is_white():
    image, _ = halves()
    mask = torch.ones(1, 6, 8, dtype=torch.bool)
    mask[:, :, 6:] = False
    partition = dk.Tokenizer(cell=2, max_tokens=2)(image[None], mask)
    assert (mean_colors(image, partition)[:, :, 6:] == 255).all()


def test_overlay_draws_borders_and_nothing_else():
    image, partition = halves()
    drawn = overlay(image, partition, color=(1, 2, 3))
    border = partition.boundaries()[0]
    assert (drawn[:, border] == torch.tensor([[1], [2], [3]])).all()
    torch.testing.assert_close(drawn[:, ~border], image.mul(255).to(torch.uint8)[:, ~border])


def test_borders_of_large_segments_are_wider():
    image, partition = halves(256, 512)
    drawn = overlay(image, partition, color=(1, 2, 3))
    assert ((drawn == torch.tensor([1, 2, 3], dtype=torch.uint8).view(3, 1, 1)).all(0).sum(1) == 8).all()


def test_pictures_must_match_the_partition():
    image, partition = halves()
    with pytest.raises(ValueError, match=r"image: expected \[3,H,W\] = \[3,6,8\]; found \[3, 5, 8\]"):
        overlay(image[:, :5], partition)
    with pytest.raises(TypeError, match=r"image: expected floating point or uint8; found torch\.int64"):
        mean_colors(image.long(), partition)
    with pytest.raises(ValueError, match="partition: expected one image"):
        overlay(image, dk.Tokenizer(cell=2)(image.expand(2, -1, -1, -1)))


def test_save_image_round_trip(tmp_path):
    image = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8)
    save_image(image, tmp_path / "picture.png")
    torch.testing.assert_close(load_image(tmp_path / "picture.png"), image)


def test_saliency_is_ink_on_a_logarithmic_scale():
    largest = torch.finfo(torch.float32).max
    out = saliency_picture(torch.tensor([[[0.0, 1e-9, 0.2, 2.0, 20.0], [200.0, largest, 0.0, 0.0, 0.0]]]))
    assert out.shape == (3, 2, 5)
    assert out.dtype == torch.uint8
    assert out[0].tolist() == [[255, 255, 255, 170, 85], [0, 0, 255, 255, 255]]
    assert torch.equal(out[0], out[2])


@pytest.mark.parametrize("strength", [0.0, torch.finfo(torch.float32).max])
def test_saliency_without_a_scale(strength):
    out = saliency_picture(torch.tensor([[0.0, strength]]))
    assert out[0].tolist() == [[255, 255 if strength == 0 else 0]]


@pytest.mark.parametrize("name", ["picture.png", "picture.jpg"])
def test_large_pictures_are_scaled_down(tmp_path, name):
    """A ramp stays a ramp; what the camera turned is turned back."""
    ramp = np.broadcast_to(np.arange(200, dtype=np.uint8), (120, 200))
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn clockwise
    Image.fromarray(ramp).convert("RGB").save(tmp_path / name, exif=exif)
    full = load_image(tmp_path / name)
    assert full.shape == (3, 200, 120)
    assert torch.equal(load_image(tmp_path / name, max_pixels=24000), full)
    small = load_image(tmp_path / name, max_pixels=1500)
    assert small.shape == (3, 50, 30)
    torch.testing.assert_close(small[0, :, 15].double(), torch.arange(50).double() * 4 + 1.5, atol=2, rtol=0)


@pytest.mark.parametrize(("size", "within"), [((1, 5000), (1, 100)), ((5000, 1), (100, 1)), ((300, 200), (12, 8))])
def test_scaled_pictures_keep_a_pixel(tmp_path, size, within):
    Image.new("RGB", size[::-1], "red").save(tmp_path / "picture.png")
    assert load_image(tmp_path / "picture.png", max_pixels=100).shape == (3, *within)
