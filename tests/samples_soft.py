"""Arguments for soft assignment, clustering and pooling."""

import torch

from dhvt_kernels._checks import accumulation_dtype
from dhvt_kernels._schema import ops


def _inputs(dtype):
    """(features, mask, coefficients, (cell, compactness, temperature)).

    Two padded images of several rows of cells, some of them without a pixel, with a pixel that is not finite; then
    all pixels of one image in layout channels_last; no image, one pixel, no pixel, no channel (where no pixel lies
    midway between centres, so that rounding decides no label), a cell larger than the image.
    """
    generator = torch.Generator().manual_seed(0)
    acc = accumulation_dtype(dtype)

    def random(*size):
        return torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)

    features = random(2, 5, 40, 52)
    features[0, 3, 20, 31] = float("nan")
    features[1, 0, 7, 7] = float("inf")
    mask = torch.ones(2, 40, 52, dtype=torch.bool)
    mask[1, 26:] = False
    mask[1, :, 33:] = False
    yield features, mask, None, (7, 2.0, 1.5)
    image = random(1, 3, 19, 33).contiguous(memory_format=torch.channels_last)
    yield image, None, torch.tensor([3.0, 0.7], dtype=acc), (9, 0.0, 1.0)
    for size, cell in (((0, 3, 9, 5), 4), ((1, 2, 1, 1), 8), ((2, 3, 0, 5), 4), ((1, 0, 6, 5), 2), ((2, 1, 10, 9), 64)):
        yield random(*size), None, None, (cell, 1.0, 1.0)


def _clusters(dtype):
    """(features, mask, coefficients, numbers, centers, positions, mass): states of three iterations."""
    for features, mask, coefficients, numbers in _inputs(dtype):
        *state, _ = ops.soft_cluster(features, mask, coefficients, *numbers, 3)
        yield features, mask, coefficients, numbers, *state


def _gradient(tensor):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor.dtype)


def _values(features):
    batch, _, height, width = features.shape
    return _gradient(features.new_empty(batch, 4, height, width))


def soft_assign(dtype):
    cases = [
        (features, centers[1], positions[1], mass[1], mask, coefficients, *numbers)
        for features, mask, coefficients, numbers, centers, positions, mass in _clusters(dtype)
    ]
    return [*cases, (*cases[1][:3], None, *cases[1][4:])]


def soft_assign_backward(dtype):
    cases = []
    for features, *rest in soft_assign(dtype):
        batch, _, height, width = features.shape
        cases.append((_gradient(features.new_empty(batch, 9, height, width)), features, *rest))
    return cases


def soft_cluster(dtype):
    return [
        (features, mask, coefficients, *numbers, iterations)
        for features, mask, coefficients, numbers in _inputs(dtype)
        for iterations in (3, 0)
    ]


def soft_cluster_backward(dtype):
    cases = []
    for features, mask, coefficients, numbers, *state in _clusters(dtype):
        for last_only in (False, True):
            gradients = [_gradient(part[-1]) for part in state]
            cases.append((*gradients, features, mask, coefficients, *state, *numbers, last_only))
        gradients = [_gradient(part[0]) for part in state]
        cases.append((*gradients, features, mask, coefficients, *(part[:1] for part in state), *numbers, False))
    return cases


def soft_pool(dtype):
    return [
        (features, _values(features), centers[-1], positions[-1], mass[-1], mask, coefficients, *numbers)
        for features, mask, coefficients, numbers, centers, positions, mass in _clusters(dtype)
    ]


def soft_pool_backward(dtype):
    cases = []
    for features, values, centers, positions, mass, *rest in soft_pool(dtype):
        sums = _gradient(mass.new_empty(*mass.shape, values.shape[1]))
        cases.append((sums, _gradient(mass), features, values, centers, positions, mass, *rest))
    return cases


SAMPLES = {
    operator.__name__: operator
    for operator in (
        soft_assign,
        soft_assign_backward,
        soft_cluster,
        soft_cluster_backward,
        soft_pool,
        soft_pool_backward,
    )
}
