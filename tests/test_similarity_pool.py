"""Means up a tree, weighted by size times similarity."""

import pytest
import torch
from samples_tree import pixel_graph, random_forest

import dhvt_kernels as dk
from dhvt_kernels._schema import ops
from dhvt_kernels.ops import MergeTree, Moments

TYPES = [torch.float32, torch.float64]


def tree_of(image, distance="feature"):
    """Leaf features [B,L,C] and the tree of the pixels of an image [B,C,H,W]."""
    *moments, edges, lengths = pixel_graph(image)
    return moments[1], dk.merge_tree(Moments(*moments), edges, lengths, distance=distance)


def by_definition(features, tree, b):
    """Every node of an image straight from the docstring: w_u f_u summed over the regions that its round joined."""
    leaves = features.shape[1]
    count, parent, rounds = tree.moments.count[b], tree.parent[b].tolist(), tree.round[b].tolist()
    children = {p: sorted(v for v in range(p) if parent[v] == p) for p in range(leaves, len(parent)) if p in parent}
    value = {v: features[b, v] for v in range(leaves) if rounds[v] == 0}

    def joined(node, made_in):  # (region, the node it is first joined with), below a node of this round
        for child, other in (children[node], children[node][::-1]):
            if rounds[child] == made_in:
                yield from joined(child, made_in)
            else:
                yield child, other

    for node in sorted(children):
        pairs = list(joined(node, rounds[node]))
        weight = torch.stack([count[u] * torch.exp(-(value[u] - value[s]).square().sum()) for u, s in pairs])
        value[node] = (weight[:, None] * torch.stack([value[u] for u, _ in pairs])).sum(0) / weight.sum()
    return torch.stack([value.get(v, torch.zeros_like(features[b, 0])) for v in range(len(parent))])


@pytest.mark.parametrize("distance", ["feature", "ward_length"])
def test_equals_its_definition(backend, distance):
    features, tree = tree_of(torch.rand(2, 3, 7, 9, dtype=torch.float64) * 1.5, distance)
    pooled = dk.similarity_pool(features, tree)
    for b in range(2):
        torch.testing.assert_close(pooled[b], by_definition(features, tree, b), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_gradient_of_the_definition(backend, dtype):
    features, tree = tree_of(torch.rand(1, 2, 5, 6, dtype=torch.float64) * 1.5)
    expected_input = features.clone().requires_grad_()
    grad = torch.randn(1, 59, 2, dtype=torch.float64)
    expected = torch.autograd.grad(by_definition(expected_input, tree, 0)[None], expected_input, grad)[0]
    leaf = features.to(dtype).requires_grad_()
    dk.similarity_pool(leaf, tree).backward(grad.to(dtype))
    tolerance = {} if dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-10}
    torch.testing.assert_close(leaf.grad, expected.to(dtype), **tolerance)


def test_gradcheck(backend):
    features, tree = tree_of(torch.rand(2, 3, 4, 4, dtype=torch.float64))
    assert torch.autograd.gradcheck(
        lambda x: dk.similarity_pool(x, tree), (features.requires_grad_(),), fast_mode=backend == "triton-interpreted"
    )


def test_gradcheck_of_a_forest_with_unused_slots(backend):
    likelihood, _, parent, rounds = random_forest(3, 9, torch.float64, roots=0.5)
    count = torch.randint(1, 9, parent.shape, dtype=torch.int32)
    features = torch.randn(3, 9, 2, dtype=torch.float64, requires_grad=True)

    def pooled(x):
        node_features = ops.similarity_pool(x.detach(), count, parent, rounds)[0]
        moments = Moments(count, node_features, node_features, node_features, count, count)
        return dk.similarity_pool(x, MergeTree(parent, rounds, moments))

    assert torch.autograd.gradcheck(pooled, (features,), fast_mode=backend == "triton-interpreted")
    assert bool((pooled(features)[rounds < 0] == 0).all())
    assert likelihood.shape == parent.shape


def test_two_regions_give_the_mean_of_their_pixels(backend):
    features, tree = tree_of(torch.tensor([[[[0.0, 1.0, 50.0, 52.0]]]]))
    pooled = dk.similarity_pool(features, tree)
    assert pooled.flatten().tolist() == [0, 1, 50, 52, 0.5, 51, 25.75]
    torch.testing.assert_close(pooled, tree.moments.mean)


def test_a_region_unlike_its_group_counts_less(backend):
    features, tree = tree_of(torch.tensor([[[[0.0, 0.1, 1.1]]]]))
    assert tree.round[0].tolist() == [0, 0, 0, 1, 1]
    weights = torch.tensor([2.0, 1.0]) * torch.exp(-(torch.tensor([0.1, 1.05]) ** 2))
    expected = (weights * torch.tensor([0.05, 1.1])).sum() / weights.sum()
    torch.testing.assert_close(dk.similarity_pool(features, tree)[0, 4, 0], expected)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_no_similarity_underflows(backend, dtype):
    """Features in units of CIELAB: every similarity is below the smallest number there is."""
    image = (torch.rand(1, 3, 8, 8, dtype=torch.float64) * 1e4).to(dtype).requires_grad_()
    features, tree = tree_of(image.detach())
    pooled = dk.similarity_pool(features.requires_grad_(), tree)
    assert pooled.isfinite().all()
    low, high = features.amin((0, 1)), features.amax((0, 1))
    assert bool(((pooled >= low) & (pooled <= high)).all())
    pooled.sum().backward()
    assert features.grad.isfinite().all()


def test_nan_fills_the_nodes_above_and_no_gradient_leads_there(backend):
    image = torch.rand(1, 2, 4, 5)
    image[0, 0, 1, 2] = float("nan")
    features, tree = tree_of(image)
    pooled = dk.similarity_pool(features.requires_grad_(), tree)
    above, node = set(), 7
    while node >= 0:
        above.add(node)
        node = int(tree.parent[0, node])
    bad = pooled[0].isnan().any(1).nonzero().flatten().tolist()
    assert set(bad) == above
    pooled[0, [v for v in range(39) if v not in above]].sum().backward()
    assert features.grad.isfinite().all()


def test_a_long_chain(backend):
    """A tree as deep as it can be: every merge takes one more leaf."""
    leaves = 3000
    parent = torch.full((1, 2 * leaves - 1), -1, dtype=torch.int32)
    parent[0, 0] = leaves
    parent[0, 1:leaves] = torch.arange(leaves, 2 * leaves - 1)
    parent[0, leaves:-1] = torch.arange(leaves + 1, 2 * leaves - 1)
    rounds = torch.zeros_like(parent)
    rounds[0, leaves:] = 1
    count = torch.ones_like(parent)
    count[0, leaves:] = torch.arange(2, leaves + 1)
    features = torch.randn(1, leaves, 1, dtype=torch.float64)
    nodes, _ = ops.similarity_pool(features, count, parent, rounds)
    mean, total = features[0, 0, 0], 0.0
    for i in range(1, leaves):
        similarity = torch.exp(-(features[0, i, 0] - mean).square())
        total = total + similarity if i > 1 else 2 * similarity
        mean = mean + (features[0, i, 0] - mean) * similarity / total
    torch.testing.assert_close(nodes[0, -1, 0], mean)


def test_bad_input():
    features, tree = tree_of(torch.rand(1, 2, 3, 3))
    with pytest.raises(TypeError, match=r"tree: expected a MergeTree; found Tensor"):
        dk.similarity_pool(features, tree.parent)
    with pytest.raises(TypeError, match=r"features: expected \[B,L,C\] of float32, float64"):
        dk.similarity_pool(features.half(), tree)
    with pytest.raises(ValueError, match=r"V = 2 L - 1 = 17; found L = 8"):
        dk.similarity_pool(features[:, :8], tree)


def small_tokenizer(leaves):
    """One whose relaxed selection is undecided on a small image, so that its gradients are far from 0."""
    return dk.Tokenizer(
        torch.nn.Identity(),
        leaves=leaves,
        cell=3,
        temperature=1.0,
        weights="similarity",
        criterion="aic",
        noise=0.3,
        pixel_correlation=1.0,
        strength=0.05,
    )


@pytest.mark.parametrize("leaves", ["pixels", "soft"])
def test_gradcheck_through_means_and_selection(leaves):
    """The expected sum of the segments' features in the relaxed cut: smooth while the tree keeps its shape."""
    tokenizer = small_tokenizer(leaves)

    def expected_features(image):
        hierarchy = tokenizer.hierarchy(image)
        tree = hierarchy.tree
        cut = dk.tree_cut(*hierarchy.terms(), tree.parent, tree.round, strength=0.05, selection_temperature=1.0)
        return (cut.probability.unsqueeze(-1) * hierarchy.node_features).sum(1)

    image = torch.rand(1, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(expected_features, (image,), eps=1e-7, atol=1e-4)


@pytest.mark.parametrize("leaves", ["pixels", "soft"])
def test_features_of_segments_carry_both_gradients(leaves):
    """Straight through: the gate is 1, and its gradient that of the probability."""
    tokenizer = small_tokenizer(leaves)
    image = torch.rand(1, 2, 6, 7, dtype=torch.float64, requires_grad=True)
    hierarchy = tokenizer.hierarchy(image)
    partition = hierarchy.cut()
    assert 1 < int(partition.counts[0]) < 42

    def gradient(values):
        return torch.autograd.grad(values.sum(), image, retain_graph=True)[0]

    at_segments = dk.segment_gather(hierarchy.node_features, partition.node[:, None])[:, :, 0].mT
    assert torch.equal(partition.features, at_segments)
    by_means, by_selection = gradient(at_segments), gradient(at_segments.detach() * partition.probability.unsqueeze(-1))
    torch.testing.assert_close(gradient(partition.features), by_means + by_selection)
    assert by_means.abs().max() > 0
    assert by_selection.abs().max() > 0


def test_weights_of_the_tokenizer():
    images = torch.rand(2, 3, 24, 32)
    mean, similarity = (dk.Tokenizer(weights=weights, max_tokens=9)(images) for weights in ("mean", "similarity"))
    assert torch.equal(mean.labels, similarity.labels)
    features = dk.Tokenizer().features(images)
    torch.testing.assert_close(mean.features, mean.pool(features), rtol=1e-4, atol=1e-3)
    assert not torch.equal(mean.features, similarity.features)
    assert torch.equal(similarity[1].features, similarity.features[1:])
    with pytest.raises(ValueError, match="weights: expected one of mean, similarity; found 'size'"):
        dk.Tokenizer(weights="size")
