"""The training loop: from a configuration to trained weights, resumed where it was."""

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from . import checkpoint
from .augment import Transform
from .config import Config, differences, to_dict
from .data import (
    STEP,
    WEIGHTS,
    Batch,
    Collate,
    Order,
    Samples,
    check_classes,
    derive,
    loader,
    open_source,
    steps_per_epoch,
    validation_order,
)
from .evaluation import evaluate
from .log import Log
from .model import TokenModel, architecture
from .optimizer import make_optimizer, make_scheduler
from .parallel import distribute, synchronise
from .run import Run


def train(config: Config) -> dict[str, float]:
    """Trains to the end, from the last checkpoint in `train.output` if there is one; figures of the last evaluation."""
    settings = config.train
    accelerator = Accelerator(mixed_precision=settings.precision, cpu=not torch.accelerator.is_available())
    torch.manual_seed(derive(WEIGHTS, settings.seed))  # of the initial weights: the same in every process
    torch.use_deterministic_algorithms(settings.deterministic, warn_only=True)
    source, held_out = open_source(config, True), open_source(config, False)
    check_classes(source, held_out)
    model = TokenModel(config)
    mean, std = (values.flatten().tolist() for values in (model.vit.mean, model.vit.std))
    steps = settings.steps or settings.epochs * steps_per_epoch(source, config)

    wrapped, ema = distribute(accelerator, model, settings)
    optimizer = make_optimizer(model, config)
    run = Run(config, accelerator, wrapped, ema, optimizer, make_scheduler(optimizer, config.optimizer, steps))
    state = checkpoint.load_last(Path(settings.output) / "checkpoints", architecture(config))
    if state is not None:
        run.restore(state)
        changes = differences(state["config"], to_dict(config))
        accelerator.print(f"goes on after step {run.step}" + "".join(f"; {change}" for change in changes))

    order = Order(source, config, run.step, steps, accelerator.process_index, accelerator.num_processes)
    samples = Samples(source, Transform(config, True, mean, std), settings.seed, replace=True)
    batches = loader(samples, Collate(config, True), order, config.data.workers)
    samples = Samples(held_out, Transform(config, False, mean, std), settings.seed, replace=False)
    rows = 1 if model.dense else order.rows  # photographs to segment are of any size
    checks = validation_order(len(held_out), rows, accelerator.process_index, accelerator.num_processes)
    validation = loader(samples, Collate(config, False), checks, config.data.workers)
    return Loop(run, steps, validation).go(batches)


class Loop:
    """Steps, with what is written between them."""

    def __init__(self, run: Run, steps: int, validation: DataLoader[Batch]) -> None:
        self.run, self.steps, self.validation = run, steps, validation
        self.settings, self.accelerator = run.config.train, run.accelerator
        self.folder = Path(self.settings.output)
        self.main = self.accelerator.is_main_process
        self.skipped = 0  # of this process, not yet in the sum
        self.log = Log(self.folder / "tensorboard", run.step) if self.main else None

    def go(self, batches: DataLoader[Batch]) -> dict[str, float]:
        run, settings, stream = self.run, self.settings, iter(batches)
        start = time.perf_counter()
        with tqdm(total=self.steps, initial=run.step, desc="training", disable=not self.main) as bar:
            while run.step < self.steps:
                loss = self._step(stream)
                run.step += 1
                bar.update()
                due = [run.step % every == 0 for every in (settings.log_every, settings.save_every)]
                if any(due):
                    value = self._finite(loss)
                    self._count()
                    bar.set_postfix(loss=f"{value:.4g}", skipped=run.skipped)
                if due[0]:
                    now = time.perf_counter()
                    speed = settings.log_every * settings.batch_size / (now - start)
                    start = now
                    rate = max(group["lr"] for group in run.optimizer.param_groups)
                    self._log("train", {"loss": value, "lr": rate, "images_per_s": speed, "skipped": run.skipped})
                if due[1] and run.step < self.steps:
                    self._save(last=False)
                if run.step % settings.evaluate_every == 0 and run.step < self.steps:
                    self._evaluate()
        self._count()
        self._save(last=True)
        return self._finish(self._evaluate())

    def _step(self, stream: Iterator[Batch]) -> Tensor:
        """One update of the weights; the mean loss of this process."""
        run, settings, device = self.run, self.settings, self.accelerator.device
        # Dropped paths depend on the step, not on what came before: a resumed run drops the same.
        torch.manual_seed(derive(STEP, settings.seed, run.step, self.accelerator.process_index))
        run.model.train()
        total = torch.zeros((), device=device)
        for part in range(settings.accumulate):
            batch = next(stream)
            self._report(batch)
            images, labels = (values.to(device, non_blocking=True) for values in (batch.images, batch.labels))
            with synchronise(run.model, part == settings.accumulate - 1):
                with self.accelerator.autocast():
                    loss = run.model(images, labels)["loss"] / settings.accumulate
                loss.backward()
            total += loss.detach()
        if run.config.optimizer.clip:
            nn.utils.clip_grad_norm_(run.model.parameters(), run.config.optimizer.clip)
        run.optimizer.step()
        run.optimizer.zero_grad()
        run.scheduler.step()
        if run.ema is not None:
            run.ema.update_parameters(run.model)
        return total

    def _report(self, batch: Batch) -> None:
        self.skipped += len(batch.skipped)
        for name in batch.skipped:
            tqdm.write(f"corrupt image skipped: {name}")

    def _count(self) -> None:
        new = torch.tensor(self.skipped, device=self.accelerator.device)
        self.run.skipped += int(self.accelerator.reduce(new, "sum"))
        self.skipped = 0

    def _finite(self, loss: Tensor) -> float:
        """The mean over the processes; an error where it is not finite."""
        value = float(self.accelerator.reduce(loss, "mean"))
        if not math.isfinite(value):
            raise checkpoint.CheckpointError(self._diverged(f"loss is {value}"))
        return value

    def _diverged(self, what: str) -> str:
        return (
            f"the {what} at step {self.run.step}, nothing is saved of it: start again with a lower optimizer.lr, "
            "which goes on after the last checkpoint if there is one"
        )

    def _log(self, group: str, values: dict[str, Any]) -> None:
        if self.log is not None:
            self.log.write(group, values, self.run.step)

    def _save(self, last: bool) -> None:
        """A save that fails is reported and tried again at the next; the last one is an error."""
        state = self.run.state()
        if self.log is None:
            return
        self.log.flush()
        if not all(bool(value.isfinite().all()) for value in state["model"].values()):
            raise checkpoint.CheckpointError(self._diverged("weights are not finite"))
        try:
            checkpoint.save(self.folder / "checkpoints", self.run.step, state, self.settings.keep, self.run.loaded)
        except checkpoint.CheckpointError as error:
            if last:
                raise
            tqdm.write(f"training goes on without this checkpoint: {error}")

    def _evaluate(self) -> dict[str, float]:
        figures = evaluate(self.run.best, self.validation, self.run.config, self.accelerator)
        self._log("evaluation", figures)
        if self.main:
            line = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
            tqdm.write(f"step {self.run.step}: {line}")
        return figures

    def _finish(self, figures: dict[str, float]) -> dict[str, float]:
        weights = self.run.weights()
        if self.log is not None:
            self.log.close()
            try:
                save_file(weights, self.folder / "model.safetensors")
                (self.folder / "results.json").write_text(json.dumps({"step": self.run.step, **figures}, indent=1))
            except (OSError, SafetensorError) as error:
                raise checkpoint.CheckpointError(
                    f"cannot write the results in {self.folder}: {error}; the checkpoint of step {self.run.step} is "
                    "whole: the same command writes them again"
                ) from error
        self.accelerator.wait_for_everyone()
        self.accelerator.end_training()
        return figures
