"""The registry: every operator with its shapes, its inputs, its cost and its peers.

To add an operator: a function from `Scene` to `Work` under `@operator(...)`. Its first shape is the one of `-m quick`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

import dhvt_kernels as dk
from dhvt_kernels import reference

from . import costs, peers
from .costs import Cost
from .scene import CELL, CLUSTERING, TOKENS, Scene

FORWARD, BACKWARD = "forward", "forward+backward"
BUDGET = 196
RAGGED_IMAGES = 64
MIN_SIZE = -(-(CELL**2) // 8)


@dataclass(frozen=True)
class Peer:
    """Somebody else's implementation: `make()` returns the callable to time."""

    make: Callable[[], Callable[..., Any]]
    #: Takes the same tensors as ours, on any device, and is differentiable. Otherwise NumPy, on the CPU, forward only.
    tensors: bool = False


@dataclass(frozen=True)
class Work:
    """What a case computes."""

    #: Ours: the differentiable inputs -> outputs.
    call: Callable[..., Any]
    inputs: tuple[Tensor, ...]
    #: Of the forward, and of the backward alone.
    cost: tuple[Cost, Cost]
    peers: Mapping[str, Peer] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """One operator, at one shape, in one direction."""

    operator: str
    build: Callable[[Scene], Work]
    shape: tuple[int, int, int, int]
    direction: str
    #: "cpu" or "cuda": a GPU is measured at shapes of its own.
    device: str
    quick: bool
    #: The reference is left out where a call would take many seconds.
    reference: bool
    #: Whether the reference is measured under torch.compile, too.
    compiled: bool = False

    @property
    def rank(self) -> int:
        """What is to be measured first."""
        return 2 * self.compiled - (self.operator == "tokenizer")

    @property
    def id(self) -> str:
        return f"{self.operator}-{self.direction}-{'x'.join(map(str, self.shape))}"


CASES: list[Case] = []


#: What most operators are measured at on a GPU.
GPU_SHAPES = ("64x3x224x224",)


def operator(
    *shapes: str,
    gpu: tuple[str, ...] = GPU_SHAPES,
    backward: bool = False,
    reference: int = 1 << 24,
    compiled: bool = False,
) -> Callable[[Callable[[Scene], Work]], Callable[[Scene], Work]]:
    """Register a function from a scene to work, at shapes "BxCxHxW".

    `reference`: the most elements, B C H W, that the reference is measured at. `compiled`: at the first shape of a
    device, forward, the reference is measured under torch.compile, too.
    """

    def register(build: Callable[[Scene], Work]) -> Callable[[Scene], Work]:
        for device, texts in (("cpu", shapes), ("cuda", gpu)):
            for number, text in enumerate(texts):
                batch, channels, height, width = shape = tuple(map(int, text.split("x")))
                small = batch * channels * height * width <= reference
                for direction in (FORWARD, BACKWARD)[: 1 + backward]:
                    first = number == 0
                    also = compiled and first and direction == FORWARD
                    CASES.append(Case(build.__name__, build, shape, direction, device, first, small, also))
        return build

    return register


# --- features and soft leaves -----------------------------------------------------------------------------------------


@operator("1x3x224x224", "8x3x224x224", "1x3x512x512", "1x3x2048x2048", backward=True, compiled=True)
def srgb_to_lab(s: Scene) -> Work:
    return Work(
        dk.srgb_to_lab,
        (s.images,),
        costs.srgb_to_lab(s),
        {
            "OpenCV cvtColor": Peer(partial(peers.opencv_lab, s.images)),
            "scikit-image rgb2lab": Peer(partial(peers.skimage_lab, s.images)),
        },
    )


@operator("1x3x512x512", "8x3x224x224", "1x3x2048x2048", backward=True, compiled=True)
def gaussian_blur(s: Scene) -> Work:
    """As the tokenizer smooths; the peers know no missing pixels."""
    sigma = 0.7
    return Work(
        lambda images: dk.gaussian_blur(images, sigma=sigma),
        (s.features,),
        costs.gaussian_blur(s),
        {
            "OpenCV GaussianBlur": Peer(partial(peers.opencv_blur, s.features, sigma)),
            "scipy.ndimage gaussian_filter": Peer(partial(peers.scipy_blur, s.features, sigma)),
        },
    )


def clustering(s: Scene, cell: int, iterations: int) -> Work:
    """Peers get the photograph in bytes, and the same number of cells and iterations."""
    options = CLUSTERING | {"cell": cell, "iterations": iterations}
    gathers = partial(reference.soft_cluster, mask=None, coefficients=None, **options)
    cells = -(-s.height // cell) * -(-s.width // cell)
    return Work(
        partial(dk.soft_cluster, **options),
        (s.features,),
        costs.soft_cluster(s, iterations),
        {
            "PyTorch gathers": Peer(lambda: gathers, tensors=True),
            "fast-slic AVX2": Peer(lambda: peers.fast_slic(s.bytes_images, cells, iterations)),
            "OpenCV SEEDS": Peer(lambda: peers.opencv_seeds(s.bytes_images, cells, iterations)),
            "OpenCV SLIC": Peer(lambda: peers.opencv_slic(s.bytes_images, cell, iterations)),
            "scikit-image SLIC": Peer(lambda: peers.skimage_slic(s.bytes_images, cells, iterations)),
        },
    )


@operator("1x5x480x640", "1x20x480x640", backward=True, reference=1 << 21, gpu=("1x5x480x640", "8x20x512x512"))
def soft_cluster_10(s: Scene) -> Work:
    """As superpixels are usually made: cells of 16 px, 10 iterations."""
    return clustering(s, 16, 10)


@operator(
    "1x3x224x224",
    "8x20x224x224",
    "1x8x512x512",
    "1x32x512x512",
    "1x3x2048x2048",
    backward=True,
    reference=1 << 18,
    gpu=("64x20x224x224", *GPU_SHAPES, "1x3x224x224"),
)
def soft_cluster(s: Scene) -> Work:
    """As the tokenizer does: cells of 8 px, 5 iterations."""
    return clustering(s, CELL, 5)


@operator("1x3x224x224", "1x20x512x512", backward=True, reference=1 << 23, compiled=True)
def soft_assign(s: Scene) -> Work:
    centers, positions, mass, _ = s.clusters
    return Work(
        lambda features, centers, positions: dk.soft_assign(features, centers, positions, mass=mass, **CLUSTERING),
        (s.features, centers, positions),
        costs.soft_assign(s),
    )


@operator("1x3x224x224", "1x20x512x512", backward=True, reference=1 << 23)
def soft_pool(s: Scene) -> Work:
    clusters = s.clusters
    return Work(
        lambda features, values, *centers: dk.soft_pool(
            features, values, clusters._replace(centers=centers[0], positions=centers[1]), **CLUSTERING
        ),
        (s.features, s.features.flip(1), clusters.centers, clusters.positions),
        costs.soft_pool(s, s.channels),
    )


@operator(
    "1x3x512x512", "1x3x224x224", "8x3x224x224", "1x3x2048x2048", reference=1 << 20, gpu=(*GPU_SHAPES, "256x3x224x224")
)
def connected_components(s: Scene) -> Work:
    """Of the hard labels of soft clustering, before the clean-up: many components are a few pixels."""
    labels = s.clusters.labels
    return Work(
        lambda: dk.connected_components(labels),
        (),
        costs.connected_components(s, 0),
        {
            "cc3d": Peer(partial(peers.cc3d_components, labels)),
            "scikit-image label": Peer(partial(peers.skimage_components, labels)),
            "OpenCV, binary": Peer(partial(peers.opencv_components, labels)),
            "scipy.ndimage label, binary": Peer(partial(peers.scipy_components, labels)),
        },
    )


@operator("1x3x512x512", "8x3x224x224", "1x3x2048x2048", reference=1 << 20, gpu=(*GPU_SHAPES, "256x3x224x224"))
def clean_up(s: Scene) -> Work:
    """connected_components as the tokenizer calls it: one component per label, small ones joined by their features."""
    labels, options = s.clusters.labels, {"min_size": MIN_SIZE, "largest_only": True}
    return Work(
        lambda: dk.connected_components(labels, features=s.features, **options),
        (),
        costs.connected_components(s, s.channels),
    )


# --- statistics -------------------------------------------------------------------------------------------------------


@operator(
    "1x3x512x512",
    "1x3x224x224",
    "8x3x224x224",
    "1x8x512x512",
    "1x20x512x512",
    "1x32x512x512",
    "1x3x2048x2048",
    backward=True,
    gpu=(*GPU_SHAPES, "256x3x224x224", "64x32x224x224"),
    compiled=True,
)
def segment_moments(s: Scene) -> Work:
    return _moments(s, s.leaves, s.cells)


@operator("1x3x512x512", backward=True)
def segment_moments_ragged(s: Scene) -> Work:
    return _moments(s, s.segments, TOKENS)


def _moments(s: Scene, labels: Tensor, segments: int) -> Work:
    small = s.pixels * s.channels <= 1 << 20
    slow = {
        "scipy.ndimage mean, variance": Peer(partial(peers.scipy_moments, s.features, labels, segments)),
        "scikit-image regionprops": Peer(partial(peers.skimage_moments, s.features, labels)),
    }
    return Work(
        lambda features: dk.segment_moments(features, labels, num_segments=segments),
        (s.features,),
        costs.segment_moments(s),
        {
            "scatter_reduce x2": Peer(partial(peers.scatter_reduce_variance, labels, segments), tensors=True),
            "index_add, sum only": Peer(partial(peers.index_add, labels, segments), tensors=True),
            "cc3d statistics, no features": Peer(partial(peers.cc3d_statistics, labels)),
            **(slow if small else {}),
        },
    )


@operator("1x3x512x512", "8x20x224x224", backward=True)
def information_criterion(s: Scene) -> Work:
    moments = s.tree.moments
    return Work(
        lambda m2: dk.information_criterion(moments._replace(m2=m2)), (moments.m2,), costs.information_criterion(s)
    )


# --- hierarchy --------------------------------------------------------------------------------------------------------


@operator("1x3x512x512", "8x3x224x224", "1x3x2048x2048")
def region_graph(s: Scene) -> Work:
    return Work(
        lambda: dk.region_graph(s.leaves, num_segments=s.cells),
        (),
        costs.region_graph(s),
        {"cc3d contacts": Peer(partial(peers.cc3d_contacts, s.leaves))},
    )


@operator("1x3x512x512", "1x3x224x224", "1x3x2048x2048", reference=1 << 20)
def merge_best(s: Scene) -> Work:
    return Work(
        lambda: dk.merge_tree(s.moments, s.graph.edges, s.graph.lengths, distance="ward_root", order="best"),
        (),
        costs.merge_tree(s),
    )


@operator("1x3x512x512", "1x3x224x224", "8x20x224x224", "1x3x2048x2048", backward=True, reference=1 << 20)
def merge_tree(s: Scene) -> Work:
    moments, graph = s.moments, s.graph
    edges = graph.edges[0, : int(graph.counts[0])].long()
    weights = (moments.mean[0, edges[:, 0]] - moments.mean[0, edges[:, 1]]).square().sum(-1) + 1e-3
    graph_of_first = (edges, weights, int(edges.max()) + 1)  # higra takes connected graphs alone
    alone = {  # of one image
        "scipy spanning tree": Peer(partial(peers.scipy_spanning_tree, *graph_of_first)),
        "higra quasi-flat zones": Peer(partial(peers.higra_flat_zones, *graph_of_first)),
    }
    return Work(
        lambda mean, m2: dk.merge_tree(moments._replace(mean=mean, m2=m2), graph.edges, graph.lengths),
        (moments.mean, moments.m2),
        costs.merge_tree(s),
        alone if s.batch == 1 else {},
    )


@operator("1x8x512x512", "1x8x224x224", "8x8x224x224", "1x8x2048x2048", backward=True, reference=0)
def merge_pixels(s: Scene) -> Work:
    """The reference takes minutes. The peers compute no statistics."""
    index = torch.arange(s.height * s.width).reshape(s.height, s.width)
    edges = torch.cat(
        [
            torch.stack((a.flatten(), b.flatten()), 1)
            for a, b in ((index[:, :-1], index[:, 1:]), (index[:-1], index[1:]))
        ]
    )
    pixels = s.features[0].flatten(1).T.cpu()
    weights = (pixels[edges[:, 0]] - pixels[edges[:, 1]]).square().sum(-1) + 1e-3
    alone = {  # of one image
        "scipy spanning tree": Peer(partial(peers.scipy_spanning_tree, edges, weights, len(pixels))),
        "higra quasi-flat zones": Peer(partial(peers.higra_flat_zones, edges, weights, len(pixels))),
        "higra canonical BPT": Peer(partial(peers.higra_spanning_tree, edges, weights, len(pixels))),
        "scikit-image felzenszwalb": Peer(partial(peers.skimage_felzenszwalb, s.bytes_images)),
    }
    return Work(
        lambda features: dk.merge_pixels(features, distance="feature"),
        (s.features,),
        costs.merge_pixels(s),
        alone if s.batch == 1 else {},
    )


@operator("1x3x512x512", "8x3x224x224", "1x3x2048x2048", backward=True, reference=1 << 20)
def similarity_pool(s: Scene) -> Work:
    return Work(lambda features: dk.similarity_pool(features, s.tree), (s.moments.mean,), costs.similarity_pool(s))


@operator("1x3x512x512", "8x3x224x224", "1x3x2048x2048", backward=True, reference=1 << 20)
def tree_cut(s: Scene) -> Work:
    """With a budget, which costs up to 32 passes over the tree."""
    tree = s.tree
    return Work(
        lambda likelihood, penalty: dk.tree_cut(likelihood, penalty, tree.parent, tree.round, max_tokens=BUDGET),
        s.terms,
        costs.tree_cut(s),
    )


@operator("1x3x512x512", "8x3x224x224", "1x3x2048x2048", reference=1 << 20)
def scale_set(s: Scene) -> Work:
    """The strengths of every node: all cuts of the tree."""
    terms, tree = s.terms, s.tree
    return Work(lambda: dk.scale_set(*terms, tree.parent, tree.round), (), costs.scale_set(s))


@operator("1x3x512x512", "8x3x224x224", "1x3x2048x2048")
def scale_cut(s: Scene) -> Work:
    """A hundred budgets."""
    lower, _ = dk.scale_set(*s.terms, s.tree.parent, s.tree.round)
    budgets = torch.linspace(1, TOKENS, 100, device=s.device).int()
    zero = torch.zeros(100, device=s.device)
    return Work(
        lambda: dk.scale_cut(
            lower, s.tree.parent, s.tree.round, strength=zero, max_tokens=budgets, num_segments=TOKENS
        ),
        (),
        costs.scale_cut(s, 100),
    )


@operator("1x3x512x512", "8x3x224x224", "1x3x2048x2048")
def saliency(s: Scene) -> Work:
    lower, _ = dk.scale_set(*s.terms, s.tree.parent, s.tree.round)
    return Work(lambda: dk.saliency(s.leaves, lower, s.tree.parent, s.tree.round), (), costs.saliency(s))


@operator("1x3x512x512", "8x3x224x224", "1x3x2048x2048")
def relabel(s: Scene) -> Work:
    """Leaves to segments: how a cut reaches the pixels."""
    table = torch.arange(s.cells, dtype=torch.int32, device=s.device).flip(0).repeat(s.batch, 1)
    return Work(
        lambda: dk.relabel(s.leaves, table),
        (),
        costs.relabel(s),
        {"torch gather": Peer(partial(peers.gather, s.leaves, table), tensors=True)},
    )


@operator("1x3x512x512", "1x3x2048x2048", gpu=())
def trace(s: Scene) -> Work:
    """The segments of the first image: one label map, on the CPU only."""
    labels = s.segments[0]
    return Work(lambda: dk.trace(labels), (), costs.trace(s))


def _picture(s: Scene) -> Tensor:
    """The first image, uint8 [3,H,W]."""
    return (s.images[0] * 255).byte().cpu()


@operator("1x3x512x512", "1x3x2048x2048", gpu=())
def color_sums(s: Scene) -> Work:
    image, labels = _picture(s), s.segments[0]
    return Work(lambda: dk.color_sums(image, labels, num_segments=TOKENS), (), costs.color_sums(s))


def _chains(s: Scene) -> tuple[dk.Arcs, dk.Chains, Callable[[], dk.Chains]]:
    """The arcs of the segments, their points between pixels, and what finds those."""
    image, labels = _picture(s), s.segments[0]
    arcs = dk.trace(labels)
    planes = torch.zeros(TOKENS, 3, 3, dtype=torch.float64)
    planes[..., 0] = dk.segment_pool(image[None].float(), labels[None], num_segments=TOKENS)[0].double()
    find = partial(dk.edge_points, arcs, image, labels, planes=planes, noise=torch.full((TOKENS,), 100.0).double())
    return arcs, find(), find


@operator("1x3x512x512", "1x3x2048x2048", gpu=(), reference=1 << 20)
def simplify(s: Scene) -> Work:
    arcs = dk.trace(s.segments[0])
    return Work(lambda: dk.simplify(arcs, tolerance=1.5), (), costs.chains(2 * len(arcs.points)))


@operator("1x3x512x512", "1x3x2048x2048", gpu=(), reference=1 << 20)
def edge_points(s: Scene) -> Work:
    """On each edge five labels, and four pixels of three bytes; out come two doubles."""
    _, chains, find = _chains(s)
    return Work(find, (), costs.chains(12 * len(chains.points)))


@operator("1x3x512x512", "1x3x2048x2048", gpu=(), reference=1 << 20)
def fit_curves(s: Scene) -> Work:
    chains = _chains(s)[1]
    return Work(lambda: dk.fit_curves(chains, tolerance=0.5), (), costs.chains(4 * len(chains.points)))


@operator("1x3x512x512", "1x3x2048x2048", gpu=(), reference=1 << 20)
def svg_paths(s: Scene) -> Work:
    """Curves of one tenth of a pixel, with other ways for what is hidden."""
    arcs, chains, _ = _chains(s)
    fitted = dk.fit_curves(chains, tolerance=0.5)
    opaque, size = torch.ones(TOKENS, dtype=torch.bool), tuple(s.segments.shape[1:])
    call = partial(dk.svg_paths, fitted.points, fitted.offsets, arcs, opaque=opaque, curves=True, scale=10, size=size)
    return Work(call, (), costs.chains(4 * len(fitted.points)))


# --- tokens -----------------------------------------------------------------------------------------------------------


def _pool(s: Scene, reduce: str) -> Work:
    labels = s.segments
    others = {}
    if reduce != "max":
        others["index_add, sum only"] = Peer(partial(peers.index_add, labels, TOKENS), tensors=True)
    scatter = partial(peers.scatter_reduce, labels, TOKENS, "amax" if reduce == "max" else reduce)
    return Work(
        lambda features: dk.segment_pool(features, labels, num_segments=TOKENS, reduce=reduce),
        (s.features,),
        costs.segment_pool(s),
        {"scatter_reduce": Peer(scatter, tensors=True), **others},
    )


@operator(
    "1x8x512x512",
    "8x20x224x224",
    "1x32x512x512",
    "1x3x2048x2048",
    backward=True,
    gpu=(*GPU_SHAPES, "256x3x224x224", "64x32x224x224"),
    compiled=True,
)
def segment_pool_mean(s: Scene) -> Work:
    return _pool(s, "mean")


@operator("1x8x512x512", "8x20x224x224", backward=True)
def segment_pool_max(s: Scene) -> Work:
    return _pool(s, "max")


@operator("1x20x512x512", backward=True)
def segment_pool_weighted(s: Scene) -> Work:
    labels, weights = s.segments, s.random(s.batch, s.height, s.width).sigmoid()
    return Work(
        lambda features, weights: dk.segment_pool(features, labels, num_segments=TOKENS, weights=weights),
        (s.features, weights),
        costs.segment_pool(s, weighted=True),
    )


@operator("1x32x512x512", "8x3x224x224", backward=True)
def segment_gather(s: Scene) -> Work:
    labels = s.segments
    return Work(
        lambda values: dk.segment_gather(values, labels),
        (s.tokens,),
        costs.segment_pool(s),
        {"indexing": Peer(partial(peers.index, labels, TOKENS), tensors=True)},
    )


@operator("1x384x1x14518", backward=True, gpu=("1x384x1x14518",))
def ragged_pool(s: Scene) -> Work:
    """14,518 tokens of 384 numbers, pooled over 64 images of unequal length: segment_pool of an image of one row."""
    rows, images = s.width, RAGGED_IMAGES
    generator = torch.Generator().manual_seed(0)
    ends = torch.randperm(rows - 1, generator=generator)[: images - 1].sort().values + 1
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), ends, torch.tensor([rows])]).to(s.device)
    owner = torch.repeat_interleave(torch.arange(images, device=s.device), offsets.diff())
    labels = owner.int().view(1, 1, rows)

    def call(values: Tensor) -> Tensor:
        return dk.segment_pool(values.T[None, :, None], labels, num_segments=images)

    return Work(
        call,
        (s.random(rows, s.channels),),
        costs.ragged_pool(rows, s.channels),
        {
            "embedding_bag": Peer(partial(peers.embedding_bag, offsets), tensors=True),
            "segment_reduce": Peer(partial(peers.segment_reduce, offsets), tensors=True),
            "index_add, sum only": Peer(partial(peers.index_add_rows, owner, images), tensors=True),
        },
    )


@operator(
    "1x3x512x512", "8x3x224x224", "1x3x2048x2048", backward=True, gpu=(*GPU_SHAPES, "256x3x224x224"), compiled=True
)
def mean_inject(s: Scene) -> Work:
    labels = s.segments
    return Work(
        lambda image, tokens: dk.mean_inject(image, tokens, labels),
        (s.features, s.tokens),
        (costs.pixelwise(s, 2 * s.channels + 1), costs.pixelwise(s, 2 * s.channels + 1)),
        {"scatter_reduce, indexing": Peer(partial(peers.scatter_inject, labels, TOKENS), tensors=True)},
    )


@operator("8x3x224x224", "1x3x512x512", backward=True, compiled=True)
def token_patches(s: Scene) -> Work:
    """256 boxes per image to 16 x 16, with masks; the peers make no masks."""
    labels, boxes, size = s.partition.labels, s.boxes, 16
    return Work(
        lambda image: dk.token_patches(image, labels, boxes, size=size)[0],
        (s.images,),
        costs.token_patches(s, size),
        {
            "torchvision roi_align": Peer(partial(peers.roi_align, boxes, size), tensors=True),
            "grid_sample": Peer(partial(peers.grid_sample, boxes, size), tensors=True),
        },
    )


@operator("8x3x224x224", "1x3x512x512")
def position_histogram(s: Scene) -> Work:
    labels, grid = s.segments, 14
    return Work(
        lambda: dk.position_histogram(labels, num_segments=TOKENS, grid=(grid, grid)),
        (),
        costs.position_histogram(s, grid * grid),
        {"bincount, counts only": Peer(partial(peers.bincount, labels, TOKENS, grid))},
    )


def _counts(s: Scene) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(TOKENS // 4, TOKENS, (s.batch,), generator=generator, dtype=torch.int32).to(s.device)


@operator("8x384x1x1", backward=True, gpu=("64x384x1x1",))
def pack(s: Scene) -> Work:
    counts = _counts(s)
    total = int(counts.sum())
    return Work(
        lambda values: dk.pack(values, counts, total=total)[0],
        (s.tokens,),
        costs.rows_copied(total, s.channels),
        {"mask indexing": Peer(partial(peers.mask_pack, counts, TOKENS), tensors=True)},
    )


@operator("8x384x1x1", backward=True, gpu=("64x384x1x1",))
def unpack(s: Scene) -> Work:
    counts = _counts(s)
    values, ends = dk.pack(s.tokens, counts)
    longest = int(counts.max())
    return Work(
        lambda values: dk.unpack(values, ends, length=longest),
        (values,),
        costs.rows_copied(len(values), s.channels),
        {"pad_sequence": Peer(partial(peers.pad_sequence, counts), tensors=True)},
    )


@operator("8x384x1x1", backward=True, gpu=("64x384x1x1",))
def pad(s: Scene) -> Work:
    counts, length = _counts(s), TOKENS + 64
    return Work(
        lambda values: dk.pad(values, counts, length=length)[0],
        (s.tokens,),
        costs.rows_copied(s.batch * length, s.channels),
        {"pad and multiply": Peer(partial(peers.mask_pad, counts, length), tensors=True)},
    )


# --- the whole tokenizer ----------------------------------------------------------------------------------------------


@operator(
    "1x3x224x224",
    "8x3x224x224",
    "1x3x512x512",
    "1x3x1024x1024",
    "1x3x2048x2048",
    "1x3x4096x4096",
    reference=1 << 18,
    gpu=("64x3x224x224", "1x3x224x224", "256x3x224x224", "1x3x512x512", "1x3x4096x4096"),
)
def tokenizer(s: Scene) -> Work:
    """Soft leaves, from the sRGB tensor to the partition; its growth from 224 to 4096 px is a picture of its own."""
    model = dk.Tokenizer(max_tokens=BUDGET)
    return Work(lambda: model(s.images), (), costs.tokenizer(s))


@operator("1x8x224x224", "1x8x512x512", "1x8x2048x2048", reference=0, gpu=("1x8x224x224", "64x8x224x224"))
def tokenizer_pixels(s: Scene) -> Work:
    """Pixel leaves, features given, merged as published; the reference takes many minutes."""
    model = dk.Tokenizer(torch.nn.Identity(), leaves="pixels", distance="feature")
    return Work(lambda: model(s.features), (), costs.tokenizer(s))
