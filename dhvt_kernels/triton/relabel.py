"""Looking labels up in a table: one lane per pixel."""

import torch
from torch import Tensor

from ._checked import checked
from ._lanes import lanes
from ._language import cdiv, jit, tl
from ._launch import launch
from ._math import wide

BLOCK = 1024


@jit
def _relabel_kernel(
    labels,  # [B,H,W]
    table,  # [B,K]
    out,  # [B,H,W]
    pixels,  # H W
    size,  # K
    total,  # B H W
    BLOCK: tl.constexpr,
):
    """Reads and writes 4 bytes per pixel; the table stays in the caches."""
    at, here = lanes(total, BLOCK)
    label = tl.load(labels + at, mask=here, other=-1)
    inside = (label >= 0) & (label < size)
    new = tl.load(table + at // pixels * wide(size) + label, mask=inside, other=-1)
    tl.store(out + at, new, mask=here)


@checked(labels="int32 B H W", table="int32 B K")
def relabel(labels: Tensor, table: Tensor) -> Tensor:
    """out[b,y,x] = table[b, labels[b,y,x]], -1 outside the table."""
    batch, height, width = labels.shape
    out = torch.empty_like(labels, memory_format=torch.contiguous_format)
    total = batch * height * width
    launch(
        _relabel_kernel,
        cdiv(total, BLOCK),
        labels,
        labels.contiguous(),
        table.contiguous(),
        out,
        height * width,
        table.shape[1],
        total,
        BLOCK=BLOCK,
    )
    return out
