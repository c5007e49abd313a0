"""Training and prediction of any system of `benchmarks.models`, the same way for all."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..models import MEAN, STD, System
from .data import VOID, Pictures

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Recipe:
    """AdamW with a linear rise over a fifth of the steps, then a cosine to 0; flips are the only augmentation."""

    epochs: int
    batch: int
    rate: float = 5e-5
    #: Of the head and of what the method adds.
    added_rate: float = 1e-3
    decay: float = 0.05
    rise: float = 0.2


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over images, or over pixels that are not void."""
    return F.cross_entropy(logits.float(), targets, ignore_index=VOID)


def normalise(images: Tensor, device: torch.device) -> Tensor:
    """uint8 `[B,3,H,W]` to what every system takes."""
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (MEAN, STD))
    return (images.to(device).float() / 255 - mean) / std


def precision(device: torch.device) -> torch.autocast:
    """bfloat16 on a GPU; float32 elsewhere, where it is the faster one."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def fit(system: System, pictures: Pictures, loss: Loss, recipe: Recipe, seed: int) -> None:
    """Train. The order and the flips depend on the seed alone."""
    device = next(system.parameters()).device
    added = {id(p) for part in system.added() for p in (part.parameters() if hasattr(part, "parameters") else [part])}
    groups = [
        {"params": [p for p in system.parameters() if p.requires_grad and (id(p) in added) is new], "lr": rate}
        for new, rate in ((True, recipe.added_rate), (False, recipe.rate))
    ]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], weight_decay=recipe.decay)
    steps = recipe.epochs * (len(pictures) // recipe.batch)
    rise = max(1, round(recipe.rise * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / rise, 0.5 + 0.5 * math.cos(math.pi * max(0, step - rise) / max(1, steps - rise))),
    )
    generator = torch.Generator().manual_seed(seed)
    system.train()
    for _ in range(recipe.epochs):
        order = torch.randperm(len(pictures), generator=generator)
        for index in order[: len(order) // recipe.batch * recipe.batch].view(-1, recipe.batch):
            batch = _flip(pictures[index], torch.rand(recipe.batch, generator=generator) < 0.5)
            with precision(device):
                value = loss(system(normalise(batch.images, device)), batch.targets.to(device))
                value = value + system.auxiliary_loss()
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            schedule.step()
    if not math.isfinite(value.item()):
        raise FloatingPointError(f"the loss became {value.item()}")


@torch.no_grad()
def predict(system: System, pictures: Pictures, batch: int) -> Iterator[tuple[Tensor, Tensor, list[float]]]:
    """Logits, targets and tokens per block of each batch."""
    device = next(system.parameters()).device
    system.eval()
    for index in torch.arange(len(pictures)).split(batch):
        part = pictures[index]
        with precision(device):
            logits = system(normalise(part.images, device))
        yield logits.float(), part.targets.to(device), system.tokens


def _flip(pictures: Pictures, flip: Tensor) -> Pictures:
    images, targets = pictures.images.clone(), pictures.targets.clone()
    images[flip] = images[flip].flip(-1)
    if targets.dim() > 1:
        targets[flip] = targets[flip].flip(-1)
    return Pictures(images, targets)
