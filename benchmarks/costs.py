"""The least bytes and the flop of every operator: what the ceilings are compared with.

Bytes: every input is read once and every output written once, float32 and int32 (4 bytes); tables per segment are left
out where there are pixels. So a share of the copy ceiling of 100 % is not always reachable, but never beaten outside
the cache. Flop are given for the soft operators alone: the others do too few per byte to be limited by them.

Sources: shared linear form of docs/design.md 3.1 (a score has C + 3 products, nine candidates): 18 (C + 3) flop for the
scores, as many for the nine partial sums; with softmax and set-up, 36 C + 120 flop and 9 exponentials per pixel and
iteration, 90 C + 180 for the backward with recomputation. Exponentials are not counted as flop.
"""

from typing import NamedTuple

from .scene import TOKENS, Scene

WORD = 4


class Cost(NamedTuple):
    """Of the forward, or of the backward alone."""

    bytes: float
    flop: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":  # type: ignore[override]
        return Cost(self.bytes + other.bytes, self.flop + other.flop)


def pixelwise(scene: Scene, words: float, flop: float = 0.0) -> Cost:
    """So many words and flop per pixel."""
    return Cost(WORD * words * scene.pixels, flop * scene.pixels)


def soft_assign(s: Scene) -> tuple[Cost, Cost]:
    c = s.channels
    # Scores and softmax; backward: them again, nine vectors of C + 3, and the pixel's own gradient.
    return pixelwise(s, c + 9 + 1, 18 * c + 66), pixelwise(s, c + 9 + c, 54 * c + 120)


def soft_cluster(s: Scene, iterations: int) -> tuple[Cost, Cost]:
    c = s.channels
    # The image is read once at best: it may stay on chip from one iteration to the next.
    forward = pixelwise(s, c + 1, iterations * (36 * c + 120))
    return forward, pixelwise(s, 2 * c, iterations * (90 * c + 180))


def soft_pool(s: Scene, values: int) -> tuple[Cost, Cost]:
    c = s.channels
    forward = pixelwise(s, c + values, 18 * c + 66 + 18 * values)
    return forward, pixelwise(s, 2 * (c + values), 54 * c + 120 + 36 * values)


def srgb_to_lab(s: Scene) -> tuple[Cost, Cost]:
    return pixelwise(s, 3 + 3), pixelwise(s, 3 + 3 + 3)


def gaussian_blur(s: Scene) -> tuple[Cost, Cost]:
    return pixelwise(s, 2 * s.channels + 1), pixelwise(s, 2 * s.channels + 1)


def relabel(s: Scene) -> tuple[Cost, Cost]:
    return pixelwise(s, 2), Cost(0)


def trace(s: Scene) -> tuple[Cost, Cost]:
    # The outputs follow the boundaries, and are left out.
    return Cost(WORD * s.pixels / s.batch), Cost(0)


def color_sums(s: Scene) -> tuple[Cost, Cost]:
    return Cost((WORD + 3) * s.pixels / s.batch), Cost(0)


def chains(words: float) -> tuple[Cost, Cost]:
    """Of operators on arcs, whose outputs are no longer than what they read: so many words."""
    return Cost(WORD * words), Cost(0)


def connected_components(s: Scene, channels: int) -> tuple[Cost, Cost]:
    return pixelwise(s, 2 + channels), Cost(0)


def segment_moments(s: Scene) -> tuple[Cost, Cost]:
    return pixelwise(s, s.channels + 1), pixelwise(s, 2 * s.channels + 1)


def segment_pool(s: Scene, weighted: bool = False) -> tuple[Cost, Cost]:
    # Backward: labels and the written gradient; weights also read the features and have a gradient of their own.
    return pixelwise(s, s.channels + 1 + weighted), pixelwise(s, s.channels + 1 + weighted * (s.channels + 2))


def ragged_pool(rows: int, width: int) -> tuple[Cost, Cost]:
    return Cost(WORD * rows * (width + 1)), Cost(WORD * rows * (width + 1))


def region_graph(s: Scene) -> tuple[Cost, Cost]:
    return pixelwise(s, 1), Cost(0)


def merge_tree(s: Scene) -> tuple[Cost, Cost]:
    # Moments are read and written by every round; each has at most half the vertices, in practice 1 / 3.5: 1.4 in all.
    leaves = s.batch * s.cells
    return Cost(1.4 * leaves * (2 * WORD * s.channels + 24)), Cost(WORD * leaves * (6 * s.channels + 2))


def merge_pixels(s: Scene) -> tuple[Cost, Cost]:
    # As merge_tree; every pixel is a leaf.
    return Cost(1.4 * s.pixels * (2 * WORD * s.channels + 24)), Cost(WORD * s.pixels * (6 * s.channels + 2))


def similarity_pool(s: Scene) -> tuple[Cost, Cost]:
    leaves, nodes = s.batch * s.cells, s.batch * (2 * s.cells - 1)
    tree = 3 * WORD * nodes
    return (
        Cost(tree + WORD * (leaves * s.channels + nodes * (s.channels + 1))),
        Cost(tree + WORD * (leaves * s.channels + nodes * (2 * s.channels + 1))),
    )


def information_criterion(s: Scene) -> tuple[Cost, Cost]:
    nodes = s.batch * (2 * s.cells - 1)
    return Cost(WORD * nodes * (s.channels + 4)), Cost(WORD * nodes * (2 * s.channels + 2))


def tree_cut(s: Scene) -> tuple[Cost, Cost]:
    nodes = s.batch * (2 * s.cells - 1)
    return Cost(WORD * nodes * 6), Cost(WORD * nodes * 7)


def scale_set(s: Scene) -> tuple[Cost, Cost]:
    return Cost(WORD * s.batch * (2 * s.cells - 1) * 6), Cost(0)


def scale_cut(s: Scene, cuts: int) -> tuple[Cost, Cost]:
    return Cost(WORD * s.batch * ((2 * s.cells - 1) * 3 + cuts * (s.cells + TOKENS))), Cost(0)


def saliency(s: Scene) -> tuple[Cost, Cost]:
    return pixelwise(s, 2), Cost(0)


def token_patches(s: Scene, size: int) -> tuple[Cost, Cost]:
    samples = WORD * s.batch * TOKENS * size * size
    image = pixelwise(s, s.channels).bytes
    return Cost(image + samples * (s.channels + 1)), Cost(image + samples * s.channels)


def position_histogram(s: Scene, bins: int) -> tuple[Cost, Cost]:
    return Cost(WORD * (s.pixels + s.batch * TOKENS * bins)), Cost(0)


def rows_copied(rows: int, width: int) -> tuple[Cost, Cost]:
    return Cost(2 * WORD * rows * width), Cost(2 * WORD * rows * width)


def tokenizer(s: Scene) -> tuple[Cost, Cost]:
    return pixelwise(s, 3 + 1), Cost(0)
