"""Data parallelism: DDP, or FSDP with the blocks of the Vision Transformer as units; and the average of the weights."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from accelerate import Accelerator
from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from .config import ConfigError, Train


def distribute(accelerator: Accelerator, model: Any, settings: Train) -> tuple[nn.Module, AveragedModel | None]:
    """The model for training, and its moving average (of the plain module, which is for evaluation)."""
    if settings.parallel == "fsdp" and accelerator.num_processes == 1:
        raise ConfigError("train.parallel: expected ddp, or several processes for fsdp (torchrun); found one process")
    if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model = model.to(accelerator.device)
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(settings.ema)) if settings.ema else None
    if settings.parallel == "fsdp":
        # torch's own, not accelerate's plugin, which takes no second model for the average and is off on the CPU.
        for module in [model] if ema is None else [model, ema.module]:
            for block in module.vit.model.blocks:
                fully_shard(block)
            fully_shard(module)
        return model, ema
    return accelerator.prepare_model(model), ema


def synchronise(model: nn.Module, last: bool) -> AbstractContextManager[Any]:
    """For a backward of accumulated batches: gradients meet at the last one only."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(last)
        return nullcontext()
    return model.no_sync() if not last and hasattr(model, "no_sync") else nullcontext()
