"""Every cut of a scale set above a finest one, in the order in which they come as the strength rises."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..hierarchy import Hierarchy
from ..partition import Partition


class Nested(NamedTuple):
    """The nodes that are in a cut, N in all: first the K segments of the finest cut in their order, then by `lower`.

    With the first n nodes the cut is those of them whose parent is none of them, so a cut is one number.
    """

    node: NDArray[np.int64]
    """[N]: where the node is in the hierarchy's tree."""
    parent: NDArray[np.int32]
    """[N]: the node's number in the next coarser cut that has it in a larger segment, above its own; -1 for roots."""
    active: NDArray[np.int32]
    """[S]: nodes n of each cut, from the finest to the coarsest."""
    strength: NDArray[np.float32]
    """[S]: the least strength of each cut."""

    def sums_up(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """Of every node `[N,...]` the sum over its segments of the finest cut, from theirs `[K,...]`."""
        sums = np.concatenate([values, np.zeros((len(self.parent) - len(values), *values.shape[1:]), np.int64)])
        for child, parent in enumerate(self.parent.tolist()):
            if parent >= 0:
                sums[parent] += sums[child]
        return sums

    def totals(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of every cut `[S]` the sum over its nodes, from their values `[N]`."""
        change = values.copy()
        inner = self.parent >= 0
        np.subtract.at(change, self.parent[inner], values[inner])
        return np.cumsum(change)[self.active - 1]


def nested_cuts(hierarchy: Hierarchy, finest: Partition) -> Nested:
    """The cuts of a hierarchy of one image, from `finest`, one of its optimal cuts, on."""
    lower, upper = (bound[0].cpu().numpy() for bound in hierarchy.scale_set())
    segments = finest.node[0, : int(finest.counts[0])].long().cpu().numpy()
    (coarser,) = np.nonzero((lower < upper) & (lower > float(finest.strength[0])))
    coarser = coarser[np.argsort(lower[coarser], kind="stable")]
    node = np.concatenate([segments, coarser])
    number = np.full(len(lower), -1, np.int32)
    number[node] = np.arange(len(node))
    # The next node above that is in any cut.
    above = hierarchy.tree.parent[0].cpu().numpy()
    parent = above[node]
    while (skipped := (parent >= 0) & (number[parent] < 0)).any():
        parent[skipped] = above[parent[skipped]]
    strength = np.concatenate([finest.strength.cpu().numpy().astype(np.float32), lower[coarser]])
    # Nodes that come at one strength come together.
    last = np.append(np.flatnonzero(np.diff(strength)), len(strength) - 1)
    return Nested(
        node,
        np.where(parent >= 0, number[parent], -1).astype(np.int32),
        (last + len(segments)).astype(np.int32),
        strength[last],
    )
