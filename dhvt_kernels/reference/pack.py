"""Padded tokens to ragged ones and back, and padding to another length."""

import torch
from torch import Tensor


def _take(rows: Tensor, index: Tensor, valid: Tensor) -> Tensor:
    """rows[index] where valid, zeros elsewhere; index may hold anything where it is not valid."""
    if rows.shape[0] == 0:
        return rows.new_zeros(*index.shape, rows.shape[1])
    taken = rows[torch.where(valid, index, 0)]
    return taken.masked_fill(~valid.unsqueeze(-1), 0)


def pack(values: Tensor, cu_seqlens: Tensor, total: int) -> Tensor:
    """out[t] = values[b, t - cu_seqlens[b]] for the sequence b that holds row t; zeros past the end."""
    batch, capacity, width = values.shape
    if batch == 0:
        return values.new_zeros(total, width)
    offsets = cu_seqlens.long()
    row = torch.arange(total, device=values.device)
    sequence = torch.searchsorted(offsets[1:].contiguous(), row, right=True).clamp(max=batch - 1)
    element = row - offsets[sequence]
    valid = (element >= 0) & (element < capacity) & (row < offsets[sequence + 1])
    return _take(values.reshape(batch * capacity, width), sequence * capacity + element, valid)


def unpack(values: Tensor, cu_seqlens: Tensor, length: int) -> Tensor:
    """out[b,i] = values[cu_seqlens[b] + i] while that is a row of sequence b; zeros after."""
    offsets = cu_seqlens.long()
    row = offsets[:-1, None] + torch.arange(length, device=values.device)
    return _take(values, row, (row >= 0) & (row < values.shape[0]) & (row < offsets[1:, None]))


def pad(values: Tensor, counts: Tensor, length: int) -> Tensor:
    """out[b,n] = values[b,n] while n < counts[b]; zeros after."""
    batch, capacity, width = values.shape
    element = torch.arange(length, device=values.device).expand(batch, length)
    valid = (element < counts.unsqueeze(-1)) & (element < capacity)
    sequence = torch.arange(batch, device=values.device).unsqueeze(-1)
    return _take(values.reshape(batch * capacity, width), sequence * capacity + element, valid)
