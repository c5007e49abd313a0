"""Soft assignment, clustering and pooling: the equations, with an array of pixels x 9 candidates."""

import math

import torch
from torch import Tensor

from .._checks import accumulation_dtype
from .._layout import like_image

OWN_CELL = 4
LEAST_EXPONENT = -80 * math.log(2)  # a share below 2^-80 of the pixel's largest is 0, so 1 / mass stays finite


def _compute(features: Tensor) -> Tensor:
    return features.to(accumulation_dtype(features.dtype))


def _metric(coefficients: Tensor | None, compactness: float, temperature: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """Compactness and temperature as 0-d tensors, bounded as in the kernels."""
    if coefficients is None:
        coefficients = torch.tensor([compactness, temperature], dtype=like.dtype, device=like.device)
    return coefficients[0], coefficients[1]


def _grid(features: Tensor, cell: int) -> tuple[int, int]:
    return -(-features.shape[2] // cell), -(-features.shape[3] // cell)


def _positions(features: Tensor) -> Tensor:
    """[2,H,W] pixel centres, y before x."""
    y = torch.arange(features.shape[2], dtype=features.dtype, device=features.device)
    x = torch.arange(features.shape[3], dtype=features.dtype, device=features.device)
    return torch.stack(torch.meshgrid(y, x, indexing="ij"))


def _candidates(features: Tensor, cell: int) -> tuple[Tensor, Tensor]:
    """Index [9,H,W] of every pixel's candidate centres in raster order, and whether each lies inside the image."""
    rows, columns = _grid(features, cell)
    y = torch.arange(features.shape[2], device=features.device)[:, None] // cell
    x = torch.arange(features.shape[3], device=features.device)[None, :] // cell
    index, inside = [], []
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            row, column = y + dy, x + dx
            inside.append((row >= 0) & (row < rows) & (column >= 0) & (column < columns))
            index.append(row.clamp(0, rows - 1) * columns + column.clamp(0, columns - 1))
    return torch.stack(index), torch.stack(inside)


def _usable(features: Tensor, mask: Tensor | None) -> Tensor:
    """[B,H,W] pixels that take part: in the mask, and with squares that cannot overflow."""
    usable = (features.square().sum(1) * 16).isfinite()
    return usable if mask is None else usable & mask


def _assign(
    features: Tensor,
    centers: Tensor,
    positions: Tensor,
    mass: Tensor | None,
    mask: Tensor | None,
    metric: tuple[Tensor, Tensor],
    cell: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Assignment [B,9,H,W], labels [B,H,W] and candidate index [9,H,W], for features in the accumulation dtype."""
    compactness, temperature = metric
    kappa2 = (compactness / cell).square().clamp(max=1e20)
    inverse_temperature = 1 / temperature.clamp(min=1.2e-38)
    batch, channels, height, width = features.shape
    index, inside = _candidates(features, cell)
    usable = _usable(features, mask)
    features = torch.where(usable[:, None], features, 0)
    flat = index.reshape(-1)
    candidate = inside.expand(batch, -1, -1, -1)
    if mass is not None:
        candidate = candidate & (mass[:, flat] > 0).reshape(batch, 9, height, width)
    mu = centers[:, flat].reshape(batch, 9, height, width, channels)
    s = positions[:, flat].reshape(batch, 9, height, width, 2)
    distance = (features.permute(0, 2, 3, 1)[:, None] - mu).square().sum(-1)
    spatial = (_positions(features).permute(1, 2, 0) - s).square().sum(-1)
    logits = torch.where(candidate, -(distance + kappa2 * spatial), torch.finfo(distance.dtype).min)
    # Differences first: exact at the best candidate, whatever the temperature.
    exponents = (logits - logits.detach().amax(1, keepdim=True)) * inverse_temperature
    shares = exponents.masked_fill((exponents < LEAST_EXPONENT) | ~candidate, -math.inf).softmax(1)
    assignment = torch.where(candidate & usable[:, None], shares, 0)
    # argmax returns the first of equals: own cell first, then raster order.
    order = [OWN_CELL, *(k for k in range(9) if k != OWN_CELL)]
    nearest = torch.tensor(order, device=features.device)[logits[:, order].argmax(1)]
    nearest = torch.where(usable & candidate.any(1), nearest, OWN_CELL)
    labels = index.expand(batch, -1, -1, -1).gather(1, nearest[:, None])[:, 0]
    if mask is not None:
        labels = torch.where(mask, labels, -1)
    return assignment, labels.int(), index


def _pool(assignment: Tensor, index: Tensor, values: Tensor, cells: int) -> Tensor:
    """sum_i a_ij v_i: [B,L,Cv]."""
    batch, channels = values.shape[:2]
    sums = values.new_zeros(batch, cells, channels)
    for k in range(9):
        weighted = (assignment[:, k : k + 1] * values).flatten(2).transpose(1, 2)
        sums = sums.index_add(1, index[k].reshape(-1), weighted)
    return sums


def _middles(features: Tensor, size: int, cell: int) -> Tensor:
    """The middle of the pixels of each cell along one axis."""
    begin = torch.arange(0, size, cell, dtype=features.dtype, device=features.device)
    return (begin + (begin + cell).clamp(max=size) - 1) / 2


def _initial(features: Tensor, mask: Tensor | None, cell: int) -> tuple[Tensor, Tensor, Tensor]:
    """Means, mean positions and numbers of the pixels of each cell that take part; 0 and its middle without any."""
    batch = len(features)
    rows, columns = _grid(features, cell)
    usable = _usable(features, mask).to(features.dtype)[:, None]
    points = torch.cat([torch.where(usable > 0, features, 0), _positions(features).expand(batch, -1, -1, -1)], 1)
    own = _candidates(features, cell)[0][OWN_CELL].reshape(-1)
    total = features.new_zeros(batch, rows * columns, points.shape[1] + 1)
    total = total.index_add(1, own, torch.cat([points * usable, usable], 1).flatten(2).transpose(1, 2))
    mass = total[..., -1]
    mean = total[..., :-1] / mass.clamp_min(1)[..., None]
    y, x = (_middles(features, size, cell) for size in features.shape[2:])
    middle = torch.stack(torch.meshgrid(y, x, indexing="ij"), -1).reshape(1, -1, 2)
    positions = torch.where(mass[..., None] > 0, mean[..., -2:], middle)
    return mean[..., :-2], positions, mass


def _update(
    features: Tensor,
    state: tuple[Tensor, Tensor, Tensor],
    mask: Tensor | None,
    metric: tuple[Tensor, Tensor],
    cell: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """One iteration: the weighted means of features and positions; a centre without mass keeps its values."""
    centers, positions, mass = state
    assignment, _, index = _assign(features, centers, positions, mass, mask, metric, cell)
    usable = _usable(features, mask)[:, None]
    ones = torch.ones_like(usable, dtype=features.dtype)
    points = torch.cat(
        [torch.where(usable, features, 0), _positions(features).expand(len(features), -1, -1, -1), ones], 1
    )
    sums = _pool(assignment, index, points, centers.shape[1])
    new_mass = sums[..., -1]
    alive = new_mass[..., None] > 0
    mean = sums[..., :-1] / torch.where(alive, new_mass[..., None], 1)
    return (
        torch.where(alive, mean[..., :-2], centers),
        torch.where(alive, mean[..., -2:], positions),
        new_mass,
    )


def soft_assign(
    features: Tensor,
    centers: Tensor,
    positions: Tensor,
    mass: Tensor | None,
    mask: Tensor | None,
    coefficients: Tensor | None,
    cell: int,
    compactness: float,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    """Assignment [B,9,H,W] of every pixel to the centres of the nine cells around it, and its hard labels."""
    compute = _compute(features)
    metric = _metric(coefficients, compactness, temperature, compute)
    assignment, labels, _ = _assign(compute, centers, positions, mass, mask, metric, cell)
    return assignment.to(features.dtype), labels


def soft_cluster(
    features: Tensor,
    mask: Tensor | None,
    coefficients: Tensor | None,
    cell: int,
    compactness: float,
    temperature: float,
    iterations: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Centres, positions and masses of every iteration [I+1,B,L,...], and the labels at the last."""
    compute = _compute(features)
    metric = _metric(coefficients, compactness, temperature, compute)
    states = [_initial(compute, mask, cell)]
    for _ in range(iterations):
        states.append(_update(compute, states[-1], mask, metric, cell))
    centers, positions, mass = (torch.stack(parts) for parts in zip(*states, strict=True))
    labels = _assign(compute, *states[-1], mask, metric, cell)[1]
    return centers, positions, mass, labels


def soft_pool(
    features: Tensor,
    values: Tensor,
    centers: Tensor,
    positions: Tensor,
    mass: Tensor,
    mask: Tensor | None,
    coefficients: Tensor | None,
    cell: int,
    compactness: float,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    """Sums [B,L,Cv] and masses [B,L] of values weighted by the assignment at the given centres."""
    compute = _compute(features)
    metric = _metric(coefficients, compactness, temperature, compute)
    assignment, _, index = _assign(compute, centers, positions, mass, mask, metric, cell)
    usable = _usable(compute, mask)[:, None]
    ones = torch.ones_like(usable, dtype=compute.dtype)
    points = torch.cat([torch.where(usable, values.to(compute.dtype), 0), ones], 1)
    sums = _pool(assignment, index, points, centers.shape[1])
    sums, mass = (part.clone(memory_format=torch.contiguous_format) for part in (sums[..., :-1], sums[..., -1]))
    return sums, mass


def _vjp(outputs: tuple[Tensor, ...], inputs: list[Tensor], gradients: tuple[Tensor, ...]) -> list[Tensor]:
    """Vector-Jacobian product by autograd, zeros where an input is not used."""
    pairs = [(o, g) for o, g in zip(outputs, gradients, strict=True) if o.requires_grad]
    if not pairs:
        return [torch.zeros_like(i) for i in inputs]
    found = torch.autograd.grad([o for o, _ in pairs], inputs, [g for _, g in pairs], allow_unused=True)
    return [torch.zeros_like(i) if g is None else g for i, g in zip(inputs, found, strict=True)]


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().requires_grad_()


def soft_assign_backward(
    grad_assignment: Tensor,
    features: Tensor,
    centers: Tensor,
    positions: Tensor,
    mass: Tensor | None,
    mask: Tensor | None,
    coefficients: Tensor | None,
    cell: int,
    compactness: float,
    temperature: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the assignment to features, centres, positions and (compactness, temperature), by autograd."""
    with torch.enable_grad():
        compute, centers, positions = _leaf(_compute(features)), _leaf(centers), _leaf(positions)
        metric = _leaf(torch.stack(_metric(coefficients, compactness, temperature, compute)))
        assignment, _, _ = _assign(compute, centers, positions, mass, mask, (metric[0], metric[1]), cell)
        inputs = [compute, centers, positions, metric]
        grads = _vjp((assignment,), inputs, (grad_assignment.to(compute.dtype),))
    return like_image(grads[0].to(features.dtype), features), grads[1], grads[2], grads[3]


def soft_cluster_backward(
    grad_centers: Tensor,
    grad_positions: Tensor,
    grad_mass: Tensor,
    features: Tensor,
    mask: Tensor | None,
    coefficients: Tensor | None,
    centers: Tensor,
    positions: Tensor,
    mass: Tensor,
    cell: int,
    compactness: float,
    temperature: float,
    last_only: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients to features and (compactness, temperature), through all iterations or the last one only."""
    iterations = centers.shape[0] - 1
    with torch.enable_grad():
        compute = _leaf(_compute(features))
        metric = _leaf(torch.stack(_metric(coefficients, compactness, temperature, compute)))
        if last_only and iterations > 0:
            state, remaining = (centers[-2], positions[-2], mass[-2]), 1
        else:
            state, remaining = _initial(compute, mask, cell), iterations
        for _ in range(remaining):
            state = _update(compute, state, mask, (metric[0], metric[1]), cell)
        grads = _vjp(state, [compute, metric], (grad_centers, grad_positions, grad_mass))
    return like_image(grads[0].to(features.dtype), features), grads[1]


def soft_pool_backward(
    grad_sums: Tensor,
    grad_mass: Tensor,
    features: Tensor,
    values: Tensor,
    centers: Tensor,
    positions: Tensor,
    mass: Tensor,
    mask: Tensor | None,
    coefficients: Tensor | None,
    cell: int,
    compactness: float,
    temperature: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients to features, values, centres, positions and (compactness, temperature), by autograd."""
    with torch.enable_grad():
        compute, points = _leaf(_compute(features)), _leaf(_compute(values))
        centers, positions = _leaf(centers), _leaf(positions)
        metric = _leaf(torch.stack(_metric(coefficients, compactness, temperature, compute)))
        outputs = soft_pool(compute, points, centers, positions, mass, mask, metric, cell, 0.0, 1.0)
        grads = _vjp(outputs, [compute, points, centers, positions, metric], (grad_sums, grad_mass))
    return (
        like_image(grads[0].to(features.dtype), features),
        like_image(grads[1].to(values.dtype), values),
        grads[2],
        grads[3],
        grads[4],
    )
