"""Padded tokens to ragged ones and back, and padding to another length: rows are copied, whatever their dtype."""

from torch import Tensor

from ._checked import checked, require
from ._lanes import lanes
from ._language import cdiv, jit, next_power_of_2, tl
from ._launch import launch
from ._math import wide
from ._tiles import WORK


@jit
def _copy_rows(
    values,  # [...,D]
    out,  # [rows,D]
    source,  # [ROWS]: the input row that fills each output row
    valid,  # [ROWS]: whether there is one; else the row is 0
    row,
    exists,
    width,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    first = 0
    while first < width:
        column = wide(first) + tl.arange(0, COLUMNS)[None, :]
        here = exists[:, None] & (column < width)
        value = tl.load(values + source[:, None] * width + column, mask=here & valid[:, None], other=0)
        tl.store(out + row[:, None] * width + column, value, mask=here)
        first += COLUMNS


@jit
def _pack_kernel(
    values,  # [B,K,D]
    offsets,  # [B+1]
    out,  # [T,D]
    batch,
    capacity,
    width,
    rows,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One program per ROWS rows, whose sequences are found by bisection. Reads and writes each row once."""
    row, exists = lanes(rows, ROWS)
    low = row * 0
    high = low + batch
    apart = wide(batch)
    while apart > 1:  # as often as the widest bisection takes
        middle = (low + high) // 2
        inner = (high - low > 1) & exists
        below = tl.load(offsets + middle, mask=inner, other=0) <= row
        low, high = tl.where(inner & below, middle, low), tl.where(inner & (below == 0), middle, high)
        apart = (apart + 1) // 2
    found = exists & (batch > 0)
    element = row - tl.load(offsets + low, mask=found, other=0)
    end = tl.load(offsets + low + 1, mask=found, other=0)
    valid = found & (element >= 0) & (element < capacity) & (row < end)
    _copy_rows(values, out, low * capacity + element, valid, row, exists, width, ROWS, COLUMNS)


@jit
def _unpack_kernel(
    values,  # [T,D]
    offsets,  # [B+1]
    out,  # [B,N,D]
    total,  # T
    length,  # N
    width,
    rows,  # B N
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One program per ROWS rows. Reads and writes each row once."""
    row, exists = lanes(rows, ROWS)
    sequence = row // length
    source = tl.load(offsets + sequence, mask=exists, other=0) + row % length
    end = tl.load(offsets + sequence + 1, mask=exists, other=0)
    valid = exists & (source >= 0) & (source < total) & (source < end)
    _copy_rows(values, out, source, valid, row, exists, width, ROWS, COLUMNS)


@jit
def _pad_kernel(
    values,  # [B,K,D]
    counts,  # [B]
    out,  # [B,N,D]
    capacity,
    length,  # N
    width,
    rows,  # B N
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One program per ROWS rows. Reads and writes each row once."""
    row, exists = lanes(rows, ROWS)
    sequence, element = row // length, row % length
    count = tl.load(counts + sequence, mask=exists, other=0)
    valid = exists & (element < count) & (element < capacity)
    _copy_rows(values, out, sequence * capacity + element, valid, row, exists, width, ROWS, COLUMNS)


def _shape_of_program(rows: int, width: int) -> tuple[int, dict[str, int]]:
    """How many programs copy rows of a width, and the numbers that each has in hand."""
    columns = min(next_power_of_2(max(width, 1)), 1 << 10)
    together = min(next_power_of_2(max(rows, 1)), WORK // columns)
    return cdiv(rows, together) if width > 0 else 0, {"ROWS": together, "COLUMNS": columns}


@checked(values="any B K D", cu_seqlens="int32 B+1", total=0)
def pack(values: Tensor, cu_seqlens: Tensor, total: int) -> Tensor:
    """out[t] = values[b, t - cu_seqlens[b]] for the sequence b that holds row t; zeros past the end."""
    batch, capacity, width = values.shape
    require(len(cu_seqlens) == batch + 1, f"cu_seqlens [B+1]: expected {batch + 1} numbers; found {len(cu_seqlens)}")
    out = values.new_empty(total, width)
    programs, shape = _shape_of_program(total, width)
    offsets = cu_seqlens.contiguous()
    launch(_pack_kernel, programs, values, values.contiguous(), offsets, out, batch, capacity, width, total, **shape)
    return out


@checked(values="any T D", cu_seqlens="int32 B+1", length=0)
def unpack(values: Tensor, cu_seqlens: Tensor, length: int) -> Tensor:
    """out[b,i] = values[cu_seqlens[b] + i] while that is a row of sequence b; zeros after."""
    require(len(cu_seqlens) > 0, "cu_seqlens [B+1]: expected at least one number")
    total, width = values.shape
    batch = cu_seqlens.shape[0] - 1
    out = values.new_empty(batch, length, width)
    rows = batch * length
    programs, shape = _shape_of_program(rows, width)
    offsets = cu_seqlens.contiguous()
    launch(_unpack_kernel, programs, values, values.contiguous(), offsets, out, total, length, width, rows, **shape)
    return out


@checked(values="any B K D", counts="int32 B", length=0)
def pad(values: Tensor, counts: Tensor, length: int) -> Tensor:
    """out[b,n] = values[b,n] while n < counts[b]; zeros after."""
    batch, capacity, width = values.shape
    out = values.new_empty(batch, length, width)
    rows = batch * length
    programs, shape = _shape_of_program(rows, width)
    numbers = counts.contiguous()
    launch(_pad_kernel, programs, values, values.contiguous(), numbers, out, capacity, length, width, rows, **shape)
    return out
