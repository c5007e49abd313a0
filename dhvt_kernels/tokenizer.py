"""Tokenizer: images to partitions."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import dht
from ._checks import FLOATING, check_choice, check_float, check_int, check_tensors
from .features import SmoothedLab
from .hierarchy import Hierarchy, Selection
from .injection import MeanInjection
from .ops import (
    DISTANCES,
    connected_components,
    merge_pixels,
    merge_tree,
    region_graph,
    segment_moments,
    similarity_pool,
    soft_cluster,
)
from .partition import Partition, SoftLeaves

LEAVES = ("soft", "pixels")
WEIGHTS = ("mean", "similarity")


class Tokenizer(nn.Module):
    """Adaptive tokens: partitions images into the segments that an information criterion or a budget asks for.

    Features, leaves, merging to a binary tree per image, and a cut of that tree. The defaults are the recipe of
    docs/design.md.

    Args:
        features: module from images to features `[B,C,H,W]` (any float dtype and scale; `noise`, `merge_noise`,
            `compactness` and `temperature` are in its units). None: smoothed CIELAB in raw units, of sRGB images
            `[B,3,H,W]` in [0, 1] or uint8.
        leaves: `"soft"`: soft superpixels, made 4-connected; `"pixels"`: the pixels themselves (the published method).
        cell: side of a soft superpixel's cell, pixels.
        iterations: of soft clustering.
        compactness: weight of space in soft clustering, in units of the features.
        temperature: of the soft assignment, in squared units of the features.
        smoothing: sigma of the default features, pixels.
        distance: of merging, one of those of `merge_tree`.
        merge_compactness: weight of a bounding-box term added to that distance (see `merge_tree`).
        merge_noise: variance of noise in the distance `"contrast"`, in squared units of the features. None: `noise`.
        depth: None merges to the root; d keeps the first d - 1 rounds (1: the leaves are the tokens).
        weights: of the means that `Partition.features` and `Hierarchy.node_features` hold: `"mean"`, all pixels
            alike, or `"similarity"`, up the tree, as published (see `similarity_pool`). Distances and criteria always
            go by the plain mean.
        criterion: `"bic"`, `"aic"`, `"aicc"`, `"hqc"`, `"cic"`, `"mdl"`, or `"fixed"`: the number of tokens is
            `max_tokens`, or the nearest below that raising the strength from 0 passes.
        noise: variance of noise, texture and quantization, added to every variance.
        pixel_correlation: neighbouring pixels are correlated; so many are worth one sample.
        strength: weight of the penalty.
        max_tokens: budget: the most tokens of an image.
        select: `"optimal"`: the cut of least cost; `"greedy"`: top-down splitting.
        lookahead: generations that greedy splitting looks ahead; 1 is the textbook rule.
        min_gain: cost that a greedy split must save.
        selection_temperature: of the relaxed selection that the gradients see, in units of the criterion.
        grad: gradients of soft clustering through `"full"`, all iterations, or `"last"`.
        check_finite: refuse images and features with NaN or infinity (waits for the device). Otherwise they are
            confined to the segments that hold them.

    Raises:
        ValueError: a value out of range.

    Note:
        Gradients reach the features through `Partition.pool`, `Partition.features`, `Partition.soft_pool` and
        `Partition.expected_tokens`.
        Deterministic, with the same bits for any number of threads. All shapes are static: nothing waits for the
        device. `torch.compile` handles any batch size with one compilation, but compiles again for each height and
        width, which set the capacities.

    Example:
        >>> import torch, dhvt_kernels as dk
        >>> tokenizer = dk.Tokenizer(max_tokens=16)
        >>> partition = tokenizer(torch.rand(2, 3, 64, 64))
        >>> partition.labels.shape, bool((partition.counts <= 16).all())
        (torch.Size([2, 64, 64]), True)
    """

    def __init__(
        self,
        features: nn.Module | None = None,
        *,
        leaves: str = "soft",
        cell: int = 8,
        iterations: int = 5,
        compactness: float = 5.0,
        temperature: float = 4.0,
        smoothing: float = 0.7,
        distance: str = "contrast",
        merge_compactness: float = 0.0,
        merge_noise: float | None = None,
        depth: int | None = None,
        weights: str = "mean",
        criterion: str = "bic",
        noise: float = 16.0,
        pixel_correlation: float = 4.0,
        strength: float = 1.0,
        max_tokens: int | None = None,
        select: str = "optimal",
        lookahead: int = 1,
        min_gain: float = 0.0,
        selection_temperature: float = 16.0,
        grad: str = "full",
        check_finite: bool = False,
    ) -> None:
        super().__init__()
        if features is not None and not isinstance(features, nn.Module):
            raise TypeError(f"features: expected an nn.Module or None; found {type(features).__name__}")
        check_float("smoothing", smoothing, minimum=0)
        self.features = SmoothedLab(smoothing) if features is None else features
        self.leaves = check_choice("leaves", leaves, LEAVES)
        self.cell = check_int("cell", cell, 1)
        self.iterations = check_int("iterations", iterations, 0)
        self.compactness = check_float("compactness", compactness, minimum=0)
        self.temperature = check_float("temperature", temperature, above=0)
        self.distance = check_choice("distance", distance, DISTANCES)
        self.merge_compactness = check_float("merge_compactness", merge_compactness, minimum=0)
        self.depth = None if depth is None else check_int("depth", depth, 1)
        self.weights = check_choice("weights", weights, WEIGHTS)
        self.grad = check_choice("grad", grad, ("full", "last"))
        self.check_finite = check_finite
        self.selection = Selection(
            criterion=criterion,
            noise=noise,
            pixel_correlation=pixel_correlation,
            strength=strength,
            max_tokens=max_tokens,
            select=select,
            lookahead=lookahead,
            min_gain=min_gain,
            selection_temperature=selection_temperature,
        )
        self.merge_noise = (
            self.selection.noise if merge_noise is None else check_float("merge_noise", merge_noise, above=0)
        )
        #: Writes the features of segments into images, `mean_inject(images, partition)`; None but with `from_dht`.
        self.mean_inject: MeanInjection | None = None

    @classmethod
    def from_dht(cls, state_dict: Mapping[str, Tensor] | str | os.PathLike[str], **changes: Any) -> "Tokenizer":
        """The tokenizer that Aasan et al. (2025) released (github.com/dsb-ifi/dHT, `assets/r2v/r2v.pth`).

        Args:
            state_dict: of that model, or the path of one (read with `weights_only=True`).
            **changes: any argument of `Tokenizer` but `features`. The others are the released model's, as far as this
                package has them: pixel leaves, distance `"feature"` with compactness, means weighted by similarity,
                AICc. docs/dht.md lists every difference.

        Returns:
            A tokenizer in evaluation mode, of images in [0, 1] or uint8 of any size. `features` is its encoder, and
            `mean_inject(images, partition)` its mean injection. `Partition.token_patches` extracts patches.

        Raises:
            TypeError: neither a mapping of tensors nor a path; an unknown argument.
            ValueError: missing or unexpected keys, or other shapes; a value out of range.
        """
        encoder, injection = dht.load(state_dict)
        channels = injection.linear.in_features
        tokenizer = cls(encoder, **{**dht.options(channels), **changes})
        tokenizer.mean_inject = injection
        return tokenizer.eval()

    def forward(self, images: Tensor, mask: Tensor | None = None) -> Partition:
        """Partition images: `self.hierarchy(images, mask).cut()`.

        Args:
            images: `[B,3,H,W]` sRGB, float in [0, 1] or uint8 (or what the `features` module takes).
            mask: bool `[B,H,W]`, False for pixels that belong to no image: the padding of a batch of images of
                different size (see `pad_images`). With pixel leaves every 4-connected part of the mask is at least
                one segment; soft leaves may reach across a gap, so that small parts share a segment.

        Returns:
            `Partition`; its labels are -1 outside the mask.
        """
        return self.hierarchy(images, mask).cut()

    def hierarchy(self, images: Tensor, mask: Tensor | None = None) -> Hierarchy:
        """Build the tree that every budget is cut from; arguments as in `forward`."""
        self._check_images(images, mask)
        if isinstance(self.features, SmoothedLab):
            features = self.features(images, mask)
        else:
            features = self.features(images)
        self._check_features(features, images)
        soft = None
        if self.leaves == "pixels":
            leaves = _pixel_index(features, mask)
            tree = merge_pixels(
                features,
                mask=mask,
                distance=self.distance,
                compactness=self.merge_compactness,
                depth=self.depth,
                noise=self.merge_noise,
            )
        else:
            leaves, capacity, soft = self._leaves(features, mask)
            graph = region_graph(leaves, num_segments=capacity)
            tree = merge_tree(
                segment_moments(features, leaves, num_segments=capacity),
                graph.edges,
                graph.lengths,
                distance=self.distance,
                compactness=self.merge_compactness,
                depth=self.depth,
                noise=self.merge_noise,
            )
        node_features = tree.moments.mean
        if self.weights == "similarity":
            node_features = similarity_pool(node_features[:, : (node_features.shape[1] + 1) // 2], tree)
        complete = self.depth is None and mask is None
        return Hierarchy(leaves, tree, self.selection, complete, node_features=node_features, soft=soft)

    def _leaves(self, features: Tensor, mask: Tensor | None) -> tuple[Tensor, int, SoftLeaves]:
        """Leaf of each pixel `[B,H,W]`, their capacity, and the soft superpixels behind them."""
        clusters = soft_cluster(
            features,
            cell=self.cell,
            iterations=self.iterations,
            compactness=self.compactness,
            temperature=self.temperature,
            grad=self.grad,
            mask=mask,
        )
        soft = SoftLeaves(features, clusters, self.cell, self.compactness, self.temperature, mask)
        components = connected_components(
            clusters.labels, features=features.detach(), min_size=-(-(self.cell**2) // 8), largest_only=True
        )
        return components.labels, clusters.mass.shape[1], soft

    def _check_images(self, images: Tensor, mask: Tensor | None) -> None:
        if not isinstance(images, Tensor):
            raise TypeError(f"images: expected a tensor [B,C,H,W]; found {type(images).__name__}")
        shape = list(images.shape)
        if images.dim() != 4:
            raise ValueError(f"images: expected [B,C,H,W]; found {shape}")
        if 0 in shape[1:]:
            raise ValueError(f"images: expected [B,C,H,W] with C, H, W >= 1; found {shape}")
        check_tensors(
            images=(images, "B C H W", (torch.uint8, *FLOATING)),
            mask=(mask, "B H W?", torch.bool),
        )
        if self.check_finite and images.is_floating_point() and not bool(images.isfinite().all()):
            raise ValueError("images: expected finite values; found NaN or infinity")

    def _check_features(self, features: Tensor, images: Tensor) -> None:
        expected = [images.shape[0], *images.shape[2:]]
        if not isinstance(features, Tensor) or not features.is_floating_point() or features.dim() != 4:
            raise TypeError(f"features: expected the module to return a floating tensor [B,C,H,W]; found {features!r}")
        if [features.shape[0], *features.shape[2:]] != expected or features.shape[1] == 0:
            raise ValueError(
                f"features: expected the module to return [B,C,H,W] with B,H,W = {expected}; "
                f"found {list(features.shape)}"
            )
        if self.check_finite and not bool(features.isfinite().all()):
            raise ValueError("features: expected finite values; found NaN or infinity")

    def extra_repr(self) -> str:
        names = ("leaves", "cell", "iterations", "compactness", "temperature", "distance", "depth", "weights", "grad")
        return ", ".join([*(f"{name}={getattr(self, name)!r}" for name in names), repr(self.selection)])


def _pixel_index(features: Tensor, mask: Tensor | None) -> Tensor:
    """Number `y W + x` of each pixel, int32 `[B,H,W]`; -1 outside the mask."""
    batch, _, height, width = features.shape
    index = torch.arange(height * width, dtype=torch.int32, device=features.device).reshape(1, height, width)
    return index.repeat(batch, 1, 1) if mask is None else torch.where(mask, index, -1)


def pad_images(images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Batch images of different size: zeros at the right and at the bottom, and the mask that tells them from pixels.

    Args:
        images: tensors `[C,H_i,W_i]` of one dtype and one number of channels; at least one.

    Returns:
        `(images [B,C,H,W], mask bool [B,H,W])` with H and W the largest.

    Raises:
        TypeError: not tensors.
        ValueError: no images, or channels, dtypes or dimensions that differ.

    Example:
        >>> import torch, dhvt_kernels as dk
        >>> images, mask = dk.pad_images([torch.rand(3, 20, 30), torch.rand(3, 40, 10)])
        >>> images.shape, mask.sum((1, 2)).tolist()
        (torch.Size([2, 3, 40, 30]), [600, 400])
    """
    if len(images) == 0:
        raise ValueError("images: expected at least one; found none")
    if not all(isinstance(image, Tensor) for image in images):
        raise TypeError(f"images: expected tensors [C,H,W]; found {[type(image).__name__ for image in images]}")
    if any(image.dim() != 3 or image.shape[0] != images[0].shape[0] for image in images):
        raise ValueError(f"images: expected [C,H,W] with one C; found {[list(image.shape) for image in images]}")
    if any(image.dtype != images[0].dtype or image.device != images[0].device for image in images):
        raise ValueError(f"images: expected one dtype and device; found {[str(image.dtype) for image in images]}")
    height, width = max(image.shape[1] for image in images), max(image.shape[2] for image in images)
    pads = [(0, width - image.shape[2], 0, height - image.shape[1]) for image in images]
    batch = torch.stack([F.pad(image, pad) for image, pad in zip(images, pads, strict=True)])
    ones = [image.new_ones(image.shape[1:], dtype=torch.bool) for image in images]
    return batch, torch.stack([F.pad(one, pad) for one, pad in zip(ones, pads, strict=True)])
