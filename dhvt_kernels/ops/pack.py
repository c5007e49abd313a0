"""Padded tokens to ragged ones and back, and padding to another length."""

from typing import Any

import torch
from torch import Tensor
from torch.library import register_fake

from .._checks import FLOATING, check_int, check_tensors
from .._schema import ops
from .segment_pool import needs_grad


@register_fake("dhvt_kernels::pack")
def _(values: Tensor, cu_seqlens: Tensor, total: int) -> Tensor:
    return values.new_empty(total, values.shape[2])


@register_fake("dhvt_kernels::unpack")
def _(values: Tensor, cu_seqlens: Tensor, length: int) -> Tensor:
    return values.new_empty(cu_seqlens.shape[0] - 1, length, values.shape[1])


@register_fake("dhvt_kernels::pad")
def _(values: Tensor, counts: Tensor, length: int) -> Tensor:
    return values.new_empty(values.shape[0], length, values.shape[2])


# pack and unpack are each other's transpose, pad is its own: double backward, of any order, comes free.


class _Pack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, cu_seqlens: Tensor, total: int) -> Tensor:
        ctx.save_for_backward(cu_seqlens)
        ctx.length = values.shape[1]
        return ops.pack(values, cu_seqlens, total)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (cu_seqlens,) = ctx.saved_tensors
        return _unpack(grad, cu_seqlens, ctx.length), None, None


class _Unpack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, cu_seqlens: Tensor, length: int) -> Tensor:
        ctx.save_for_backward(cu_seqlens)
        ctx.total = values.shape[0]
        return ops.unpack(values, cu_seqlens, length)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (cu_seqlens,) = ctx.saved_tensors
        return _pack(grad, cu_seqlens, ctx.total), None, None


class _Pad(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, counts: Tensor, length: int) -> Tensor:
        ctx.save_for_backward(counts)
        ctx.capacity = values.shape[1]
        return ops.pad(values, counts, length)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (counts,) = ctx.saved_tensors
        return _pad(grad, counts, ctx.capacity), None, None


def _pack(values: Tensor, cu_seqlens: Tensor, total: int) -> Tensor:
    call = _Pack.apply if needs_grad(values) else ops.pack
    return call(values, cu_seqlens, total)


def _unpack(values: Tensor, cu_seqlens: Tensor, length: int) -> Tensor:
    call = _Unpack.apply if needs_grad(values) else ops.unpack
    return call(values, cu_seqlens, length)


def _pad(values: Tensor, counts: Tensor, length: int) -> Tensor:
    call = _Pad.apply if needs_grad(values) else ops.pad
    return call(values, counts, length)


def pack(values: Tensor, counts: Tensor, *, total: int | None = None) -> tuple[Tensor, Tensor]:
    """Padded tokens to ragged ones: the layout of variable-length attention.

        out[cu_seqlens[b] + i] = values[b,i] for i < counts[b];   cu_seqlens = (0, running sum of counts)

    Args:
        values: `[B,K,D]`, any floating dtype.
        counts: `[B]` int32, the tokens of each image; taken as 0 or `K` where outside `[0, K]`.
        total: `T`, the number of rows of the result. If not given it is the sum of the counts, for which the host has
            to wait for the device: the one synchronisation of this package. If given there is none; rows past the last
            token are 0, and tokens that do not fit are dropped, in `cu_seqlens` too.

    Returns:
        values `[T,D]` in the dtype of the values, and cu_seqlens `[B+1]` int32.

    Raises:
        TypeError: not a tensor, or another dtype.
        ValueError: shapes that do not agree, or a negative total.

    Note:
        Gradients flow to the values (`unpack` of the gradient); double backward exists. Exact: rows are copied.

    Example:
        >>> import torch
        >>> import dhvt_kernels as dk
        >>> values = torch.tensor([[[1.0], [2.0]], [[3.0], [4.0]]])
        >>> dk.pack(values, torch.tensor([1, 2], dtype=torch.int32), total=4)
        (tensor([[1.],
                [3.],
                [4.],
                [0.]]), tensor([0, 1, 3], dtype=torch.int32))
    """
    check_tensors(values=(values, "B K D", FLOATING), counts=(counts, "B", torch.int32))
    if total is not None:
        check_int("total", total, 0)
    ends = counts.clamp(0, values.shape[1]).cumsum(0, dtype=torch.int32)
    cu_seqlens = torch.nn.functional.pad(ends, (1, 0))
    if total is None:
        total = int(cu_seqlens[-1].item())
    else:
        cu_seqlens = cu_seqlens.clamp(max=total)
    return _pack(values, cu_seqlens, total), cu_seqlens


def unpack(values: Tensor, cu_seqlens: Tensor, *, length: int) -> Tensor:
    """Ragged tokens to padded ones: the inverse of `pack`.

        out[b,i] = values[cu_seqlens[b] + i] for i < cu_seqlens[b+1] - cu_seqlens[b], else 0

    Args:
        values: `[T,D]`, any floating dtype.
        cu_seqlens: `[B+1]` int32, where each sequence starts, and the end: not decreasing, as `pack` makes them
            (else the gradient is undefined, though nothing is read out of bounds); rows outside `[0, T)` read as 0.
        length: `N`, the tokens per image of the result; longer sequences are cut.

    Returns:
        `[B,N,D]` in the dtype of the values.

    Raises:
        TypeError: not a tensor, or another dtype.
        ValueError: shapes that do not agree, no element in `cu_seqlens`, or a negative length.

    Note:
        Gradients flow to the values (`pack` of the gradient); double backward exists. Exact: rows are copied.

    Example:
        >>> import torch
        >>> import dhvt_kernels as dk
        >>> dk.unpack(torch.tensor([[1.0], [3.0], [4.0]]), torch.tensor([0, 1, 3], dtype=torch.int32), length=2)
        tensor([[[1.],
                 [0.]],
        <BLANKLINE>
                [[3.],
                 [4.]]])
    """
    check_tensors(values=(values, "T D", FLOATING), cu_seqlens=(cu_seqlens, "S", torch.int32))
    if cu_seqlens.shape[0] < 1:
        raise ValueError("cu_seqlens: expected [B+1]; found [0]")
    check_int("length", length, 0)
    return _unpack(values, cu_seqlens, length)


def pad(values: Tensor, counts: Tensor, *, length: int) -> tuple[Tensor, Tensor]:
    """Tokens cut or filled with zeros to one length, with the mask of those that are real.

        out[b,n] = values[b,n] for n < counts[b], else 0;   mask[b,n] = n < counts[b]

    Args:
        values: `[B,K,D]`, any floating dtype.
        counts: `[B]` int32, the tokens of each image; taken as 0 or `K` where outside `[0, K]`.
        length: `N`, the tokens per image of the result; further ones are dropped.

    Returns:
        values `[B,N,D]` in the dtype of the values, and mask `[B,N]` bool.

    Raises:
        TypeError: not a tensor, or another dtype.
        ValueError: shapes that do not agree, or a negative length.

    Note:
        Gradients flow to the values; double backward exists. Exact: rows are copied.

    Example:
        >>> import torch
        >>> import dhvt_kernels as dk
        >>> values, mask = dk.pad(torch.tensor([[[1.0], [2.0]]]), torch.tensor([1], dtype=torch.int32), length=3)
        >>> values[0, :, 0], mask[0]
        (tensor([1., 0., 0.]), tensor([ True, False, False]))
    """
    check_tensors(values=(values, "B K D", FLOATING), counts=(counts, "B", torch.int32))
    check_int("length", length, 0)
    limit = counts.clamp(0, values.shape[1]).unsqueeze(-1)
    mask = torch.arange(length, device=values.device, dtype=torch.int32) < limit
    return _pad(values, counts, length), mask
