"""A frozen backbone: what its head sees of every photograph, computed once, and heads trained on that."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from ..models import System
from .data import Pictures
from .fit import Loss, Recipe, normalise, precision

#: Weight of the squared norm of a linear classifier's weights, on standardized features.
RIDGE = 1e-3


def head_of(system: System) -> nn.Module:
    """The first of what a system adds."""
    head = system.added()[0]
    assert isinstance(head, nn.Module)
    return head


def see(system: System, pictures: Pictures) -> tuple[list[Any], list[float]]:
    """The arguments of the head for each photograph alone, and its mean number of tokens in a block."""
    device = next(system.parameters()).device
    seen: list[Any] = []
    tokens = []
    handle = head_of(system).register_forward_pre_hook(lambda head, arguments: seen.append(_map(arguments, _keep)))
    system.eval()
    try:
        with torch.no_grad(), precision(device):
            for image in pictures.images.split(1):
                system(normalise(image, device))
                tokens.append(sum(system.tokens) / len(system.tokens))
    finally:
        handle.remove()
    return seen, tokens


def classify(seen: list[Any], targets: Tensor, train: Tensor, validation: Tensor) -> float:
    """Accuracy, per cent, of a linear classifier with a ridge, to convergence: there is nothing random in it."""
    features = torch.cat([arguments[0] for arguments in seen]).double()
    features = (features - features[train].mean(0)) / features[train].std(0).clamp(min=1e-6)
    targets = targets.to(features.device)
    weight = features.new_zeros(int(targets.max()) + 1, features.shape[1] + 1, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=200, line_search_fn="strong_wolfe")

    def logits(index: Tensor) -> Tensor:
        return F.linear(features[index], weight[:, 1:], weight[:, 0])

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(logits(train), targets[train]) + RIDGE * weight[:, 1:].square().sum()
        value.backward()
        return value

    optimizer.step(closure)
    return 100 * float((logits(validation).argmax(1) == targets[validation]).double().mean())


def fit_head(system: System, seen: list[Any], targets: Tensor, loss: Loss, recipe: Recipe, seed: int) -> None:
    """Train the head on what it sees, with `recipe`, but without flips."""
    head = head_of(system)
    optimizer = torch.optim.AdamW(head.parameters(), lr=recipe.added_rate, weight_decay=recipe.decay)
    steps = recipe.epochs * (len(seen) // recipe.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(seed)
    head.train()
    for _ in range(recipe.epochs):
        order = torch.randperm(len(seen), generator=generator)
        for index in order[: len(order) // recipe.batch * recipe.batch].view(-1, recipe.batch):
            truth = targets[index].to(next(head.parameters()).device)
            value = loss(_answer(head, [seen[i] for i in index.tolist()], truth), truth)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            schedule.step()
    head.eval()


@torch.no_grad()
def answers(system: System, seen: list[Any], targets: Tensor, tokens: list[float], batch: int) -> Any:
    """Logits, targets and tokens, as `predict` gives them."""
    for index in torch.arange(len(seen)).split(batch):
        truth = targets[index].to(next(system.parameters()).device)
        some = [sum(tokens[i] for i in index.tolist()) / len(index)]
        yield _answer(head_of(system), [seen[i] for i in index.tolist()], truth), truth, some


def _answer(head: Any, seen: list[Any], targets: Tensor) -> Tensor:
    logits = head(*_collate(seen)).float()
    if logits.shape[2:] != targets.shape[1:]:
        logits = F.interpolate(logits, size=targets.shape[1:], mode="bilinear", align_corners=False)
    return logits


def _keep(value: Tensor) -> Tensor:
    return value.detach().float() if value.is_floating_point() else value


def _map(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    return tuple(_map(item, change) for item in value)


def _collate(seen: list[Any]) -> Any:
    """Arguments of one photograph each to those of a batch; tokens `[1,N,D]` are padded to the longest."""
    first = seen[0]
    if not isinstance(first, Tensor):
        return tuple(_collate([value[i] for value in seen]) for i in range(len(first)))
    if first.dim() == 3 and first.is_floating_point():
        return pad_sequence([value[0] for value in seen], batch_first=True)
    return torch.cat(seen)
