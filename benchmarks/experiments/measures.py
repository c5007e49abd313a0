"""Accuracy, mean intersection over union, tokens, and time."""

import time
from collections.abc import Callable, Iterable
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from ..models import System
from .data import VOID
from .fit import precision

ROUNDS = 5
T = TypeVar("T")


def accuracy(batches: Iterable[tuple[Tensor, Tensor, list[float]]]) -> dict[str, float]:
    """`top1`, per cent, and the mean `tokens` of a block and an image."""
    right, tokens, number = 0, 0.0, 0
    for logits, targets, blocks in batches:
        right += int((logits.argmax(1) == targets).sum())
        tokens += len(targets) * float(np.mean(blocks))
        number += len(targets)
    return {"top1": 100 * right / number, "tokens": tokens / number}


def mean_iou(batches: Iterable[tuple[Tensor, Tensor, list[float]]]) -> dict[str, float]:
    """`miou` over the classes that occur, per cent, over all pixels of the set at once; `pixels` right; `tokens`."""
    confusion, tokens, number = torch.zeros(0), 0.0, 0
    for logits, targets, blocks in batches:
        classes = logits.shape[1]
        known = targets != VOID
        pair = targets[known] * classes + logits.argmax(1)[known]
        counts = torch.bincount(pair, minlength=classes**2).view(classes, classes).double().cpu()
        confusion = counts if not number else confusion + counts
        tokens += len(targets) * float(np.mean(blocks))
        number += len(targets)
    hit = confusion.diagonal()
    union = confusion.sum(0) + confusion.sum(1) - hit
    iou = (hit / union)[union > 0].mean()
    return {"miou": 100 * float(iou), "pixels": 100 * float(hit.sum() / confusion.sum()), "tokens": tokens / number}


@torch.no_grad()
def clock(systems: dict[str, System], images: dict[str, Tensor]) -> dict[str, dict[str, float]]:
    """ms per image of each system, tokenizer and backbone apart: the least of alternating rounds.

    On the CPU it is the processor time of one thread, which other work on the machine changes least.

    Args:
        systems: by name, in evaluation.
        images: a batch for each.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    best: dict[str, dict[str, float]] = {name: {"tokenizer": np.inf, "backbone": np.inf} for name in systems}
    for turn in range(ROUNDS + 1):  # the first is to warm up
        for name, system in systems.items():
            device = images[name].device
            with precision(device):
                partition, first = _timed(device, lambda: system.tokenize(images[name]))  # noqa: B023
                _, second = _timed(device, lambda: system(images[name], partition))  # noqa: B023
            if turn:
                for part, seconds in (("tokenizer", first if partition is not None else 0.0), ("backbone", second)):
                    best[name][part] = min(best[name][part], 1e3 * seconds / len(images[name]))
    torch.set_num_threads(threads)
    return best


def _timed(device: torch.device, call: Callable[[], T]) -> tuple[T, float]:
    if device.type == "cpu":
        start = time.process_time()
        return call(), time.process_time() - start
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    result = call()
    torch.cuda.synchronize(device)
    return result, time.perf_counter() - start
