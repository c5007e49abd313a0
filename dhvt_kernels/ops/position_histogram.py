"""Where in the image the pixels of each segment lie."""

import torch
from torch import Tensor
from torch.library import register_fake

from .._checks import LABELS, check_int, check_tensors
from .._schema import ops


@register_fake("dhvt_kernels::position_histogram")
def _(labels: Tensor, sizes: Tensor | None, num_segments: int, grid_height: int, grid_width: int) -> Tensor:
    return labels.new_empty(labels.shape[0], num_segments, grid_height, grid_width, dtype=torch.float32)


def position_histogram(
    labels: Tensor, *, num_segments: int, grid: tuple[int, int], sizes: Tensor | None = None
) -> Tensor:
    """The share of each segment's pixels in each cell of a grid over the image.

        out[b,k,gy,gx] = |{pixels (y, x) of k : y gh // height = gy, x gw // width = gx}| / |pixels of k|

    Multiplied by a position table `[gh*gw, D]` it is the mean position embedding over the segment.

    Args:
        labels: `[B,H,W]` int32, the segment of each pixel; any id outside `[0, K)` is no segment.
        num_segments: `K`, the capacity of segments per image.
        grid: `(gh, gw)`, the number of cells along y and x.
        sizes: `[B,2]` int32, the true `(height, width)` in pixels of each image of a padded batch, at most `(H, W)`
            (larger values count as that); pixels beyond it are ignored. `(H, W)` if not given.

    Returns:
        `[B,K,gh,gw]` float32; each segment sums to 1, a segment without pixels is 0.

    Raises:
        TypeError: not a tensor, another dtype, or a grid that is not two integers.
        ValueError: shapes that do not agree, a negative `num_segments`, or a grid without cells.

    Note:
        No gradient: the labels are whole numbers. Cells are found in whole numbers, so the result is exact up to one
        rounding, and bitwise reproducible. The labels are read once.

    Example:
        >>> import torch
        >>> import dhvt_kernels as dk
        >>> labels = torch.tensor([[[0, 0, 0, 1], [0, 0, 0, 1]]], dtype=torch.int32)
        >>> dk.position_histogram(labels, num_segments=2, grid=(1, 2))
        tensor([[[[0.6667, 0.3333]],
        <BLANKLINE>
                 [[0.0000, 1.0000]]]])
    """
    check_tensors(labels=(labels, "B H W", LABELS), sizes=(sizes, "B 2?", torch.int32))
    check_int("num_segments", num_segments, 0)
    if not isinstance(grid, (tuple, list)) or len(grid) != 2:
        raise TypeError(f"grid: expected (gh, gw); found {grid!r}")
    grid_height, grid_width = check_int("grid[0]", grid[0], 1), check_int("grid[1]", grid[1], 1)
    return ops.position_histogram(labels, sizes, num_segments, grid_height, grid_width)
