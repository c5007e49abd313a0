"""How good a label map is: against human segmentations, and as a description of its image. NumPy, exact counts."""

import numpy as np
from numpy.typing import NDArray

#: In the order of every table; all but PSNR (dB) are shares in per cent. More is better, but for UE.
MEASURES = ("ASA", "UE", "BR", "BP", "EV", "PSNR")
#: A boundary pixel is found if there is one of the other map in the square window of this side around it.
TOLERANCE = 5

Labels = NDArray[np.integer]


def dense(labels: Labels) -> tuple[Labels, int]:
    """The same map with ids 0..n-1, and n."""
    ids = np.cumsum(np.bincount(labels.ravel()) > 0)
    return (ids - 1)[labels], int(ids[-1])


def overlaps(segments: Labels, truth: Labels) -> NDArray[np.integer]:
    """Contingency table: pixels that segment s and true region g share, `[segments, regions]`."""
    (segments, rows), (truth, columns) = dense(segments), dense(truth)
    return np.bincount((segments * columns + truth).ravel(), minlength=rows * columns).reshape(rows, columns)


def achievable_accuracy(table: NDArray[np.integer]) -> float:
    """ASA: share of pixels whose segment's majority label is theirs."""
    return float(table.max(1).sum() / table.sum())


def undersegmentation(table: NDArray[np.integer]) -> float:
    """UE: `sum over s, g of min(|s and g|, |s minus g|) / N`: what leaks, counted from the smaller side."""
    return float(np.minimum(table, table.sum(1, keepdims=True) - table).sum() / table.sum())


def boundary(labels: Labels) -> NDArray[np.bool_]:
    """Pixels that differ from their right or lower neighbour."""
    found = np.zeros(labels.shape, bool)
    found[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    found[:-1] |= labels[:-1] != labels[1:]
    return found


def dilated(found: NDArray[np.bool_], side: int = TOLERANCE) -> NDArray[np.bool_]:
    """Pixels with a found one in the `side` x `side` window around them: rows first, then columns."""
    reach = side // 2
    for _ in range(2):
        padded = np.pad(found, ((reach, reach), (0, 0)))
        found = np.logical_or.reduce([padded[i : i + len(found)] for i in range(side)]).T
    return found


def share_within(found: NDArray[np.bool_], window: NDArray[np.bool_]) -> float:
    """Share of the found pixels that lie in the window; 1 where there are none."""
    total = np.count_nonzero(found)
    return np.count_nonzero(found & window) / total if total else 1.0


def mean_colors(image: NDArray[np.uint8], labels: Labels) -> NDArray[np.float64]:
    """Every pixel `[H,W,3]` becomes the mean of its segment."""
    index = dense(labels)[0].ravel()
    counts = np.bincount(index)
    means = [np.bincount(index, weights=channel) / counts for channel in image.reshape(-1, image.shape[-1]).T]
    return np.stack(means, -1)[index].reshape(image.shape)


def explained_variation(image: NDArray[np.uint8], squared_error: float) -> float:
    """EV: share of the image's variance that the segments' mean colours keep; 1 for a plain image."""
    total = float(((image - image.mean((0, 1))) ** 2).sum())
    return 1 - squared_error / total if total else 1.0


def peak_signal_to_noise(image: NDArray[np.uint8], squared_error: float) -> float:
    """PSNR in dB of the mean colours against 8 bit samples; infinite where they are exact."""
    return float(10 * np.log10(255**2 * image.size / squared_error)) if squared_error else float("inf")


class Truth:
    """One photograph and its human segmentations, with what every label map on it is compared with."""

    def __init__(self, image: NDArray[np.uint8], humans: NDArray[np.integer]) -> None:
        """Take an sRGB image `[H,W,3]` and label maps `[annotators,H,W]`."""
        self.image = image
        self.humans = [dense(human)[0] for human in humans]
        self.boundaries = [boundary(human) for human in humans]
        self.windows = [dilated(found) for found in self.boundaries]

    def measure(self, labels: Labels) -> dict[str, float]:
        """All `MEASURES` of a label map `[H,W]`; the first four are means over the annotators."""
        tables = [overlaps(labels, human) for human in self.humans]
        found = boundary(labels)
        window = dilated(found)
        squared_error = float(((self.image - mean_colors(self.image, labels)) ** 2).sum())
        shares = {
            "ASA": np.mean([achievable_accuracy(table) for table in tables]),
            "UE": np.mean([undersegmentation(table) for table in tables]),
            "BR": np.mean([share_within(human, window) for human in self.boundaries]),
            "BP": np.mean([share_within(found, human) for human in self.windows]),
            "EV": explained_variation(self.image, squared_error),
        }
        percent = {name: 100 * float(share) for name, share in shares.items()}
        return percent | {"PSNR": peak_signal_to_noise(self.image, squared_error)}
