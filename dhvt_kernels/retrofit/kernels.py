"""Attention inside each image of a packed row: one row with the tokens of all images, one image after the other."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


class NotPacked(ValueError):
    """A block that cannot run on a packed row."""


@dataclass(frozen=True)
class Row:
    """Where the images of a packed row are."""

    counts: tuple[int, ...]
    """Tokens of each image, at least one; on the host."""
    cu_seqlens: Tensor
    """int32 `[B+1]`: where each image starts, and the end; on the device."""


@dataclass(frozen=True)
class Options:
    """Of one call of `scaled_dot_product_attention`."""

    dropout_p: float
    is_causal: bool
    scale: float | None
    enable_gqa: bool


#: Queries `[1,Hq,T,E]`, keys `[1,H,T,E]` and values `[1,H,T,Ev]` of a packed row to outputs `[1,Hq,T,Ev]`.
Kernel = Callable[[Tensor, Tensor, Tensor, Row, Options], Tensor]


def varlen(query: Tensor, key: Tensor, value: Tensor, row: Row, options: Options) -> Tensor:
    """A kernel for rows of different length where there is one, else one call per image."""
    query, key, value = (_autocast(x) for x in (query, key, value))
    kernel = _varlen_kernel(query, value, options)
    if kernel is None:
        return per_image(query, key, value, row, options)
    query, key, value = _own_heads(_scaled(query, options), key, value, options)
    flat = (x[0].transpose(0, 1) for x in (query, key, value))  # [T,H,E]
    return kernel(*flat, row.cu_seqlens, max(row.counts), options).transpose(0, 1).unsqueeze(0)


def auto(query: Tensor, key: Tensor, value: Tensor, row: Row, options: Options) -> Tensor:
    """`varlen`, but one call per image on the CPU only: elsewhere buckets are faster than so many launches.

    Raises:
        NotPacked: there is no kernel off the CPU.
    """
    if query.device.type != "cpu" and _varlen_kernel(_autocast(query), _autocast(value), options) is None:
        raise NotPacked("no kernel for rows of different length takes this dtype, width of a head or dropout")
    return varlen(query, key, value, row, options)


def _varlen_kernel(query: Tensor, value: Tensor, options: Options) -> Callable[..., Tensor] | None:
    width = query.shape[-1]
    if width > 256 or width % 8 or value.shape[-1] != width:  # what both kernels take
        return None
    return flash_kernel(query.device, query.dtype, options.dropout_p)


def per_image(query: Tensor, key: Tensor, value: Tensor, row: Row, options: Options) -> Tensor:
    """`scaled_dot_product_attention` on each image's part of the row."""
    parts = zip(*(x.split(row.counts, 2) for x in (query, key, value)), strict=True)
    return torch.cat([F.scaled_dot_product_attention(*part, **vars(options)) for part in parts], 2)


def nested(query: Tensor, key: Tensor, value: Tensor, row: Row, options: Options) -> Tensor:
    """`scaled_dot_product_attention` on jagged nested tensors."""
    if options.is_causal:
        raise ValueError('attention="nested": torch has no causal attention for nested tensors; expected "varlen"')
    query, key, value = _own_heads(query, key, value, options)
    least, most = min(row.counts), max(row.counts)

    def jagged(x: Tensor) -> Tensor:  # [B,H,n_b,E]
        flat = x[0].transpose(0, 1).contiguous()  # the only layout that its kernels take
        offsets = row.cu_seqlens.long()
        return torch.nested.nested_tensor_from_jagged(flat, offsets, min_seqlen=least, max_seqlen=most).transpose(1, 2)

    out: Any = F.scaled_dot_product_attention(
        jagged(query), jagged(key), jagged(value), dropout_p=options.dropout_p, scale=options.scale
    )
    return out.transpose(1, 2).values().transpose(0, 1).unsqueeze(0)


def flex(query: Tensor, key: Tensor, value: Tensor, row: Row, options: Options) -> Tensor:
    """FlexAttention, compiled, with a mask of blocks."""
    if options.dropout_p:
        raise ValueError('attention="flex": FlexAttention has no dropout; expected an attention dropout of 0')
    if query.device.type == "cpu" and torch.is_grad_enabled() and (query.requires_grad or value.requires_grad):
        raise ValueError(
            'attention="flex": FlexAttention has no gradient on the CPU; expected torch.no_grad() or "varlen"'
        )
    query, key, value = (_autocast(x).contiguous() for x in (query, key, value))
    return _compiled_flex()(
        query,
        key,
        value,
        block_mask=block_mask(row, query.shape[2], options.is_causal),
        scale=options.scale,
        enable_gqa=options.enable_gqa,
    )


KERNELS: dict[str, Kernel] = {"auto": auto, "nested": nested, "varlen": varlen, "flex": flex}


def flash_kernel(device: torch.device, dtype: torch.dtype, dropout_p: float = 0.0) -> Callable[..., Tensor] | None:
    """torch's varlen attention or flash-attn, from `[T,H,E]`, cu_seqlens, longest and options; None: there is none."""
    if not _has_flash(device, dtype):
        return None
    return (None if dropout_p else torch_varlen()) or flash_attn()


def _has_flash(device: torch.device, dtype: torch.dtype) -> bool:
    half = dtype in (torch.float16, torch.bfloat16)
    return half and device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


@cache
def torch_varlen() -> Callable[..., Tensor] | None:
    """`torch.nn.attention.varlen.varlen_attn`, if this torch has it."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    windows = "window_size" in signature(varlen_attn).parameters

    def call(query: Tensor, key: Tensor, value: Tensor, starts: Tensor, longest: int, options: Options) -> Tensor:
        causal: dict[str, Any] = {"window_size": (-1, 0)} if windows else {"is_causal": True}
        more = causal if options.is_causal else {}
        out: Any = varlen_attn(query, key, value, starts, starts, longest, longest, **more)
        return out

    return call


@cache
def flash_attn() -> Callable[..., Tensor] | None:
    """`flash_attn.flash_attn_varlen_func`, if it is installed."""
    try:
        from flash_attn import flash_attn_varlen_func
    except ImportError:
        return None

    def call(query: Tensor, key: Tensor, value: Tensor, starts: Tensor, longest: int, options: Options) -> Tensor:
        more = {"dropout_p": options.dropout_p, "causal": options.is_causal}
        return flash_attn_varlen_func(query, key, value, starts, starts, longest, longest, **more)

    return call


@cache
def _compiled_flex() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)


def block_mask(row: Row, length: int, is_causal: bool, size: int = 128) -> Any:
    """FlexAttention's mask: a block of queries meets the keys from its first image's start to its last one's end.

    `create_block_mask` would look at all `T x T` pairs.
    """
    from torch.nn.attention.flex_attention import BlockMask

    starts = row.cu_seqlens
    place = torch.arange(length, device=starts.device, dtype=torch.int32)
    image = torch.bucketize(place, starts[1:], out_int32=True, right=True)
    first = torch.arange(0, length, size, device=starts.device)
    last = (first + size - 1).clamp(max=length - 1)
    low = starts[image[first]] // size
    high = (starts[image[last] + 1] - 1) // size + 1
    blocks = torch.arange(len(first), device=starts.device, dtype=torch.int32)
    indices = (low[:, None] + blocks).clamp(max=len(first) - 1)

    def same_image(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return image[q] == image[k]

    def before(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (image[q] == image[k]) & (q >= k)

    return BlockMask.from_kv_blocks(
        (high - low)[None, None].int(),
        indices[None, None].int(),
        BLOCK_SIZE=size,
        mask_mod=before if is_causal else same_image,
        seq_lengths=(length, length),
    )


def _autocast(x: Tensor) -> Tensor:
    """As autocast would cast it for `scaled_dot_product_attention`."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) and x.is_floating_point() else x


def _scaled(query: Tensor, options: Options) -> Tensor:
    """For kernels whose scale is `1 / sqrt(E)`."""
    usual = query.shape[-1] ** -0.5
    if options.scale is None or math.isclose(options.scale, usual, rel_tol=1e-6):
        return query
    return query * (options.scale / usual)


def _own_heads(query: Tensor, key: Tensor, value: Tensor, options: Options) -> tuple[Tensor, Tensor, Tensor]:
    """Grouped keys and values, repeated for every head of the queries."""
    if not options.enable_gqa:
        return query, key, value
    times = query.shape[1] // key.shape[1]
    return query, key.repeat_interleave(times, 1), value.repeat_interleave(times, 1)
