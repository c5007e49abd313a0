"""Means up a tree, weighted by size times similarity, and their gradients down it."""

import math

import torch
from torch import Tensor


def _merges(parent: list[int], rounds: list[int]) -> list[tuple[int, int, int]]:
    """(node, lower child, higher child) of every node with two children, lowest node first; any numbers make a forest.

    Nodes with another number of children count as having none, and unused ones (round < 0) have no family.
    """
    nodes, leaves = len(parent), (len(parent) + 1) // 2
    children: dict[int, list[int]] = {}
    for v, p in enumerate(parent):
        if v < p and leaves <= p < nodes and rounds[v] >= 0 and rounds[p] >= 0:
            children.setdefault(p, []).append(v)
    return [(p, pair[0], pair[1]) for p, pair in sorted(children.items()) if len(pair) == 2]


def similarity_pool(features: Tensor, count: Tensor, parent: Tensor, round: Tensor) -> tuple[Tensor, Tensor]:
    """Features [B,V,C] of every node, and its share [B,V] in its parent's."""
    batch, leaves, channels = features.shape
    node_features = features.new_zeros(*parent.shape, channels)
    node_features[:, :leaves] = torch.where(round[:, :leaves, None] >= 0, features, 0)
    share = features.new_zeros(parent.shape)
    for b in range(batch):
        rounds, sizes = round[b].tolist(), count[b].clamp(min=1).tolist()
        weight = [(1.0, 0.0)] * len(rounds)  # size and exponent of size * exp(exponent), which does not underflow
        for node, first, second in _merges(parent[b].tolist(), rounds):
            f_a, f_b = node_features[b, first], node_features[b, second]
            distance = float((f_b.double() - f_a.double()).square().sum())
            for v in (first, second):
                if v < leaves or rounds[v] < rounds[node]:
                    weight[v] = (float(sizes[v]), -distance)
            pair = weight[first], weight[second]
            exponent = max(pair[0][1], pair[1][1])
            size_a, size_b = (size * (1 if own == exponent else math.exp(own - exponent)) for size, own in pair)
            part = size_b / (size_a + size_b)
            weight[node] = (size_a + size_b, exponent)
            share[b, first], share[b, second] = 1 - part, part
            node_features[b, node] = f_a + (f_b - f_a) * share[b, second]
    return node_features, share


def similarity_pool_backward(
    grad: Tensor, node_features: Tensor, share: Tensor, count: Tensor, parent: Tensor, round: Tensor
) -> Tensor:
    """From the root down; the gradient to the logarithm of a weight goes along with that to the features."""
    batch, nodes, _ = node_features.shape
    leaves = (nodes + 1) // 2
    total = grad.clone()
    for b in range(batch):
        rounds, shares = round[b].tolist(), share[b].tolist()
        weight_grad = [0.0] * nodes
        for node, first, second in reversed(_merges(parent[b].tolist(), rounds)):
            of_node, of_weight = total[b, node], weight_grad[node]
            if of_weight == 0 and not bool((of_node != 0).any()):
                continue  # no gradient gives none, even to NaN
            delta = node_features[b, second].double() - node_features[b, first].double()
            turn = shares[first] * shares[second] * float((of_node.double() * delta).sum())
            to_weights = (shares[first] * of_weight - turn, shares[second] * of_weight + turn)
            pull = []
            for v, to_weight in zip((first, second), to_weights, strict=True):
                if v < leaves or rounds[v] < rounds[node]:
                    pull.append(to_weight)  # its weight is n exp(-|delta|^2)
                else:
                    weight_grad[v] = to_weight
            along = 2 * (of_weight if len(pull) == 2 else sum(pull)) * delta
            total[b, first] += (shares[first] * of_node.double() + along).to(grad.dtype)
            total[b, second] += (shares[second] * of_node.double() - along).to(grad.dtype)
    return torch.where(round[:, :leaves, None] >= 0, total[:, :leaves], 0)
