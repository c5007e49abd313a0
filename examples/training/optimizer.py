"""AdamW with layer-wise learning-rate decay, and its schedule."""

import math
from typing import Any

import torch
from timm.optim import param_groups_layer_decay
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from .config import Config, Optimizer


def make_optimizer(model: Any, config: Config) -> torch.optim.AdamW:
    """For a `TokenModel`: groups of the backbone by block, and of what is new."""
    settings, backbone = config.optimizer, model.vit.model
    groups = param_groups_layer_decay(
        backbone,
        weight_decay=settings.weight_decay,
        no_weight_decay_list=backbone.no_weight_decay(),
        layer_decay=settings.layer_decay,
    )
    known = {id(parameter) for parameter in backbone.parameters()}
    new = [(name, parameter) for name, parameter in model.named_parameters() if id(parameter) not in known]
    plain = [parameter for name, parameter in new if _decays(name, parameter)]
    rest = [parameter for name, parameter in new if not _decays(name, parameter)]
    for parameters, decay in ((plain, settings.weight_decay), (rest, 0.0)):
        if parameters:
            groups.append({"params": parameters, "weight_decay": decay, "lr_scale": settings.new_lr_scale})
    for group in groups:
        group["lr"] = settings.lr * group["lr_scale"]
    return torch.optim.AdamW(groups, lr=settings.lr, betas=tuple(settings.betas))


def _decays(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim > 1 and not name.endswith("filler")


def make_scheduler(optimizer: torch.optim.Optimizer, settings: Optimizer, steps: int) -> LambdaLR:
    return LambdaLR(optimizer, lambda step: factor(settings, step, steps))


def factor(settings: Optimizer, step: int, steps: int) -> float:
    """Share of the learning rate at a step: linear warm-up, then a cosine or a power down to the end's share."""
    warmup = round(settings.warmup * steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = min(1.0, (step - warmup) / max(1, steps - warmup))
    shape = (1 + math.cos(math.pi * done)) / 2 if settings.schedule == "cosine" else (1 - done) ** settings.power
    return settings.end + (1 - settings.end) * shape
