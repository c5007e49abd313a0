"""The gradients down merge trees, from the nodes to the leaves."""

from ._lanes import lanes
from ._language import jit, tl
from ._math import divide, wide


@jit
def _passed_on(giver, low, high, count, mean, total_mean, total_m2, image, v, c, nodes, channels, here):
    """The gradients of mean and m2 of nodes that come from above."""
    leaves = (nodes + 1) // 2
    row, inner = image * nodes, image * (nodes - leaves)
    p = tl.load(giver + row + v, mask=here, other=-1)
    has = p >= 0
    other = tl.load(low + inner + p, mask=has, other=0) + tl.load(high + inner + p, mask=has, other=0) - v
    acc = mean.dtype.element_ty
    n_a = tl.load(count + row + v, mask=has, other=1).to(acc)
    n_b = tl.load(count + row + other, mask=has, other=1).to(acc)
    mean_a = tl.load(mean + (row + v) * channels + c, mask=has, other=0)
    mean_b = tl.load(mean + (row + other) * channels + c, mask=has, other=0)
    from_mean = tl.load(total_mean + (inner + p) * channels + c, mask=has, other=0)
    from_m2 = tl.load(total_m2 + (inner + p) * channels + c, mask=has, other=0)
    share = divide(n_a, n_a + n_b)
    spread = tl.where(from_m2 != 0, 2 * share * n_b * (mean_a - mean_b) * from_m2, 0)  # no gradient: none to NaN
    return tl.where(has, share * from_mean + spread, 0), from_m2


@jit
def inner_gradient_kernel(
    order,  # [B,I]
    begin,  # [B,I+1]
    number,  # [B]
    giver,  # [B,V]
    low,  # [B,I]
    high,  # [B,I]
    count,  # [B,V]
    mean,  # [B,V,C]
    grad_mean,  # [B,V,C]
    grad_m2,  # [B,V,C]
    total_mean,  # [B,I,C]
    total_m2,  # [B,I,C]
    nodes,  # V
    channels,
    BLOCK: tl.constexpr,
):
    """A program per image goes down its generations; a lane per inner node and channel.

    Moves 28 C + 36 bytes of a node.
    """
    image = tl.program_id(0).to(tl.int64)
    leaves = (nodes + 1) // 2
    inner = nodes - leaves
    begin += image * (inner + 1)
    generations, generation = tl.load(number + image), 0
    while generation < generations:
        first, past = tl.load(begin + generation), tl.load(begin + generation + 1)
        base = wide(0)
        while base < wide(past - first) * channels:
            j = base + tl.arange(0, BLOCK)
            place, c = first + j // channels, j % channels
            here = place < past
            i = tl.load(order + image * inner + place, mask=here, other=0)
            v = leaves + i
            to_mean, to_m2 = _passed_on(
                giver, low, high, count, mean, total_mean, total_m2, image, v, c, nodes, channels, here
            )
            own, out = (image * nodes + v) * channels + c, (image * inner + i) * channels + c
            tl.store(total_mean + out, tl.load(grad_mean + own, mask=here, other=0) + to_mean, mask=here)
            tl.store(total_m2 + out, tl.load(grad_m2 + own, mask=here, other=0) + to_m2, mask=here)
            base += BLOCK
        tl.debug_barrier()
        generation += 1


@jit
def leaf_gradient_kernel(
    giver,  # [B,V]
    low,  # [B,I]
    high,  # [B,I]
    count,  # [B,V]
    mean,  # [B,V,C]
    grad_mean,  # [B,V,C]
    grad_m2,  # [B,V,C]
    total_mean,  # [B,I,C]
    total_m2,  # [B,I,C]
    leaf_mean,  # [B,L,C]
    leaf_m2,  # [B,L,C]
    size,  # B L C
    nodes,  # V
    channels,
    BLOCK: tl.constexpr,
):
    """A lane per leaf and channel; nothing for unused leaves, whatever came in. Moves 28 C + 20 bytes of a leaf."""
    j, here = lanes(size, BLOCK)
    leaves = (nodes + 1) // 2
    c, image, v = j % channels, j // channels // leaves, j // channels % leaves
    row = image * nodes + v
    used = tl.load(count + row, mask=here, other=0) > 0
    to_mean, to_m2 = _passed_on(giver, low, high, count, mean, total_mean, total_m2, image, v, c, nodes, channels, used)
    own = row * channels + c
    to_mean += tl.load(grad_mean + own, mask=used, other=0)
    to_m2 += tl.load(grad_m2 + own, mask=used, other=0)
    tl.store(leaf_mean + j, tl.where(used, to_mean, 0), mask=here)
    tl.store(leaf_m2 + j, tl.where(used, to_m2, 0), mask=here)
