"""Inputs: photographs, their features, and the label maps, moments and trees that the tokenizer makes of them."""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from skimage import data
from torch import Tensor
from torch.nn import functional as F

import dhvt_kernels as dk

CELL = 8
TOKENS = 256
#: The recipe of the tokenizer (docs/design.md).
CLUSTERING = {"cell": CELL, "compactness": 5.0, "temperature": 4.0}


@lru_cache
def photographs() -> tuple[Tensor, ...]:
    """uint8 [3,H,W], inside the scikit-image wheel: nothing is downloaded."""
    pictures = (data.astronaut(), data.coffee(), data.chelsea(), data.rocket())
    return tuple(torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1))) for picture in pictures)


def picture(index: int, height: int, width: int) -> Tensor:
    """A photograph as float [3,H,W]: small ones scaled down, large ones continued by reflection.

    Enlarging would blur, and so make clustering and components easier than in a photograph of that size.
    """
    image = photographs()[index % len(photographs())].float() / 255
    scale = max(height / image.shape[1], width / image.shape[2])
    if scale < 1:
        image = F.interpolate(image[None], scale_factor=scale, mode="bilinear", antialias=True)[0].clamp(0, 1)
    for dim, size in ((1, height), (2, width)):
        while image.shape[dim] < size:
            image = torch.cat([image, image.flip(dim)], dim)
        image = image.narrow(dim, 0, size)
    return image.contiguous()


@dataclass(frozen=True)
class Scene:
    """A batch of photographs and everything the operators read, each computed when it is first asked for."""

    batch: int
    channels: int
    height: int
    width: int
    device: str

    @property
    def pixels(self) -> int:
        return self.batch * self.height * self.width

    @property
    def cells(self) -> int:
        """Centres, and so leaf capacity, of one image."""
        return -(-self.height // CELL) * -(-self.width // CELL)

    @cached_property
    def images(self) -> Tensor:
        """sRGB [B,3,H,W]."""
        return torch.stack([picture(i, self.height, self.width) for i in range(self.batch)]).to(self.device)

    @cached_property
    def bytes_images(self) -> list[np.ndarray]:
        """uint8 [H,W,3], as the peers take them."""
        return [np.ascontiguousarray((image * 255).byte().permute(1, 2, 0).cpu().numpy()) for image in self.images]

    @cached_property
    def lab(self) -> Tensor:
        return dk.SmoothedLab()(self.images)

    @cached_property
    def features(self) -> Tensor:
        """[B,C,H,W]: CIELAB, and for more channels the CIELAB of pixels further and further away."""
        copies = [self.lab.roll((i, i), (2, 3)) for i in range(-(-self.channels // 3))]
        return torch.cat(copies, 1)[:, : self.channels].contiguous()

    @cached_property
    def clusters(self) -> dk.SoftClusters:
        return dk.soft_cluster(self.features, iterations=5, **CLUSTERING)

    @cached_property
    def hierarchy(self) -> dk.Hierarchy:
        return dk.Tokenizer().hierarchy(self.images)

    @cached_property
    def leaves(self) -> Tensor:
        """int32 [B,H,W]: the tokenizer's own leaves, about one per cell, with outlines that follow the photograph."""
        return self.hierarchy.leaves

    @cached_property
    def moments(self) -> dk.Moments:
        return dk.segment_moments(self.features, self.leaves, num_segments=self.cells)

    @cached_property
    def graph(self) -> dk.RegionGraph:
        return dk.region_graph(self.leaves, num_segments=self.cells)

    @cached_property
    def tree(self) -> dk.MergeTree:
        return dk.merge_tree(self.moments, self.graph.edges, self.graph.lengths)

    @cached_property
    def terms(self) -> tuple[Tensor, Tensor]:
        return dk.criterion_terms(self.tree.moments)

    @cached_property
    def partition(self) -> dk.Partition:
        """A cut: `TOKENS` segments at most, of a few to many thousand pixels."""
        return self.hierarchy.cut(max_tokens=TOKENS)

    @cached_property
    def segments(self) -> Tensor:
        """int32 [B,H,W]: the cut's segments, ragged: without a segment (-1) in the lowest eighth of the image."""
        labels = self.partition.labels.clone()
        labels[:, self.height - self.height // 8 :] = -1
        return labels

    @cached_property
    def boxes(self) -> Tensor:
        return dk.segment_moments(self.images, self.partition.labels, num_segments=TOKENS).box

    @cached_property
    def tokens(self) -> Tensor:
        """[B,K,C] values of segments."""
        return self.random(self.batch, TOKENS, self.channels)

    def random(self, *size: int) -> Tensor:
        return torch.randn(size, generator=torch.Generator().manual_seed(0)).to(self.device)


@lru_cache(maxsize=1)
def scene(batch: int, channels: int, height: int, width: int, device: str) -> Scene:
    """The scene of a case; consecutive cases of one shape share it."""
    return Scene(batch, channels, height, width, device)
