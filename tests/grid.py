"""The test grid: dtypes with their tolerances, memory layouts, label maps."""

from collections.abc import Callable

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)

#: Relative and absolute tolerance against a float64 computation on the same (rounded) inputs. Half types accumulate in
#: float32, so what is left is the rounding of the output.
TOLERANCE = {
    torch.float64: 1e-11,
    torch.float32: 2e-5,
    torch.float16: 2e-3,
    torch.bfloat16: 1.6e-2,
}


def assert_close(actual: Tensor, expected: Tensor, dtype: torch.dtype, scale: float = 1.0) -> None:
    """`actual`, computed from inputs of `dtype`, against float64 ground truth; `scale` multiplies the tolerance."""
    tolerance = scale * TOLERANCE[dtype]
    torch.testing.assert_close(actual.double(), expected.double(), rtol=tolerance, atol=tolerance, equal_nan=True)


def _channels_last(t: Tensor) -> Tensor:
    return t.contiguous(memory_format=torch.channels_last)


def _sliced(t: Tensor) -> Tensor:
    """The same values as a view with gaps in every dimension."""
    big = t.new_full([2 * size + 1 for size in t.shape], float("nan"))
    view = big[tuple(slice(1, 2 * size + 1, 2) for size in t.shape)]
    view.copy_(t)
    return view


def _transposed(t: Tensor) -> Tensor:
    return t.transpose(-1, -2).contiguous().transpose(-1, -2)


#: Memory layouts of a [B,C,H,W] tensor; each returns the same values.
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": torch.Tensor.contiguous,
    "channels_last": _channels_last,
    "sliced": _sliced,
    "transposed": _transposed,
}


def blocks(batch: int, height: int, width: int, side: int) -> Tensor:
    """Label map [B,H,W] of square blocks, numbered in raster order."""
    y, x = torch.arange(height) // side, torch.arange(width) // side
    labels = y[:, None] * (-(-width // side)) + x[None, :]
    return labels.int().expand(batch, -1, -1).contiguous()


def label_maps(batch: int, height: int, width: int, num_segments: int) -> dict[str, Tensor]:
    """Label maps [B,H,W] that exercise every boundary case, by name."""
    pixels = torch.arange(height * width, dtype=torch.int32).reshape(height, width).expand(batch, -1, -1).contiguous()
    noise = torch.randint(-1, num_segments, (batch, height, width), dtype=torch.int32)
    hostile = torch.randint(-3, num_segments + 3, (batch, height, width), dtype=torch.int32)
    hostile.view(-1)[0] = torch.iinfo(torch.int32).max
    hostile.view(-1)[-1] = torch.iinfo(torch.int32).min
    padded = blocks(batch, height, width, 4)
    padded[:, height // 2 :] = -1
    return {
        "blocks": blocks(batch, height, width, 4),
        "one": torch.zeros(batch, height, width, dtype=torch.int32),
        "none": torch.full((batch, height, width), -1, dtype=torch.int32),
        "pixels": pixels,
        "noise": noise,
        "hostile": hostile,
        "padded": padded,
    }
