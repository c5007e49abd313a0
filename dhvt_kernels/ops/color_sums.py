"""Sums of colours, positions and their products over segments: what linear colour fits are made of."""

import torch
from torch import Tensor
from torch.library import register_fake

from .._checks import LABELS, check_int, check_tensors
from .._schema import ops

#: So that sums of squares of coordinates stay within int64.
MOST_SIDE, MOST_PIXELS = 2**17, 2**29


@register_fake("dhvt_kernels::color_sums")
def _(image: Tensor, labels: Tensor, num_segments: int) -> Tensor:
    return image.new_empty(num_segments, 6 + 4 * image.shape[0], dtype=torch.int64)


def color_sums(image: Tensor, labels: Tensor, *, num_segments: int) -> Tensor:
    """Exact sums over the pixels of each segment, from which colours are fitted in closed form.

        out[k] = sum over {i: labels_i = k} of (1, y, x, y y, y x, x x, then for each channel c, y c, x c, c c)

    Sums of a union of segments are the sums of its parts.

    Args:
        image: uint8 `[C,H,W]` on the CPU, one picture.
        labels: int32 `[H,W]`; pixels outside [0, K) count nowhere. At most 2^29 pixels, 2^17 in a row or column.
        num_segments: K.

    Returns:
        int64 `[K, 6 + 4 C]`; coordinates are whole numbers, those of pixel centres, in pixels.

    Raises:
        TypeError: dtypes are others.
        ValueError: shapes do not fit, not on the CPU, or more than 2^17 rows, 2^17 columns or 2^29 pixels.

    Note:
        No gradient. Exact, so the same in any order. One pass over the pixels, 4 + C bytes each.

    Example:
        >>> import torch, dhvt_kernels as dk
        >>> image = torch.tensor([[[10, 20, 90]]], dtype=torch.uint8)
        >>> labels = torch.tensor([[0, 0, 1]], dtype=torch.int32)
        >>> dk.color_sums(image, labels, num_segments=2).tolist()
        [[2, 0, 1, 0, 0, 1, 30, 0, 20, 500], [1, 0, 2, 0, 0, 4, 90, 0, 180, 8100]]
    """
    check_tensors(labels=(labels, "H W", LABELS), image=(image, "C H W", torch.uint8))
    if labels.device.type != "cpu":
        raise ValueError(f"labels: expected a tensor on the CPU; found {labels.device}")
    check_int("num_segments", num_segments, 0)
    if max(labels.shape) > MOST_SIDE or labels.numel() > MOST_PIXELS:
        raise ValueError(f"labels: expected sides up to {MOST_SIDE} and {MOST_PIXELS} pixels; found {[*labels.shape]}")
    return ops.color_sums(image, labels, num_segments)
