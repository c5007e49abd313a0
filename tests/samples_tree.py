"""Arguments for the operators on trees; see samples.py."""

import torch
from torch import Tensor

from dhvt_kernels._checks import accumulation_dtype
from dhvt_kernels._schema import ops

DISTANCES = ("ward_length", "ward_root", "ward", "feature", "contrast")


def pixel_edges(batch: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The 4-neighbour graph of the pixels, in raster order: edges [B,E,2] and lengths [B,E]."""
    index = torch.arange(height * width, dtype=torch.int32).reshape(height, width)
    right = torch.stack((index[:, :-1].flatten(), index[:, 1:].flatten()), 1)
    down = torch.stack((index[:-1].flatten(), index[1:].flatten()), 1)
    edges = torch.cat((right, down))
    edges = edges[torch.argsort(edges[:, 0].long() * height * width + edges[:, 1])]
    return edges.expand(batch, -1, -1).contiguous(), torch.ones(batch, len(edges), dtype=torch.int32)


def pixel_moments(image: Tensor) -> tuple[Tensor, ...]:
    """Moments of every pixel of an image [B,C,H,W] on its own."""
    batch, channels, height, width = image.shape
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    position = torch.stack((y, x), -1).reshape(1, height * width, 2).expand(batch, -1, -1)
    inside = torch.nn.functional.pad(torch.ones(height, width, dtype=torch.int32), (1, 1, 1, 1))
    neighbours = inside[:-2, 1:-1] + inside[2:, 1:-1] + inside[1:-1, :-2] + inside[1:-1, 2:]
    mean = image.permute(0, 2, 3, 1).reshape(batch, height * width, channels).contiguous()
    return (
        torch.ones(batch, height * width, dtype=torch.int32),
        mean,
        torch.zeros_like(mean),
        position.to(image.dtype).contiguous(),
        torch.cat((position, position), 2).int(),
        neighbours.flatten().expand(batch, -1).contiguous(),
    )


def pixel_graph(image: Tensor) -> tuple[Tensor, ...]:
    """The tensors that merge_tree takes, with the pixels as leaves."""
    batch, _, height, width = image.shape
    return (*pixel_moments(image), *pixel_edges(batch, height, width))


def random_forest(batch: int, leaves: int, dtype: torch.dtype, roots: float = 0.1) -> tuple[Tensor, ...]:
    """Random binary forests with some unused leaves: likelihood, penalty, parent, round."""
    nodes = 2 * leaves - 1
    parent = torch.full((batch, nodes), -1, dtype=torch.int32)
    rounds = torch.full((batch, nodes), -1, dtype=torch.int32)
    likelihood = torch.full((batch, nodes), float("nan"), dtype=torch.float64)
    for b in range(batch):
        open_nodes = [leaf for leaf in range(leaves) if torch.rand(()) > 0.1]
        for leaf in open_nodes:
            rounds[b, leaf], likelihood[b, leaf] = 0, 4 * torch.rand(())
        node = leaves
        while len(open_nodes) > 1 and torch.rand(()) > roots / leaves:
            pair = [open_nodes.pop(int(torch.randint(len(open_nodes), ()))) for _ in range(2)]
            parent[b, pair] = node
            rounds[b, node] = rounds[b, pair].max() + 1
            likelihood[b, node] = likelihood[b, pair].sum() + 3 * torch.rand(())
            open_nodes.append(node)
            node += 1
    penalty = torch.ones(batch, nodes, dtype=torch.float64)
    return likelihood.to(dtype), penalty.to(dtype), parent, rounds


def merge_tree(dtype):
    dtype = accumulation_dtype(dtype)
    image = torch.rand(3, 3, 16, 20, dtype=dtype)
    image[1] = 0.5  # all distances are equal
    graph = pixel_graph(image)
    cases = [(*graph, "ward_length", 0.0, 0)]
    for distance in DISTANCES:
        cases += [(*pixel_graph(torch.rand(2, 2, 5, 7, dtype=dtype)), distance, 0.3, depth) for depth in (0, 1, 2)]
    cases += [(*pixel_graph(torch.rand(size, dtype=dtype)), "ward", 0.0, 0) for size in ((0, 3, 2, 2), (2, 3, 1, 1))]
    cases += [(*pixel_graph(torch.rand(2, 0, 3, 3, dtype=dtype)), "feature", 0.0, 0)]
    cases += [(*(t[:, :0] for t in graph), "ward", 0.0, 0), (*graph, "contrast", 0.0, 0, 0.05)]
    hostile = list(pixel_graph(torch.rand(2, 2, 4, 4, dtype=dtype)))
    hostile[0][:, ::5] = 0
    hostile[0][1, 3] = -7
    hostile[6] = torch.randint(-3, 19, (2, 60, 2), dtype=torch.int32)
    hostile[7] = torch.randint(-2, 9, (2, 60), dtype=torch.int32)
    hostile[6][0, 0], hostile[7][0, 1] = torch.iinfo(torch.int32).min, torch.iinfo(torch.int32).max
    hostile[1][0, 1] = float("nan")
    hostile[1][1, 1] = float("inf")
    return [*cases, *((*hostile, distance, 0.1, 0) for distance in ("ward_length", "contrast"))]


def merge_best(dtype):
    values = torch.randint(0, 3, (2, 2, 9, 12), dtype=accumulation_dtype(dtype))  # many ties
    return [*merge_tree(dtype), *((*pixel_graph(values), distance, 0.0, 0) for distance in DISTANCES)]


def merge_pixels(dtype):
    image = torch.rand(3, 3, 12, 15).to(dtype)
    image[1] = 0.5  # all distances are equal
    cases = [(image, None, "ward_length", 0.0, 0), (image, None, "contrast", 0.0, 0, 0.05)]
    mask = torch.rand(2, 9, 7) < 0.7
    for distance in DISTANCES:
        values = torch.randint(0, 3, (2, 2, 9, 7)).to(dtype)  # many ties
        cases += [(values, mask if depth == 0 else None, distance, 0.3, depth) for depth in (0, 1, 2)]
    sizes = ((0, 3, 2, 2), (2, 3, 1, 1), (2, 0, 3, 3), (1, 2, 1, 40), (1, 2, 40, 1), (2, 3, 0, 4))
    cases += [(torch.rand(size).to(dtype), None, "ward", 0.0, 0) for size in sizes]
    hostile = torch.rand(2, 2, 8, 9).to(dtype)
    hostile[0, 0, 3, 2:5], hostile[1, 1, 0, 0] = float("nan"), float("inf")
    return [
        *cases,
        (hostile, torch.zeros(2, 8, 9, dtype=torch.bool), "feature", 0.0, 0),
        (hostile, None, "ward", 0.1, 0),
        (hostile, None, "contrast", 0.0, 0),
    ]


def merge_tree_backward(dtype):
    cases = []
    for arguments in merge_tree(dtype)[:-1]:
        parent, _, count, mean, *_ = ops.merge_tree(*arguments)
        cases.append((torch.randn_like(mean), torch.randn_like(mean), parent, count, mean))
    grad_mean, grad_m2, parent, count, mean = cases[1]
    hostile = torch.randint_like(parent, -2, parent.shape[1] + 2)
    return [*cases, (grad_mean, grad_m2, hostile, count, mean)]


def hostile_forest(dtype):
    likelihood, penalty, parent, rounds = random_forest(4, 12, dtype)
    parent[0] = torch.randint(-3, 30, parent[0].shape)
    parent[1], parent[2] = torch.iinfo(torch.int32).max, torch.iinfo(torch.int32).min
    rounds[0] = torch.randint(-1, 2, rounds[0].shape)
    likelihood[3] = torch.where(torch.rand(likelihood[3].shape) < 0.3, float("inf"), likelihood[3])
    penalty[3, ::7] = float("nan")
    return likelihood, penalty, parent, rounds


def tree_cut(dtype):
    dtype = accumulation_dtype(dtype)
    forest = random_forest(6, 40, dtype)
    cases = [(*forest, "optimal", 1.0, 9, 1, 0.0, 1.0)]
    for select, lookahead in (("optimal", 1), ("greedy", 1), ("greedy", 3), ("greedy", 100)):
        for max_tokens in (0, 1, 5):
            for case in (random_forest(3, 10, dtype, roots=0.5), hostile_forest(dtype)):
                cases.append((*case, select, 0.3, max_tokens, lookahead, 0.1, 2.0))
    for size in ((0, 3), (2, 1), (2, 0), (0, 0)):
        empty = torch.zeros(size, dtype=dtype)
        cases.append(
            (empty, empty + 1, torch.full(size, -1, dtype=torch.int32), empty.int(), "optimal", 1.0, 1, 1, 0.0, 1.0)
        )
    return cases


def tree_cut_backward(dtype):
    cases = []
    for likelihood, penalty, parent, rounds, *options in tree_cut(dtype):
        strength = ops.tree_cut(likelihood, penalty, parent, rounds, *options)[3]
        strength = strength.clamp(max=1e6)  # at the largest one no derivative is finite
        cases.append((torch.randn_like(likelihood), likelihood, penalty, parent, rounds, strength, options[-1]))
    return cases


def scale_set(dtype):
    return [arguments[:4] for arguments in tree_cut(dtype)]


def scales(dtype):
    """lower, parent and round of scale sets; and of numbers that are none."""
    cases = []
    for arguments in scale_set(dtype):
        lower, _ = ops.scale_set(*arguments)
        cases.append((lower, *arguments[2:]))
    lower, parent, rounds = cases[2]
    lower = torch.randn_like(lower)
    lower[:, ::3] = float("nan")
    return [*cases, (lower, parent, rounds)]


def scale_cut(dtype):
    strength = torch.tensor([0.3, 0.0, 0.0, 1.0, float("inf"), float("nan"), -1.0, 0.0])
    budgets = torch.tensor([0, 1, 3, 5, 0, 2, -7, 2**31 - 1], dtype=torch.int32)
    cases = [(*scale, strength, budgets, 12) for scale in scales(dtype)]
    return [*cases, (*cases[0][:3], strength[:0], budgets[:0], 4), (*cases[0][:3], strength, budgets, 0)]


def saliency(dtype):
    cases = []
    for lower, parent, rounds in scales(dtype):
        leaves = (lower.shape[1] + 1) // 2
        cases.append((torch.randint(-2, leaves + 2, (len(lower), 7, 9), dtype=torch.int32), lower, parent, rounds))
    return [*cases, *((cases[0][0][:, :h, :w], *cases[0][1:]) for h, w in ((0, 3), (1, 1), (5, 1), (1, 5)))]


def similarity_pool(dtype):
    cases = []
    for arguments in merge_tree(dtype):
        parent, rounds, count, *_ = ops.merge_tree(*arguments)
        cases.append((arguments[1], count, parent, rounds))
    _, _, parent, rounds = random_forest(5, 30, accumulation_dtype(dtype))
    count = torch.randint(-1, 9, parent.shape, dtype=torch.int32)
    cases.append((torch.randn(5, 30, 3, dtype=accumulation_dtype(dtype)), count, parent, rounds))
    features, count, parent, rounds = cases[0]
    return [*cases, (features, count, torch.randint_like(parent, -2, parent.shape[1] + 2), rounds - 1)]


def similarity_pool_backward(dtype):
    cases = []
    for features, count, parent, rounds in similarity_pool(dtype):
        nodes, share = ops.similarity_pool(features.nan_to_num(0, 9, -9), count, parent, rounds)
        cases.append((torch.randn_like(nodes), nodes, share, count, parent, rounds))
    return cases


SAMPLES = {
    "merge_best": merge_best,
    "merge_pixels": merge_pixels,
    "merge_tree": merge_tree,
    "merge_tree_backward": merge_tree_backward,
    "saliency": saliency,
    "scale_cut": scale_cut,
    "scale_set": scale_set,
    "similarity_pool": similarity_pool,
    "similarity_pool_backward": similarity_pool_backward,
    "tree_cut": tree_cut,
    "tree_cut_backward": tree_cut_backward,
}
