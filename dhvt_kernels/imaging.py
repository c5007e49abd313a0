"""Pictures in and out: reading files of any kind, and drawing partitions."""

import math
import threading
import warnings
from os import PathLike
from pathlib import Path
from typing import IO

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from .partition import Partition

#: Larger pictures are refused before their pixels are decoded: such a file is more likely a decompression bomb.
MAX_PIXELS = 250_000_000
#: What `find_images` looks for in folders.
SUFFIXES = (
    ".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg",
    ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp",
)  # fmt: skip

#: From the greatest strength to the least that `saliency_picture` shows.
SALIENCY_RANGE = 1000.0

_pillow_limit = threading.Lock()
_FROM_16_BITS = ((np.arange(65536) * 255 + 32767) // 65535).astype(np.uint8)


def find_images(path: str | PathLike[str]) -> list[Path]:
    """The pictures in a folder and in the folders below it, by suffix, sorted; a file stands for itself.

    Raises:
        ValueError: the folder holds no picture.
    """
    path = Path(path)
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    if not found:
        raise ValueError(f"{path}: no images in this folder")
    return found


def load_image(path: str | PathLike[str], *, max_pixels: int | None = None, alpha: bool = False) -> Tensor:
    """Read a picture of any kind as sRGB.

    The EXIF orientation is applied, transparency is composited on white, 16-bit grey is scaled; grey, palette, CMYK
    and 1-bit pictures become RGB. Of an animation the first frame is taken. Colour profiles are not applied.

    Args:
        path: a file in any format that Pillow reads, of at most `MAX_PIXELS` (250 million) pixels.
        max_pixels: a picture of more pixels is scaled down to at most as many.
        alpha: keep transparency, as a fourth channel, instead of compositing on white.

    Returns:
        uint8 [3,H,W]; with `alpha` [4,H,W] where the picture has transparency.

    Raises:
        OSError: there is no such file, or it may not be read.
        ValueError: it is no picture, broken, truncated or too large; one line that names the file.

    Example:
        >>> from PIL import Image
        >>> import tempfile, os
        >>> path = os.path.join(tempfile.mkdtemp(), "red.png")
        >>> Image.new("RGB", (4, 2), "red").save(path)
        >>> load_image(path).shape
        torch.Size([3, 2, 4])
    """
    try:
        with open_picture(path) as image:
            if max_pixels is not None:
                image.draft(None, _within(image.size, max_pixels))  # a JPEG file is decoded at a fraction of its size
            ImageOps.exif_transpose(image, in_place=True)
            samples = _to_rgb(image, alpha)
            if max_pixels is not None:
                samples = samples.resize(_within(samples.size, max_pixels), Image.Resampling.LANCZOS)
            pixels = np.array(samples)
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except Image.UnidentifiedImageError as error:
        raise ValueError(f"{path}: not a picture that Pillow can read") from error
    except Exception as error:  # on broken files the decoders raise anything
        raise ValueError(f"{path}: {' '.join(str(error).split()) or type(error).__name__}") from error
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def open_picture(file: str | PathLike[str] | IO[bytes]) -> Image.Image:
    """The picture with only its header read, under our limit of pixels instead of Pillow's."""
    with _pillow_limit, warnings.catch_warnings():
        before = Image.MAX_IMAGE_PIXELS
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # Pillow warns above this, and raises above twice this
        try:
            return Image.open(file)
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _to_rgb(image: Image.Image, alpha: bool) -> Image.Image:
    if image.mode.startswith("I"):  # Pillow's convert("RGB") would clip these at 255
        values = np.asarray(image)
        if image.mode == "I" and (values.min() < 0 or values.max() > 65535):
            raise ValueError("pixels of 32 bits outside 0..65535")
        return Image.fromarray(_FROM_16_BITS[values]).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels, whose range is unknown")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if alpha:
            return image
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _within(size: tuple[int, int], pixels: int) -> tuple[int, int]:
    """The largest size of about these proportions with at most that many pixels, and not larger than it is."""
    width, height = size
    if width * height <= pixels:
        return size
    factor = math.sqrt(pixels / (width * height))
    columns = min(max(1, int(width * factor)), pixels)
    return columns, min(max(1, int(height * factor)), pixels // columns)


def save_image(image: Tensor, path: str | PathLike[str]) -> None:
    """Write uint8 [3,H,W] to a file whose suffix tells the format."""
    # Level 1 is several times faster than Pillow's default and costs a few per cent of size.
    Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(path, compress_level=1)


def check_picture(image: Tensor, partition: Partition, channels: tuple[int, ...] = (3,)) -> Tensor:
    """One image and its partition, as uint8 [C,H,W] on the CPU, C one of `channels`.

    Raises:
        TypeError: the image is neither floating point nor uint8.
        ValueError: not one image [C,H,W] or [1,C,H,W], or not of the partition's size.
    """
    height, width = partition.labels.shape[1:]
    if image.dtype != torch.uint8 and not image.is_floating_point():
        raise TypeError(f"image: expected floating point or uint8; found {image.dtype}")
    if partition.labels.shape[0] != 1:
        raise ValueError(f"partition: expected one image (partition[i]); found {partition.labels.shape[0]}")
    if tuple(image.shape) not in [(*one, c, height, width) for one in ((), (1,)) for c in channels]:
        number = " or ".join(map(str, channels))
        raise ValueError(f"image: expected [{number},H,W] = [{number},{height},{width}]; found {list(image.shape)}")
    image = image.detach().reshape(-1, height, width).cpu()
    return image if image.dtype == torch.uint8 else image.float().mul(255).round_().clamp_(0, 255).to(torch.uint8)


def segment_colors(image: Tensor, partition: Partition) -> Tensor:
    """Mean sRGB colour of each segment of one image, uint8 [K,3]; `image` as for `to_svg`."""
    image = check_picture(image, partition)
    means = partition.pool(image[None].to(partition.labels.device, torch.float32))
    return means[0].detach().round().clamp(0, 255).to(torch.uint8).cpu()


def mean_colors(image: Tensor, partition: Partition) -> Tensor:
    """The picture with every segment in its mean colour, uint8 [3,H,W]; white where there is no segment.

    Args:
        image: [3,H,W] or [1,3,H,W], sRGB, floating point in [0, 1] or uint8.
        partition: the partition of this one image (`partition[i]` of a batch).
    """
    colors = segment_colors(image, partition)
    table = torch.cat([torch.full((1, 3), 255, dtype=torch.uint8), colors]).T.contiguous()
    labels = partition.labels[0].cpu()
    return table.index_select(1, labels.clamp(-1, len(colors) - 1).add_(1).view(-1)).view(3, *labels.shape)


def overlay(image: Tensor, partition: Partition, color: tuple[int, int, int] = (255, 214, 0)) -> Tensor:
    """The picture with the borders of the segments drawn over it, uint8 [3,H,W].

    Borders are one pixel wide, and wider where the segments are large, so that a scaled-down picture still shows them.

    Args:
        image: [3,H,W] or [1,3,H,W], sRGB, floating point in [0, 1] or uint8.
        partition: the partition of this one image (`partition[i]` of a batch).
        color: of the borders, red, green, blue in 0..255.
    """
    image = check_picture(image, partition)
    borders = partition.boundaries()[0].cpu()
    side = math.sqrt(borders.numel() / max(1, int(partition.counts[0])))
    width = max(1, round(side / 32))
    ink = torch.tensor(color, dtype=torch.uint8).view(3, 1, 1)
    return torch.where(_thicken(borders, width), ink, image)


def saliency_picture(saliency: Tensor) -> Tensor:
    """The strengths of the boundaries of one image as ink on white, on a logarithmic scale, uint8 [3,H,W].

    Black is the greatest strength at which anything comes into one segment, and what never does; white a
    `SALIENCY_RANGE`-th of it, and less.

    Args:
        saliency: float32 [H,W] or [1,H,W], from `Hierarchy.saliency`.
    """
    height, width = saliency.shape[-2:]
    strength = saliency.detach().reshape(height, width).cpu()
    never = strength >= torch.finfo(strength.dtype).max
    most = torch.where(never, 0, strength).amax() if strength.numel() else strength.sum()
    ink = (strength / most * SALIENCY_RANGE).clamp_(min=1).log_().div_(math.log(SALIENCY_RANGE))
    ink = torch.where(strength > 0, ink.nan_to_num_(1), 0).clamp_(max=1)
    return ((1 - ink) * 255).round().to(torch.uint8).expand(3, -1, -1)


def _thicken(mask: Tensor, width: int) -> Tensor:
    """A mask [H,W] whose lines of one pixel become `width` pixels wide."""
    before = (width - 1) // 2
    for axis in (0, 1):
        size = mask.shape[axis]
        wide = mask.clone()
        for shift in range(-before, width - before):
            length = size - abs(shift)
            if shift and length > 0:
                to, source = (shift, 0) if shift > 0 else (0, -shift)
                wide.narrow(axis, to, length).logical_or_(mask.narrow(axis, source, length))
        mask = wide
    return mask
