"""The state of a run: what a checkpoint holds."""

from dataclasses import dataclass
from typing import Any

from accelerate import Accelerator
from torch import Tensor, nn, optim
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from .config import Config, to_dict
from .model import architecture

#: Whole tensors, also of sharded ones: a checkpoint fits any number of processes.
FULL = StateDictOptions(full_state_dict=True, cpu_offload=True)


@dataclass
class Run:
    config: Config
    accelerator: Accelerator
    model: nn.Module
    ema: AveragedModel | None
    optimizer: optim.Optimizer
    scheduler: LambdaLR
    step: int = 0
    loaded: int | None = None  # step of the checkpoint that the run started from
    skipped: int = 0  # corrupt images so far, of all processes

    @property
    def best(self) -> Any:
        """What is evaluated."""
        return self.accelerator.unwrap_model(self.model) if self.ema is None else self.ema.module

    def state(self) -> dict[str, Any]:
        """On every process, since sharded weights are gathered."""
        model, optimizer = get_state_dict(self.model, self.optimizer, options=FULL)
        return {
            "architecture": architecture(self.config),
            "config": to_dict(self.config),
            "model": model,
            "optimizer": optimizer,
            "ema": None if self.ema is None else get_model_state_dict(self.ema, options=FULL),
            "step": self.step,
            "skipped": self.skipped,
        }

    def restore(self, state: dict[str, Any]) -> None:
        # The configuration sets rates, decay and betas, not the checkpoint: they may change from run to run.
        groups = [{key: value for key, value in group.items() if key != "params"} for group in self._groups]
        set_state_dict(
            self.model,
            self.optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
            options=FULL,
        )
        if self.ema is not None and state["ema"] is not None:
            set_model_state_dict(self.ema, state["ema"], options=FULL)
        elif self.ema is not None:  # turned on now: the average starts from the restored weights
            set_model_state_dict(self.ema.module, state["model"], options=FULL)
        self.step, self.skipped = state["step"], state["skipped"]
        self.loaded = self.step
        self.scheduler.last_epoch = self.step
        for group, own, share in zip(self._groups, groups, self.scheduler.lr_lambdas, strict=True):
            group.update(own, lr=own["initial_lr"] * share(self.step))

    @property
    def _groups(self) -> list[dict[str, Any]]:
        return self.optimizer.param_groups

    def weights(self) -> dict[str, Tensor]:
        """Of the trained network alone: the averaged ones where there is an average."""
        state = get_model_state_dict(self.best, options=FULL)
        return {key.removeprefix("network."): value.contiguous() for key, value in state.items()}
