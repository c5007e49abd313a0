"""The parents of nodes: whatever numbers an operator is given form a forest (csrc/tree_cut.h)."""

from ._language import jit, tl


@jit
def parent_of(
    parent,  # [B V]
    round,  # [B V] or None
    row,  # where nodes are in the table
    v,  # their numbers in their images
    leaves,
    nodes,  # of an image
    here,
):
    """Numbers of the parents in their images, -1 for none: a parent is an inner node above the child, and with rounds,
    unused nodes neither have nor are one.
    """
    p = tl.load(parent + row, mask=here, other=-1)
    valid = here & (p > v) & (p >= leaves) & (p < nodes)
    if round is not None:
        valid = valid & (tl.load(round + row, mask=valid, other=-1) >= 0)
        valid = valid & (tl.load(round + row - v + p, mask=valid, other=-1) >= 0)
    return tl.where(valid, p, -1)
