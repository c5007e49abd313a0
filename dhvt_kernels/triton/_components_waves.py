"""Fragments join their neighbours in waves, from what is kept outwards."""

from typing import NamedTuple

import torch
from torch import Tensor

from ._components_label import launch_pixels, pixels_of_program
from ._language import jit, tl
from ._launch import launch

#: Fragments that a program works on at once.
LANES = 2048
#: The leaf of a fragment in the queue, until it is resolved; that of others is -1.
QUEUED = tl.constexpr(-2)


@jit
def _neighbor(place, width, pixels, DIRECTION: tl.constexpr):
    """The pixel above, to the left, to the right or below, and whether there is one."""
    if DIRECTION == 0:
        return place - width, place >= width
    elif DIRECTION == 1:
        return place - 1, place % width > 0
    elif DIRECTION == 2:
        return place + 1, place % width + 1 < width
    else:
        return place + width, place + width < pixels


@jit
def _enqueue(queue, tail, leaf, fragment, reached):
    """Appends the fragments that are reached, each once, however many lanes reach it: the order does not matter."""
    before = tl.atomic_min(leaf + fragment, QUEUED, mask=reached, sem="relaxed")
    is_new = reached & (before == -1)
    slot = tl.atomic_add(tail, 1, mask=is_new, sem="relaxed")
    tl.store(queue + slot, fragment, mask=is_new)


@jit
def _contact_kernel(
    component,  # [B,H,W]
    leaf,  # [B,H,W]
    head,  # [B,H,W] of -1: the first pixel of a fragment's list
    next,  # [B,H,W] the following pixel of the list, -1 at the end
    borders,  # [B,H,W] bits 0 to 3 of a pixel of a list: it is listed for that neighbour
    wanted,  # [B,H,W] of 0: 1 for a component whose mean is needed
    queue,  # [B,H,W] fragments that are reached
    tail,  # [B] of 0: their number
    width,
    pixels,  # H W
    total,  # B H W
    BLOCK: tl.constexpr,
):
    """One lane per pixel: a fragment lists its pixels with another component beside them, and queues if one is kept.

    Of a straight border between two components only the first pixel is listed. Reads 4 bytes per pixel (nine times,
    from the cache), and 4 of its component.
    """
    at, here, base, place = pixels_of_program(pixels, total, BLOCK)
    own = tl.load(component + at, mask=here, other=-1)
    of_fragment = own >= 0
    of_fragment = of_fragment & (tl.load(leaf + base + own, mask=of_fragment, other=0) < 0)
    left = tl.load(component + at - 1, mask=of_fragment & (place % width > 0), other=-1)
    above = tl.load(component + at - width, mask=of_fragment & (place >= width), other=-1)
    borders_here, reached = tl.zeros([BLOCK], tl.int32), own != own
    for direction in tl.static_range(4):
        beside, exists = _neighbor(place, width, pixels, direction)
        other = tl.load(component + base + beside, mask=of_fragment & exists, other=-1)
        border = (other >= 0) & (other != own)
        back = 1 if direction == 0 or direction == 3 else width  # along the border
        goes_on = border & ((left if direction == 0 or direction == 3 else above) == own)
        goes_on = goes_on & (tl.load(component + base + beside - back, mask=goes_on, other=-1) == other)
        border = border & (goes_on == 0)
        tl.store(wanted + base + other, 1, mask=border)
        borders_here += border.to(tl.int32) << direction
        reached = reached | (border & (tl.load(leaf + base + other, mask=border, other=-1) >= 0))
    listed = borders_here != 0
    tl.store(borders + at, borders_here.to(tl.uint8), mask=listed)
    tl.store(wanted + base + own, 1, mask=listed)
    following = tl.atomic_xchg(head + base + own, place, mask=listed, sem="relaxed")
    tl.store(next + at, following, mask=listed)
    _enqueue(queue + base, tail + at // pixels, leaf + base, own, reached)


@jit
def _distance(means, a, b, channels, here, LANES: tl.constexpr):
    """|a - b|^2 in channel order; NaN counts as infinitely far."""
    sum = tl.zeros([LANES], tl.float64)
    channel = 0
    while channel < channels:
        of_a = tl.load(means + a.to(tl.int64) * channels + channel, mask=here, other=0)
        of_b = tl.load(means + b.to(tl.int64) * channels + channel, mask=here, other=0)
        sum += (of_a - of_b) * (of_a - of_b)
        channel += 1
    return tl.where(sum == sum, sum, float("inf"))


@jit
def _first_border(fragment, here, head, borders):
    """Where the walks along the borders of fragments begin: pixels, and their bits."""
    place = tl.load(head + fragment, mask=here, other=-1)
    return place, tl.load(borders + place, mask=place >= 0, other=0).to(tl.int32)


@jit
def _next_border(place, bits, next, borders, width):
    """The pixel beyond the border that walks are at, and where they go from there: pixels, -1 at the end, and bits."""
    lowest = bits & -bits
    beyond = tl.where(lowest == 1, -width, tl.where(lowest == 2, -1, tl.where(lowest == 4, 1, width)))
    remaining = bits ^ lowest
    turns = (place >= 0) & (remaining == 0)
    then = tl.where(turns, tl.load(next + place, mask=turns, other=-1), place)
    turns = turns & (then >= 0)
    return place + beyond, then, tl.where(turns, tl.load(borders + then, mask=turns, other=0).to(tl.int32), remaining)


@jit
def _nearest(fragment, here, component, leaf, head, next, borders, size, means, channels, width, LANES: tl.constexpr):
    """What fragments join: the component beside them of nearest mean, then the larger, then the first."""
    best, distance = tl.full([LANES], 0, tl.int32), tl.full([LANES], float("inf"), tl.float64)
    best_size = tl.full([LANES], -1, tl.int32)
    place, bits = _first_border(fragment, here, head, borders)
    while tl.max(place, 0) >= 0:
        walks = place >= 0
        beside, place, bits = _next_border(place, bits, next, borders, width)
        other = tl.load(component + beside, mask=walks, other=0)
        target = tl.load(leaf + other, mask=walks, other=-1)
        joins = target >= 0
        far = _distance(means, fragment, target, channels, joins, LANES)
        pixels = tl.load(size + target, mask=joins, other=-1)
        first = (pixels > best_size) | ((pixels == best_size) & (target < best))
        better = joins & ((far < distance) | ((far == distance) & first))
        best, distance = tl.where(better, target, best), tl.where(better, far, distance)
        best_size = tl.where(better, pixels, best_size)
    return best


@jit
def _wave_kernel(
    component,  # [B,H,W]
    leaf,  # [B,H,W] what a component belongs to; negative = not known yet
    head,  # [B,H,W]
    next,  # [B,H,W]
    borders,  # [B,H,W]
    queue,  # [B,H,W]
    tail,  # [B]
    chosen,  # [B,H,W] by each fragment of the queue, in its wave
    size,  # [B,H,W]
    means,  # [B,H,W,C] at roots
    channels,
    width,
    pixels,  # H W
    LANES: tl.constexpr,
):
    """One program per image, a lane per fragment; a wave is what the last one put in the queue.

    Its fragments choose among what earlier waves resolved, then all of them are resolved, then they queue what is
    beside them: each walks along its borders twice, in the caches.
    """
    image = tl.program_id(0).to(tl.int64)
    base = image * pixels
    component += base
    leaf += base
    head += base
    next += base
    borders += base
    queue += base
    chosen += base
    size += base
    means += base * channels
    tail += image
    lane = tl.arange(0, LANES)
    begin = 0
    end = tl.load(tail)
    while begin < end:
        first = begin
        while first < end:
            here = first + lane < end
            fragment = tl.load(queue + first + lane, mask=here, other=0)
            best = _nearest(fragment, here, component, leaf, head, next, borders, size, means, channels, width, LANES)
            tl.store(chosen + first + lane, best, mask=here)
            first += LANES
        tl.debug_barrier()
        first = begin
        while first < end:
            here = first + lane < end
            fragment = tl.load(queue + first + lane, mask=here, other=0)
            tl.store(leaf + fragment, tl.load(chosen + first + lane, mask=here, other=0), mask=here)
            first += LANES
        tl.debug_barrier()
        first = begin
        while first < end:
            here = first + lane < end
            fragment = tl.load(queue + first + lane, mask=here, other=0)
            place, bits = _first_border(fragment, here, head, borders)
            while tl.max(place, 0) >= 0:
                walks = place >= 0
                beside, place, bits = _next_border(place, bits, next, borders, width)
                other = tl.load(component + beside, mask=walks, other=0)
                reached = tl.load(leaf + other, mask=walks, other=0) == -1
                _enqueue(queue, tail + lane * 0, leaf, other, reached)
            first += LANES
        tl.debug_barrier()
        begin = end
        end = tl.load(tail)
        tl.debug_barrier()


class Contacts(NamedTuple):
    """Where fragments touch other components."""

    head: Tensor  #: int32 [B,H,W], at the root of a fragment: the first pixel of its list
    next: Tensor  #: int32 [B,H,W] the following pixel of the list
    borders: Tensor  #: uint8 [B,H,W] bits of a pixel of a list: for which neighbours
    wanted: Tensor  #: uint8 [B,H,W] whether a component has a part in a contact
    queue: Tensor  #: int32 [B,H,W] fragments that touch a component which is kept
    tail: Tensor  #: int32 [B] their number


def find_contacts(component: Tensor, leaf: Tensor) -> Contacts:
    """The lists of all fragments, and the first wave; marks its fragments in `leaf`."""
    contacts = Contacts(
        torch.full_like(component, -1),
        torch.empty_like(component),
        torch.empty_like(component, dtype=torch.uint8),
        torch.zeros_like(component, dtype=torch.uint8),
        torch.empty_like(component),
        component.new_zeros(len(component)),
    )
    launch_pixels(_contact_kernel, component, component, leaf, *contacts, component.shape[2])
    return contacts


def join_fragments(component: Tensor, leaf: Tensor, contacts: Contacts, size: Tensor, means: Tensor) -> None:
    """Gives every fragment that can be reached the component that it joins, in `leaf`."""
    launch(
        _wave_kernel,
        len(component),
        component,
        component,
        leaf,
        contacts.head,
        contacts.next,
        contacts.borders,
        contacts.queue,
        contacts.tail,
        torch.empty_like(component),
        size,
        means,
        means.shape[3],
        component.shape[2],
        component[0].numel(),
        LANES=LANES,
        warps=16,
    )
