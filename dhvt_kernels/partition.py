"""Partition: every pixel of every image in exactly one segment."""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from ._checks import check_int
from .ops import (
    Moments,
    SoftClusters,
    segment_gather,
    segment_moments,
    segment_pool,
    soft_pool,
    token_patches,
)


@dataclass(frozen=True, eq=False)
class SoftLeaves:
    """The soft superpixels that a hierarchy was built on, as `soft_pool` needs them."""

    features: Tensor
    clusters: SoftClusters
    cell: int
    compactness: float | Tensor
    temperature: float | Tensor
    mask: Tensor | None


@dataclass(frozen=True, eq=False)
class Partition:
    """A cut of a hierarchy: the segments that become tokens.

    Iterating and indexing go over the images: `partition[0]` is the partition of the first image, with B = 1.
    """

    labels: Tensor
    """int32 `[B,H,W]`: segment of each pixel, `0 <= label < counts[b]`; -1 for pixels of no image."""
    counts: Tensor
    """int32 `[B]`: segments of each image."""
    num_segments: int
    """Capacity K: the size of per-segment arrays `[B,K,...]`."""
    node: Tensor
    """int32 `[B,K]`: tree node of each segment; -1 in unused slots."""
    strength: Tensor
    """`[B]`: the strength that made the cut."""
    cost: Tensor
    """`[B]`: information criterion of the cut."""
    probability: Tensor
    """`[B,K]`: probability of each segment in the relaxed selection; 0 in unused slots. Differentiable."""
    expected_tokens: Tensor
    """`[B]`: expected number of segments of the relaxed selection. Differentiable."""
    node_features: Tensor
    """`[B,2L-1,C]`: features of every node of the hierarchy."""
    soft: SoftLeaves | None = None
    """The soft superpixels below; None with pixel leaves."""

    def __len__(self) -> int:
        return self.counts.shape[0]

    def __getitem__(self, index: int) -> "Partition":
        if not -len(self) <= index < len(self):
            raise IndexError(f"partition of {len(self)} images has no image {index}")
        index %= len(self)
        one = slice(index, index + 1)
        tensors = {f.name: getattr(self, f.name)[one] for f in fields(self) if f.name not in ("num_segments", "soft")}
        soft = self.soft
        if soft is not None:
            clusters = SoftClusters(*(part[one] for part in soft.clusters))
            mask = None if soft.mask is None else soft.mask[one]
            soft = replace(soft, features=soft.features[one], clusters=clusters, mask=mask)
        return Partition(num_segments=self.num_segments, soft=soft, **tensors)

    def trim(self, length: int) -> "Partition":
        """The same segments in `length` slots, K = length; `length` has to be at least every image's count."""
        check_int("length", length, 1)
        return replace(
            self,
            num_segments=length,
            node=self.node[:, :length],
            probability=self.probability[:, :length],
        )

    @property
    def selection_gradient(self) -> bool:
        """Whether a gradient may flow to the selection, through `probability`."""
        return self.probability.requires_grad

    @property
    def gate(self) -> Tensor:
        """`[B,K]`: 1 for segments, 0 for unused slots; its gradient is that of `probability` (straight-through)."""
        used = (self.node >= 0).to(self.probability.dtype)
        return used + (self.probability - self.probability.detach())

    @property
    def features(self) -> Tensor:
        """`[B,K,C]`: features of each segment, its node's; 0 in unused slots. Gradients reach the selection, too."""
        features = segment_gather(self.node_features, self.node.unsqueeze(1))[:, :, 0].transpose(1, 2)
        return self._gated(features)

    def _gated(self, values: Tensor) -> Tensor:
        """`values [B,K,C]` with the gradient of `gate`."""
        return values * self.gate.unsqueeze(-1).to(values.dtype) if self.selection_gradient else values

    def pool(self, features: Tensor, *, reduce: str = "mean", weights: Tensor | None = None) -> Tensor:
        """Pool features over the segments, as `segment_pool`; gradients also reach the selection, through `gate`.

        Args:
            features: `[B,C,H,W]`, any floating dtype and layout.
            reduce: `"mean"`, `"sum"` or `"max"`.
            weights: `[B,H,W]`, for mean and sum.

        Returns:
            `[B,K,C]` in the dtype of the features; 0 in unused slots.
        """
        pooled = segment_pool(features, self.labels, num_segments=self.num_segments, reduce=reduce, weights=weights)
        return self._gated(pooled)

    def token_patches(self, images: Tensor, *, size: int) -> tuple[Tensor, Tensor]:
        """Each segment's box, resampled to `size x size`, and the share of the segment in it (see `token_patches`).

        Args:
            images: `[B,C,H,W]`, any floating dtype and layout.
            size: side of a patch, P.

        Returns:
            `(patches [B,K,C,P,P], masks [B,K,1,P,P])`; zeros in unused slots.
        """
        boxes = self.moments(images[:, :1].detach()).box
        return token_patches(images, self.labels, boxes, size=size)

    def soft_pool(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Sum values over the segments with the soft assignment of their leaves: a sum up the tree.

        Args:
            values: `[B,Cv,H,W]` in the dtype of the features.

        Returns:
            `(sums [B,K,Cv], mass [B,K])`, with gradients through the assignment, too. A leaf belongs to the segment at
            its position.

        Raises:
            ValueError: the leaves are pixels.
        """
        if self.soft is None:
            raise ValueError('soft_pool: expected leaves="soft"; pixel leaves have no soft assignment')
        soft = self.soft
        sums, mass = soft_pool(
            soft.features,
            values,
            soft.clusters,
            cell=soft.cell,
            compactness=soft.compactness,
            temperature=soft.temperature,
            mask=soft.mask,
        )
        segment = self._segment_of_cluster(soft.clusters)[:, None]  # [B,1,L]: leaves as an image of one row
        points = torch.cat([sums, mass.unsqueeze(-1)], -1).transpose(1, 2).unsqueeze(2)
        total = segment_pool(points, segment, num_segments=self.num_segments, reduce="sum")
        return total[..., :-1], total[..., -1]

    def _segment_of_cluster(self, clusters: SoftClusters) -> Tensor:
        """int32 [B,L]: the segment at a cluster's position; where there is none, one with a pixel of its label."""
        _, height, width = self.labels.shape
        place = clusters.positions.detach().round().long()
        index = place[..., 0].clamp(0, height - 1) * width + place[..., 1].clamp(0, width - 1)
        at_position = self.labels.flatten(1).gather(1, index)
        cells = clusters.mass.shape[1]
        labels = self.labels[:, None].to(torch.float64)
        by_label = segment_pool(labels, clusters.labels, num_segments=cells, reduce="max")[..., 0].int()
        return torch.where(at_position >= 0, at_position, by_label)

    def moments(self, features: Tensor) -> Moments:
        """Statistics of features over the segments, as `segment_moments`."""
        return segment_moments(features, self.labels, num_segments=self.num_segments)

    def boundaries(self) -> Tensor:
        """bool `[B,H,W]`: pixels whose right or lower neighbour has another label."""
        out = torch.zeros_like(self.labels, dtype=torch.bool)
        out[:, :, :-1] |= self.labels[:, :, :-1] != self.labels[:, :, 1:]
        out[:, :-1, :] |= self.labels[:, :-1, :] != self.labels[:, 1:, :]
        return out
