"""What else computes the same, or nearly the same: made ready outside the timing, timed as it is used.

Each function takes the inputs of a case and returns a callable. Those with arguments are differentiable tensor
functions of the operator's inputs, and run on every device; those without run on NumPy arrays on the CPU. A package
that is missing raises ModuleNotFoundError here.
"""

import contextlib
import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

#: Module, and how it is installed.
PACKAGES = {
    "cc3d": "connected-components-3d",
    "cv2": "opencv-contrib-python-headless",
    "fast_slic": "'cython<3' setuptools wheel, then --no-build-isolation fast-slic",
    "higra": "higra",
    "scipy": "scipy",
    "skimage": "scikit-image",
    "torchvision": "--no-deps torchvision==0.28.0",
}


def package(name: str) -> ModuleType:
    """A peer's module, or ModuleNotFoundError with one clear line."""
    if name.startswith("torchvision"):
        _declare_nms()
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError) as error:  # built for another torch or NumPy counts as missing, too
        root = name.partition(".")[0]
        raise ModuleNotFoundError(f"{root} is missing (pip install {PACKAGES[root]}): {error}", name=root) from error


def _declare_nms() -> None:
    """torchvision's wheel needs its own operators declared where it is not linked against this torch."""
    for operator in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, operator):
            torch.library.define(f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou) -> Tensor")


def set_threads(threads: int) -> None:
    """Of torch, and of the peers that have a switch."""
    torch.set_num_threads(threads)
    with contextlib.suppress(ModuleNotFoundError):
        package("cv2").setNumThreads(threads)


# --- superpixels ------------------------------------------------------------------------------------------------------


def fast_slic(images: list[np.ndarray], segments: int, iterations: int) -> Callable[[], Any]:
    package("fast_slic")
    kind = package("fast_slic.avx2").SlicAvx2
    threads = torch.get_num_threads()
    return lambda: [kind(num_components=segments, num_threads=threads).iterate(image, iterations) for image in images]


def opencv_slic(images: list[np.ndarray], cell: int, iterations: int) -> Callable[[], Any]:
    module = package("cv2").ximgproc

    def run() -> None:
        for image in images:
            slic = module.createSuperpixelSLIC(image, module.SLIC, cell, 10.0)
            slic.iterate(iterations)
            slic.getLabels()

    return run


def opencv_seeds(images: list[np.ndarray], segments: int, iterations: int) -> Callable[[], Any]:
    module = package("cv2").ximgproc

    def run() -> None:
        for image in images:
            seeds = module.createSuperpixelSEEDS(image.shape[1], image.shape[0], 3, segments, 2)
            seeds.iterate(image, iterations)
            seeds.getLabels()

    return run


def skimage_slic(images: list[np.ndarray], segments: int, iterations: int) -> Callable[[], Any]:
    slic = package("skimage.segmentation").slic
    return lambda: [slic(image, segments, max_num_iter=iterations) for image in images]


# --- colour -----------------------------------------------------------------------------------------------------------


def skimage_lab(images: Tensor) -> Callable[[], Any]:
    convert = package("skimage.color").rgb2lab
    arrays = images.permute(0, 2, 3, 1).contiguous().numpy()
    return lambda: convert(arrays)


def opencv_lab(images: Tensor) -> Callable[[], Any]:
    cv2 = package("cv2")
    arrays = images.permute(0, 2, 3, 1).contiguous().numpy()
    return lambda: [cv2.cvtColor(array, cv2.COLOR_RGB2LAB) for array in arrays]


def opencv_blur(images: Tensor, sigma: float) -> Callable[[], Any]:
    cv2 = package("cv2")
    side = 2 * int(4 * sigma + 0.5) + 1
    arrays = images.permute(0, 2, 3, 1).contiguous().numpy()
    return lambda: [cv2.GaussianBlur(array, (side, side), sigma, borderType=cv2.BORDER_REFLECT) for array in arrays]


def scipy_blur(images: Tensor, sigma: float) -> Callable[[], Any]:
    smooth = package("scipy.ndimage").gaussian_filter
    array = images.numpy()
    return lambda: smooth(array, sigma, axes=(2, 3))


# --- connected components ---------------------------------------------------------------------------------------------


def _maps(labels: Tensor) -> list[np.ndarray]:
    """The label maps one by one, from 1: 0 is background elsewhere."""
    return list((labels + 1).cpu().numpy().astype(np.uint32))


def cc3d_components(labels: Tensor) -> Callable[[], Any]:
    find = package("cc3d").connected_components
    maps = _maps(labels)
    return lambda: [find(array, connectivity=4) for array in maps]


def skimage_components(labels: Tensor) -> Callable[[], Any]:
    find = package("skimage.measure").label
    maps = _maps(labels)
    return lambda: [find(array, background=0, connectivity=1) for array in maps]


def scipy_components(labels: Tensor) -> Callable[[], Any]:
    """Of a binary image, which is all it does: every second label."""
    find = package("scipy.ndimage").label
    maps = _maps(labels)
    return lambda: [find(array % 2) for array in maps]


def opencv_components(labels: Tensor) -> Callable[[], Any]:
    """Of a binary image, which is all it does: every second label."""
    find = package("cv2").connectedComponents
    masks = [(array % 2).astype(np.uint8) for array in _maps(labels)]
    return lambda: [find(mask, connectivity=4) for mask in masks]


# --- reductions over a label map --------------------------------------------------------------------------------------


def inside(labels: Tensor, segments: int) -> Tensor:
    """int64 [B,H W]: the segment of each pixel, the row K of a table [K + 1] where there is none."""
    return torch.where((labels >= 0) & (labels < segments), labels, segments).long().flatten(1)


# [B,C,H W] is scattered as it lies: with 512 x 512 x 3 that is twice as fast as scattering rows [B H W,C].
def index_add(labels: Tensor, segments: int) -> Callable[..., Any]:
    """The sum alone, image by image."""
    places = list(inside(labels, segments))

    def run(features: Tensor) -> list[Tensor]:
        table = features.new_zeros(features.shape[1], segments + 1)
        return [table.index_add(1, place, image.flatten(1)) for place, image in zip(places, features, strict=True)]

    return run


def scatter_reduce(labels: Tensor, segments: int, reduce: str = "mean") -> Callable[..., Any]:
    place = inside(labels, segments)[:, None]

    def run(features: Tensor) -> Tensor:
        values = features.flatten(2)
        table = features.new_zeros(*features.shape[:2], segments + 1)
        return table.scatter_reduce(2, place.expand_as(values), values, reduce, include_self=False)

    return run


def scatter_reduce_variance(labels: Tensor, segments: int) -> Callable[..., Any]:
    """Mean and variance in two passes, the cheapest way: mean of f, mean of f^2."""
    mean = scatter_reduce(labels, segments)

    def run(features: Tensor) -> tuple[Tensor, Tensor]:
        first = mean(features)
        return first, mean(features.square()) - first.square()

    return run


def scipy_moments(features: Tensor, labels: Tensor, segments: int) -> Callable[[], Any]:
    ndimage = package("scipy.ndimage")
    planes, maps, index = features.cpu().numpy(), labels.cpu().numpy(), np.arange(segments)

    def run() -> None:
        with np.errstate(invalid="ignore"):  # segments without pixels
            for image, array in zip(planes, maps, strict=True):
                for plane in image:
                    ndimage.mean(plane, array, index)
                    ndimage.variance(plane, array, index)

    return run


def skimage_moments(features: Tensor, labels: Tensor) -> Callable[[], Any]:
    table = package("skimage.measure").regionprops_table
    images, maps = features.permute(0, 2, 3, 1).contiguous().numpy(), (labels + 1).numpy()
    properties = ("area", "bbox", "centroid", "intensity_mean", "intensity_std")
    return lambda: [table(array, image, properties) for array, image in zip(maps, images, strict=True)]


def cc3d_statistics(labels: Tensor) -> Callable[[], Any]:
    """Counts, boxes and centroids alone: no features."""
    statistics = package("cc3d").statistics
    maps = _maps(labels)
    return lambda: [statistics(array) for array in maps]


def cc3d_contacts(labels: Tensor) -> Callable[[], Any]:
    contacts = package("cc3d").contacts
    maps = _maps(labels)
    return lambda: [contacts(array, connectivity=4) for array in maps]


def index(labels: Tensor, segments: int) -> Callable[..., Any]:
    """Values written back to the pixels by indexing, -1 reading a row of zeros."""
    place = torch.where((labels >= 0) & (labels < segments), labels, segments).long()
    images = torch.arange(len(labels), device=labels.device)[:, None, None]
    return lambda values: torch.nn.functional.pad(values, (0, 0, 0, 1))[images, place].permute(0, 3, 1, 2)


def gather(labels: Tensor, table: Tensor) -> Callable[[], Any]:
    """With indices of 64 bits ready: gather takes no others."""
    place = labels.flatten(1).long()
    return lambda: table.gather(1, place).view_as(labels)


def scatter_inject(labels: Tensor, segments: int) -> Callable[..., Any]:
    mean = scatter_reduce(labels, segments)
    place = index(labels, segments)

    def run(image: Tensor, tokens: Tensor) -> Tensor:
        means = mean(image)[..., :segments].transpose(1, 2)
        return image + place(tokens - means)

    return run


def bincount(labels: Tensor, segments: int, grid: int) -> Callable[[], Any]:
    height, width = labels.shape[1:]
    row = torch.arange(height, device=labels.device)[:, None] * grid // height
    column = torch.arange(width, device=labels.device) * grid // width
    images = torch.arange(len(labels), device=labels.device)[:, None] * (segments + 1)
    place = ((inside(labels, segments) + images) * grid * grid + (row * grid + column).flatten()).flatten()
    return lambda: torch.bincount(place, minlength=len(labels) * (segments + 1) * grid * grid)


# --- ragged rows ------------------------------------------------------------------------------------------------------


def embedding_bag(offsets: Tensor) -> Callable[..., Any]:
    place, starts = torch.arange(int(offsets[-1]), device=offsets.device), offsets[:-1]
    return lambda values: torch.nn.functional.embedding_bag(place, values, starts, mode="mean")


def segment_reduce(offsets: Tensor) -> Callable[..., Any]:
    return lambda values: torch.segment_reduce(values, "mean", offsets=offsets, axis=0)


def index_add_rows(labels: Tensor, segments: int) -> Callable[..., Any]:
    return lambda values: values.new_zeros(segments, values.shape[1]).index_add(0, labels, values)


# --- trees and patches ------------------------------------------------------------------------------------------------


def scipy_spanning_tree(edges: Tensor, weights: Tensor, vertices: int) -> Callable[[], Any]:
    """The minimum spanning tree of the first image, without statistics."""
    tree = package("scipy.sparse.csgraph").minimum_spanning_tree
    (u, v), data = edges.T.cpu().numpy(), weights.cpu().numpy()
    graph = package("scipy.sparse").csr_array((data, (u, v)), shape=(vertices, vertices))
    return lambda: tree(graph)


def higra_flat_zones(edges: Tensor, weights: Tensor, vertices: int) -> Callable[[], Any]:
    """The hierarchy of the first image by fixed edge weights, without statistics."""
    higra = package("higra")
    graph = higra.UndirectedGraph(vertices)
    (u, v), data = edges.T.cpu().numpy(), weights.cpu().numpy()
    graph.add_edges(u, v)
    return lambda: higra.quasi_flat_zone_hierarchy(graph, data)


def higra_spanning_tree(edges: Tensor, weights: Tensor, vertices: int) -> Callable[[], Any]:
    """The binary tree of the minimum spanning tree of the first image, without statistics."""
    higra = package("higra")
    graph = higra.UndirectedGraph(vertices)
    (u, v), data = edges.T.cpu().numpy(), weights.cpu().numpy()
    graph.add_edges(u, v)
    return lambda: higra.bpt_canonical(graph, data)


def skimage_felzenszwalb(images: list[np.ndarray]) -> Callable[[], Any]:
    """One partition of each image, by its colours, without statistics."""
    segment = package("skimage.segmentation").felzenszwalb
    return lambda: [segment(image) for image in images]


def roi_align(boxes: Tensor, size: int) -> Callable[..., Any]:
    """One bilinear sample per output, without masks."""
    align = package("torchvision.ops").roi_align
    regions = list(boxes[..., [1, 0, 3, 2]].float())
    return lambda image: align(image, regions, size, sampling_ratio=1)


def grid_sample(boxes: Tensor, size: int) -> Callable[..., Any]:
    """All boxes of an image in one call, without masks."""
    step = torch.linspace(0, 1, size, device=boxes.device)
    low, high = boxes[..., :2].float(), boxes[..., 2:].float()
    place = low[..., None] + (high - low)[..., None] * step  # [B,K,2,P]

    def run(image: Tensor) -> Tensor:
        extent = image.new_tensor(image.shape[2:]).sub(1)[:, None]
        y, x = (2 * place / extent - 1).unbind(2)
        grid = torch.stack([x[:, :, None, :].expand(-1, -1, size, -1), y[..., None].expand(-1, -1, -1, size)], -1)
        return torch.nn.functional.grid_sample(image, grid.flatten(1, 2), align_corners=True)

    return run


# --- padding ----------------------------------------------------------------------------------------------------------


def mask_pack(counts: Tensor, length: int) -> Callable[..., Any]:
    real = torch.arange(length, device=counts.device) < counts[:, None]
    return lambda values: values[real]


def pad_sequence(counts: Tensor) -> Callable[..., Any]:
    sizes = counts.tolist()
    return lambda values: torch.nn.utils.rnn.pad_sequence(list(values.split(sizes)), batch_first=True)


def mask_pad(counts: Tensor, length: int) -> Callable[..., Any]:
    def run(values: Tensor) -> tuple[Tensor, Tensor]:
        real = torch.arange(length, device=counts.device) < counts[:, None]
        padded = torch.nn.functional.pad(values, (0, 0, 0, length - values.shape[1]))
        return padded * real[..., None], real

    return run
