"""Ground truth of the soft operators in float64: every pixel against every centre, with no code of the package."""

import torch
from torch import Tensor


def parameters() -> tuple[Tensor, Tensor]:
    """Compactness and temperature to differentiate by."""
    return tuple(torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (2.0, 1.5))


def pixel_positions(height: int, width: int) -> Tensor:
    """[H*W,2], y before x."""
    return torch.cartesian_prod(torch.arange(height), torch.arange(width))


def dense(features: Tensor, centers, positions, mass, mask: Tensor, cell: int, compactness, temperature) -> Tensor:
    """Assignment [H*W,L] of one image [C,H,W]: a softmax over the centres whose cell is at most one cell away."""
    _, height, width = features.shape
    p = pixel_positions(height, width)
    y, x = p.T
    columns = -(-width // cell)
    center = torch.arange(len(centers))
    near = ((y[:, None] // cell - center // columns).abs() <= 1) & ((x[:, None] // cell - center % columns).abs() <= 1)
    f = features.flatten(1).T
    distance = (f[:, None] - centers).square().sum(-1)
    distance = distance + (compactness / cell) ** 2 * (p[:, None] - positions).square().sum(-1)
    logits = (-distance / temperature).masked_fill(~(near & (mass > 0)), float("-inf"))
    return logits.softmax(1).nan_to_num(0) * mask.flatten()[:, None]


def update(assignment: Tensor, features: Tensor, centers: Tensor, positions: Tensor):
    """Centres, positions and masses after one update of one image [C,H,W]."""
    _, height, width = features.shape
    mass = assignment.sum(0)
    alive = (mass > 0)[:, None]
    p = pixel_positions(height, width).double()
    weights = assignment / mass.clamp(min=1e-30)
    return (
        torch.where(alive, weights.T @ features.flatten(1).T, centers),
        torch.where(alive, weights.T @ p, positions),
        mass,
    )


def initial(features: Tensor, mask: Tensor, cell: int):
    """The means of the cells of one image [C,H,W]."""
    channels, height, width = features.shape
    states = []
    for top in range(0, height, cell):
        for left in range(0, width, cell):
            inside = mask[top : top + cell, left : left + cell]
            block = features[:, top : top + cell, left : left + cell]
            rows, columns = inside.shape
            if inside.any():
                y, x = inside.nonzero().double().mean(0)
                states.append((block[:, inside].mean(1), top + y, left + x, inside.sum().double()))
            else:
                middle = torch.tensor([(rows - 1) / 2, (columns - 1) / 2], dtype=torch.float64)
                zero = torch.zeros(channels, dtype=torch.float64)
                states.append((zero, top + middle[0], left + middle[1], torch.zeros((), dtype=torch.float64)))
    mean, y, x, count = (torch.stack(parts) for parts in zip(*states, strict=True))
    return mean, torch.stack((y, x), 1), count


def cluster(features: Tensor, mask: Tensor, cell, compactness, temperature, iterations, detach=False):
    """Centres, positions, masses of one image [C,H,W]; with `detach` the last iteration sees constant centres."""
    state = initial(features, mask, cell)
    for step in range(iterations):
        if detach and step == iterations - 1:
            state = tuple(part.detach() for part in state)
        assignment = dense(features, *state, mask, cell, compactness, temperature)
        state = update(assignment, features, *state[:2])
    return state


def best_shares(labels: Tensor, assignment: Tensor) -> Tensor:
    """Share of the labelled centre over the largest share: 1 where the label is the argmax. One image, -1 gives 1."""
    flat = labels.flatten().long()
    chosen = assignment.gather(1, flat.clamp(min=0)[:, None])[:, 0]
    return torch.where(flat >= 0, chosen / assignment.amax(1), 1)
