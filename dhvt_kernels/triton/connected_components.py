"""Connected components of a label map; small and secondary ones join a neighbour."""

import torch
from torch import Tensor

from ._checked import checked, require
from ._components_keep import kept_components
from ._components_label import connected_sets, launch_pixels, pixels_of_program
from ._components_means import component_means
from ._components_waves import find_contacts, join_fragments
from ._language import jit, tl


@jit
def _first_kernel(
    component,  # [B,H,W]
    leaf,  # [B,H,W]
    first,  # [B,H,W] 1 at the first pixel of a component that is kept
    pixels,  # H W
    total,  # B H W
    BLOCK: tl.constexpr,
):
    """One lane per pixel: reads 8 bytes and writes 4."""
    at, here, _, place = pixels_of_program(pixels, total, BLOCK)
    is_root = here & (tl.load(component + at, mask=here, other=-1) == place)
    keeps = tl.load(leaf + at, mask=is_root, other=-1) == place
    tl.store(first + at, keeps.to(tl.int32), mask=here)


@jit
def _number_kernel(
    component,  # [B,H,W]
    leaf,  # [B,H,W] what a component belongs to, -1 on islands
    main,  # [B,H,W] the main component of its label
    rank,  # [B,H,W] first pixels of components that are kept, up to this one, in this image and those before
    out,  # [B,H,W]
    counts,  # [B]
    pixels,  # H W
    total,  # B H W
    BLOCK: tl.constexpr,
):
    """One lane per pixel: reads 8 bytes and writes 4; what belongs to components comes from the caches."""
    at, here, base, place = pixels_of_program(pixels, total, BLOCK)
    own = tl.load(component + at, mask=here, other=-1)
    joined = tl.load(leaf + base + own, mask=own >= 0, other=0)
    on_island = joined < 0
    fellow = tl.load(main + base + own, mask=on_island, other=0)
    joined = tl.where(on_island, tl.load(leaf + base + fellow, mask=on_island, other=0), joined)
    before = tl.load(rank + base - 1, mask=here & (base > 0), other=0)
    number = tl.load(rank + base + joined, mask=own >= 0, other=0) - before - 1
    tl.store(out + at, tl.where(own >= 0, number, -1), mask=here)
    ends = here & (place == pixels - 1)
    tl.store(counts + at // pixels, tl.load(rank + at, mask=ends, other=0) - before, mask=ends)


@checked(labels="int32 B H W", features="floating B C H W?")
def connected_components(
    labels: Tensor, features: Tensor | None, min_size: int, largest_only: bool
) -> tuple[Tensor, Tensor]:
    """Fragments join the resolved neighbour of nearest mean, in waves; results are numbered by their first pixel."""
    out, counts = torch.empty_like(labels, memory_format=torch.contiguous_format), labels.new_zeros(len(labels))
    if labels.numel() == 0:
        return out, counts
    pixels = labels[0].numel()
    require(pixels <= 2**30, f"labels [B,H,W]: expected at most 2^30 pixels per image; found {pixels}")
    labels = labels.contiguous()
    part, component = connected_sets(labels, False)
    leaf = main = component
    if largest_only or min_size > 1:
        size, main, leaf = kept_components(labels, component, min_size, largest_only)
        contacts = find_contacts(component, leaf)
        means = component_means(features, part, component, size, contacts.wanted)
        join_fragments(component, leaf, contacts, size, means)
    first = torch.empty_like(labels)
    launch_pixels(_first_kernel, labels, component, leaf, first)
    rank = first.flatten().cumsum(0, dtype=torch.int32)  # of the batch: torch sums a row with one block of threads
    launch_pixels(_number_kernel, labels, component, leaf, main, rank, out, counts)
    return out, counts
