"""The ways to divide a photograph that `benchmarks.superpixels` compares: from an image and budgets to label maps."""

import importlib.util
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from dhvt_kernels import Tokenizer

from .superpixel_measures import Labels

Image = NDArray[np.uint8]  # [H,W,3], sRGB
#: Of the search for the parameter that makes a number of segments.
ATTEMPTS = 6

Divide = Callable[[Image, Sequence[int]], list[Labels]]


class Method(NamedTuple):
    """A row of the tables."""

    name: str
    title: str
    divide: Divide
    package: str | None = None
    """The peer's package, as pip calls it."""
    module: str | None = None
    """What must be importable to run it."""

    def missing(self) -> bool:
        try:
            return self.module is not None and importlib.util.find_spec(self.module) is None
        except ModuleNotFoundError:  # its parent package
            return True


def tensor(image: Image) -> torch.Tensor:
    """`[1,3,H,W]`, as the tokenizer takes it."""
    return torch.from_numpy(image).permute(2, 0, 1)[None]


def tree(**options: object) -> Divide:
    """Our tokenizer: one hierarchy per image, cut at every budget (optimal cut, constant penalty)."""

    def divide(image: Image, budgets: Sequence[int]) -> list[Labels]:
        hierarchy = Tokenizer(**options).hierarchy(tensor(image))  # type: ignore[arg-type]
        cuts = [hierarchy.cut(criterion="fixed", max_tokens=budget) for budget in budgets]
        return [cut.labels[0].numpy() for cut in cuts]

    return divide


def nearest(budgets: Sequence[int], attempt: Callable[[float], Labels]) -> list[Labels]:
    """Search what to ask a method for, so that the number of segments is nearest to each budget.

    `attempt(x)` divides the image; a larger x makes more segments, nearly always, and x itself if the method keeps to
    what it is asked for. Interpolation on logarithms until the number is right to 3 per cent, at most `ATTEMPTS` times.
    """
    found, excess = [], 1.0
    for budget in budgets:
        asked, tried = excess * budget, {}
        for _ in range(ATTEMPTS):
            labels = attempt(asked)
            tried[asked] = int(np.count_nonzero(np.bincount(labels.ravel()))), labels
            if abs(tried[asked][0] - budget) <= 0.03 * budget:
                break
            asked = _next_guess(budget, {x: count for x, (count, _) in tried.items()})
        best = min(tried, key=lambda x: abs(tried[x][0] - budget))
        found.append(tried[best][1])
        excess = best / budget  # whoever makes too few at one budget does so at the next
    return found


def _next_guess(budget: int, counts: dict[float, int]) -> float:
    """What to ask for next, after what has been asked for (key) gave so many (value)."""
    low = max((x for x, count in counts.items() if count <= budget), default=None)
    high = min((x for x, count in counts.items() if count > budget), default=None)
    if low is None or high is None:
        last = next(reversed(counts))
        return last * min(max(budget / counts[last], 1 / 4), 4)
    # Kept away from both ends, as counts that rise in steps would stall it there.
    share = math.log(budget / counts[low]) / math.log(counts[high] / counts[low])
    return low * (high / low) ** min(max(share, 0.2), 0.8)


def soft_leaves(image: Image, budgets: Sequence[int]) -> list[Labels]:
    """Our leaves without a tree: the cell makes the number of segments."""
    images, pixels = tensor(image), image.shape[0] * image.shape[1]

    def attempt(asked: float) -> Labels:
        cell = max(1, round(math.sqrt(pixels / asked)))
        return Tokenizer(cell=cell, depth=1)(images).labels[0].numpy()

    return nearest(budgets, attempt)


def square_grid(image: Image, budgets: Sequence[int]) -> list[Labels]:
    """Rectangles as square and as near to the budget as whole numbers of rows and columns allow."""
    height, width = image.shape[:2]
    found = []
    for budget in budgets:
        rows = max(1, round(math.sqrt(budget * height / width)))
        columns = max(1, round(budget / rows))
        y, x = np.arange(height) * rows // height, np.arange(width) * columns // width
        found.append(y[:, None] * columns + x)
    return found


def slic(image: Image, budgets: Sequence[int]) -> list[Labels]:
    """SLIC of scikit-image."""
    from skimage.segmentation import slic

    def attempt(asked: float) -> Labels:
        return slic(image, n_segments=round(asked), compactness=10, start_label=0)

    return nearest(budgets, attempt)


def seeds(image: Image, budgets: Sequence[int]) -> list[Labels]:
    """SEEDS of OpenCV, on CIELAB, with the parameters of OpenCV's own example."""
    import cv2

    height, width = image.shape[:2]
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)

    def attempt(asked: float) -> Labels:
        superpixels = cv2.ximgproc.createSuperpixelSEEDS(
            width, height, 3, num_superpixels=round(asked), num_levels=4, prior=2, histogram_bins=5, double_step=False
        )
        superpixels.iterate(lab, 10)
        return superpixels.getLabels()

    return nearest(budgets, attempt)


def felzenszwalb(image: Image, budgets: Sequence[int]) -> list[Labels]:
    """The graph-based method of Felzenszwalb and Huttenlocher in scikit-image: the scale makes the number."""
    from skimage.segmentation import felzenszwalb

    # The number falls about as 1 / scale; 1e5 is where the search begins.
    return nearest(budgets, lambda asked: felzenszwalb(image, scale=1e5 / asked))


METHODS = (
    Method("grid", "square grid", square_grid),
    Method("slic", "SLIC", slic, "scikit-image", "skimage.segmentation"),
    Method("seeds", "SEEDS", seeds, "opencv-contrib-python-headless", "cv2.ximgproc"),
    Method("felzenszwalb", "Felzenszwalb", felzenszwalb, "scikit-image", "skimage.segmentation"),
    Method("leaves", "soft leaves alone", soft_leaves),
    Method("default", "default recipe", tree()),
    Method("ward_length", "ward_length", tree(distance="ward_length")),
    Method("pixels", "pixel leaves", tree(leaves="pixels")),
    Method("published", "pixels, feature", tree(leaves="pixels", distance="feature")),
)
