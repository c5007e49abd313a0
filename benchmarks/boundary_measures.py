"""How well boundaries of falling strength are those that humans drew: the protocol of BSDS500, with exact counts."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .superpixel_measures import Labels, boundary

#: Pixels match up to this distance, as a share of the image's diagonal.
DISTANCE = 0.0075

Found = NDArray[np.bool_]  # [H,W]
#: Last dimension: human pixels that have a partner, human pixels (both summed over the annotators), pixels of the map
#: that have a partner with any annotator, pixels of the map.
Counts = NDArray[np.int64]


def thinned(found: Found) -> Found:
    """Lines one pixel wide."""
    from skimage.morphology import skeletonize

    return skeletonize(found)


class Lines:
    """The boundaries that a human drew, made ready to be matched with many maps."""

    def __init__(self, drawn: Found) -> None:
        """Take pixels `[H,W]`."""
        radius = DISTANCE * np.hypot(*drawn.shape)
        self.reach = int(radius)
        rows, columns = np.mgrid[-self.reach : self.reach + 1, -self.reach : self.reach + 1]
        near = rows**2 + columns**2 <= radius**2
        self.count = int(np.count_nonzero(drawn))
        self.ids = np.full((drawn.shape[0] + 2 * self.reach, drawn.shape[1] + 2 * self.reach), -1, np.int32)
        self._inside(self.ids)[drawn] = np.arange(self.count)
        self.offsets = (rows * self.ids.shape[1] + columns)[near].astype(np.int32)
        self.near = np.zeros(self.ids.shape, bool)
        self.near.ravel()[self._around(drawn)] = True

    def _inside(self, padded: NDArray[Any]) -> NDArray[Any]:
        """The image within its margin."""
        height, width = padded.shape
        return padded[self.reach : height - self.reach, self.reach : width - self.reach]

    def _around(self, found: Found) -> NDArray[np.int32]:
        """Places in the padded map `[n,d]`: what each found pixel may match."""
        places = np.flatnonzero(np.pad(found, self.reach)).astype(np.int32)
        return places[:, None] + self.offsets

    def matched(self, found: Found) -> Found:
        """The found pixels that have a partner: as many pairs as possible, each pixel in one at most.

        The pairs are a maximum flow, a unit from each found pixel to each drawn one.
        """
        from scipy.sparse import csr_array
        from scipy.sparse.csgraph import maximum_flow

        partners = found & self._inside(self.near)
        ids = self.ids.ravel()[self._around(partners)]
        hit = ids >= 0
        # Nodes: source, found pixels, drawn pixels, sink. Edges by the node that they leave, as CSR wants them.
        left, pairs, sink = len(ids), np.count_nonzero(hit), len(ids) + self.count + 1
        ends = np.concatenate([np.arange(left) + 1, ids[hit] + left + 1, np.full(self.count, sink)])
        degrees = np.concatenate([[0, left], np.count_nonzero(hit, 1), np.ones(self.count, int), [0]])
        edges = np.ones(left + pairs + self.count, np.int32), ends.astype(np.int32), np.cumsum(degrees, dtype=np.int32)
        flow = maximum_flow(csr_array(edges, shape=(sink + 1, sink + 1)), 0, sink, method="dinic").flow
        partners[partners] = flow[[0]].toarray()[0, 1 : left + 1] > 0
        return partners


def compare(saliency: NDArray[np.floating], humans: Labels, levels: NDArray[np.floating]) -> Counts:
    """Counts `[levels,4]` of a strength map `[H,W]` above each level, beside label maps `[annotators,H,W]`."""
    lines = [Lines(thinned(boundary(human))) for human in humans]
    counts = []
    for level in levels:
        found = thinned(saliency > level)
        partners = [line.matched(found) for line in lines]
        precise = np.logical_or.reduce(partners)
        counts.append((np.count_nonzero(partners), sum(line.count for line in lines), precise.sum(), found.sum()))
    return np.array(counts, np.int64)


def recall_precision(counts: Counts) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Shares of human and of map pixels with a partner; 0 where there are no pixels."""
    recalled, drawn, precise, found = np.moveaxis(counts, -1, 0)
    return recalled / np.maximum(drawn, 1), precise / np.maximum(found, 1)


def f_measure(counts: Counts) -> NDArray[np.float64]:
    """Harmonic mean of recall and precision; 0 if both are."""
    recall, precision = recall_precision(counts)
    total = recall + precision
    return 2 * recall * precision / np.where(total == 0, 1, total)


def best_level(counts: Counts) -> int:
    """Of counts `[images,levels,4]`, the level that serves all images best."""
    return int(f_measure(counts.sum(0)).argmax())


def average_precision(counts: Counts) -> float:
    """Mean of the precision of all images together over recalls 0, 0.01 .. 1; 0 at those that no level reaches."""
    total = counts.sum(0)
    recall, precision = recall_precision(total[total[:, 3] > 0])
    order = np.lexsort((precision, recall))
    if len(order) == 0:
        return 0.0
    return float(np.interp(np.linspace(0, 1, 101), recall[order], precision[order], left=0, right=0).mean())


def summary(counts: Counts) -> dict[str, float]:
    """ODS (one level for all images), OIS (the best level of each) and AP of counts `[images,levels,4]`."""
    level = best_level(counts)
    total = counts.sum(0)[level]
    chosen = counts[np.arange(len(counts)), f_measure(counts).argmax(1)]
    recall, precision = recall_precision(total)
    return {
        "ODS": float(f_measure(total)),
        "OIS": float(f_measure(chosen.sum(0))),
        "AP": average_precision(counts),
        "recall": float(recall),
        "precision": float(precision),
    }
