"""Images: their sizes in a padded batch, positions over them, and what they are normalised with."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .._checks import accumulation_dtype
from ..ops import position_histogram
from .adapter import Adapter


def image_sizes(mask: Tensor) -> list[tuple[int, int]]:
    """The (height, width) of each image of the mask `[B,H,W]`.

    Raises:
        ValueError: a mask that is not the rectangle of an image in the upper left corner.
    """

    def extent(lines: Tensor) -> Tensor:
        return (lines * torch.arange(1, lines.shape[1] + 1, device=lines.device)).amax(1)

    found = torch.stack([extent(mask.any(2)), extent(mask.any(1)), mask.sum((1, 2))], 1).tolist()
    for height, width, pixels in found:
        if pixels != height * width:
            raise ValueError(
                "mask: expected each image's pixels as a rectangle in the upper left corner, as pad_images gives; "
                f"found {pixels} pixels up to row {height} and column {width}"
            )
    return [(height, width) for height, width, _ in found]


def image_ends(images: Tensor, sizes: list[tuple[int, int]] | None) -> Tensor:
    """int32 `[B or 1,2]`: height and width of each image; without sizes nothing is copied from the host."""
    if not sizes:
        return torch.stack(
            [torch.full((1,), side, dtype=torch.int32, device=images.device) for side in images.shape[2:]], 1
        )
    return torch.tensor(sizes, dtype=torch.int32).to(images.device, non_blocking=True)


def mean_position(labels: Tensor, number: int, table: Tensor | None) -> Tensor | None:
    """`[B,N,D]`; the product is float32 (float64 for float64), also under autocast."""
    if table is None:
        return None
    height, width = table.shape[:2]
    histogram = position_histogram(labels, num_segments=number, grid=(height, width)).flatten(2)
    dtype = accumulation_dtype(table.dtype)
    with torch.autocast(table.device.type, enabled=False):
        return (histogram.to(dtype) @ table.flatten(0, 1).to(dtype)).to(table.dtype)


def normalisation(adapter: Adapter, mean: Sequence[float] | None, std: Sequence[float] | None) -> tuple[Tensor, Tensor]:
    """`[C,1,1]` each."""
    out = []
    for name, given, own in (("mean", mean, adapter.mean), ("std", std, adapter.std)):
        values = torch.tensor(list(own if given is None else given), dtype=torch.float32)
        if values.shape != (adapter.channels,):
            raise ValueError(f"{name}: expected {adapter.channels} numbers, one per channel; found {values.tolist()}")
        out.append(values[:, None, None])
    if not bool((out[1] > 0).all()):
        raise ValueError(f"std: expected numbers > 0; found {out[1].flatten().tolist()}")
    return out[0], out[1]
