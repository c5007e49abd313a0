"""A round of merging, from the distances to the chains: who merges with whom, and in which order.

Edges are sorted by their ends, so that the edges of a vertex are in the order of its neighbours, and sorting them by
distance, stably, puts all of them in the order of merging: distance, lower end, higher end. Every vertex picks the edge
that comes first. What picks connect is a chain of merges: it begins with the one edge that both its ends picked, and
each further pick adds a single vertex (csrc/cuda/merge_round.cuh says why).
"""

from ._lanes import lanes
from ._language import jit, tl
from ._math import divide, square_root
from ._merge_edges import NO_EDGE, load_edge

#: A vertex's place in the order of merging if it merges with nobody.
NO_PICK = 2**31 - 1
_NO_PICK = tl.constexpr(NO_PICK)
#: Below so many pixels the size of regions hardly counts in a contrast, nor below such a length their boundary.
CONTRAST_COUNT, CONTRAST_LENGTH = tl.constexpr(200), tl.constexpr(80)


@jit
def _spread(box, u, v, n, here):
    """1 less the share of the square as long around as the bounding box that the union of two regions fills."""
    sides = tl.zeros_like(u)
    for d in tl.static_range(2):
        low = tl.minimum(tl.load(box + 4 * u + d, mask=here, other=0), tl.load(box + 4 * v + d, mask=here, other=0))
        i, j = 4 * u + 2 + d, 4 * v + 2 + d
        high = tl.maximum(tl.load(box + i, mask=here, other=0), tl.load(box + j, mask=here, other=0))
        sides += high.to(tl.int64) - low + 1
    sides = sides.to(n.dtype)
    return 1 - divide(4 * n, sides * sides)


@jit
def distance_kernel(
    edges,  # [M]
    lengths,  # [M]
    node,  # [N]
    count,  # [B V]
    mean,  # [B V,C]
    m2,  # [B V,C]
    box,  # [B V,4]
    compactness,  # one number
    noise,  # one number
    distances,  # [M]
    size,  # M
    channels,
    KIND: tl.constexpr,
    COMPACT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A lane per edge, every operation in the order of csrc/merge_tree.h. Reads 8 C + 40 bytes of both ends."""
    e, here = lanes(size, BLOCK)
    u, v, edge = load_edge(edges, e, here)
    u, v = tl.load(node + u, mask=edge, other=0), tl.load(node + v, mask=edge, other=0)
    acc = mean.dtype.element_ty
    n_u = tl.load(count + u, mask=edge, other=1).to(acc)
    n_v = tl.load(count + v, mask=edge, other=1).to(acc)
    length = tl.load(lengths + e, mask=edge, other=1).to(acc)
    floor = tl.load(noise)
    distance = tl.zeros([BLOCK], acc)
    c = 0
    while c < channels:
        i, j = u * channels + c, v * channels + c
        delta = tl.load(mean + i, mask=edge, other=0) - tl.load(mean + j, mask=edge, other=0)
        square = delta * delta
        if KIND == "contrast":
            within = tl.load(m2 + i, mask=edge, other=0) + tl.load(m2 + j, mask=edge, other=0)
            square = divide(square, divide(within, n_u + n_v) + floor)
        distance += square
        c += 1
    if KIND == "contrast":
        scale = divide(divide(n_u * n_v, n_u + n_v) + CONTRAST_COUNT, length + CONTRAST_LENGTH)
        distance = scale * (distance + _spread(box, u, v, n_u + n_v, edge))
    elif KIND != "feature":
        distance = divide(n_u * n_v, n_u + n_v) * distance
    if KIND == "ward_length":
        distance = divide(distance, length)
    elif KIND == "ward_root":
        distance = divide(distance, square_root(length))
    if COMPACT:
        distance += tl.load(compactness) * _spread(box, u, v, n_u + n_v, edge)
    # A region of NaN merges after all others of its round; -0 is 0.
    distance = tl.where((distance == distance) & edge, distance + 0.0, float("inf"))
    tl.store(distances + e, distance, mask=here)


@jit
def pick_kernel(
    edges,  # [M]
    order,  # [M] edges by distance
    pick,  # [N] NO_PICK
    size,  # M
    BLOCK: tl.constexpr,
):
    """A lane per place in the order of merging: the edge's ends pick it if none comes before."""
    i, here = lanes(size, BLOCK)
    u, v, edge = load_edge(edges, tl.load(order + i, mask=here, other=0), here)
    tl.atomic_min(pick + u, i.to(tl.int32), mask=edge, sem="relaxed")
    tl.atomic_min(pick + v, i.to(tl.int32), mask=edge, sem="relaxed")


@jit
def link_kernel(
    edges,  # [M]
    order,  # [M]
    pick,  # [N]
    up,  # [N] the vertex at the other end of the pick; -1 for none
    first,  # [N] 1 for the lower end of an edge that both ends picked, otherwise 0
    size,  # N
    BLOCK: tl.constexpr,
):
    """A lane per vertex."""
    u, here = lanes(size, BLOCK)
    i = tl.load(pick + u, mask=here, other=_NO_PICK)
    picks = i != _NO_PICK
    low, high, _ = load_edge(edges, tl.load(order + i, mask=picks, other=0), picks)
    other = low + high - u
    tl.store(up + u, tl.where(picks, other, -1).to(tl.int32), mask=here)
    mutual = tl.load(pick + other, mask=picks, other=-1) == i
    tl.store(first + u, (mutual & (u == low)).to(tl.int32), mask=here)


@jit
def chain_kernel(
    pick,  # [N]
    up,  # [N]
    number,  # [N] of firsts up to each vertex
    chain,  # [N] of each vertex, by its root: the lower end of its first edge; -1 for none
    key,  # [N] chain << 32 | pick of the vertices that their picks add to their chains; NO_EDGE for others
    size,  # N
    BLOCK: tl.constexpr,
):
    """A lane per vertex goes up to the pair that picked each other, and shortens the ways of all that go up with it.

    What another lane stores on a way lies further on, and the ends of the pair keep theirs.
    """
    u, here = lanes(size, BLOCK)
    at = u.to(tl.int32)
    above = tl.load(up + at, mask=here, other=-1)
    root = tl.full([BLOCK], -1, tl.int32)
    going = above >= 0
    while tl.max(going.to(tl.int32)) > 0:
        further = tl.load(up + above, mask=going, other=-1, volatile=True)
        root = tl.where(going & (further == at), tl.minimum(at, above), root)
        going = going & (further != at)
        tl.store(up + at, further, mask=going)
        at = tl.where(going, further, at)
        above = tl.load(up + at, mask=going, other=-1, volatile=True)
    found = root >= 0
    of_root = tl.load(number + root, mask=found, other=0) - 1
    tl.store(chain + u, of_root, mask=here)
    i = tl.load(pick + u, mask=here, other=_NO_PICK)
    adds = found & ((u == root) | (tl.load(pick + root, mask=found, other=-1) != i))
    tl.store(key + u, tl.where(adds, (of_root.to(tl.int64) << 32) | i, NO_EDGE), mask=here)


@jit
def _image_at(keys, owners, node, nodes, p, here):
    """The image of the merge at a place; -1 where there is none."""
    here = here & (tl.load(keys + p, mask=here, other=NO_EDGE) != NO_EDGE)
    vertex = tl.load(owners + p, mask=here, other=0)
    return tl.where(here, tl.load(node + vertex, mask=here, other=0) // nodes, -1)


@jit
def order_kernel(
    edges,  # [M]
    order,  # [M]
    keys,  # [N] of chain_kernel, sorted: the merges of a round in their order
    owners,  # [N] the vertex of each
    node,  # [N]
    added,  # [N] the merge that adds a vertex to its chain
    single,  # [N] the node that a merge adds
    begin,  # [K] first merge of each chain
    end,  # [K] and past its last one
    other,  # [K] the node that its first merge adds to
    created,  # [B] row of the node that the image makes next; afterwards, in the next round
    stop,  # [B] past the last merge of the image
    size,  # N
    nodes,  # V
    BLOCK: tl.constexpr,
):
    """A lane per merge."""
    p, here = lanes(size, BLOCK)
    key = tl.load(keys + p, mask=here, other=NO_EDGE)
    merge = key != NO_EDGE
    chain = key >> 32
    low, high, _ = load_edge(edges, tl.load(order + (key & 0xFFFFFFFF), mask=merge, other=0), merge)
    owner = tl.load(owners + p, mask=merge, other=0)
    tl.store(added + owner, p.to(tl.int32), mask=merge)
    tl.store(single + p, tl.load(node + owner, mask=merge, other=0), mask=merge)
    first = merge & ((tl.load(keys + p - 1, mask=merge & (p > 0), other=NO_EDGE) >> 32) != chain)
    last = merge & ((tl.load(keys + p + 1, mask=merge & (p + 1 < size), other=NO_EDGE) >> 32) != chain)
    second = low + high - owner
    tl.store(added + second, p.to(tl.int32), mask=first)
    tl.store(other + chain, tl.load(node + second, mask=first, other=0), mask=first)
    tl.store(begin + chain, p.to(tl.int32), mask=first)
    tl.store(end + chain, (p + 1).to(tl.int32), mask=last)
    image = _image_at(keys, owners, node, nodes, p, merge)
    begins = merge & (image != _image_at(keys, owners, node, nodes, p - 1, merge & (p > 0)))
    ends = merge & (image != _image_at(keys, owners, node, nodes, p + 1, merge & (p + 1 < size)))
    tl.atomic_add(created + image, -p, mask=begins, sem="relaxed")
    tl.atomic_add(created + image, p + 1, mask=ends, sem="relaxed")
    tl.store(stop + image, p + 1, mask=ends)
