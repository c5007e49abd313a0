"""Which components are kept: the main ones of their labels that are large enough, and one where a piece has none.

What belongs to a component lies at its root in arrays [B,H,W], whose other elements mean nothing.
"""

import torch
from torch import Tensor

from ._components_label import connected_sets, launch_pixels, pixels_of_program, run_begin
from ._language import jit, next_power_of_2, tl
from ._math import wide

#: Places and sizes have 30 bits, as images have at most 2^30 pixels.
LAST_PLACE = tl.constexpr(2**30 - 1)
#: Above every rank.
LARGE_ENOUGH = tl.constexpr(2**62)


@jit
def _rank(size, place):
    """The order of components: the larger first, then the first in raster order."""
    return (wide(size) << 30) + (LAST_PLACE - place)


@jit
def _raise_to(best, rank, here):
    """best = max(best, rank); most lanes see that it is that large already."""
    known = tl.load(best, mask=here, other=LARGE_ENOUGH)
    tl.atomic_max(best, rank, mask=here & (rank > known), sem="relaxed")


@jit
def _size_kernel(
    component,  # [B,H,W]
    size,  # [B,H,W] of 0
    pixels,  # H W
    total,  # B H W
    BLOCK: tl.constexpr,
):
    """One lane per pixel, of which the last of each run counts it: reads 4 bytes (three times, from the cache)."""
    at, here, base, place = pixels_of_program(pixels, total, BLOCK)
    lane = tl.arange(0, BLOCK)
    own = tl.load(component + at, mask=here, other=-1)
    before = tl.load(component + at - 1, mask=here & (place > 0), other=-1)
    after = tl.load(component + at + 1, mask=here & (place + 1 < pixels), other=-1)
    ends = (own >= 0) & ((own != after) | (lane == BLOCK - 1))
    length = lane - run_begin(own != before, BLOCK) + 1
    tl.atomic_add(size + base + own, length, mask=ends, sem="relaxed")


@jit
def _offer_kernel(
    labels,  # [B,H,W]
    component,  # [B,H,W]
    size,  # [B,H,W]
    table,  # [B,S] of -1: a component of each label
    best,  # [B,H,W] of 0: at that component, the rank of the label's first one
    named,  # [B,H,W] that component
    slots,  # S, a power of two, at least 2 H W
    pixels,  # H W
    total,  # B H W
    BLOCK: tl.constexpr,
):
    """One lane per pixel; roots look for their label in a hash table, and offer their rank there.

    Which component stands for a label depends on the order of programs; nothing else does. Reads 4 bytes per pixel and
    some more for each component. All lanes compare and swap, as that has no mask: those without a component do nothing,
    each in a place of its own.
    """
    at, here, base, place = pixels_of_program(pixels, total, BLOCK)
    seeks = here & (tl.load(component + at, mask=here, other=-1) == place)
    label = tl.load(labels + at, mask=seeks, other=0)
    mixed = label.to(tl.uint32) * 2654435769
    slot = ((mixed ^ (mixed >> 15)) & (slots - 1).to(tl.uint32)).to(tl.int32)
    image = tl.where(here, at // pixels, 0) * slots
    found = place
    is_root = seeks
    while tl.max(seeks.to(tl.int32), 0) > 0:
        there = tl.atomic_cas(
            table + image + tl.where(seeks, slot, place),
            tl.full([BLOCK], -1, tl.int32),
            tl.where(seeks, place, -1),
            sem="relaxed",
        )
        found = tl.where(seeks & (there >= 0), there, found)
        same = tl.load(labels + base + there, mask=seeks & (there >= 0), other=-1) == label
        seeks = seeks & (there >= 0) & (same == 0)
        found = tl.where(seeks, place, found)
        slot = ((slot + 1) & (slots - 1)).to(tl.int32)
    tl.store(named + at, found, mask=is_root)
    _raise_to(best + base + found, _rank(tl.load(size + at, mask=is_root, other=0), place), is_root)


@jit
def _main_kernel(
    component,  # [B,H,W]
    best,  # [B,H,W]
    named,  # [B,H,W] a component of the same label; becomes its main one
    pixels,  # H W
    total,  # B H W
    BLOCK: tl.constexpr,
):
    """One lane per pixel: reads 4 bytes, and 12 more for each component."""
    at, here, base, place = pixels_of_program(pixels, total, BLOCK)
    is_root = here & (tl.load(component + at, mask=here, other=-1) == place)
    name = tl.load(named + at, mask=is_root, other=0)
    rank = tl.load(best + base + name, mask=is_root, other=0)
    tl.store(named + at, ((rank & LAST_PLACE) ^ LAST_PLACE).to(tl.int32), mask=is_root)


@jit
def _claim(component, main, size, min_size, at, place, here):
    """Whether a component is kept for itself, or else its rank in its piece; 0 where it may not be kept."""
    is_main = here & (tl.load(component + at, mask=here, other=-1) == place)
    is_main = is_main & (tl.load(main + at, mask=is_main, other=-1) == place)
    pixels = tl.load(size + at, mask=is_main, other=0)
    claim = tl.where(pixels >= min_size, LARGE_ENOUGH, _rank(pixels, place))
    return tl.where(is_main, claim, 0), is_main


@jit
def _claim_kernel(
    component,  # [B,H,W]
    main,  # [B,H,W]
    size,  # [B,H,W]
    piece,  # [B,H,W] of the image
    best,  # [B,H,W] of 0: the greatest claim of each piece
    min_size,
    pixels,  # H W
    total,  # B H W
    BLOCK: tl.constexpr,
):
    """One lane per pixel: reads 4 bytes, and 20 more for each component."""
    at, here, base, place = pixels_of_program(pixels, total, BLOCK)
    claim, is_main = _claim(component, main, size, min_size, at, place, here)
    of_piece = tl.load(piece + at, mask=is_main, other=0)
    _raise_to(best + base + of_piece, claim, is_main)


@jit
def _keep_kernel(
    component,  # [B,H,W]
    main,  # [B,H,W]
    size,  # [B,H,W]
    piece,  # [B,H,W]
    best,  # [B,H,W]
    leaf,  # [B,H,W] itself for what is kept, -1 for other components
    min_size,
    pixels,  # H W
    total,  # B H W
    BLOCK: tl.constexpr,
):
    """One lane per pixel: reads 4 bytes, and 20 more for each component, and writes 4."""
    at, here, base, place = pixels_of_program(pixels, total, BLOCK)
    claim, is_main = _claim(component, main, size, min_size, at, place, here)
    of_piece = tl.load(piece + at, mask=is_main, other=0)
    keeps = is_main & (tl.load(best + base + of_piece, mask=is_main, other=-1) == claim)
    tl.store(leaf + at, tl.where(keeps, place, -1), mask=here)


def _main_components(labels: Tensor, component: Tensor, size: Tensor) -> Tensor:
    """For each component, the largest of its label, the first among equals."""
    main, best = torch.empty_like(labels), torch.zeros_like(labels, dtype=torch.int64)
    slots = next_power_of_2(2 * labels[0].numel())
    table = labels.new_full((len(labels), slots), -1)
    launch_pixels(_offer_kernel, labels, labels, component, size, table, best, main, slots)
    launch_pixels(_main_kernel, labels, component, best, main)
    return main


def kept_components(
    labels: Tensor, component: Tensor, min_size: int, largest_only: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Of each component: its size, the main one of its label, and itself if it is kept, else -1."""
    size, leaf = torch.zeros_like(labels), torch.empty_like(labels)
    launch_pixels(_size_kernel, labels, component, size)
    main = _main_components(labels, component, size) if largest_only else component
    piece = connected_sets(labels, True)[1]
    best = torch.zeros_like(labels, dtype=torch.int64)
    known = (component, main, size, piece, best)
    launch_pixels(_claim_kernel, labels, *known, min_size)
    launch_pixels(_keep_kernel, labels, *known, leaf, min_size)
    return size, main, leaf
