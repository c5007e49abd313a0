"""Superpixels of SLIC as tokens, by scikit-image."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor, nn

import dhvt_kernels as dk


class SlicTokenizer(nn.Module):
    """SLIC on the host, image by image, with as many processors as PyTorch has threads. Nothing in it is learned.

    Superpixels below a quarter of the mean area join others. With scikit-image's own limit, a half, photographs get a
    fifth fewer than were asked for.

    Args:
        segments: how many to ask for; photographs get about as many.
        compactness: weight of space against CIELAB.
    """

    def __init__(self, segments: int, compactness: float = 10.0) -> None:
        super().__init__()
        self.segments, self.compactness = segments, compactness

    def forward(self, images: Tensor, mask: None = None) -> dk.Partition:
        """Images `[B,3,H,W]` in [0, 1]."""
        if mask is not None:
            raise ValueError("mask: expected None, as SLIC takes whole images only")
        arrays = images.detach().permute(0, 2, 3, 1).float().cpu().numpy()
        with ThreadPoolExecutor(max(1, min(torch.get_num_threads(), len(arrays)))) as pool:
            rows = list(pool.map(self._divide, arrays))
        labels = torch.from_numpy(np.stack(rows)).to(images.device)
        counts = labels.amax((1, 2)) + 1
        return from_labels(images, labels, counts, int(counts.max()))

    def _divide(self, image: np.ndarray) -> np.ndarray:
        from skimage.segmentation import slic

        labels = slic(
            image, n_segments=self.segments, compactness=self.compactness, min_size_factor=0.25, start_label=0
        )
        return np.unique(labels, return_inverse=True)[1].reshape(labels.shape).astype(np.int32)


def from_labels(images: Tensor, labels: Tensor, counts: Tensor, capacity: int) -> dk.Partition:
    """The partition of given labels, dense from 0; its features are the mean colours."""
    features = dk.segment_pool(images, labels, num_segments=capacity)
    node = torch.arange(capacity, device=images.device, dtype=torch.int32).repeat(len(images), 1)
    used = node < counts[:, None]
    return dk.Partition(
        labels=labels,
        counts=counts,
        num_segments=capacity,
        node=torch.where(used, node, -1),
        strength=features.new_ones(len(images)),
        cost=features.new_zeros(len(images)),
        probability=used.to(features.dtype),
        expected_tokens=counts.to(features.dtype),
        node_features=features,
    )
